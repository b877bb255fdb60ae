//! A log-linear histogram of durations, cheap to record into and exact to within 1 %.
//!
//! Values below 128 have a bucket each; above, each power of two is cut into 128 buckets, so a bucket is at most
//! 1/128 of its lower bound wide. A bucket's lower bound names it in the report lines.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec;
use core::fmt::{self, Write as _};

/// Buckets in each power of two, as a shift.
const SUB_BITS: u32 = 7;
const SUB: u64 = 1 << SUB_BITS;
/// Values have at most this many bits; larger ones are counted in the last bucket. In nanoseconds: 18 minutes.
const VALUE_BITS: u32 = 40;
const BUCKETS: usize = (VALUE_BITS - SUB_BITS + 1) as usize * SUB as usize;
/// Most octets of one line of encoded buckets.
const ENCODED_MAX: usize = 340;

/// Counts of values by size.
#[derive(Clone, PartialEq, Eq)]
pub struct Histogram {
    counts: Box<[u32]>,
    count: u64,
    sum: u64,
    min: u64,
    max: u64,
}

/// An encoded bucket that cannot be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodingError;

impl fmt::Display for EncodingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("histogram buckets are LOW:COUNT, separated by spaces")
    }
}

impl core::error::Error for EncodingError {}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Histogram")
            .field("count", &self.count)
            .field("min", &self.min())
            .field("max", &self.max)
            .finish_non_exhaustive()
    }
}

impl Histogram {
    /// An empty histogram: 17 KiB.
    pub fn new() -> Self {
        Self {
            counts: vec![0; BUCKETS].into_boxed_slice(),
            count: 0,
            sum: 0,
            min: u64::MAX,
            max: 0,
        }
    }

    /// Counts `value`.
    pub fn record(&mut self, value: u64) {
        self.add(value, 1);
        self.sum = self.sum.saturating_add(value);
        self.set_extremes(value, value);
    }

    /// Forgets everything; allocates nothing.
    pub fn clear(&mut self) {
        self.counts.fill(0);
        (self.count, self.sum, self.min, self.max) = (0, 0, u64::MAX, 0);
    }

    /// How many values were counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The sum of the values.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// The smallest value, 0 if there is none.
    pub fn min(&self) -> u64 {
        if self.count == 0 { 0 } else { self.min }
    }

    /// The largest value, 0 if there is none.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// The value that a share `quantile` (0 to 1) of the values does not exceed: the upper end of its bucket, but never
    /// beyond the largest value. 0 if there are no values.
    pub fn quantile(&self, quantile: f64) -> u64 {
        let exact = quantile.clamp(0.0, 1.0) * self.count as f64;
        let rounded = exact as u64;
        let rank = (rounded + u64::from(exact > rounded as f64)).max(1);
        let mut seen = 0;
        for (low, count) in self.buckets() {
            seen += u64::from(count);
            if seen >= rank {
                return upper_bound(low).clamp(self.min(), self.max.max(low));
            }
        }
        self.max
    }

    /// Lower bound and count of each bucket that is not empty, in ascending order.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        self.counts
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0)
            .map(|(index, count)| (lower_bound(index), *count))
    }

    /// The buckets as `LOW:COUNT` words, in lines that fit a report line.
    pub fn encode(&self) -> impl Iterator<Item = String> + '_ {
        let mut buckets = self.buckets().peekable();
        core::iter::from_fn(move || {
            buckets.peek()?;
            let mut line = String::with_capacity(ENCODED_MAX + 40);
            while line.len() < ENCODED_MAX
                && let Some((low, count)) = buckets.next()
            {
                let separator = if line.is_empty() { "" } else { " " };
                // Writing to a string cannot fail.
                let _ = write!(line, "{separator}{low}:{count}");
            }
            Some(line)
        })
    }

    /// Adds the buckets of one encoded line. The sum counts each value as its bucket's lower bound until
    /// [`set_summary`](Self::set_summary) corrects it.
    pub fn decode(&mut self, line: &str) -> Result<(), EncodingError> {
        for word in line.split_ascii_whitespace() {
            let (low, count) = word.split_once(':').ok_or(EncodingError)?;
            let low: u64 = low.parse().map_err(|_| EncodingError)?;
            let count: u32 = count.parse().map_err(|_| EncodingError)?;
            if count > 0 {
                self.add(low, count);
                self.sum = self.sum.saturating_add(low.saturating_mul(u64::from(count)));
                self.set_extremes(low, low);
            }
        }
        Ok(())
    }

    /// Adds the values of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (low, count) in other.buckets() {
            self.add(low, count);
        }
        self.sum = self.sum.saturating_add(other.sum);
        if other.count > 0 {
            self.set_extremes(other.min, other.max);
        }
    }

    /// Replaces what buckets cannot tell exactly: smallest value, largest value and sum.
    pub fn set_summary(&mut self, min: u64, max: u64, sum: u64) {
        (self.min, self.max, self.sum) = (min, max, sum);
    }

    fn add(&mut self, value: u64, count: u32) {
        if let Some(bucket) = self.counts.get_mut(index(value)) {
            *bucket = bucket.saturating_add(count);
            self.count += u64::from(count);
        }
    }

    fn set_extremes(&mut self, low: u64, high: u64) {
        self.min = self.min.min(low);
        self.max = self.max.max(high);
    }
}

fn index(value: u64) -> usize {
    let value = value.min((1 << VALUE_BITS) - 1);
    if value < SUB {
        return value as usize;
    }
    let shift = value.ilog2() - SUB_BITS;
    (u64::from(shift) * SUB + (value >> shift)) as usize
}

fn lower_bound(index: usize) -> u64 {
    let index = index as u64;
    if index < 2 * SUB {
        return index;
    }
    let shift = index / SUB - 1;
    (SUB + index % SUB) << shift
}

/// The largest value in the bucket that starts at `low`.
pub fn upper_bound(low: u64) -> u64 {
    lower_bound(index(low) + 1) - 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quantiles_of_a_known_distribution() {
        let mut histogram = Histogram::new();
        for value in 1..=1000 {
            histogram.record(value * 1000);
        }
        assert_eq!(
            (histogram.count(), histogram.min(), histogram.max()),
            (1000, 1000, 1_000_000)
        );
        assert_eq!(histogram.sum(), 500_500_000);
        for (quantile, exact) in [(0.5, 500_000), (0.9, 900_000), (0.99, 990_000), (1.0, 1_000_000)] {
            let value = histogram.quantile(quantile);
            assert!(
                value >= exact && value <= exact + exact / 100,
                "{quantile}: {value}"
            );
        }
        assert_eq!(histogram.quantile(0.0), 1003);
        assert_eq!(Histogram::new().quantile(0.5), 0);
    }

    #[test]
    fn encoded_lines_are_short_and_carry_everything() {
        let mut histogram = Histogram::new();
        for value in 0..5000_u64 {
            histogram.record(value * value * 37);
        }
        let lines: Vec<_> = histogram.encode().collect();
        assert!(lines.len() > 10 && lines.iter().all(|line| line.len() < 380));
        let mut decoded = Histogram::new();
        for line in &lines {
            decoded.decode(line).expect("own encoding");
        }
        decoded.set_summary(histogram.min(), histogram.max(), histogram.sum());
        assert_eq!(decoded, histogram);
        assert_eq!(decoded.decode("12"), Err(EncodingError));
        assert_eq!(decoded.decode("1:x"), Err(EncodingError));
        assert_eq!(Histogram::new().encode().count(), 0);
    }

    proptest! {
        #[test]
        fn buckets_are_narrow(value in 0_u64..1 << VALUE_BITS) {
            let low = lower_bound(index(value));
            let high = upper_bound(low);
            prop_assert!(low <= value && value <= high);
            prop_assert!((high - low) * 128 <= low || high == low);
        }

        #[test]
        fn merging_adds(left in prop::collection::vec(any::<u64>(), 0..50), right in prop::collection::vec(any::<u64>(), 0..50)) {
            let record = |values: &[u64]| {
                let mut histogram = Histogram::new();
                for value in values {
                    histogram.record(*value);
                }
                histogram
            };
            let mut merged = record(&left);
            merged.merge(&record(&right));
            prop_assert_eq!(merged, record(&[left, right].concat()));
        }
    }
}
