//! Comma-separated values (RFC 4180), guarded against spreadsheets that treat text as a formula.
//!
//! A string that a spreadsheet would calculate (it begins with `=`, `+`, `-`, `@`, their full-width
//! forms, a tab or a line break) gets an apostrophe in front, which tells a spreadsheet that it is
//! text. A string with apostrophes before such a character gets one more. A program that reads the
//! file removes one apostrophe where such a character follows the apostrophes: [`unguarded`].

/// The characters that a formula can begin with.
const DANGEROUS: [char; 11] = [
    '=', '+', '-', '@', '\t', '\r', '\n', '\u{ff1d}', '\u{ff0b}', '\u{ff0d}', '\u{ff20}',
];

/// Formats a row, with its line break.
pub fn row<T: AsRef<str>>(cells: impl IntoIterator<Item = T>) -> String {
    let mut line = String::new();
    for (index, cell) in cells.into_iter().enumerate() {
        if index > 0 {
            line.push(',');
        }
        push(&mut line, cell.as_ref());
    }
    line.push_str("\r\n");
    line
}

/// Returns a cell as it was before [`row`] wrote it.
pub fn unguarded(cell: &str) -> &str {
    match cell.strip_prefix('\'') {
        Some(rest) if is_guarded(rest) => rest,
        _ => cell,
    }
}

/// Returns whether a cell is written with an apostrophe in front.
fn is_guarded(cell: &str) -> bool {
    cell.trim_start_matches('\'').starts_with(DANGEROUS)
}

fn push(line: &mut String, cell: &str) {
    let guard = if is_guarded(cell) { "'" } else { "" };
    if !cell.contains(['"', ',', '\r', '\n']) {
        line.push_str(guard);
        line.push_str(cell);
        return;
    }
    line.push('"');
    line.push_str(guard);
    line.push_str(&cell.replace('"', "\"\""));
    line.push('"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Parses rows, as the standard says.
    fn read(text: &str) -> Vec<Vec<String>> {
        let (mut rows, mut cells, mut cell) = (Vec::new(), Vec::new(), String::new());
        let (mut is_quoted, mut chars) = (false, text.chars().peekable());
        while let Some(next) = chars.next() {
            match (is_quoted, next) {
                (true, '"') if chars.peek() == Some(&'"') => cell.extend(chars.next()),
                (_, '"') => is_quoted = !is_quoted,
                (false, ',') => cells.push(std::mem::take(&mut cell)),
                (false, '\r') if chars.next_if_eq(&'\n').is_some() => {
                    cells.push(std::mem::take(&mut cell));
                    rows.push(std::mem::take(&mut cells));
                }
                _ => cell.push(next),
            }
        }
        rows
    }

    #[test]
    fn what_a_spreadsheet_would_calculate_is_text() {
        let cells = [
            "=1+1", "+1", "-1", "@a", "\t=1", "\r=1", "\n=1", "＝1", "a=1", "", "'=1",
        ];
        let expected = [
            "'=1+1", "'+1", "'-1", "'@a", "'\t=1", "'\r=1", "'\n=1", "'＝1", "a=1", "", "''=1",
        ];
        assert_eq!(read(&row(cells)), [expected]);
    }

    proptest! {
        #[test]
        fn rows_come_back(table in prop::collection::vec(
            prop::collection::vec("[a\"',\r\n=;é ]{0,6}", 1..4), 0..4)) {
            let written: String = table.iter().map(row).collect();
            let mut rows = read(&written);
            for cell in rows.iter_mut().flatten() {
                prop_assert!(!cell.starts_with(DANGEROUS), "{} would be calculated", cell);
                *cell = unguarded(cell).to_owned();
            }
            prop_assert_eq!(rows, table);
        }
    }
}
