//! The watcher of a port.

use std::collections::VecDeque;
use std::time::Duration;

use offload::{FrameMeta, TcpFlags, TcpMeta};

use super::lane::{Finding, Lane, Limits, Sighting};
use super::review::{Recent, Review};
use super::{FlowStalls, Point, Stall, StallCounts, StallSummary, StallTotals};
use crate::diagnosis::{DiagnosisOptions, Tap};
use crate::flow::{Activity, Datagrams, FlowKey, FlowTable, Slot, TopFlows};
use crate::{Direction, Instant};

/// Datagrams in IP fragments that are remembered until they are whole.
const FRAGMENTED: usize = 1_024;

/// How a watcher tells a stall, and how much it remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StallOptions {
    /// Shorter gaps are no stalls. The shortest delayed ACK in use is 40 ms, and a busy host may keep a guest waiting for
    /// 10 ms or more.
    pub threshold: Duration,
    /// What follows an acknowledgement within this time, and the path, is taken to have waited for it.
    pub prompt: Duration,
    /// Flows watched at most; each takes up to 16 KiB.
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
    last: Recent,
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
    fragments: Datagrams<(Point, Direction)>,
    limits: Limits,
    clock: Instant,
    recent: VecDeque<Stall>,
    keep: usize,
    counts: StallCounts,
    totals: StallTotals,
    review: Review,
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
            fragments: Datagrams::new(FRAGMENTED),
            limits: Limits {
                threshold: nanos(options.threshold),
                prompt: nanos(options.prompt),
            },
            clock: Instant(0),
            recent: VecDeque::new(),
            keep: options.recent,
            counts: StallCounts::default(),
            totals: StallTotals::default(),
            review: Review::new(DiagnosisOptions {
                threshold: options.threshold,
                prompt: options.prompt,
                ..DiagnosisOptions::default()
            }),
        }
    }

    /// Takes note of a frame that goes `direction` and is at `point` now. Every frame is to be shown twice, where it
    /// enters the filter and where it leaves, unless the filter drops it.
    #[inline]
    pub fn observe(&mut self, now: Instant, point: Point, direction: Direction, meta: &FrameMeta) {
        if let Some(tcp) = meta.tcp() {
            self.observe_segment(now, point, direction, meta, tcp);
        }
    }

    fn observe_segment(
        &mut self,
        now: Instant,
        point: Point,
        direction: Direction,
        meta: &FrameMeta,
        tcp: &TcpMeta,
    ) {
        let (key, slot) = if let Some(last) = self.flows.last_if_of(meta, direction) {
            last
        } else if let Some(key) = FlowKey::of(meta, direction) {
            (key, self.slot(now, key))
        } else {
            return;
        };
        self.clock = self.clock.max(now);
        let frame = sighting(self.clock, tcp);
        self.touch(slot, tcp.flags);
        let Some(connection) = self.flows.get_mut(slot) else {
            return;
        };
        let waits = connection.tx.is_waiting() || connection.rx.is_waiting();
        let told = self.recent.iter_mut();
        self.review
            .wake(self.clock, key, &mut connection.last, waits, told);
        let arrives = point == Point::exit(direction);
        let finding = if arrives {
            connection.left(direction, &frame, self.limits)
        } else {
            connection.entered(direction, &frame, self.limits)
        };
        let opened = connection.remember(self.clock, point, direction, tcp);
        if let Some(since) = opened.filter(|since| self.clock.since(*since) > self.limits.threshold) {
            self.review
                .open(self.clock, key, &mut connection.last, since, None);
        }
        if let Some(finding) = &finding {
            let gap = (finding.cause, finding.end.since(finding.start));
            self.review
                .open(self.clock, key, &mut connection.last, finding.start, Some(gap));
        }
        let due = connection.last.is_due();
        if let Some(finding) = finding {
            self.tell(slot, key, &finding);
        }
        if due {
            self.judge(slot, key);
        }
        self.settle(self.clock, 1);
    }

    /// Takes note of a frame that is an IP fragment and begins with `octets`. The one that makes a datagram whole stands for it.
    pub fn observe_fragment(
        &mut self,
        now: Instant,
        point: Point,
        direction: Direction,
        octets: &[u8],
        meta: &FrameMeta,
    ) {
        let whole = self.fragments.take((point, direction), now, octets, meta);
        if let Some(whole) = whole {
            self.observe(now, point, direction, &whole);
        }
    }

    /// Judges up to `limit` of the flows that stood still some time before `now`. Frames have this done as they come.
    pub fn settle(&mut self, now: Instant, limit: usize) {
        self.clock = self.clock.max(now);
        for _ in 0..limit {
            let Some(flow) = self.review.due(self.clock) else {
                return;
            };
            let slot = self.flows.find(&flow);
            if let Some(connection) = slot.and_then(|slot| self.flows.get_mut(slot)) {
                let told = self.recent.iter_mut();
                self.review
                    .judge_due(self.clock, flow, &mut connection.last, told);
            }
        }
    }

    fn judge(&mut self, slot: Slot, flow: FlowKey) {
        if let Some(connection) = self.flows.get_mut(slot) {
            self.review
                .judge(self.clock, flow, &mut connection.last, self.recent.iter_mut());
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

    /// Stalls by the causes that the diagnosis tells apart.
    pub const fn summary(&self) -> StallSummary {
        self.review.summary
    }

    /// The flows that stood still for longest.
    pub const fn stalled_flows(&self) -> &TopFlows<FlowStalls> {
        &self.review.flows
    }

    /// The most recent stalls, oldest first.
    pub fn recent(&self) -> impl Iterator<Item = &Stall> {
        self.recent.iter()
    }

    /// Flows being watched.
    pub fn flows(&self) -> usize {
        self.flows.len()
    }

    fn slot(&mut self, now: Instant, key: FlowKey) -> Slot {
        if let Some(slot) = self.flows.find(&key) {
            return slot;
        }
        let connection = Connection {
            tx: Lane::new(Direction::Tx),
            rx: Lane::new(Direction::Rx),
            last: Recent::default(),
        };
        self.flows.insert(self.clock.max(now), key, connection, |_| {})
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
            detail: None,
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

    /// Keeps a frame for the diagnosis. Since when a window was closed that the frame opens for who receives it.
    fn remember(
        &mut self,
        at: Instant,
        point: Point,
        direction: Direction,
        tcp: &TcpMeta,
    ) -> Option<Instant> {
        let begins = tcp.flags.any(TcpFlags::SYN) && !tcp.flags.any(TcpFlags::ACK);
        let arrives = point == Point::exit(direction);
        if begins && !arrives {
            self.last.window.clear();
        }
        let tap = match point {
            Point::Near => Tap::First,
            Point::Far => Tap::Second,
        };
        self.last.window.add(at, tap, direction, tcp);
        let tells = tcp.flags.any(TcpFlags::ACK) && !tcp.flags.any(TcpFlags::SYN | TcpFlags::RST);
        if arrives && tells {
            return self.last.window.see_window(at, direction, tcp.window);
        }
        None
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
