//! The benchmark's statistics: pure functions of what was measured.
//!
//! A repeat has one slice with each contender: A, A again, and every B. From each slice come a few figures, such as the 99th
//! percentile of its latencies. What a filter costs is the median over repeats of its figure less the mean of both A's of the same
//! repeat; the same between the two A's, where nothing differs, is what the method sees by itself. Intervals are percentile
//! bootstraps over repeats (Efron, "Bootstrap methods: another look at the jackknife", 1979), since slices of one run are the only
//! thing here that may be taken as independent: transactions within one are not.

mod distribution;
mod interval;
mod verdict;

pub use distribution::Distribution;
pub use interval::{Interval, bootstrap_difference, bootstrap_median, median};
pub use verdict::{Judgement, MIN_REPEATS, Pace, Refusal, Samples, judge};
