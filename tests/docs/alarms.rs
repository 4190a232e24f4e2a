//! The rules for Prometheus in docs/OPERATIONS.md.

use std::collections::BTreeSet;

use regex::Regex;

const PAGE: &str = include_str!("../../docs/OPERATIONS.md");

/// Returns the rules: their names, and what is below the name.
fn rules() -> Vec<(&'static str, &'static str)> {
    let (_, block) = PAGE.split_once("```yaml\ngroups:\n").unwrap();
    let (block, _) = block.split_once("```").unwrap();
    let rules = block.split("- alert: ").skip(1);
    rules.map(|rule| rule.split_once('\n').unwrap()).collect()
}

/// Returns the figures that a text names.
fn figures(text: &str) -> BTreeSet<&str> {
    let figure = Regex::new("skytrail_[a-z_]+").unwrap();
    let found = figure.find_iter(text).map(|found| found.as_str());
    found
        .map(|name| name.strip_suffix("_bucket").unwrap_or(name))
        .collect()
}

/// An alarm has no name of a figure: of two in one rule nobody could tell which it is about, and
/// the second one would not be heard while the first one lasts.
#[test]
fn every_alarm_is_about_one_figure_and_says_what_is_wrong() {
    let rules = rules();
    let names: BTreeSet<_> = rules.iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), rules.len(), "{names:?}");
    for (name, rule) in rules {
        let expression = rule.lines().next().unwrap();
        assert!(!expression.contains(" or "), "{name}: {rule}");
        assert!(figures(rule).len() <= 1, "{name}: {rule}");
        assert!(rule.contains("summary: "), "{name}: {rule}");
    }
}

/// In a quiet hour one user's devices would be a large part of all.
#[test]
fn an_alarm_about_a_part_of_the_pushes_needs_more_than_a_few() {
    let rules = rules().into_iter();
    let of_pushes = rules.filter(|(_, rule)| rule.contains("skytrail_push_total"));
    let of_pushes = Vec::from_iter(of_pushes);
    assert!(!of_pushes.is_empty());
    for (name, rule) in of_pushes {
        assert!(rule.contains("clamp_min("), "{name}: {rule}");
    }
}

#[test]
fn every_figure_to_watch_exists_and_has_a_rule() {
    let rows = PAGE.lines().filter_map(|line| line.strip_prefix("| `"));
    let explained: BTreeSet<_> = rows.filter_map(|row| row.split('`').next()).collect();
    let (_, list) = PAGE.split_once("Set alarms for these:").unwrap();
    let (list, _) = list.split_once("As rules for Prometheus").unwrap();
    let ruled: BTreeSet<_> = rules().iter().flat_map(|(_, rule)| figures(rule)).collect();
    let unknown: Vec<_> = ruled.difference(&explained).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    let listed = figures(list);
    let without: Vec<_> = listed.difference(&ruled).collect();
    assert!(without.is_empty(), "no rule: {without:?}");
    for figure in [
        "skytrail_plugin_missing",
        "skytrail_push_held",
        "skytrail_task_runs_total",
        "skytrail_audit_entries_total",
    ] {
        assert!(listed.contains(figure), "{figure}");
    }
}
