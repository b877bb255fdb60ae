//! Medians and how well they are known.

use fastrand::Rng;
use serde::{Deserialize, Serialize};

/// Share of intervals that are to hold the true value.
const CONFIDENCE: f64 = 0.95;
const RESAMPLES: usize = 2_000;

/// The ends of an interval, in the unit of the values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Its lower end.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

impl Interval {
    /// Whether it holds a value.
    pub fn contains(&self, value: f64) -> bool {
        self.low <= value && value <= self.high
    }

    /// Half its width.
    pub fn half_width(&self) -> f64 {
        (self.high - self.low) / 2.0
    }

    /// The interval between two quantiles of some estimates.
    fn of(mut estimates: Vec<f64>) -> Self {
        estimates.sort_by(f64::total_cmp);
        let tail = (1.0 - CONFIDENCE) / 2.0;
        let at = |share: f64| {
            let index = (share * estimates.len().saturating_sub(1) as f64).round() as usize;
            estimates.get(index).copied().unwrap_or_default()
        };
        Self {
            low: at(tail),
            high: at(1.0 - tail),
        }
    }
}

/// The median; 0 of no values.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = sorted.get(sorted.len() / 2).copied().unwrap_or_default();
    match sorted.len() {
        0 => 0.0,
        len if len % 2 == 1 => upper,
        len => f64::midpoint(sorted.get(len / 2 - 1).copied().unwrap_or_default(), upper),
    }
}

/// The interval that holds the median of what the values were drawn from, 95 times of 100.
pub fn bootstrap_median(values: &[f64], seed: u64) -> Interval {
    let mut rng = Rng::with_seed(seed);
    Interval::of(
        (0..RESAMPLES)
            .map(|_| median(&resample(values, &mut rng)))
            .collect(),
    )
}

/// The interval that holds the difference of two medians, `new` less `old`, 95 times of 100.
pub fn bootstrap_difference(old: &[f64], new: &[f64], seed: u64) -> Interval {
    let mut rng = Rng::with_seed(seed);
    let mut difference = || median(&resample(new, &mut rng)) - median(&resample(old, &mut rng));
    Interval::of((0..RESAMPLES).map(|_| difference()).collect())
}

/// As many values as there are, each drawn from all.
fn resample(values: &[f64], rng: &mut Rng) -> Vec<f64> {
    let draw = |_| values.get(rng.usize(..values.len())).copied();
    (0..values.len()).filter_map(draw).collect()
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;
    use proptest::prelude::{ProptestConfig, any, prop, prop_assert, proptest};

    use super::{Interval, bootstrap_difference, bootstrap_median, median};

    #[test]
    fn medians() {
        for (values, expected) in [
            (&[][..], 0.0),
            (&[3.0], 3.0),
            (&[4.0, 1.0], 2.5),
            (&[9.0, 1.0, 2.0], 2.0),
        ] {
            assert!((median(values) - expected).abs() < f64::EPSILON, "{values:?}");
        }
        assert_eq!(bootstrap_median(&[], 1), Interval::default());
        assert_eq!(bootstrap_difference(&[], &[], 1), Interval::default());
    }

    /// A figure of a slice: noise that is about normal, and now and then a slice that was disturbed.
    fn figure(rng: &mut Rng, centre: f64, outliers: f64) -> f64 {
        let normal: f64 = (0..12).map(|_| rng.f64()).sum::<f64>() - 6.0;
        let outlier = if rng.f64() < outliers { 20.0 } else { 0.0 };
        centre + normal + outlier
    }

    #[test]
    fn intervals_cover_what_they_should() {
        for (repeats, outliers) in [(10, 0.0), (12, 0.15)] {
            let mut rng = Rng::with_seed(repeats as u64);
            let trials: u32 = 100;
            let (mut medians, mut differences) = (0, 0);
            for trial in 0..trials {
                // Disturbances as frequent on either side leave the median of a difference where it is.
                let paired: Vec<f64> = (0..repeats)
                    .map(|_| figure(&mut rng, 5.0, outliers) - figure(&mut rng, 2.0, outliers))
                    .collect();
                medians += u32::from(bootstrap_median(&paired, u64::from(trial)).contains(3.0));
                let mut draw = |centre| -> Vec<f64> {
                    (0..repeats).map(|_| figure(&mut rng, centre, outliers)).collect()
                };
                let (old, new) = (draw(2.0), draw(5.0));
                differences += u32::from(bootstrap_difference(&old, &new, u64::from(trial)).contains(3.0));
            }
            for covered in [medians, differences] {
                let share = f64::from(covered) / f64::from(trials);
                assert!(share >= 0.88, "{repeats} repeats, {outliers}: {share}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn an_interval_holds_the_sample_median_and_moves_with_it(
            values in prop::collection::vec(-1e6..1e6_f64, 1..40), shift in -1e6..1e6_f64, seed in any::<u64>()
        ) {
            let interval = bootstrap_median(&values, seed);
            prop_assert!(interval.low <= interval.high);
            prop_assert!(interval.contains(median(&values)));
            let shifted: Vec<f64> = values.iter().map(|value| value + shift).collect();
            let moved = bootstrap_median(&shifted, seed);
            prop_assert!((moved.low - interval.low - shift).abs() < 1e-6);
            prop_assert!((moved.high - interval.high - shift).abs() < 1e-6);
        }
    }
}
