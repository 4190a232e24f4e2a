//! Prometheus' text format, version 0.0.4: families of samples, each with its meaning.

use std::fmt::{Display, Write};

use skytrail_actors::observe::HistogramState;

/// The content type of this format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A text that is being written.
#[derive(Debug, Default)]
pub struct Exposition(String);

/// One metric; its samples follow each other.
#[derive(Debug)]
pub struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
}

impl Exposition {
    /// Begins a metric. A metric that only grows has a name that ends in `_total`.
    pub fn metric(&mut self, name: &'static str, help: &str) -> Family<'_> {
        let only_grows = name.ends_with("_total");
        self.family(name, if only_grows { "counter" } else { "gauge" }, help)
    }

    /// Begins a metric that counts values by size.
    pub fn histogram(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, "histogram", help)
    }

    /// Returns the text.
    pub fn into_text(self) -> String {
        self.0
    }

    fn family(&mut self, name: &'static str, kind: &str, help: &str) -> Family<'_> {
        // Writing into memory cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        Family {
            text: &mut self.0,
            name,
        }
    }
}

impl Family<'_> {
    /// Adds a sample without labels.
    pub fn value(&mut self, value: impl Display) -> &mut Self {
        self.labelled(&[], value)
    }

    /// Adds a sample, unless its part did not answer.
    pub fn maybe(&mut self, value: Option<impl Display>) -> &mut Self {
        match value {
            Some(value) => self.value(value),
            None => self,
        }
    }

    /// Adds a sample with labels.
    pub fn labelled(&mut self, labels: &[(&str, &str)], value: impl Display) -> &mut Self {
        self.sample("", labels, value)
    }

    /// Adds the samples of a histogram.
    pub fn buckets(&mut self, labels: &[(&str, &str)], state: &HistogramState) -> &mut Self {
        for (bound, count) in &state.buckets {
            let bound = bound.to_string();
            let labels = [labels, &[("le", bound.as_str())]].concat();
            self.sample("_bucket", &labels, count);
        }
        let last = [labels, &[("le", "+Inf")]].concat();
        self.sample("_bucket", &last, state.count);
        self.sample("_sum", labels, state.sum);
        self.sample("_count", labels, state.count)
    }

    fn sample(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) -> &mut Self {
        let _ = write!(self.text, "{}{suffix}", self.name);
        for (index, (name, value)) in labels.iter().enumerate() {
            let mark = if index == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{mark}{name}=\"{}\"", escaped(value));
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{end} {value}");
        self
    }
}

fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use skytrail_actors::observe::Histogram;

    use super::*;

    #[test]
    fn families_are_written_with_their_meaning() {
        let mut text = Exposition::default();
        let mut family = text.metric("a_total", "Things.");
        family.labelled(&[("by", "x\"y\\z\nw")], 3).value(4);
        let histogram = Histogram::new(&[0.5, 1.0]);
        histogram.observe(0.7);
        text.histogram("b_seconds", "Time.")
            .buckets(&[("of", "c")], &histogram.state());
        let expected = "\
# HELP a_total Things.
# TYPE a_total counter
a_total{by=\"x\\\"y\\\\z\\nw\"} 3
a_total 4
# HELP b_seconds Time.
# TYPE b_seconds histogram
b_seconds_bucket{of=\"c\",le=\"0.5\"} 0
b_seconds_bucket{of=\"c\",le=\"1\"} 1
b_seconds_bucket{of=\"c\",le=\"+Inf\"} 1
b_seconds_sum{of=\"c\"} 0.7
b_seconds_count{of=\"c\"} 1
";
        assert_eq!(text.into_text(), expected);
    }
}
