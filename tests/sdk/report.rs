//! The results of a suite's checks, line by line.

/// Counts checks, and keeps those that failed.
#[derive(Default)]
pub struct Report {
    num_passed: usize,
    failed: Vec<String>,
    has_ended: bool,
}

impl Report {
    /// Takes a line; prints it if it is not about a check.
    pub fn take(&mut self, line: &str) {
        let words: Vec<&str> = line.split('\t').collect();
        match words.as_slice() {
            ["ok", _] => self.num_passed += 1,
            ["failed", check, why] => self.failed.push(format!("{check}\n    {why}")),
            ["end"] => self.has_ended = true,
            _ => println!("{line}"),
        }
    }

    /// Prints how many checks passed, and fails with those that did not.
    pub fn sum_up(mut self, what: &str) {
        if !self.has_ended {
            self.failed
                .push("the suite did not come to its end".to_owned());
        }
        let num_checks = self.num_passed + self.failed.len();
        println!("{what}: {} of {num_checks} checks passed", self.num_passed);
        let failed = self.failed.join("\n");
        assert!(self.failed.is_empty(), "{what}: failed:\n{failed}");
        assert!(self.num_passed > 0, "{what}: nothing was checked");
    }
}
