//! Latencies of one slice or many.

use hdrhistogram::Histogram;
use microguest::histogram::upper_bound;

const LOWEST_NS: u64 = 1;
/// Half an hour: beyond the longest phase there is.
const HIGHEST_NS: u64 = 1_800_000_000_000;
const SIGNIFICANT_DIGITS: u8 = 3;
/// Pieces that a bucket of the client's, at most 1 % wide, is spread over.
const PIECES: u64 = 8;

/// A distribution of durations in nanoseconds, right to 0.1 %.
#[derive(Clone, Debug)]
pub struct Distribution(Histogram<u64>);

impl Default for Distribution {
    fn default() -> Self {
        let bounds = Histogram::new_with_bounds(LOWEST_NS, HIGHEST_NS, SIGNIFICANT_DIGITS);
        Self(bounds.expect("constant bounds that hdrhistogram accepts"))
    }
}

impl Distribution {
    /// The distribution that a client's buckets (lower bound and count) tell of: values are taken as spread evenly over their
    /// bucket, so that quantiles do not jump from one bucket to the next.
    pub fn from_buckets(buckets: &[(u64, u64)]) -> Self {
        let mut all = Self::default();
        for &(low, count) in buckets {
            let width = upper_bound(low).saturating_sub(low);
            let pieces = PIECES.min(width + 1).min(count.max(1));
            for piece in 0..pieces {
                let value = low.saturating_add(width * (2 * piece + 1) / (2 * pieces));
                let share = count / pieces + u64::from(piece < count % pieces);
                all.record(value, share);
            }
        }
        all
    }

    /// Counts `count` values; what is longer than half an hour counts as that.
    pub fn record(&mut self, ns: u64, count: u64) {
        self.0.saturating_record_n(ns.clamp(LOWEST_NS, HIGHEST_NS), count);
    }

    /// What an open loop would have seen where a closed loop, which was to ask every `interval` nanoseconds, saw this: a value
    /// longer than the interval stands for those that were not asked for meanwhile (Tene, `HdrHistogram`).
    #[must_use]
    pub fn corrected(&self, interval: u64) -> Self {
        Self(self.0.clone_correct(interval))
    }

    /// Adds what another has.
    pub fn merge(&mut self, other: &Self) {
        // Bounds are the same, so nothing is out of range.
        let _ = self.0.add(&other.0);
    }

    /// How many values there are.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The value in microseconds that a share of the values (0 to 1) does not exceed; 0 without values.
    pub fn quantile_us(&self, share: f64) -> f64 {
        self.0.value_at_quantile(share) as f64 / 1_000.0
    }

    /// Mean in microseconds.
    pub fn mean_us(&self) -> f64 {
        self.0.mean() / 1_000.0
    }

    /// How many values are `ns` nanoseconds or longer.
    pub fn count_from(&self, ns: u64) -> u64 {
        self.0.count_between(ns, HIGHEST_NS)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_empty_distribution_has_figures() {
        let none = Distribution::default();
        assert_eq!((none.count(), none.count_from(0)), (0, 0));
        assert!(none.quantile_us(0.99).abs() < f64::EPSILON);
    }

    #[test]
    fn long_ones_are_counted() {
        let mut some = Distribution::default();
        some.record(u64::MAX, 2);
        some.record(30_000_000, 3);
        some.record(1_000, 4);
        assert_eq!((some.count(), some.count_from(25_000_000)), (9, 5));
    }

    /// Latencies of a server that answers after `service`, but stands still from `from` for `length`; all in nanoseconds.
    fn wait(at: u64, service: u64, from: u64, length: u64) -> u64 {
        if (from..from + length).contains(&at) {
            from + length - at + service
        } else {
            service
        }
    }

    proptest! {
        #[test]
        fn buckets_keep_their_counts_and_quantiles(values in prop::collection::vec(1_u64..10_000_000_000, 1..300)) {
            let mut client = microguest::histogram::Histogram::new();
            let mut sorted = values;
            for value in &sorted {
                client.record(*value);
            }
            sorted.sort_unstable();
            let buckets: Vec<(u64, u64)> = client.buckets().map(|(low, count)| (low, u64::from(count))).collect();
            let all = Distribution::from_buckets(&buckets);
            prop_assert_eq!(all.count(), sorted.len() as u64);
            for share in [0.0, 0.5, 0.99, 1.0] {
                let rank = ((share * sorted.len() as f64).ceil() as usize).clamp(1, sorted.len());
                let exact = sorted[rank - 1] as f64 / 1_000.0;
                let found = all.quantile_us(share);
                prop_assert!((found - exact).abs() <= exact * 0.01 + 0.002, "{share}: {found} for {exact}");
            }
        }

        #[test]
        fn correction_gives_a_closed_loop_what_an_open_one_sees(
            interval in 50_000_u64..500_000, share in 0.05..0.9_f64, stalls in prop::collection::vec(2_u64..200, 1..4)
        ) {
            let service = (interval as f64 * share) as u64;
            let (mut open, mut closed) = (Distribution::default(), Distribution::default());
            let mut start = 1_000 * interval;
            for stall in stalls {
                let length = stall * interval;
                let end = start + length + 1_000 * interval;
                // The open loop asks at every interval; the closed one when the interval and the answer have come.
                let mut at = start;
                while at < end {
                    open.record(wait(at, service, start, length), 1);
                    at += interval;
                }
                let mut at = start;
                while at < end {
                    let took = wait(at, service, start, length);
                    closed.record(took, 1);
                    at += took.div_ceil(interval) * interval;
                }
                start = end;
            }
            let corrected = closed.corrected(interval);
            prop_assert!(closed.count() < open.count());
            prop_assert!(corrected.count().abs_diff(open.count()) <= 4, "{} {}", corrected.count(), open.count());
            for share in [0.5, 0.9, 0.99] {
                let (seen, exact) = (corrected.quantile_us(share), open.quantile_us(share));
                let slack = 4.0 * interval as f64 / 1_000.0 + exact * 0.01;
                prop_assert!((seen - exact).abs() <= slack, "{share}: {seen} for {exact}");
            }
        }
    }
}
