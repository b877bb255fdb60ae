//! The watcher of a port.

use std::collections::VecDeque;
use std::time::Duration;

use offload::{FrameMeta, TcpFlags, TcpMeta};

use super::lane::{Finding, Lane, Limits, Sighting};
use super::{Point, Stall, StallCounts, StallTotals};
use crate::flow::{Activity, FlowKey, FlowTable, Slot};
use crate::{Direction, Instant};

/// How a watcher tells a stall, and how much it remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StallOptions {
    /// Shorter gaps are no stalls. The shortest delayed ACK in use is 40 ms, and a busy host may keep a guest waiting for
    /// 10 ms or more.
    pub threshold: Duration,
    /// What follows an acknowledgement within this time, and the path, is taken to have waited for it.
    pub prompt: Duration,
    /// Flows watched at most; each takes up to 5 KiB.
    pub flows: usize,
    /// Stalls kept at most; older ones are only counted.
    pub recent: usize,
}

impl Default for StallOptions {
    fn default() -> Self {
        Self {
            threshold: Duration::from_millis(25),
            prompt: Duration::from_millis(5),
            flows: 4096,
            recent: 256,
        }
    }
}

#[derive(Debug)]
struct Connection {
    tx: Lane,
    rx: Lane,
}

impl Connection {
    /// The lane of `direction`, and the other.
    const fn lanes(&mut self, direction: Direction) -> (&mut Lane, &mut Lane) {
        match direction {
            Direction::Tx => (&mut self.tx, &mut self.rx),
            Direction::Rx => (&mut self.rx, &mut self.tx),
        }
    }
}

/// Watches the TCP flows of one port from both sides of its filter.
///
/// The time until an end answers is compared with the path to it, which is learned from the handshake and from answers
/// that carry payload. Of a connection that was picked up later and only ever acknowledges, the path counts as 0.
#[derive(Debug)]
pub struct StallWatcher {
    flows: FlowTable<Connection>,
    limits: Limits,
    clock: Instant,
    recent: VecDeque<Stall>,
    keep: usize,
    counts: StallCounts,
    totals: StallTotals,
}

impl Default for StallWatcher {
    fn default() -> Self {
        Self::new(StallOptions::default())
    }
}

impl StallWatcher {
    /// A watcher that has seen nothing.
    pub fn new(options: StallOptions) -> Self {
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self {
            flows: FlowTable::new(options.flows),
            limits: Limits {
                threshold: nanos(options.threshold),
                prompt: nanos(options.prompt),
            },
            clock: Instant(0),
            recent: VecDeque::new(),
            keep: options.recent,
            counts: StallCounts::default(),
            totals: StallTotals::default(),
        }
    }

    /// Takes note of a frame that goes `direction` and is at `point` now. Every frame is to be shown twice, where it
    /// enters the filter and where it leaves, unless the filter drops it.
    pub fn observe(&mut self, now: Instant, point: Point, direction: Direction, meta: &FrameMeta) {
        let Some(tcp) = meta.tcp() else { return };
        let Some(key) = FlowKey::of(meta, direction) else {
            return;
        };
        self.clock = self.clock.max(now);
        let frame = sighting(self.clock, tcp);
        let slot = self.slot(key);
        self.touch(slot, tcp.flags);
        let Some(connection) = self.flows.get_mut(slot) else {
            return;
        };
        let finding = if point == Point::entry(direction) {
            connection.entered(direction, &frame, self.limits)
        } else {
            connection.left(direction, &frame, self.limits)
        };
        if let Some(finding) = finding {
            self.tell(slot, key, &finding);
        }
    }

    /// Takes note of a frame that was seen once: there is no filter, or only one side of it was recorded.
    pub fn observe_both(&mut self, now: Instant, direction: Direction, meta: &FrameMeta) {
        self.observe(now, Point::entry(direction), direction, meta);
        self.observe(now, Point::exit(direction), direction, meta);
    }

    /// Stalls by cause.
    pub const fn counts(&self) -> StallCounts {
        self.counts
    }

    /// Time lost by cause.
    pub const fn totals(&self) -> StallTotals {
        self.totals
    }

    /// The most recent stalls, oldest first.
    pub fn recent(&self) -> impl Iterator<Item = &Stall> {
        self.recent.iter()
    }

    /// Flows being watched.
    pub fn flows(&self) -> usize {
        self.flows.len()
    }

    fn slot(&mut self, key: FlowKey) -> Slot {
        if let Some(slot) = self.flows.find(&key) {
            return slot;
        }
        let connection = Connection {
            tx: Lane::new(Direction::Tx),
            rx: Lane::new(Direction::Rx),
        };
        self.flows.insert(self.clock, key, connection, |_| {})
    }

    fn touch(&mut self, slot: Slot, flags: TcpFlags) {
        let both = self
            .flows
            .get(slot)
            .is_some_and(|connection| connection.tx.seen && connection.rx.seen);
        if flags.any(TcpFlags::SYN) && !flags.any(TcpFlags::ACK) {
            self.flows.reopen(self.clock, slot);
        }
        let activity = match (flags.any(TcpFlags::FIN | TcpFlags::RST), both) {
            (true, _) => Activity::Closing,
            (false, true) => Activity::TwoWay,
            (false, false) => Activity::OneWay,
        };
        self.flows.touch(self.clock, slot, activity);
    }

    fn tell(&mut self, slot: Slot, flow: FlowKey, finding: &Finding) {
        let gap_ns = finding.end.since(finding.start);
        self.counts.count(finding.cause);
        self.totals.add(finding.cause, gap_ns);
        if self.keep == 0 {
            return;
        }
        if self.recent.len() >= self.keep {
            self.recent.pop_front();
        }
        let bases = self.flows.get(slot).map_or([0; 2], |connection| {
            [&connection.tx, &connection.rx].map(|lane| lane.base.unwrap_or(0))
        });
        self.recent.push_back(Stall {
            flow,
            cause: finding.cause,
            start: finding.start,
            end: finding.end,
            gap_ns,
            evidence: finding.evidence.iter().flatten().copied().collect(),
            bases,
        });
    }
}

impl Connection {
    fn entered(&mut self, direction: Direction, frame: &Sighting, limits: Limits) -> Option<Finding> {
        let flags = TcpFlags(frame.flags);
        let (forth, back) = self.lanes(direction);
        if flags.any(TcpFlags::RST) {
            forth.restart();
            back.restart();
            return None;
        }
        if flags.any(TcpFlags::SYN) && forth.is_other_connection(frame) {
            forth.restart();
            if !flags.any(TcpFlags::ACK) {
                back.restart();
            }
        }
        if flags.any(TcpFlags::ACK) {
            back.answered(frame);
        }
        if frame.len > 0 {
            back.follow_answer();
        }
        let there = back.path();
        forth.entered(frame, there, limits)
    }

    fn left(&mut self, direction: Direction, frame: &Sighting, limits: Limits) -> Option<Finding> {
        let (forth, back) = self.lanes(direction);
        back.answer_left(frame);
        forth.left(frame, limits)
    }
}

fn sighting(at: Instant, tcp: &TcpMeta) -> Sighting {
    let controls = u32::from(tcp.flags.any(TcpFlags::SYN)) + u32::from(tcp.flags.any(TcpFlags::FIN));
    Sighting {
        at,
        seq: tcp.seq,
        len: tcp.payload_len.saturating_add(controls),
        ack: if tcp.flags.any(TcpFlags::ACK) { tcp.ack } else { 0 },
        flags: tcp.flags.0,
    }
}
