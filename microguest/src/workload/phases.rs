//! Measuring in phases: warm-up, measurement, report.

use alloc::vec::Vec;

use super::Sink;
use crate::cmdline::{Go, Parameters, Workload};
use crate::histogram::Histogram;
use crate::report::Line;

/// How many of the slowest transactions are reported.
const SLOWEST: usize = 8;

/// The phases of one client: which transactions count, and what is reported when. Times are nanoseconds from any epoch.
#[derive(Debug)]
pub struct Phases {
    parameters: Parameters,
    number: u32,
    stage: Stage,
    transactions: u64,
    load: Load,
    histogram: Histogram,
    /// Duration and number of the slowest transactions, slowest first.
    slowest: Vec<(u64, u64)>,
}

/// How an open loop keeps its schedule.
#[derive(Clone, Copy, Debug, Default)]
struct Load {
    due: u64,
    in_time: u64,
    late: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Not connected yet.
    Unconnected,
    /// Starts with the next tick.
    Next,
    /// Traffic flows unmeasured until the host says go.
    Waiting,
    /// Traffic flows unmeasured for some transactions more.
    WarmUp { since: u64, left: u32 },
    /// Each transaction that starts now counts.
    Measured { since: u64 },
    /// All phases are over.
    Over,
}

impl Phases {
    /// Phases that start once there is a connection.
    pub fn new(parameters: &Parameters) -> Self {
        Self {
            parameters: *parameters,
            number: 0,
            stage: Stage::Unconnected,
            transactions: 0,
            load: Load::default(),
            histogram: Histogram::new(),
            slowest: Vec::with_capacity(SLOWEST + 1),
        }
    }

    /// The connection is there: the first phase starts with the next tick.
    pub fn start(&mut self) {
        self.stage = Stage::Next;
    }

    /// Whether all phases are over.
    pub fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    /// Whether traffic flows unmeasured until [`go`](Self::go).
    pub fn wants_go(&self) -> bool {
        self.stage == Stage::Waiting
    }

    /// The host says go.
    pub fn go(&mut self, now: u64, sink: Sink<'_>) {
        if self.wants_go() {
            self.warm_up(now, sink);
        }
    }

    /// Lets time pass: starts what is due, and ends a measurement whose transactions take too long.
    pub fn tick(&mut self, now: u64, sink: Sink<'_>) {
        match self.stage {
            Stage::Next if self.parameters.go == Go::Serial => {
                self.stage = Stage::Waiting;
                sink(&Line::Ready { phase: self.number });
            }
            Stage::Next => self.warm_up(now, sink),
            Stage::WarmUp { since, .. } if now >= since + self.length() => self.begin(now, sink),
            Stage::Measured { .. } if !self.ends_itself() && self.is_due(now) => self.finish(now, sink),
            _ => {}
        }
    }

    /// When `tick` is needed next.
    pub fn deadline(&self) -> Option<u64> {
        match self.stage {
            Stage::Next => Some(0),
            Stage::WarmUp { since, .. } => Some(since + self.length()),
            Stage::Measured { .. } if self.ends_itself() => None,
            Stage::Measured { since } if self.has_enough() => Some(since + self.length()),
            Stage::Measured { since } => Some(since + self.longest()),
            Stage::Unconnected | Stage::Waiting | Stage::Over => None,
        }
    }

    /// A transaction that began at `started` ended.
    pub fn transaction(&mut self, started: u64, now: u64, sink: Sink<'_>) {
        if self.end().is_some_and(|end| now < end) {
            self.load.in_time += 1;
        }
        match &mut self.stage {
            Stage::WarmUp { left, .. } => {
                *left -= 1;
                if *left == 0 {
                    self.begin(now, sink);
                }
            }
            // What an open loop began in the instant of the start belongs to the warm-up.
            Stage::Measured { since } if started >= *since + u64::from(self.parameters.rate > 0) => {
                self.record(now.saturating_sub(started));
                if !self.ends_itself() && self.is_due(now) {
                    self.finish(now, sink);
                }
            }
            _ => {}
        }
    }

    /// An open loop's request that was due at `due` begins.
    pub fn begun(&mut self, due: u64, now: u64) {
        if let Stage::Measured { since } = self.stage
            && due > since
        {
            self.load.due += 1;
            self.load.late += now.saturating_sub(due);
        }
    }

    /// From when on an open loop's requests belong to this measurement, and when they end.
    pub fn window(&self) -> Option<(u64, u64)> {
        self.end().map(|end| (end - self.length(), end))
    }

    /// When an open loop's requests of this measurement end.
    pub fn end(&self) -> Option<u64> {
        match self.stage {
            Stage::Measured { since } => Some(since + self.length()),
            _ => None,
        }
    }

    /// Ends an open loop's measurement, in which `missed` requests were due and never begun.
    pub fn finish_open(&mut self, missed: u64, now: u64, sink: Sink<'_>) {
        self.load.due += missed;
        self.finish(now, sink);
    }

    /// Whether the measurement should end.
    pub fn is_due(&self, now: u64) -> bool {
        let Stage::Measured { since } = self.stage else {
            return false;
        };
        now >= since + self.longest() || (now >= since + self.length() && self.has_enough())
    }

    /// Ends the measurement and reports it.
    pub fn finish(&mut self, now: u64, sink: Sink<'_>) {
        let Stage::Measured { since } = self.stage else {
            return;
        };
        let phase = self.number;
        sink(&Line::End {
            phase,
            transactions: self.transactions,
            us: now.saturating_sub(since) / 1000,
        });
        if self.parameters.rate > 0 {
            let Load { due, in_time, late } = self.load;
            sink(&Line::Load {
                phase,
                due,
                in_time,
                late,
            });
        }
        let histogram = &self.histogram;
        sink(&Line::Rtt {
            phase,
            count: histogram.count(),
            min: histogram.min(),
            max: histogram.max(),
            sum: histogram.sum(),
        });
        for buckets in histogram.encode() {
            sink(&Line::Hist {
                phase,
                buckets: &buckets,
            });
        }
        for (duration, n) in &self.slowest {
            let (n, us) = (*n, duration / 1000);
            sink(&Line::Slow { phase, n, us });
        }
        self.number += 1;
        self.stage = if self.number < self.parameters.phases {
            Stage::Next
        } else {
            Stage::Over
        };
    }

    /// The phase that is running or to come.
    pub fn number(&self) -> u32 {
        self.number
    }

    fn warm_up(&mut self, now: u64, sink: Sink<'_>) {
        match self.parameters.warmup {
            0 => self.begin(now, sink),
            left => self.stage = Stage::WarmUp { since: now, left },
        }
    }

    fn begin(&mut self, now: u64, sink: Sink<'_>) {
        self.transactions = 0;
        self.load = Load::default();
        self.histogram.clear();
        self.slowest.clear();
        self.stage = Stage::Measured { since: now };
        sink(&Line::Begin { phase: self.number });
    }

    fn record(&mut self, duration: u64) {
        self.histogram.record(duration);
        let place = self.slowest.partition_point(|(other, _)| *other >= duration);
        if place < SLOWEST {
            self.slowest.insert(place, (duration, self.transactions));
            self.slowest.truncate(SLOWEST);
        }
        self.transactions += 1;
    }

    /// Whether the workload says when a measurement is over.
    fn ends_itself(&self) -> bool {
        self.parameters.workload == Workload::Stream || self.parameters.rate > 0
    }

    fn has_enough(&self) -> bool {
        self.transactions >= u64::from(self.parameters.min_transactions)
    }

    fn length(&self) -> u64 {
        u64::from(self.parameters.phase_ms) * 1_000_000
    }

    fn longest(&self) -> u64 {
        4 * self.length()
    }
}

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;

    use super::*;
    use crate::cmdline::Role;

    const MS: u64 = 1_000_000;

    fn phases(change: impl FnOnce(&mut Parameters)) -> Phases {
        let any = Ipv4Addr::UNSPECIFIED;
        let mut parameters = Parameters {
            warmup: 2,
            phase_ms: 10,
            ..Parameters::new(Role::Client, any, any)
        };
        change(&mut parameters);
        Phases::new(&parameters)
    }

    /// Runs back-to-back transactions of `each` nanoseconds until `end`, and collects what is reported.
    fn run(phases: &mut Phases, each: u64, end: u64) -> Vec<String> {
        let mut lines = Vec::new();
        let mut sink = |line: &Line<'_>| lines.push(line.to_string().replace(crate::report::PREFIX, ""));
        phases.start();
        let mut now = 0;
        while now < end {
            phases.tick(now, &mut sink);
            phases.transaction(now, now + each, &mut sink);
            now += each;
        }
        lines
    }

    #[test]
    fn warm_up_is_not_counted() {
        let mut phases = phases(|_| ());
        let lines = run(&mut phases, MS, 30 * MS);
        assert!(phases.is_over());
        assert_eq!(lines[0], "begin phase=0");
        assert_eq!(lines[1], "end phase=0 transactions=10 us=10000");
        assert_eq!(
            lines[2],
            "rtt phase=0 count=10 min=1000000 max=1000000 sum=10000000"
        );
        assert!(lines[3].starts_with("hist phase=0 99") && lines[3].ends_with(":10"));
        assert_eq!(lines.iter().filter(|line| line.starts_with("slow ")).count(), 8);
    }

    #[test]
    fn waits_for_enough_transactions_but_not_for_ever() {
        let mut enough = phases(|parameters| parameters.min_transactions = 15);
        assert_eq!(
            run(&mut enough, MS, 60 * MS)[1],
            "end phase=0 transactions=15 us=15000"
        );
        let mut never = phases(|parameters| parameters.min_transactions = 1000);
        assert_eq!(
            run(&mut never, MS, 60 * MS)[1],
            "end phase=0 transactions=40 us=40000"
        );
    }

    #[test]
    fn ends_in_time_without_any_transaction() {
        let mut phases = phases(|parameters| parameters.warmup = 0);
        let mut lines = Vec::new();
        let mut sink = |line: &Line<'_>| lines.push(line.to_string());
        phases.start();
        for _ in 0..5 {
            if let Some(deadline) = phases.deadline() {
                phases.tick(deadline, &mut sink);
            }
        }
        assert!(phases.is_over() && phases.deadline().is_none());
        assert_eq!(lines[1], "enlight-guest: end phase=0 transactions=0 us=10000");
    }

    #[test]
    fn serial_go_starts_each_phase() {
        let mut phases = phases(|parameters| {
            parameters.go = Go::Serial;
            parameters.phases = 2;
        });
        assert_eq!(run(&mut phases, MS, 100 * MS), ["ready phase=0"]);
        assert!(phases.wants_go() && phases.deadline().is_none());
        phases.go(100 * MS, &mut |_| ());
        assert!(!phases.wants_go());
        phases.start();
        let lines = run(&mut phases, MS, 100 * MS);
        assert_eq!(lines, ["ready phase=0"]);
    }

    #[test]
    fn slowest_are_sorted() {
        let mut phases = phases(|parameters| parameters.warmup = 0);
        let mut lines = Vec::new();
        let mut sink = |line: &Line<'_>| lines.push(line.to_string());
        phases.start();
        phases.tick(0, &mut sink);
        for n in 0..20_u64 {
            phases.transaction(0, (n * 7 % 20) * 1000, &mut sink);
        }
        phases.finish(MS, &mut sink);
        let slow: Vec<_> = lines.iter().filter(|line| line.contains("slow")).collect();
        assert_eq!(slow.len(), 8);
        assert!(slow[0].ends_with("n=17 us=19") && slow[7].ends_with("n=16 us=12"));
    }
}
