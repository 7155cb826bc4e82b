//! Medians, ranges, percentiles and ratios of series of rounds.

/// `None` without values. With an even number, the mean of the two middle values.
pub(super) fn median(values: &[f64]) -> Option<f64> {
    let sorted = sorted(values);
    let (low, high) = (sorted.len().checked_sub(1)? / 2, sorted.len() / 2);
    Some(f64::midpoint(sorted[low], sorted[high]))
}

/// The smallest and the largest.
pub(super) fn range(values: &[f64]) -> Option<(f64, f64)> {
    let sorted = sorted(values);
    Some((*sorted.first()?, *sorted.last()?))
}

/// The smallest value that at least `share` (0 to 1) of the values don't exceed (nearest rank);
/// `None` without values.
pub(crate) fn percentile(values: &[f64], share: f64) -> Option<f64> {
    let sorted = sorted(values);
    let last = sorted.len().checked_sub(1)?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to the length")]
    let rank = (share.clamp(0.0, 1.0) * sorted.len() as f64).ceil() as usize;
    Some(sorted[rank.saturating_sub(1).min(last)])
}

/// One contender compared with another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Ratio {
    /// Ratio of the medians.
    pub(super) value: f64,
    /// The smallest and the largest ratio of two figures of one round, which were measured one
    /// after the other.
    pub(super) interval: (f64, f64),
}

/// Compares `ours` with `theirs`; `None` without rounds, or if the median of `theirs` is 0.
pub(super) fn ratio(ours: &[f64], theirs: &[f64]) -> Option<Ratio> {
    let value = median(ours)? / median(theirs)?;
    let paired: Vec<_> = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
    let interval = range(&paired)?;
    value.is_finite().then_some(Ratio { value, interval })
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_whatever_the_order() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), Some(2.5));
        assert_eq!(median(&[7.0]), Some(7.0));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let values: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!(percentile(&values, 0.5), Some(100.0));
        assert_eq!(percentile(&values, 0.99), Some(198.0));
        assert_eq!(percentile(&values, 1.0), Some(200.0));
        assert_eq!(percentile(&values, 0.0), Some(1.0));
        assert_eq!(percentile(&[], 0.5), None);
    }

    #[test]
    fn a_ratio_is_of_medians_and_its_interval_is_of_rounds() {
        let ratio = ratio(&[200.0, 300.0, 400.0], &[100.0, 100.0, 400.0]).unwrap();
        assert_eq!(ratio, Ratio { value: 3.0, interval: (1.0, 3.0) });
    }

    #[test]
    fn there_is_no_ratio_to_zero_or_to_no_rounds() {
        assert_eq!(ratio(&[1.0], &[]), None);
        assert_eq!(ratio(&[1.0], &[0.0]), None);
    }
}
