//! Medians of samples and of paired ratios.

/// A median, and the range in which the true one lies with about 95 % confidence (by order statistics).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Median {
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

impl Median {
    pub fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted: Vec<f64> = samples.iter().copied().filter(|s| s.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let count = sorted.len();
        let last = count.checked_sub(1)?;
        let reach = 0.98 * (count as f64).sqrt();
        let low = (count as f64 / 2.0 - reach).floor().max(0.0) as usize;
        let high = ((count as f64 / 2.0 + reach).ceil() as usize).min(last);
        let at = |index: usize| sorted.get(index.min(last)).copied();
        let value = (at(last / 2)? + at(count / 2)?) / 2.0;
        Some(Self { value, low: at(low)?, high: at(high)? })
    }

    /// Each sample against the anchor of the same round.
    pub fn of_ratios(samples: &[f64], anchors: &[f64]) -> Option<Self> {
        let ratios: Vec<f64> =
            samples.iter().zip(anchors).filter(|(_, anchor)| **anchor > 0.0).map(|(s, a)| s / a).collect();
        Self::of(&ratios)
    }
}

/// The value below which so much of the samples lies; sorts them.
pub fn quantile<T: Copy + Ord>(samples: &mut [T], share: f64) -> Option<T> {
    samples.sort_unstable();
    let index = (samples.len() as f64 * share) as usize;
    samples.get(index.min(samples.len().checked_sub(1)?)).copied()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_median_of_an_even_number_lies_between_the_middle_two() {
        assert_eq!(Median::of(&[4.0, 1.0, 3.0, 2.0]).unwrap().value, 2.5);
        assert_eq!(Median::of(&[3.0, 1.0, 2.0]).unwrap().value, 2.0);
        assert_eq!(Median::of(&[]), None);
    }

    #[test]
    fn ratios_are_taken_within_a_round_so_a_slow_round_does_not_count_twice() {
        let (ours, theirs) = ([1.0, 10.0, 1.0], [2.0, 20.0, 2.0]);
        assert_eq!(Median::of_ratios(&ours, &theirs).unwrap(), Median { value: 0.5, low: 0.5, high: 0.5 });
    }

    #[test]
    fn the_range_of_forty_rounds_leaves_out_the_outer_third_on_each_side() {
        let samples: Vec<f64> = (0..40).map(f64::from).collect();
        let median = Median::of(&samples).unwrap();
        assert_eq!((median.low, median.value, median.high), (13.0, 19.5, 27.0));
    }

    #[test]
    fn a_quantile_is_one_of_the_samples() {
        assert_eq!(quantile(&mut [5, 1, 3], 0.5), Some(3));
        assert_eq!(quantile(&mut [5, 1, 3], 0.99), Some(5));
        assert_eq!(quantile::<u8>(&mut [], 0.5), None);
    }
}
