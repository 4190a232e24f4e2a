//! Reading a trace of system calls: was every acknowledgement preceded by a flush that began after
//! the acknowledged bytes had been written?

use std::collections::HashMap;

/// A system call: what it was, and the lines of the trace where it began and ended.
#[derive(Debug)]
struct Call<'a> {
    name: &'a str,
    text: String,
    begin: usize,
    end: usize,
}

impl Call<'_> {
    /// Whether it works on a file below the journal's folder.
    fn is_on_journal(&self) -> bool {
        self.target().contains("/journal/")
    }

    /// The file or socket it works on, as `number<path>`.
    fn target(&self) -> &str {
        let first = self.text.split([',', ')']).next();
        first.unwrap_or_default().trim_end()
    }

    fn is_send(&self) -> bool {
        const SENDS: [&str; 5] = ["write", "writev", "sendto", "sendmsg", "sendmmsg"];
        SENDS.contains(&self.name) && self.target().contains("TCP:")
    }
}

/// Reads what `strace -f -yy` wrote. A call that another thread's interrupts in the trace stands on
/// two lines.
fn parse(trace: &str) -> Vec<Call<'_>> {
    let mut calls: Vec<Call<'_>> = Vec::new();
    let mut unfinished: HashMap<&str, usize> = HashMap::new();
    for (number, line) in trace.lines().enumerate() {
        let Some((thread, rest)) = line.split_once(' ') else {
            continue;
        };
        let rest = rest.trim_start();
        if let Some(resumed) = rest.strip_prefix("<... ") {
            let Some(call) = unfinished.remove(thread).and_then(|at| calls.get_mut(at)) else {
                continue;
            };
            let (_, tail) = resumed.split_once("resumed>").unwrap_or_default();
            call.text.push_str(tail);
            call.end = number;
            continue;
        }
        let Some((name, arguments)) = rest.split_once('(') else {
            continue;
        };
        let is_unfinished = arguments.ends_with("<unfinished ...>");
        if is_unfinished {
            unfinished.insert(thread, calls.len());
        }
        calls.push(Call {
            name,
            text: arguments.trim_end_matches("<unfinished ...>").to_owned(),
            begin: number,
            end: if is_unfinished { usize::MAX } else { number },
        });
    }
    calls
}

/// Returns what is wrong: acknowledgements of the records with these keys that were sent before they were durable, and
/// those that the trace does not show.
pub fn violations(trace: &str, keys: &[String]) -> Vec<String> {
    let calls = parse(trace);
    let verdict = |key: &String| {
        let sent = calls
            .iter()
            .find(|call| call.is_send() && call.text.contains(key.as_str()));
        let Some(sent) = sent else {
            return Some(format!("{key}: no acknowledgement in the trace"));
        };
        let writes = calls.iter().filter(|call| {
            call.name == "pwrite64" && call.is_on_journal() && call.text.contains(key.as_str())
        });
        let is_flushed = |write: &Call<'_>| {
            calls.iter().any(|call| {
                call.name == "fdatasync"
                    && call.target() == write.target()
                    && call.begin > write.end
                    && call.end < sent.begin
                    && call.text.ends_with("= 0")
            })
        };
        let mut writes = writes.peekable();
        if writes.peek().is_none() {
            return Some(format!("{key}: never written to the journal"));
        }
        (!writes.any(is_flushed)).then(|| format!("{key}: acknowledged before it was flushed"))
    };
    keys.iter().filter_map(verdict).collect()
}

#[cfg(test)]
mod tests {
    use super::violations;

    const WRITE: &str = r#"11 pwrite64(5</d/journal/1.journal>, "..key-7..", 90, 72) = 90"#;
    const FLUSH: &str = "11 fdatasync(5</d/journal/1.journal>) = 0";
    const ANSWER: &str = r#"12 sendto(9<TCP:[1:2]>, "..key-7..", 80, 0, NULL, 0) = 80"#;

    fn verdict(lines: &[&str]) -> Vec<String> {
        violations(&lines.join("\n"), &["key-7".to_owned()])
    }

    #[test]
    fn a_flush_between_write_and_answer_is_right() {
        assert!(verdict(&[WRITE, FLUSH, ANSWER]).is_empty());
        let halves = [
            r#"11 pwrite64(5</d/journal/1.journal>, "..key-7..", 90, 72 <unfinished ...>"#,
            "13 fdatasync(6</d/other>) = 0",
            "11 <... pwrite64 resumed>) = 90",
            "11 fdatasync(5</d/journal/1.journal> <unfinished ...>",
            r#"12 sendto(9<TCP:[1:2]>, "..key-6..", 80, 0, NULL, 0) = 80"#,
            "11 <... fdatasync resumed>) = 0",
            ANSWER,
        ];
        assert!(verdict(&halves).is_empty());
    }

    #[test]
    fn whatever_is_not_flushed_in_time_is_found() {
        let begun = "11 fdatasync(5</d/journal/1.journal> <unfinished ...>";
        let ended = "11 <... fdatasync resumed>) = 0";
        let failed = "11 fdatasync(5</d/journal/1.journal>) = -1 EIO (Input/output error)";
        let other = "11 fdatasync(6</d/journal/2.journal>) = 0";
        let wrong: [&[&str]; 9] = [
            &[WRITE, ANSWER, FLUSH],
            &[FLUSH, WRITE, ANSWER],
            &[WRITE, ANSWER],
            &[WRITE, other, ANSWER],
            &[WRITE, failed, ANSWER],
            &[WRITE, begun, ANSWER, ended],
            &[begun, WRITE, ended, ANSWER],
            &[FLUSH, ANSWER],
            &[WRITE, FLUSH],
        ];
        for lines in wrong {
            assert_eq!(verdict(lines).len(), 1, "{lines:?}");
        }
    }
}
