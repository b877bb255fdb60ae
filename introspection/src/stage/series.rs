//! Distributions of durations.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

const LOWEST_NS: u64 = 1;
const HIGHEST_NS: u64 = 60_000_000_000;
/// Buckets are at most 1 % wide, and 40 KiB a histogram.
const SIGNIFICANT_DIGITS: u8 = 2;

/// One distribution of durations in microseconds. Quantiles are right to 1 %, all else is exact; durations
/// above 60 s count as 60 s in the quantiles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    /// Frames.
    pub count: u64,
    /// Sum of all durations, in nanoseconds.
    pub total_ns: u64,
    /// Mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 90 % took at most this.
    pub p90: f64,
    /// 99 %.
    pub p99: f64,
    /// 99.9 %.
    pub p999: f64,
    /// The longest.
    pub max: f64,
}

/// Durations as they come.
#[derive(Clone)]
pub(super) struct Series {
    histogram: Histogram<u64>,
    total_ns: u64,
    max_ns: u64,
}

impl Series {
    pub(super) fn new() -> Self {
        Self {
            histogram: Histogram::new_with_bounds(LOWEST_NS, HIGHEST_NS, SIGNIFICANT_DIGITS)
                .expect("constant bounds that hdrhistogram accepts"),
            total_ns: 0,
            max_ns: 0,
        }
    }

    pub(super) fn record(&mut self, ns: u64, frames: u64) {
        self.histogram.saturating_record_n(ns.min(HIGHEST_NS), frames);
        self.total_ns = self.total_ns.saturating_add(ns.saturating_mul(frames));
        self.max_ns = self.max_ns.max(ns);
    }

    pub(super) fn merge(&mut self, other: &Self) {
        // Bounds are the same, so nothing is out of range.
        let _ = self.histogram.add(&other.histogram);
        self.total_ns = self.total_ns.saturating_add(other.total_ns);
        self.max_ns = self.max_ns.max(other.max_ns);
    }

    pub(super) fn reset(&mut self) {
        self.histogram.reset();
        self.total_ns = 0;
        self.max_ns = 0;
    }

    pub(super) fn summary(&self, count: u64) -> Distribution {
        let micros = |ns: u64| ns as f64 / 1000.0;
        // A bucket's upper end may lie above the longest duration that there was.
        let quantile = |quantile| micros(self.histogram.value_at_quantile(quantile).min(self.max_ns));
        Distribution {
            count,
            total_ns: self.total_ns,
            mean: micros(self.total_ns) / count.max(1) as f64,
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            p999: quantile(0.999),
            max: micros(self.max_ns),
        }
    }
}
