//! What all profiles share: flow tracking, rules, and the keeping of held frames.

use std::time::Duration;

use offload::{TcpFlags, TcpMeta};

use super::FilterOptions;
use super::held::{Held, HeldFrames, Queue};
use super::judge::{Judge, Judged};
use crate::flow::{Activity, Evicted, FlowKey, FlowTable, Slot};
use crate::fragment::{Fragments, Outcome, Whole, is_readable};
use crate::rules::Verdict;
use crate::{Action, Direction, DropCause, FilterCounters, FrameId, FrameRef, Instant, ReleaseCause};

/// Idle flows that one call of `expire` forgets at most.
const RECLAIM: usize = 64;

/// One direction of a flow.
#[derive(Debug, Default)]
pub(super) struct Side<S> {
    pub(super) queue: Queue,
    /// What the profile keeps.
    pub(super) own: S,
    seen: bool,
}

/// A tracked flow.
#[derive(Debug)]
pub(super) struct Flow<S> {
    tx: Side<S>,
    rx: Side<S>,
    judged: Judged,
    reset: bool,
    /// Its ends have not been told that it is reset.
    untold: bool,
}

impl<S> Flow<S> {
    pub(super) const fn side(&self, direction: Direction) -> &Side<S> {
        match direction {
            Direction::Tx => &self.tx,
            Direction::Rx => &self.rx,
        }
    }

    pub(super) const fn side_mut(&mut self, direction: Direction) -> &mut Side<S> {
        match direction {
            Direction::Tx => &mut self.tx,
            Direction::Rx => &mut self.rx,
        }
    }
}

/// The state of a filter whose profile keeps an `S` for each flow and direction.
#[derive(Debug)]
pub(super) struct Core<S> {
    pub(super) table: FlowTable<Flow<S>>,
    pub(super) held: HeldFrames,
    pub(super) counters: FilterCounters,
    judge: Judge,
    fragments: Fragments,
    deadline: Duration,
    direction: Option<Direction>,
    clock: Instant,
}

impl<S: Default> Core<S> {
    pub(super) fn new(options: FilterOptions, deadline: Duration) -> Self {
        let caps = options.caps;
        Self {
            table: FlowTable::new(caps.flows),
            held: HeldFrames::new(caps.held_frames, caps.held_octets),
            counters: FilterCounters::default(),
            judge: Judge::new(options.rules, &caps),
            fragments: Fragments::new(caps.fragmented, caps.fragment_octets),
            deadline: options.deadline.unwrap_or(deadline),
            direction: options.direction,
            clock: Instant(0),
        }
    }

    pub(super) const fn judge(&self) -> &Judge {
        &self.judge
    }

    pub(super) const fn judge_mut(&mut self) -> &mut Judge {
        &mut self.judge
    }

    /// Whether the profile does anything to frames that go this way.
    pub(super) fn acts_on(&self, direction: Direction) -> bool {
        self.direction.is_none_or(|only| only == direction)
    }

    /// Takes note of the time, which never goes back here.
    pub(super) fn tick(&mut self, now: Instant) -> Instant {
        self.clock = self.clock.max(now);
        self.clock
    }

    /// Tracks and judges a frame. What the profile has no say in, that is dropped frames and all that is not TCP, is
    /// settled here; a TCP segment that may pass comes back for the profile to place.
    pub(super) fn admit(
        &mut self,
        now: Instant,
        frame: &FrameRef<'_>,
        actions: &mut Vec<Action>,
    ) -> Option<(Slot, TcpMeta)> {
        let now = self.tick(now);
        self.counters.frames += 1;
        let (key, slot) = if let Some(last) = self.table.last_if_of(frame.meta, frame.direction) {
            last
        } else if let Some(key) = FlowKey::of(frame.meta, frame.direction) {
            (key, self.slot(now, key, frame, actions))
        } else {
            if self.passes_without_flow(now, frame, actions) {
                actions.push(Action::Forward(frame.id));
            }
            return None;
        };
        if !self.passes(now, slot, &key, frame, actions) {
            self.tell(slot, frame.id, actions);
            return None;
        }
        let Some(tcp) = frame.meta.tcp() else {
            actions.push(Action::Forward(frame.id));
            return None;
        };
        Some((slot, *tcp))
    }

    /// Judges a frame that is of no flow. Fragments are put together for it. False if it was dropped.
    fn passes_without_flow(&mut self, now: Instant, frame: &FrameRef<'_>, actions: &mut Vec<Action>) -> bool {
        if !self.judge.is_active() {
            return true;
        }
        if frame.meta.ip().is_none_or(|ip| !ip.fragment) {
            self.counters.failed_open += u64::from(!is_readable(frame.meta));
            return true;
        }
        let enforcing = self.judge.enforces();
        match self.fragments.take(now, frame, enforcing, &mut self.counters) {
            Outcome::Pass => true,
            Outcome::Drop => {
                self.drop_frame(frame.id, DropCause::Rule, actions);
                false
            }
            Outcome::Whole(whole) => {
                let passes = self.passes_whole(now, &whole, frame, actions);
                self.fragments.settle(now, whole, !passes);
                passes
            }
        }
    }

    /// Judges a datagram of which `frame` is the last fragment. False if that was dropped.
    fn passes_whole(
        &mut self,
        now: Instant,
        whole: &Whole,
        frame: &FrameRef<'_>,
        actions: &mut Vec<Action>,
    ) -> bool {
        let Some(key) = FlowKey::of(&whole.meta, frame.direction) else {
            return true;
        };
        let datagram = FrameRef {
            meta: &whole.meta,
            payload: whole.payload(),
            ..*frame
        };
        let slot = self.slot(now, key, &datagram, actions);
        self.passes(now, slot, &key, &datagram, actions)
    }

    /// Judges a frame of a flow. False if it was dropped.
    fn passes(
        &mut self,
        now: Instant,
        slot: Slot,
        key: &FlowKey,
        frame: &FrameRef<'_>,
        actions: &mut Vec<Action>,
    ) -> bool {
        let flags = frame.meta.tcp().map(|tcp| tcp.flags);
        if let Some(tcp) = frame.meta.tcp()
            && self.is_reset(now, slot, key, frame.direction, tcp)
        {
            self.drop_frame(frame.id, DropCause::FlowReset, actions);
            return false;
        }
        self.touch(now, slot, frame.direction, flags.unwrap_or_default());
        match (self.verdict(now, slot, key, frame, actions), flags) {
            (Verdict::Pass, _) => return true,
            (Verdict::Reset, Some(_)) => self.reset(slot, frame.id, actions),
            (Verdict::Drop | Verdict::Reset, _) => self.drop_frame(frame.id, DropCause::Rule, actions),
        }
        false
    }

    /// What the rules say of a frame.
    fn verdict(
        &mut self,
        now: Instant,
        slot: Slot,
        key: &FlowKey,
        frame: &FrameRef<'_>,
        actions: &mut Vec<Action>,
    ) -> Verdict {
        match self.table.get_mut(slot) {
            Some(flow) => {
                let judged = &mut flow.judged;
                self.judge
                    .frame(now, key, judged, frame, &mut self.counters, actions)
            }
            None => Verdict::Pass,
        }
    }

    /// Finds or makes the flow's place.
    fn slot(&mut self, now: Instant, key: FlowKey, frame: &FrameRef<'_>, actions: &mut Vec<Action>) -> Slot {
        if let Some(slot) = self.table.find(&key) {
            return slot;
        }
        let flow = self.fresh(&key, client(&key, frame));
        let (held, judge) = (&mut self.held, &mut self.judge);
        self.table
            .insert(now, key, flow, |evicted| let_go(evicted, held, judge, actions))
    }

    fn fresh(&self, key: &FlowKey, client: Direction) -> Flow<S> {
        Flow {
            tx: Side::default(),
            rx: Side::default(),
            judged: self.judge.judged(key, client),
            reset: false,
            untold: false,
        }
    }

    /// Whether the segment belongs to a connection that a rule has reset. A SYN begins a new one.
    fn is_reset(
        &mut self,
        now: Instant,
        slot: Slot,
        key: &FlowKey,
        direction: Direction,
        tcp: &TcpMeta,
    ) -> bool {
        if !self.table.get(slot).is_some_and(|flow| flow.reset) {
            return false;
        }
        if !tcp.flags.any(TcpFlags::SYN) || tcp.flags.any(TcpFlags::ACK) {
            return true;
        }
        let fresh = self.fresh(key, direction);
        if let Some(flow) = self.table.get_mut(slot) {
            self.judge.close(&mut flow.judged);
            *flow = fresh;
        }
        self.table.reopen(now, slot);
        false
    }

    fn touch(&mut self, now: Instant, slot: Slot, direction: Direction, flags: TcpFlags) {
        let Some(flow) = self.table.get_mut(slot) else {
            return;
        };
        flow.side_mut(direction).seen = true;
        let activity = if flags.any(TcpFlags::FIN | TcpFlags::RST) {
            Activity::Closing
        } else if flow.tx.seen && flow.rx.seen {
            Activity::TwoWay
        } else {
            Activity::OneWay
        };
        if flags.any(TcpFlags::SYN) && !flags.any(TcpFlags::ACK) {
            self.table.reopen(now, slot);
        }
        self.table.touch(now, slot, activity);
    }

    fn drop_frame(&mut self, id: FrameId, cause: DropCause, actions: &mut Vec<Action>) {
        self.counters.dropped += 1;
        actions.push(Action::Drop(id, cause));
    }

    /// Ends a flow because of the frame `id`.
    fn reset(&mut self, slot: Slot, id: FrameId, actions: &mut Vec<Action>) {
        if let Some(flow) = self.table.get_mut(slot) {
            flow.reset = true;
            flow.untold = true;
            for side in [&mut flow.tx, &mut flow.rx] {
                while let Some(held) = self.held.pop(&mut side.queue) {
                    self.counters.dropped += 1;
                    actions.push(Action::Drop(held.id, DropCause::FlowReset));
                }
            }
            self.judge.close(&mut flow.judged);
        }
        self.counters.resets += 1;
        self.drop_frame(id, DropCause::Rule, actions);
    }

    /// Has the ends of a flow that was reset told so, by the segment `id` that was just dropped. (A fragment is no segment that they
    /// could be told of.)
    fn tell(&mut self, slot: Slot, id: FrameId, actions: &mut Vec<Action>) {
        if let Some(flow) = self.table.get_mut(slot)
            && core::mem::take(&mut flow.untold)
        {
            actions.push(Action::Reset(id));
        }
    }

    /// Holds a frame behind the others of its flow and direction. Without room for it all of these go, and the frame
    /// behind them.
    pub(super) fn hold(
        &mut self,
        slot: Slot,
        frame: &FrameRef<'_>,
        tcp: &TcpMeta,
        actions: &mut Vec<Action>,
    ) -> bool {
        let octets = frame.meta.frame_len;
        if !self.held.has_room(octets) {
            self.release_all(slot, frame.direction, ReleaseCause::Drained, actions);
            self.counters.failed_open += 1;
            actions.push(Action::Forward(frame.id));
            return false;
        }
        let held = Held {
            id: frame.id,
            deadline: self.clock.after(self.deadline),
            slot,
            direction: frame.direction,
            octets,
            end: tcp.seq.wrapping_add(tcp.payload_len),
            payload: tcp.payload_len > 0,
            ack: tcp.flags.any(TcpFlags::ACK).then_some(tcp.ack),
        };
        if let Some(flow) = self.table.get_mut(slot) {
            self.held.push(&mut flow.side_mut(frame.direction).queue, held);
            self.counters.held += 1;
            actions.push(Action::Hold(frame.id));
        } else {
            actions.push(Action::Forward(frame.id));
        }
        true
    }

    /// Releases the frame that was held first.
    pub(super) fn release_first(
        &mut self,
        slot: Slot,
        direction: Direction,
        cause: ReleaseCause,
        actions: &mut Vec<Action>,
    ) -> Option<Held> {
        let queue = &mut self.table.get_mut(slot)?.side_mut(direction).queue;
        let held = self.held.pop(queue)?;
        match cause {
            ReleaseCause::Satisfied => self.counters.released += 1,
            ReleaseCause::Deadline => self.counters.deadline_released += 1,
            ReleaseCause::Drained => {}
        }
        actions.push(Action::Release(held.id, cause));
        Some(held)
    }

    /// Releases all frames of one flow and direction.
    pub(super) fn release_all(
        &mut self,
        slot: Slot,
        direction: Direction,
        cause: ReleaseCause,
        actions: &mut Vec<Action>,
    ) {
        while self.release_first(slot, direction, cause, actions).is_some() {}
    }

    /// Releases all frames of one flow and direction, each to be made one with the frame before it.
    pub(super) fn join_all(
        &mut self,
        slot: Slot,
        direction: Direction,
        cause: ReleaseCause,
        actions: &mut Vec<Action>,
    ) {
        self.release_first(slot, direction, cause, actions);
        while self.release_first(slot, direction, cause, actions).is_some() {
            if let Some(last) = actions.last_mut()
                && let Action::Release(id, cause) = *last
            {
                *last = Action::Join(id, cause);
                self.counters.joined += 1;
            }
        }
    }

    /// Drops the frame that was held first.
    pub(super) fn drop_first(
        &mut self,
        slot: Slot,
        direction: Direction,
        cause: DropCause,
        actions: &mut Vec<Action>,
    ) {
        if let Some(flow) = self.table.get_mut(slot)
            && let Some(held) = self.held.pop(&mut flow.side_mut(direction).queue)
        {
            self.counters.thinned += 1;
            actions.push(Action::Drop(held.id, cause));
        }
    }

    /// The flow and direction whose first frame is due.
    pub(super) fn due(&self) -> Option<(Slot, Direction)> {
        let held = self.held.earliest()?;
        (held.deadline <= self.clock).then_some((held.slot, held.direction))
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.held.earliest().map(|held| held.deadline)
    }

    /// Forgets idle flows and datagrams.
    pub(super) fn reclaim(&mut self, actions: &mut Vec<Action>) {
        let (held, judge) = (&mut self.held, &mut self.judge);
        self.table.reclaim(self.clock, RECLAIM, |evicted| {
            let_go(evicted, held, judge, actions);
        });
        self.fragments.expire(self.clock, RECLAIM, &mut self.counters);
    }

    /// Releases everything, earliest first.
    pub(super) fn drain(&mut self, actions: &mut Vec<Action>) {
        while let Some((slot, direction)) = self.held.earliest().map(|held| (held.slot, held.direction)) {
            if self
                .release_first(slot, direction, ReleaseCause::Drained, actions)
                .is_none()
            {
                break;
            }
        }
    }

    pub(super) fn counters(&self) -> FilterCounters {
        FilterCounters {
            flows: self.table.len() as u64,
            flows_evicted: self.table.evictions(),
            ..self.counters
        }
    }
}

/// The way of what the end sends that seems to have opened the flow, seen from one frame: the one with SYN alone, else the one
/// with the higher port, as clients have.
fn client(key: &FlowKey, frame: &FrameRef<'_>) -> Direction {
    let opposite = match frame.direction {
        Direction::Tx => Direction::Rx,
        Direction::Rx => Direction::Tx,
    };
    let answers = frame.meta.tcp().is_some_and(|tcp| {
        if tcp.flags.any(TcpFlags::SYN) {
            tcp.flags.any(TcpFlags::ACK)
        } else {
            key.sender(frame.direction).port < key.sender(opposite).port
        }
    });
    if answers { opposite } else { frame.direction }
}

/// Frames of an evicted flow go on, in order.
fn let_go<S>(evicted: Evicted<Flow<S>>, held: &mut HeldFrames, judge: &mut Judge, actions: &mut Vec<Action>) {
    let mut flow = evicted.value;
    for side in [&mut flow.tx, &mut flow.rx] {
        while let Some(frame) = held.pop(&mut side.queue) {
            actions.push(Action::Release(frame.id, ReleaseCause::Drained));
        }
    }
    judge.close(&mut flow.judged);
}
