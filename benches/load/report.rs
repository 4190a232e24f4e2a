//! The table: one line per row, printed as it is measured, and finally as markdown.

use std::fmt::Write as _;

use crate::compare::Comparison;
use crate::options::Mode;

/// What a row should reach. Figures without an aim are only shown.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Aim {
    pub(crate) min_ratio: Option<f64>,
    pub(crate) max_p99_ms: Option<f64>,
    pub(crate) max_cpu: Option<f64>,
}

/// One line.
#[derive(Debug, Default)]
struct Row {
    name: String,
    ours: String,
    bare: String,
    ratio: String,
    latency: String,
    cpu: String,
    aim: String,
    verdict: String,
    /// What an acknowledgement in this row promises.
    durable: &'static str,
}

impl Row {
    const TITLES: [&'static str; 9] = [
        "row",
        "ours",
        "bare",
        "ratio",
        "p50 / p99 ms",
        "CPU s / 1000",
        "aim",
        "",
        "durable",
    ];

    fn cells(&self) -> [&str; 9] {
        [
            &self.name,
            &self.ours,
            &self.bare,
            &self.ratio,
            &self.latency,
            &self.cpu,
            &self.aim,
            &self.verdict,
            self.durable,
        ]
    }
}

pub(crate) struct Report {
    mode: Mode,
    rows: Vec<Row>,
    failures: Vec<String>,
}

impl Report {
    pub(crate) fn new(mode: Mode) -> Self {
        print_line(&Row::TITLES);
        Self {
            mode,
            rows: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// Adds a rate next to the bare one.
    pub(crate) fn rate(&mut self, name: &str, durable: &'static str, aim: Aim, seen: &Comparison) {
        let settled = seen.settled_per_s / seen.ours_per_s;
        // Only shown where the answer comes long before all work is done.
        let ours = match settled < 0.97 {
            true => format!(
                "{}/s ({} kept up)",
                round(seen.ours_per_s),
                round(seen.settled_per_s)
            ),
            false => format!("{}/s", round(seen.ours_per_s)),
        };
        self.push(Row {
            name: name.to_owned(),
            ours,
            bare: format!("{}/s", round(seen.bare_per_s)),
            ratio: format!("{:.2}", seen.ratio),
            latency: format!("{:.2} / {:.2}", seen.p50_ms, seen.p99_ms),
            cpu: format!(
                "{:.3} (bare {:.3})",
                seen.cpu_per_1000, seen.bare_cpu_per_1000
            ),
            aim: aim.text(),
            verdict: match aim.text().is_empty() {
                true => String::new(),
                false => self.verdict(&aim.missed(seen)),
            },
            durable,
        });
        if seen.failures > 0 {
            let first = seen.first_failure.as_deref().unwrap_or_default();
            self.fail(format!(
                "{name}: {} requests, first: {first}",
                seen.failures
            ));
        }
    }

    /// Adds a figure that should stay below its aim.
    pub(crate) fn figure(&mut self, name: &str, seen: f64, max: Option<f64>, unit: &str) {
        let missed = match max {
            Some(max) if seen > max => vec!["missed"],
            _ => vec![],
        };
        self.push(Row {
            name: name.to_owned(),
            ours: format!("{seen:.0} {unit}"),
            aim: max.map(|max| format!("≤ {max} {unit}")).unwrap_or_default(),
            verdict: if max.is_some() {
                self.verdict(&missed)
            } else {
                String::new()
            },
            ..Row::default()
        });
    }

    /// Adds a figure that should reach its aim.
    pub(crate) fn at_least(&mut self, name: &str, seen: f64, min: Option<f64>, unit: &str) {
        let missed = match min {
            Some(min) if seen < min => vec!["missed"],
            _ => vec![],
        };
        self.push(Row {
            name: name.to_owned(),
            ours: format!("{} {unit}", round(seen)),
            aim: min
                .map(|min| format!("≥ {} {unit}", round(min)))
                .unwrap_or_default(),
            verdict: match min {
                Some(_) => self.verdict(&missed),
                None => String::new(),
            },
            ..Row::default()
        });
    }

    /// Adds a failure; the run exits with 1.
    pub(crate) fn fail(&mut self, what: String) {
        self.failures.push(what);
    }

    pub(crate) fn failures(&self) -> &[String] {
        &self.failures
    }

    fn verdict(&self, missed: &[&str]) -> String {
        match (self.mode, missed) {
            (Mode::Smoke, _) => String::new(),
            (_, []) => "pass".to_owned(),
            (_, missed) => format!("MISS {}", missed.join(", ")),
        }
    }

    fn push(&mut self, row: Row) {
        print_line(&row.cells());
        self.rows.push(row);
    }

    pub(crate) fn to_markdown(&self) -> String {
        let mut text = String::new();
        let mut line =
            |cells: &[&str]| writeln!(text, "| {} |", cells.join(" | ")).expect("memory");
        line(&Row::TITLES);
        line(&["---"; 9]);
        for row in &self.rows {
            line(&row.cells());
        }
        text
    }
}

impl Aim {
    fn text(&self) -> String {
        let mut parts = Vec::new();
        parts.extend(self.min_ratio.map(|min| format!("≥ {min}")));
        parts.extend(self.max_p99_ms.map(|max| format!("p99 < {max} ms")));
        parts.extend(self.max_cpu.map(|max| format!("CPU ≤ {max}")));
        parts.join(", ")
    }

    fn missed(&self, seen: &Comparison) -> Vec<&'static str> {
        let mut missed = Vec::new();
        if self.min_ratio.is_some_and(|min| seen.ratio < min) {
            missed.push("ratio");
        }
        if self.max_p99_ms.is_some_and(|max| seen.p99_ms >= max) {
            missed.push("p99");
        }
        if self.max_cpu.is_some_and(|max| seen.cpu_per_1000 > max) {
            missed.push("CPU");
        }
        missed
    }
}

fn round(rate: f64) -> String {
    match rate {
        rate if rate >= 10_000.0 => format!("{:.1} k", rate / 1000.0),
        rate if rate >= 1000.0 => format!("{:.2} k", rate / 1000.0),
        rate => format!("{rate:.0}"),
    }
}

fn print_line(cells: &[&str; 9]) {
    let [name, ours, bare, ratio, latency, cpu, aim, verdict, _] = cells;
    println!(
        "{name:<30} {ours:<28} {bare:<10} {ratio:<6} {latency:<15} {cpu:<21} {aim:<28} {verdict}"
    );
}
