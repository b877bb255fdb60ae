//! What may sit between a port and the switch: a filter, a stall watcher, captures.
//!
//! One flag per port says whether any of it is there; a worker reads it once a burst and otherwise passes by.
//!
//! Order across toggling and moves. A frame that a filter holds belongs to the lane that it came from, its *origin*.
//! When it is released by someone else (a worker that carried the awaited acknowledgement on another lane, or a thread
//! that switched the filter off), it goes to its origin's outbox, and whoever serves the origin always takes its outbox,
//! under the same lock, before it shows the filter anything new. So frames of a flow leave in the order in which they
//! came, even if another worker took their lane over meanwhile.

mod account;
mod guarded;
mod join;
mod judge;
mod report;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use introspection::stage::PartTimes;
use introspection::stall::{Point, StallWatcher};
use introspection::{Action, Direction, DropCause, Filter, FrameId, Instant, Profile, RuleSet};
use offload::Offloads;
use offload::build::{MAX_RESET_LEN, ResetTo, tcp_reset};
use offload::coalesce::Coalescer;
use parking_lot::Mutex;

use crate::capture::CaptureSink;
use crate::clock;
use crate::control::{FilterConfig, FilterInfo};
use crate::counters::{DropReason, PortCounters};
use crate::lane::LaneId;
use crate::packet::{Arena, Packet, Times};
use account::Account;
use guarded::Guarded;
use judge::Batch;

/// A port's probe.
pub(crate) struct Probe {
    active: AtomicBool,
    /// When [`Probe::poll`] is next due, in nanoseconds; [`NEVER`] when nothing is held. Beside the lock, because
    /// the port's worker looks every round.
    due: AtomicU64,
    inner: Mutex<Inner>,
}

const NEVER: u64 = u64::MAX;

/// Who has something to do after a burst went through a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wakes {
    /// Packets of other lanes were let go.
    pub(crate) others: bool,
    /// The next deadline is earlier than the port's own worker knows.
    pub(crate) owner: bool,
}

/// Takes a copy of a packet to another port.
pub(crate) type Mirror = Box<dyn Fn(Instant, &Packet, &Arena) + Send>;

/// Packets that leave a probe, in order.
#[derive(Debug, Default)]
pub(crate) struct Passed {
    /// From the guest, towards the switch.
    pub(crate) tx: Vec<Packet>,
    /// Towards the guest.
    pub(crate) rx: Vec<Packet>,
}

impl Passed {
    /// Those that go this way.
    const fn side(&mut self, direction: Direction) -> &mut Vec<Packet> {
        match direction {
            Direction::Tx => &mut self.tx,
            Direction::Rx => &mut self.rx,
        }
    }
}

#[derive(Default)]
struct Inner {
    /// The port's name.
    name: String,
    filter: Option<Guarded>,
    /// Why the filter that was set last is out of the path.
    failure: Option<String>,
    /// Ports that rules may copy to, by name.
    mirrors: HashMap<Arc<str>, Mirror>,
    config: FilterConfig,
    changes: u64,
    next_id: u64,
    held: HashMap<FrameId, Held>,
    /// Released packets by the lane that they came from; none is empty.
    outboxes: BTreeMap<LaneId, Vec<Held>>,
    /// Kept to be read after a filter that was watched is off.
    watcher: Option<StallWatcher>,
    /// Somebody asked for the watcher, filter or not.
    watched: bool,
    captures: Vec<CaptureSink>,
    actions: Vec<Action>,
    /// Packets that are let go together, while their actions are read.
    run: Vec<Held>,
    joiner: Option<Box<Coalescer>>,
    account: Account,
}

/// A packet kept for later, with its octets.
struct Held {
    packet: Packet,
    direction: Direction,
    octets: Vec<u8>,
    origin: LaneId,
    since: Instant,
    /// Nanoseconds before that which count as held, too.
    waited: u64,
    /// What the filter's parts took, if it is stamped.
    parts: PartTimes,
}

/// Who carries packets through a probe.
pub(crate) struct Carrier<'a> {
    /// The lane that the packets come from.
    pub(crate) lane: LaneId,
    pub(crate) arena: &'a mut Arena,
    pub(crate) counters: &'a PortCounters,
}

impl Default for Probe {
    fn default() -> Self {
        Self {
            active: AtomicBool::new(false),
            due: AtomicU64::new(NEVER),
            inner: Mutex::default(),
        }
    }
}

impl Probe {
    /// The probe of the port of this name.
    pub(crate) fn new(name: &str) -> Self {
        let probe = Self::default();
        name.clone_into(&mut probe.inner.lock().name);
        probe
    }

    /// Whether anything is there at all: the one branch per burst that an idle probe costs.
    pub(crate) fn is_active(&self) -> bool {
        self.active.load(Ordering::Acquire)
    }

    /// Carries `packets` (at most [`BURST`] of them) through, and adds what leaves to `passed`.
    pub(crate) fn pass(
        &self,
        direction: Direction,
        packets: &mut Vec<Packet>,
        passed: &mut Passed,
        carrier: &mut Carrier<'_>,
    ) -> Wakes {
        let now = clock::now();
        let mut inner = self.inner.lock();
        inner.take_outbox(now, passed, carrier);
        let entered = entry(direction);
        inner.observe(now, entered, direction, packets, carrier.arena);
        let others = if inner.filter.is_some() {
            inner.judge(now, direction, packets, passed, carrier)
        } else {
            for packet in packets.drain(..) {
                inner.leave(now, direction, packet, passed, carrier);
            }
            false
        };
        let owner = self.settle(&mut inner);
        Wakes { others, owner }
    }

    /// Releases what is due or in the carrier's outbox. True when packets of other lanes were let go.
    pub(crate) fn poll(&self, now: Instant, passed: &mut Passed, carrier: &mut Carrier<'_>) -> bool {
        let mut inner = self.inner.lock();
        inner.take_outbox(now, passed, carrier);
        let mut others = false;
        if inner
            .filter
            .as_ref()
            .and_then(|filter| filter.get().next_deadline())
            .is_some_and(|at| at <= now)
        {
            let mut actions = std::mem::take(&mut inner.actions);
            let failure = inner.attempt(&mut actions, |filter, actions| filter.expire(now, actions));
            others = inner.carry_out(now, &mut actions, None, passed, Some(carrier));
            inner.actions = actions;
            others |= inner.take_out(now, failure);
        }
        self.settle(&mut inner);
        others
    }

    /// When [`Probe::poll`] is next due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let due = self.due.load(Ordering::Acquire);
        (due != NEVER).then_some(Instant(due))
    }

    /// The lanes that a release by someone else waits for.
    pub(crate) fn outboxes(&self) -> Vec<LaneId> {
        self.inner.lock().outboxes.keys().copied().collect()
    }

    /// Replaces the filter. Frames that the old one holds go to their origins' outboxes: the caller wakes all workers.
    pub(crate) fn set_filter(&self, filter: Option<Box<dyn Filter>>, config: FilterConfig) {
        let mut inner = self.inner.lock();
        inner.drain(clock::now());
        let watching = inner.is_watching();
        if let Some(old) = inner.filter.take() {
            old.end();
        }
        inner.filter = filter.map(|filter| Guarded::new(filter, config.budget));
        inner.failure = None;
        inner.config = config;
        inner.begin_account();
        inner.changes += 1;
        if !watching && inner.filter.is_some() {
            // Afresh: what passed unseen must not look like a gap.
            inner.watcher = Some(StallWatcher::default());
        }
        self.settle(&mut inner);
    }

    /// Exchanges the rules of the filter in force, if it is one of this configuration but for its rules: flows stay known. False when
    /// it is not.
    pub(crate) fn set_rules(&self, rules: Option<&Arc<RuleSet>>, config: &FilterConfig) -> bool {
        let mut inner = self.inner.lock();
        if !inner.config.differs_in_rules_only(config) {
            return false;
        }
        let mut done = false;
        let mut actions = Vec::new();
        let failure = inner.attempt(&mut actions, |filter, _| done = filter.set_rules(rules.cloned()));
        if done {
            inner.config = config.clone();
            inner.changes += 1;
        }
        inner.take_out(clock::now(), failure);
        done
    }

    /// Names the ports that rules may copy to from now on.
    pub(crate) fn set_mirrors(&self, mirrors: HashMap<Arc<str>, Mirror>) {
        self.inner.lock().mirrors = mirrors;
    }

    /// Whether rules copy to a port of this name, or to any.
    pub(crate) fn mirrors_to(&self, name: Option<&str>) -> bool {
        let inner = self.inner.lock();
        inner
            .mirrors
            .keys()
            .any(|port| name.is_none_or(|name| **port == *name))
    }

    /// Watches for stalls, from now and from zero, or stops.
    pub(crate) fn watch(&self, on: bool) {
        let mut inner = self.inner.lock();
        inner.watched = on;
        inner.watcher = (on || inner.filter.is_some()).then(StallWatcher::default);
        self.settle(&mut inner);
    }

    /// Adds a capture.
    pub(crate) fn capture(&self, sink: CaptureSink) {
        let mut inner = self.inner.lock();
        inner.captures.push(sink);
        self.settle(&mut inner);
    }

    /// The port goes: captures end and held frames are forgotten.
    pub(crate) fn close(&self) {
        let mut inner = self.inner.lock();
        *inner = Inner::default();
        self.settle(&mut inner);
    }

    /// Brings what is known without the lock in line. True when the next deadline is earlier than it was.
    fn settle(&self, inner: &mut Inner) -> bool {
        inner.captures.retain(|capture| !capture.is_closed());
        let any = inner.filter.is_some()
            || inner.is_watching()
            || !inner.captures.is_empty()
            || !inner.outboxes.is_empty();
        let deadline = inner
            .filter
            .as_ref()
            .and_then(|filter| filter.get().next_deadline());
        let due = deadline.map_or(NEVER, |at| at.0);
        self.active.store(any, Ordering::Release);
        due < self.due.swap(due, Ordering::AcqRel)
    }

    /// The filter as it stands.
    pub(crate) fn filter(&self) -> FilterInfo {
        let inner = self.inner.lock();
        let filter = inner.filter.as_ref();
        let config = &inner.config;
        let stages = config.stages();
        FilterInfo {
            port: inner.name.clone(),
            profile: config.profile,
            stages: stages.iter().map(ToString::to_string).collect(),
            deadline_ms: config
                .deadline
                .map(|deadline| u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX)),
            ratio: config.ratio,
            chunk: config.chunk,
            rules: config.rules.len(),
            changes: inner.changes,
            counters: filter.map(|filter| filter.get().counters()).unwrap_or_default(),
            over_budget: filter.map_or(0, Guarded::over_budget),
            failure: inner.failure.clone(),
        }
    }

    /// The profile in force.
    pub(crate) fn profile(&self) -> Profile {
        self.inner.lock().config.profile
    }
}

/// The side on which a packet enters a probe.
const fn entry(direction: Direction) -> Point {
    match direction {
        Direction::Tx => Point::Near,
        Direction::Rx => Point::Far,
    }
}

/// The side on which it leaves.
const fn exit(direction: Direction) -> Point {
    match direction {
        Direction::Tx => Point::Far,
        Direction::Rx => Point::Near,
    }
}

impl Inner {
    fn observe(
        &mut self,
        now: Instant,
        point: Point,
        direction: Direction,
        packets: &[Packet],
        arena: &Arena,
    ) {
        if self.is_watching()
            && let Some(watcher) = &mut self.watcher
        {
            for packet in packets {
                let meta = &packet.meta;
                if meta.ip().is_some_and(|ip| ip.fragment) {
                    watcher.observe_fragment(now, point, direction, arena.head(packet.octets), meta);
                } else {
                    watcher.observe(now, point, direction, meta);
                }
            }
        }
        for capture in &self.captures {
            for packet in packets {
                capture.take(now, point, direction, packet, arena);
            }
        }
    }

    fn leave(
        &mut self,
        now: Instant,
        direction: Direction,
        packet: Packet,
        passed: &mut Passed,
        carrier: &Carrier<'_>,
    ) {
        let packets = std::slice::from_ref(&packet);
        self.observe(now, exit(direction), direction, packets, carrier.arena);
        passed.side(direction).push(packet);
    }

    /// Does what a filter said, in order. True when packets went to other lanes' outboxes.
    fn carry_out(
        &mut self,
        now: Instant,
        actions: &mut Vec<Action>,
        batch: Option<&Batch<'_>>,
        passed: &mut Passed,
        mut carrier: Option<&mut Carrier<'_>>,
    ) -> bool {
        let mut others = false;
        let mut list = actions.drain(..).peekable();
        let mut dropped = None;
        while let Some(action) = list.next() {
            if let Action::Release(id, _) | Action::Join(id, _) = action {
                self.run.extend(self.held.remove(&id));
                if !matches!(list.peek(), Some(Action::Join(..))) {
                    others |= self.release_run(now, passed, carrier.as_deref_mut());
                }
            } else if let Some(carrier) = carrier.as_deref_mut() {
                self.carry_on(now, &action, batch, &mut dropped, passed, carrier);
            }
        }
        others
    }

    /// Does what a filter said of one packet, but for releasing it.
    fn carry_on(
        &mut self,
        now: Instant,
        action: &Action,
        batch: Option<&Batch<'_>>,
        dropped: &mut Option<(Packet, Direction)>,
        passed: &mut Passed,
        carrier: &mut Carrier<'_>,
    ) {
        let find = |id: FrameId| batch?.find(id);
        match action {
            Action::Forward(id) => {
                if let Some((packet, direction)) = find(*id) {
                    let octets = carrier.arena.head(packet.octets);
                    self.account.forwarded(now, &packet, octets, direction);
                    self.leave(now, direction, packet, passed, carrier);
                }
            }
            Action::Hold(id) => {
                if let Some((packet, direction)) = find(*id) {
                    let octets = carrier.arena.private_copy(packet.octets, packet.meta.frame_len);
                    let held = Held {
                        packet,
                        direction,
                        octets,
                        origin: carrier.lane,
                        since: now,
                        waited: 0,
                        parts: self.account.so_far(&packet),
                    };
                    self.held.insert(*id, held);
                }
            }
            Action::Drop(id, cause) => {
                let held = || self.held.remove(id).map(|held| (held.packet, held.direction));
                if let Some((packet, direction)) = find(*id).or_else(held) {
                    count_drop(carrier.counters, direction, *cause);
                    *dropped = Some((packet, direction));
                }
            }
            Action::Reset(_) => {
                if let Some((packet, direction)) = dropped.take() {
                    self.reset(now, &packet, direction, passed, carrier);
                }
            }
            Action::Mirror(id, port) => {
                if let (Some((packet, _)), Some(copy)) = (find(*id), self.mirrors.get(port)) {
                    copy(now, &packet, carrier.arena);
                }
            }
            Action::Release(..) | Action::Join(..) => {}
        }
    }

    fn outbox(&mut self, mut held: Held) {
        // What it waits for its origin counts as held, too.
        held.since = clock::now();
        self.outboxes.entry(held.origin).or_default().push(held);
    }

    fn resume(&mut self, now: Instant, held: Held, passed: &mut Passed, carrier: &mut Carrier<'_>) {
        let mut packet = held.packet;
        self.account
            .released(now, &packet, &held.octets, held.direction, &held.parts);
        packet.octets = carrier.arena.adopt(held.octets);
        self.leave(now, held.direction, packet, passed, carrier);
    }

    fn take_outbox(&mut self, now: Instant, passed: &mut Passed, carrier: &mut Carrier<'_>) {
        if self.outboxes.is_empty() {
            return;
        }
        for mut held in self.outboxes.remove(&carrier.lane).unwrap_or_default() {
            held.let_go(now);
            self.resume(now, held, passed, carrier);
        }
    }

    /// Moves all held packets to their origins' outboxes, in the order that the filter gives.
    fn drain(&mut self, now: Instant) {
        let mut actions = std::mem::take(&mut self.actions);
        // Should it panic, all that is held is let go all the same. What is due goes first, and the filter knows the time then.
        self.attempt(&mut actions, |filter, actions| {
            filter.expire(now, actions);
            filter.drain(actions);
        });
        self.carry_out(now, &mut actions, None, &mut Passed::default(), None);
        self.actions = actions;
        // A filter that forgot some breaks its contract; its frames still must not be lost.
        let mut forgotten: Vec<(FrameId, Held)> = self.held.drain().collect();
        forgotten.sort_by_key(|(id, _)| *id);
        for (_, mut held) in forgotten {
            held.let_go(now);
            self.outbox(held);
        }
    }

    /// Sends a RST to both ends of a dropped packet's connection.
    fn reset(
        &mut self,
        now: Instant,
        packet: &Packet,
        direction: Direction,
        passed: &mut Passed,
        carrier: &mut Carrier<'_>,
    ) {
        let back = match direction {
            Direction::Tx => Direction::Rx,
            Direction::Rx => Direction::Tx,
        };
        for (to, towards) in [(ResetTo::Sender, back), (ResetTo::Receiver, direction)] {
            let mut octets = carrier.arena.buffer(MAX_RESET_LEN);
            let Ok(len) = tcp_reset(&packet.meta, to, &mut octets) else {
                continue;
            };
            octets.truncate(len);
            let Ok(meta) = offload::parse(&octets, len) else {
                continue;
            };
            let octets = carrier.arena.adopt(octets);
            let reset = Packet {
                meta,
                offloads: Offloads::default(),
                octets,
                times: Times::default(),
                ..*packet
            };
            self.leave(now, towards, reset, passed, carrier);
        }
    }

    /// Whether the watcher looks at what passes.
    fn is_watching(&self) -> bool {
        self.watched || self.filter.is_some()
    }
}

fn count_drop(counters: &PortCounters, direction: Direction, cause: DropCause) {
    let reason = match cause {
        DropCause::Rule => DropReason::FilterRule,
        DropCause::FlowReset => DropReason::FilterReset,
        DropCause::Thinned => DropReason::FilterThinned,
    };
    match direction {
        Direction::Tx => counters.drop_tx(reason),
        Direction::Rx => counters.drop_rx(reason),
    }
}
