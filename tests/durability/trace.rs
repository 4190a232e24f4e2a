//! Reads a trace of system calls. Was every acknowledgement preceded by a flush that began after
//! the acknowledged bytes had been written? Was everything sealed with a key preceded by a flush of
//! that key?

use std::collections::HashMap;

/// A system call, and the lines of the trace where it began and ended.
#[derive(Debug)]
struct Call<'a> {
    name: &'a str,
    text: String,
    begin: usize,
    end: usize,
}

impl Call<'_> {
    /// Returns whether it works on a file below the journal's folder.
    fn is_on_journal(&self) -> bool {
        self.target().contains("/journal/")
    }

    /// The file or socket that it works on, as `number<path>`.
    fn target(&self) -> &str {
        let first = self.text.split([',', ')']).next();
        first.unwrap_or_default().trim_end()
    }

    /// Returns whether it writes bytes, as a trace with `-x` shows them, to a file with this path.
    fn writes(&self, path: &str, bytes: &[u8]) -> bool {
        self.name == "pwrite64" && self.target().contains(path) && self.text.contains(&hex(bytes))
    }

    /// Returns whether it flushes a file with this path.
    fn flushes(&self, path: &str) -> bool {
        self.name == "fdatasync" && self.target().contains(path) && self.text.ends_with("= 0")
    }

    fn is_send(&self) -> bool {
        const SENDS: [&str; 5] = ["write", "writev", "sendto", "sendmsg", "sendmmsg"];
        SENDS.contains(&self.name) && self.target().contains("TCP:")
    }
}

/// Reads the output of `strace -f -yy`. A call that is interrupted by one of another thread takes
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

/// Returns the violations: acknowledgements of these records that were sent before they were
/// durable, and those missing from the trace.
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

/// How the keys of new users became durable.
#[derive(Debug, Default)]
pub struct KeyFlushes {
    /// The users about whom something was written before their keys were durable.
    pub wrong: Vec<String>,
    pub num_keys: usize,
    pub num_flushes: usize,
}

/// Reads from a trace with `-x` how the keys of these users became durable.
pub fn key_flushes(trace: &str, users: &[String]) -> KeyFlushes {
    const KEYS: &str = "/subjects.keys";
    const SLOT_BYTES: usize = 64;
    let calls = parse(trace);
    let mut found = KeyFlushes::default();
    for call in calls.iter().filter(|call| call.target().contains(KEYS)) {
        let written = call.text.rsplit("= ").next();
        let written: usize = written.and_then(|text| text.parse().ok()).unwrap_or(0);
        found.num_keys += written / SLOT_BYTES;
        found.num_flushes += usize::from(call.flushes(KEYS));
    }
    let is_wrong = |user: &&String| {
        let subject = blake3::hash(user.as_bytes());
        let subject = &subject.as_bytes()[..24];
        let key = calls.iter().find(|call| call.writes(KEYS, subject));
        let sealed = calls
            .iter()
            .find(|call| call.writes("/journal/", user.as_bytes()));
        let (Some(key), Some(sealed)) = (key, sealed) else {
            return true;
        };
        !calls
            .iter()
            .any(|call| call.flushes(KEYS) && call.begin > key.end && call.end < sealed.begin)
    };
    found.wrong = users.iter().filter(is_wrong).cloned().collect();
    found
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::{hex, key_flushes, violations};

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

    #[test]
    fn a_key_that_is_flushed_too_late_is_found() {
        let subject = hex(&blake3::hash(b"ada").as_bytes()[..24]);
        let key = format!(r#"11 pwrite64(7</d/subjects.keys>, "{subject}", 64, 64) = 64"#);
        let flush = "11 fdatasync(7</d/subjects.keys>) = 0".to_owned();
        let sealed = format!(
            r#"12 pwrite64(5</d/journal/1.journal>, "\x00{}", 90, 72) = 90"#,
            hex(b"ada")
        );
        let found = |lines: [&str; 3]| key_flushes(&lines.join("\n"), &["ada".to_owned()]);
        let right = found([&key, &flush, &sealed]);
        assert_eq!((right.num_keys, right.num_flushes), (1, 1));
        assert!(right.wrong.is_empty());
        assert_eq!(found([&key, &sealed, &flush]).wrong.len(), 1);
        assert_eq!(found([&flush, &key, &sealed]).wrong.len(), 1);
        assert_eq!(found(["", &flush, &sealed]).wrong.len(), 1);
    }
}
