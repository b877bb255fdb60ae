//! Whether a difference may be reported.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::interval::{Interval, bootstrap_median, median};

/// Fewer repeats tell nothing about how far they may be off.
pub const MIN_REPEATS: usize = 5;
/// Share of an open loop's requests that have to be answered within their slice.
const PACE: f64 = 0.98;
/// How far the load of two contenders may differ where it is not the benchmark that makes it.
const SAME_LOAD: f64 = 0.05;

/// One figure of each repeat, in microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Samples<'a> {
    /// With A.
    pub first: &'a [f64],
    /// With A again.
    pub second: &'a [f64],
    /// With B.
    pub other: &'a [f64],
    /// Without a switch.
    pub empty: &'a [f64],
}

/// What there was to do, and what was done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// A closed loop: it does what it can.
    Closed,
    /// An open loop: requests due, and answered within their slice, with A and with B.
    Open {
        /// With A.
        a: (u64, u64),
        /// With B.
        b: (u64, u64),
    },
    /// Somebody else's load: frames a second with A and with B.
    Foreign {
        /// With A.
        a: f64,
        /// With B.
        b: f64,
    },
}

/// Why a difference is not reported.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "why")]
pub enum Refusal {
    /// There are too few repeats.
    FewRepeats {
        /// So many.
        repeats: usize,
    },
    /// Requests were not sent, or not answered, at the rate asked for.
    Rate {
        /// The smallest share that was answered in time, 0 to 1.
        share: f64,
    },
    /// The load differed between A and B.
    Load {
        /// Frames a second with A.
        a: f64,
        /// Frames a second with B.
        b: f64,
    },
    /// A differs from itself by as much.
    SameDiffers {
        /// A again less A, in microseconds.
        aa_us: f64,
    },
    /// The interval holds 0.
    Zero,
    /// The generator itself is no better known than that.
    Bias {
        /// In microseconds.
        bias_us: f64,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FewRepeats { repeats } => {
                write!(out, "{repeats} repeats are fewer than {MIN_REPEATS} (--repeats)")
            }
            Self::Rate { share } => write!(
                out,
                "the rate was not achieved: {:.1} % of the requests due were answered in time (lower --rates)",
                share * 100.0
            ),
            Self::Load { a, b } => {
                write!(out, "the load differed: {a:.0} and {b:.0} frames a second")
            }
            Self::SameDiffers { aa_us } => {
                write!(
                    out,
                    "A differs from itself by {aa_us:+.2} µs (more repeats, a quieter machine)"
                )
            }
            Self::Zero => out.write_str("the interval holds 0 (more repeats)"),
            Self::Bias { bias_us } => write!(
                out,
                "the generator alone is uncertain by {bias_us:.2} µs (more repeats, a quieter machine)"
            ),
        }
    }
}

/// A difference, how well it is known, and whether it may be reported.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    /// B less A, in microseconds.
    pub difference_us: f64,
    /// Where it lies.
    pub interval_us: Interval,
    /// A again less A.
    pub aa_us: f64,
    /// Where that lies.
    pub aa_interval_us: Interval,
    /// How well the generator is known: half the interval of its figure without a switch, and two stamps.
    pub bias_us: f64,
    /// Why it is refused; empty when it is not.
    pub refused: Vec<Refusal>,
}

/// Judges a figure. `stamps_us` is what two readings of the clock take.
pub fn judge(samples: &Samples<'_>, pace: Pace, stamps_us: f64, seed: u64) -> Judgement {
    let repeats = [samples.first.len(), samples.second.len(), samples.other.len()];
    let repeats = repeats.into_iter().min().unwrap_or(0);
    let pairs = samples.first.iter().zip(samples.second);
    let aa: Vec<f64> = pairs.clone().map(|(first, second)| second - first).collect();
    let ab: Vec<f64> = pairs
        .zip(samples.other)
        .map(|((first, second), other)| other - f64::midpoint(*first, *second))
        .collect();
    let (difference_us, aa_us) = (median(&ab), median(&aa));
    let interval_us = bootstrap_median(&ab, seed);
    let bias_us = bootstrap_median(samples.empty, seed).half_width() + stamps_us;
    let effect = difference_us.abs();
    let refused = [
        (repeats < MIN_REPEATS).then_some(Refusal::FewRepeats { repeats }),
        out_of_pace(pace),
        (aa_us.abs() >= effect).then_some(Refusal::SameDiffers { aa_us }),
        interval_us.contains(0.0).then_some(Refusal::Zero),
        (bias_us >= effect).then_some(Refusal::Bias { bias_us }),
    ];
    Judgement {
        difference_us,
        interval_us,
        aa_us,
        aa_interval_us: bootstrap_median(&aa, seed),
        bias_us,
        refused: refused.into_iter().flatten().collect(),
    }
}

fn out_of_pace(pace: Pace) -> Option<Refusal> {
    match pace {
        Pace::Closed => None,
        Pace::Open { a, b } => {
            let share = |(due, in_time): (u64, u64)| in_time as f64 / due.max(1) as f64;
            let share = share(a).min(share(b));
            (share < PACE).then_some(Refusal::Rate { share })
        }
        Pace::Foreign { a, b } => {
            let same = a > 0.0 && b > 0.0 && (a - b).abs() <= SAME_LOAD * a.max(b);
            (!same).then_some(Refusal::Load { a, b })
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PACED: Pace = Pace::Open {
        a: (1000, 999),
        b: (1000, 1000),
    };

    fn constant(value: f64) -> Vec<f64> {
        (0..10).map(|n| value + f64::from(n % 3) * 0.01).collect()
    }

    fn judged(first: f64, second: f64, other: f64, pace: Pace, stamps: f64) -> Judgement {
        let (first, second, other) = (constant(first), constant(second), constant(other));
        let empty = constant(1.0);
        let samples = Samples {
            first: &first,
            second: &second,
            other: &other,
            empty: &empty,
        };
        judge(&samples, pace, stamps, 1)
    }

    #[test]
    fn a_clear_difference_is_reported() {
        let clear = judged(50.0, 50.2, 53.1, PACED, 0.05);
        assert!(clear.refused.is_empty(), "{:?}", clear.refused);
        assert!((clear.difference_us - 3.0).abs() < 0.02 && (clear.aa_us - 0.2).abs() < 0.02);
        assert!(clear.interval_us.contains(3.0) && clear.bias_us < 0.1);
        let faster = judged(50.0, 50.2, 40.0, PACED, 0.05);
        assert!(faster.refused.is_empty() && faster.difference_us < -10.0);
    }

    #[test]
    fn each_rule_refuses_for_its_reason() {
        let only = |judgement: Judgement| {
            let text: Vec<String> = judgement.refused.iter().map(ToString::to_string).collect();
            assert!(text.iter().all(|line| !line.contains('\n')));
            match judgement.refused.as_slice() {
                [one] => *one,
                other => panic!("{other:?}"),
            }
        };
        let same = judged(50.0, 54.0, 53.0, PACED, 0.0);
        assert!(matches!(only(same), Refusal::SameDiffers { aa_us } if (aa_us - 4.0).abs() < 0.02));
        let slow = Pace::Open {
            a: (1000, 1000),
            b: (1000, 970),
        };
        assert_eq!(
            only(judged(50.0, 50.0, 60.0, slow, 0.0)),
            Refusal::Rate { share: 0.97 }
        );
        assert!(matches!(
            only(judged(50.0, 50.0, 53.0, PACED, 4.0)),
            Refusal::Bias { .. }
        ));
        let other = Pace::Foreign { a: 100.0, b: 94.0 };
        assert_eq!(
            only(judged(50.0, 50.0, 60.0, other, 0.0)),
            Refusal::Load { a: 100.0, b: 94.0 }
        );
        assert!(
            judged(50.0, 50.0, 60.0, Pace::Foreign { a: 100.0, b: 96.0 }, 0.0)
                .refused
                .is_empty()
        );
        let few = Samples {
            first: &[1.0; 4],
            second: &[1.0; 4],
            other: &[9.0; 4],
            empty: &[],
        };
        assert_eq!(
            only(judge(&few, Pace::Closed, 0.0, 1)),
            Refusal::FewRepeats { repeats: 4 }
        );
    }

    #[test]
    fn nothing_against_itself_is_refused() {
        let judgement = judged(50.0, 50.0, 50.0, PACED, 0.0);
        assert!(judgement.refused.contains(&Refusal::Zero));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn what_is_reported_stands_above_noise_and_bias(
            rows in prop::collection::vec((0.0..100.0_f64, 0.0..100.0_f64, 0.0..200.0_f64, 0.0..9.0_f64), 0..20),
            stamps in 0.0..5.0_f64, due in 0_u64..2000, in_time in 0_u64..2000
        ) {
            let column = |pick: fn(&(f64, f64, f64, f64)) -> f64| rows.iter().map(pick).collect::<Vec<f64>>();
            let (first, second, other, empty) =
                (column(|row| row.0), column(|row| row.1), column(|row| row.2), column(|row| row.3));
            let samples = Samples { first: &first, second: &second, other: &other, empty: &empty };
            let pace = Pace::Open { a: (due, in_time), b: (due, due) };
            let judgement = judge(&samples, pace, stamps, 3);
            prop_assert!(judgement.interval_us.low <= judgement.interval_us.high);
            if judgement.refused.is_empty() {
                let effect = judgement.difference_us.abs();
                prop_assert!(rows.len() >= MIN_REPEATS);
                prop_assert!(effect > judgement.aa_us.abs() && effect > judgement.bias_us && effect > 0.0);
                prop_assert!(!judgement.interval_us.contains(0.0));
                prop_assert!(in_time as f64 >= 0.98 * due as f64);
            } else {
                let text: Vec<String> = judgement.refused.iter().map(ToString::to_string).collect();
                prop_assert!(text.iter().all(|line| !line.is_empty()));
            }
        }

        #[test]
        fn noise_alone_is_hardly_ever_reported(seed: u64) {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut reported = 0;
            for trial in 0..10 {
                let mut draw = || -> Vec<f64> { (0..10).map(|_| 50.0 + rng.f64() * 5.0).collect() };
                let (first, second, other, empty) = (draw(), draw(), draw(), draw());
                let samples = Samples { first: &first, second: &second, other: &other, empty: &empty };
                reported += usize::from(judge(&samples, Pace::Closed, 0.0, trial).refused.is_empty());
            }
            prop_assert!(reported <= 4, "{reported} of 10");
        }
    }
}
