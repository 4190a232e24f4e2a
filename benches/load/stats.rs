//! The few statistics that a row needs.

/// Returns the value below which the given share lies; 0 if there are none.
pub(crate) fn percentile(values: &mut [u32], share: f64) -> u32 {
    if values.is_empty() {
        return 0;
    }
    let last = values.len() - 1;
    let index = ((last as f64) * share).round() as usize;
    *values.select_nth_unstable(index.min(last)).1
}

/// Returns the median, which a single bad round does not move; 0 if there are none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        len if len % 2 == 1 => sorted[len / 2],
        len => f64::midpoint(sorted[len / 2 - 1], sorted[len / 2]),
    }
}
