//! What the client's lines say about one phase.

use microguest::histogram::Histogram;
use microguest::report::Line;

use super::report::{RttSummary, Slow};

/// Slow transactions kept for each phase.
const MAX_SLOW: usize = 8;

/// Everything that the client has said about one phase so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct PhaseLines {
    /// Transactions measured; `None` before the phase's end.
    pub transactions: Option<u64>,
    /// How long they took together, in microseconds.
    pub us: u64,
    /// The slowest ones.
    pub slow: Vec<Slow>,
    /// How an open loop kept its schedule: requests due, responses in time, and how late requests were written, all of them
    /// together, in nanoseconds.
    pub load: Option<(u64, u64, u64)>,
    histogram: Histogram,
    /// Shortest, longest and sum, in nanoseconds, which buckets cannot tell exactly.
    exact: Option<(u64, u64, u64)>,
}

impl PhaseLines {
    /// Takes a line, if it is about this phase.
    pub(crate) fn take(&mut self, line: &Line<'_>, wanted: u32) {
        match *line {
            Line::End {
                phase,
                transactions,
                us,
            } if phase == wanted => {
                self.transactions = Some(transactions);
                self.us = us;
            }
            Line::Load {
                phase,
                due,
                in_time,
                late,
            } if phase == wanted => self.load = Some((due, in_time, late)),
            Line::Rtt {
                phase, min, max, sum, ..
            } if phase == wanted => {
                self.exact = Some((min.min(max), max, sum));
            }
            Line::Slow { phase, n, us } if phase == wanted && self.slow.len() < MAX_SLOW => {
                self.slow.push(Slow { n, us });
            }
            Line::Hist { phase, buckets } if phase == wanted => {
                // What is no bucket is left out: the counts then differ from the transactions, for all to see.
                let _ = self.histogram.decode(buckets);
            }
            _ => {}
        }
    }

    /// The distribution: lower bounds in nanoseconds and counts, in order.
    pub(crate) fn histogram(&self) -> Vec<(u64, u64)> {
        self.histogram
            .buckets()
            .map(|(low, count)| (low, u64::from(count)))
            .collect()
    }

    /// The distribution in a few numbers.
    pub(crate) fn summary(&self) -> RttSummary {
        let mut histogram = self.histogram.clone();
        if let Some((min, max, sum)) = self.exact {
            histogram.set_summary(min, max, sum);
        }
        let micros = |ns: u64| ns as f64 / 1_000.0;
        let at = |share: f64| micros(histogram.quantile(share));
        RttSummary {
            min: micros(histogram.min()),
            mean: micros(histogram.sum()) / histogram.count().max(1) as f64,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: micros(histogram.max()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phase(lines: &[&str]) -> PhaseLines {
        let mut phase = PhaseLines::default();
        for line in lines {
            phase.take(&Line::parse(&format!("enlight-guest: {line}")).unwrap(), 1);
        }
        phase
    }

    #[test]
    fn a_phase_is_put_together_from_its_lines_and_no_others() {
        let phase = phase(&[
            "end phase=0 transactions=7 us=7",
            "end phase=1 transactions=100 us=8000000",
            "rtt phase=1 count=100 min=1005 max=9999 sum=250000",
            "hist phase=1 1000:50 2000:40",
            "hist phase=1 3008:9 9984:1",
            "hist phase=2 1:1000000",
            "slow phase=1 n=17 us=9",
        ]);
        assert_eq!(phase.transactions, Some(100));
        assert_eq!(phase.us, 8_000_000);
        assert_eq!(
            phase.histogram(),
            [(1_000, 50), (2_000, 40), (3_008, 9), (9_984, 1)]
        );
        assert_eq!(phase.slow, [Slow { n: 17, us: 9 }]);
        let rtt = phase.summary();
        assert_eq!((rtt.min, rtt.p999, rtt.max, rtt.mean), (1.005, 9.999, 9.999, 2.5));
        for (value, exact) in [(rtt.p50, 1.0), (rtt.p90, 2.0), (rtt.p99, 3.008)] {
            assert!(value >= exact && value <= exact * 1.01, "{value} for {exact}");
        }
    }

    #[test]
    fn quantiles_are_ordered_whatever_a_guest_says() {
        for lines in [
            &[
                "rtt phase=1 count=3 min=500 max=2 sum=18446744073709551615",
                "hist phase=1 7:3",
            ][..],
            &["hist phase=1 7:4294967295 7:4294967295 18446744073709551615:4294967295"],
            &["rtt phase=1 count=0 min=0 max=0 sum=0"],
            &["hist phase=1 nonsense 7:1"],
            &[],
        ] {
            let rtt = phase(lines).summary();
            assert!(
                rtt.p50 <= rtt.p90 && rtt.p90 <= rtt.p99 && rtt.p99 <= rtt.p999,
                "{lines:?}: {rtt:?}"
            );
        }
    }
}
