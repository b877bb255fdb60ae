//! Judging a connection's gaps.

use std::collections::VecDeque;

use offload::TcpFlags;

use super::evidence::{Told, alike, bases};
use super::finding::{Cause, Finding, Part};
use super::habits::{Habits, settle};
use super::limits::Limits;
use super::pairing::Crossing;
use crate::Direction;
use crate::flow::FlowKey;
use crate::seq::{before, later};

/// Frames that are remembered as under way, in the filter or behind it.
const MEMORY: usize = 4_096;
/// Gaps of a connection that are told.
const GAPS: usize = 65_536;

/// Frames behind an acknowledgement that are looked at.
const LOOK: usize = 64;

/// What an acknowledgement told its receiver's end of the trace.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    /// The newest data that it acknowledges.
    pub(super) data: usize,
    /// When that data began to wait at the receiver, and for how long it did, the path aside.
    pub(super) late: u64,
    /// Segments and octets that it acknowledges, and the frames that brought them.
    segments: u32,
    octets: u32,
    carriers: u32,
    merged: bool,
    /// Octets behind these that the receiver had long had, too.
    behind: u32,
}

/// What last came to a sender.
#[derive(Clone, Copy, Debug)]
struct Arrival {
    frame: usize,
    at: u64,
    /// Whether it acknowledged something new, without payload.
    acknowledges: bool,
    answer: Option<Answer>,
    /// Since when the window that it opens was closed, and by what frame.
    opens: Option<(u64, usize)>,
}

/// One direction of the connection.
#[derive(Debug, Default)]
struct Side {
    sent: Option<u32>,
    /// The highest acknowledgement that its receiver sent, and that came to its sender.
    acked: [Option<u32>; 2],
    /// When the receiver sent the former.
    acked_at: u64,
    acked_by: Option<usize>,
    /// When data was last sent, last left the filter, and last came to the sender; how far gaps are explained.
    last_in: u64,
    /// When new data was last sent.
    last_new: u64,
    last_out: u64,
    counted: u64,
    /// When a duplicate acknowledgement last came to the sender.
    duplicate_at: u64,
    last_arrival: u64,
    told: u64,
    last_payload: u32,
    /// Data in the filter, and data at the receiver that is not acknowledged.
    inside: VecDeque<usize>,
    delivered: VecDeque<usize>,
    arrival: Option<Arrival>,
    /// Since when its receiver's window is closed, and by what frame; the window last seen, and the widest.
    closed: Option<(u64, usize)>,
    window: u16,
    widest: u16,
}

/// Whether a window is too small for a segment, beside the widest that was seen: its scale need not be known for that.
pub(super) const fn is_closed(window: u16, widest: u16) -> bool {
    window <= widest / 16
}

impl Side {
    /// A window comes to the sender: since when and by what frame the one that it opens was closed, and whether it is wider than
    /// the last one.
    fn see_window(&mut self, window: u16, at: u64, index: usize) -> (Option<(u64, usize)>, bool) {
        let grows = window > self.window;
        let opens = if is_closed(window, self.widest) {
            self.closed.get_or_insert((at, index));
            None
        } else {
            self.closed.take()
        };
        self.window = window;
        self.widest = self.widest.max(window);
        (opens, grows)
    }
}

/// A gap as it is found, before the habits of the ends are known.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) direction: Direction,
    pub(super) cause: Cause,
    pub(super) start: u64,
    pub(super) end: u64,
    /// What waited, by which habits are told.
    pub(super) continuation: Option<usize>,
    pub(super) parts: Vec<(usize, Part)>,
}

struct Judge<'a> {
    crossings: &'a [Crossing],
    limits: Limits,
    habits: Habits,
    full: u32,
    sides: [Side; 2],
    answers: Vec<Option<Answer>>,
    /// Pure acknowledgements that came late, by direction of what they acknowledge.
    late: [u32; 2],
    drafts: Vec<Draft>,
}

/// The findings of a connection, by time.
pub(super) fn judge(flow: FlowKey, crossings: &[Crossing], limits: Limits) -> Vec<Finding> {
    let full = limits.full(crossings);
    let mut judge = Judge {
        crossings,
        limits,
        habits: Habits::of(crossings, full),
        full,
        sides: limits
            .before
            .map_or([0; 2], |before| before.widest)
            .map(|widest| Side {
                widest,
                ..Side::default()
            }),
        answers: vec![None; crossings.len()],
        late: [0; 2],
        drafts: Vec::new(),
    };
    for (_, leaves, index) in moments(crossings) {
        if leaves {
            judge.left(index);
        } else {
            judge.entered(index);
        }
    }
    let Judge {
        drafts, late, habits, ..
    } = judge;
    let drafts = settle(drafts, crossings, late, full, limits);
    let told = Told {
        flow,
        crossings,
        bases: bases(crossings),
        limits,
        habits: &habits,
        alike: alike(&drafts),
    };
    let mut findings: Vec<Finding> = drafts.iter().map(|draft| told.finding(draft)).collect();
    findings.sort_by_key(|finding| (finding.start, finding.gap_ns));
    findings
}

/// Each frame's entering and leaving, by time. What is released at some moment follows what came at it.
fn moments(crossings: &[Crossing]) -> Vec<(u64, bool, usize)> {
    let enters = crossings
        .iter()
        .enumerate()
        .map(|(index, frame)| (frame.entered, false, index));
    let leaves = crossings
        .iter()
        .enumerate()
        .filter_map(|(index, frame)| Some((frame.left?, true, index)));
    let mut moments: Vec<_> = enters.chain(leaves).collect();
    moments.sort_unstable();
    moments
}

impl Judge<'_> {
    fn at(&self, index: usize) -> Crossing {
        self.crossings[index]
    }

    fn entered(&mut self, index: usize) {
        let frame = self.at(index);
        if frame.flags.any(TcpFlags::RST) {
            return;
        }
        if frame.flags.any(TcpFlags::ACK) {
            self.acknowledge(index, frame);
        }
        if frame.len() == 0 {
            return;
        }
        let side = &self.sides[frame.direction as usize];
        if side.sent.is_none_or(|sent| before(sent, frame.end())) {
            self.continued(index, frame);
            self.sides[frame.direction as usize].last_new = frame.entered;
        } else {
            self.repeated(index, frame);
        }
        let side = &mut self.sides[frame.direction as usize];
        side.sent = Some(side.sent.map_or(frame.end(), |sent| later(sent, frame.end())));
        side.last_in = frame.entered;
        side.last_payload = frame.payload;
        // What has not left yet may still do so where the trace goes on.
        let inside = frame
            .left
            .map_or(self.limits.before.is_some(), |left| left > frame.entered);
        if inside && side.inside.len() < MEMORY {
            side.inside.push_back(index);
        }
    }

    /// The receiver sends an acknowledgement.
    fn acknowledge(&mut self, index: usize, frame: Crossing) {
        let path = self.habits.path(frame.direction);
        let crossings = self.crossings;
        let side = &mut self.sides[opposite(frame.direction) as usize];
        if side.acked[0].is_some_and(|acked| !before(acked, frame.ack)) {
            return;
        }
        let fresh = side.acked[0].map_or(u32::MAX, |acked| frame.ack.wrapping_sub(acked));
        side.acked[0] = Some(frame.ack);
        side.acked_at = frame.entered;
        side.acked_by = Some(index);
        let (mut answer, mut carrier): (Option<Answer>, Option<u64>) = (None, None);
        while let Some(first) = side.delivered.front().copied() {
            let data = crossings[first];
            if before(frame.ack, data.end()) {
                break;
            }
            side.delivered.pop_front();
            let so_far = answer.map_or((0, 0, 0, false), |a| (a.segments, a.octets, a.carriers, a.merged));
            answer = Some(Answer {
                data: first,
                late: frame
                    .entered
                    .saturating_sub(data.left.unwrap_or(data.entered))
                    .saturating_sub(path),
                segments: so_far.0 + 1,
                octets: so_far.1.saturating_add(data.payload).min(fresh),
                carriers: so_far.2 + u32::from(carrier != Some(data.carrier)),
                merged: so_far.3 || data.merged,
                behind: 0,
            });
            carrier = Some(data.carrier);
        }
        if let Some(answer) = &mut answer {
            let threshold = self.limits.threshold.saturating_add(path);
            let more = side.delivered.iter().take(LOOK).map(|data| crossings[*data]);
            let long = more
                .filter(|data| frame.entered.saturating_sub(data.left.unwrap_or(data.entered)) > threshold);
            answer.behind = long.map(|data| data.payload).sum();
        }
        self.answers[index] = answer;
    }

    fn left(&mut self, index: usize) {
        let frame = self.at(index);
        if frame.flags.any(TcpFlags::RST) {
            return;
        }
        self.arrive(index, frame);
        if frame.len() == 0 {
            return;
        }
        self.released(index, frame);
        let crossings = self.crossings;
        let side = &mut self.sides[frame.direction as usize];
        side.last_out = frame.left.unwrap_or(frame.entered);
        side.inside.retain(|inside| *inside != index);
        // What is sent again stands for what was sent before, which may be lost.
        let newest = side.delivered.back().map(|last| crossings[*last].end());
        if newest.is_some_and(|newest| before(frame.seq, newest)) {
            side.delivered.retain(|other| {
                let other = crossings[*other];
                before(other.seq, frame.seq) || before(frame.end(), other.end())
            });
        }
        let acked = side.acked[0].is_some_and(|acked| !before(acked, frame.end()));
        if side.delivered.len() >= MEMORY {
            side.delivered.pop_front();
        }
        if !acked {
            side.delivered.push_back(index);
        }
    }

    /// A frame comes to its receiver, which is a sender, too.
    fn arrive(&mut self, index: usize, frame: Crossing) {
        let at = frame.left.unwrap_or(frame.entered);
        let threshold = self.limits.threshold;
        let answer = self.answers[index];
        let way = opposite(frame.direction);
        let side = &mut self.sides[way as usize];
        side.last_arrival = at;
        let advances =
            frame.flags.any(TcpFlags::ACK) && side.acked[1].is_none_or(|acked| before(acked, frame.ack));
        if advances {
            side.acked[1] = Some(frame.ack);
        }
        if !advances && frame.len() == 0 && side.acked[1] == Some(frame.ack) && frame.window == side.window {
            side.duplicate_at = at;
        }
        let old = side.acked[1].is_some_and(|acked| before(frame.ack, acked));
        let (mut opens, mut grows) = (None, false);
        if frame.flags.any(TcpFlags::ACK) && !frame.flags.any(TcpFlags::SYN) && !old {
            (opens, grows) = side.see_window(frame.window, at, index);
        }
        let held = at.saturating_sub(frame.entered) > threshold;
        // Of several in a row, one can be what new data waited for, and of those that end no silence, none.
        let silent = side.counted <= side.last_new && at.saturating_sub(side.last_new) > threshold;
        if advances
            && frame.payload == 0
            && silent
            && (held || answer.is_some_and(|answer| answer.late > threshold))
        {
            side.counted = at;
            self.late[way as usize] += 1;
        }
        // Several acknowledgements in a row: what waited may have waited for the first that was late.
        let pure = frame.len() == 0;
        let earlier = side.arrival.filter(|earlier| {
            pure && earlier.acknowledges
                && at.saturating_sub(earlier.at) <= self.limits.prompt
                && earlier.at >= side.last_in
                && (earlier.answer.is_some_and(|answer| answer.late > threshold) || earlier.opens.is_some())
        });
        side.arrival = earlier.or(Some(Arrival {
            frame: index,
            at,
            acknowledges: pure && frame.window > 0 && (advances || grows || opens.is_some()),
            answer,
            opens,
        }));
    }

    /// New data: what did it wait for?
    fn continued(&mut self, index: usize, frame: Crossing) {
        let path = self.habits.path(frame.direction);
        let crossings = self.crossings;
        let side = &mut self.sides[frame.direction as usize];
        let (last_in, last_new) = (side.last_in, side.last_new);
        let Some(arrival) = side.arrival.take().filter(|arrival| arrival.acknowledges) else {
            return;
        };
        // A window that opens lets go what is known to be there; else the path is not known, it may be long.
        let prompt = match arrival.opens {
            Some(_) => self.limits.threshold.saturating_add(path),
            None => self.limits.prompt.saturating_add(path),
        };
        if arrival.at < last_in || frame.entered.saturating_sub(arrival.at) > prompt || side.sent.is_none() {
            return;
        }
        let since = last_in.max(side.told);
        if let Some((closed, by)) = arrival.opens {
            let parts = vec![
                (by, Part::WindowClosed),
                (arrival.frame, Part::WindowOpened),
                (index, Part::Continuation),
            ];
            self.tell(
                frame.direction,
                Cause::ZeroWindow,
                (since.max(closed), arrival.at),
                Some(index),
                parts,
            );
            return;
        }
        let Some(answer) = arrival.answer else {
            // Only the window moved on: what the receiver had for so long it had to acknowledge before.
            let waiting: u32 = side.delivered.iter().map(|data| crossings[*data].payload).sum();
            let parts = vec![
                (arrival.frame, Part::Acknowledgement),
                (index, Part::Continuation),
            ];
            if waiting > self.full && !self.is_repairing(frame.direction, last_new) {
                let told = self.sides[frame.direction as usize].told;
                let span = (last_new.max(told), arrival.at);
                self.tell(frame.direction, Cause::Unknown, span, Some(index), parts);
            }
            return;
        };
        let since = last_new.max(self.sides[frame.direction as usize].told);
        self.waited_for(index, &arrival, &answer, since);
    }

    /// New data waited for an acknowledgement: whose lateness was that?
    fn waited_for(&mut self, index: usize, arrival: &Arrival, answer: &Answer, since: u64) {
        let (frame, ack) = (self.at(index), self.at(arrival.frame));
        let data = self.at(answer.data);
        let began = since.max(data.left.unwrap_or(data.entered));
        let at_receiver = ack.entered.saturating_sub(began);
        let in_filter = arrival.at.saturating_sub(ack.entered.max(since));
        let threshold = self.limits.threshold;
        if frame.payload < self.full && self.habits.sends_regardless(frame.direction, frame.entered) {
            return;
        }
        if answer.late > threshold && at_receiver > threshold {
            let cause = self.lateness(frame, data, answer);
            if cause == Cause::Unknown && self.is_repairing(frame.direction, since) {
                return;
            }
            let parts = vec![
                (answer.data, Part::Data),
                (arrival.frame, Part::Acknowledgement),
                (index, Part::Continuation),
            ];
            self.tell(frame.direction, cause, (began, ack.entered), Some(index), parts);
        }
        if in_filter > threshold {
            let parts = vec![
                (arrival.frame, Part::Held),
                (arrival.frame, Part::Released),
                (index, Part::Continuation),
            ];
            let span = (ack.entered.max(since), arrival.at);
            self.tell(frame.direction, Cause::FilterHold, span, Some(index), parts);
        }
    }

    /// Why a receiver acknowledged late. RFC 9293, 3.8.6.3, and RFC 5681, 4.2: a receiver may delay until it has a second
    /// full-sized segment; Linux and smoltcp count octets, Windows and FreeBSD segments.
    fn lateness(&self, frame: Crossing, data: Crossing, answer: &Answer) -> Cause {
        let more = answer.octets > self.full;
        if more && (answer.merged || (answer.carriers == 1 && answer.segments == 1)) {
            return Cause::Coalescing;
        }
        if (more && answer.carriers > 1)
            || (answer.behind > 0 && answer.behind.saturating_add(answer.octets) > self.full)
        {
            return Cause::Unknown;
        }
        if data.payload < self.full && frame.payload < self.full {
            Cause::NagleDelayedAck
        } else {
            Cause::DelayedAck
        }
    }

    /// Whether a sender was told of a loss since then, by duplicate acknowledgements (RFC 5681, 3.2): it waits for the repair.
    fn is_repairing(&self, direction: Direction, since: u64) -> bool {
        self.sides[direction as usize].duplicate_at > since
    }

    /// Data that was sent before.
    fn repeated(&mut self, index: usize, frame: Crossing) {
        let crossings = self.crossings;
        let side = &mut self.sides[frame.direction as usize];
        let arrived = side.acked[1].is_some_and(|acked| !before(acked, frame.end()));
        // Keep-alive and window probes (RFC 9293, 3.8.4 and 3.8.6.1).
        if frame.payload <= 1 && frame.len() <= 1 && (arrived || side.closed.is_some()) {
            return;
        }
        side.arrival = None;
        let covers = |other: &usize| {
            let other = crossings[*other];
            before(other.seq, frame.end()) && before(frame.seq, other.end())
        };
        if side.inside.iter().any(covers) {
            // The filter still has it: that is told when it leaves.
            return;
        }
        let last = side.last_in.max(side.last_out).max(side.last_arrival);
        let start = last.max(side.told);
        let acknowledged = side.acked[0].is_some_and(|acked| !before(acked, frame.end()));
        if self.limits.two_taps && acknowledged && !arrived {
            let Some(by) = side.acked_by else { return };
            let start = side.acked_at.max(side.last_in).max(side.told);
            let parts = vec![(by, Part::Held), (index, Part::Continuation)];
            self.tell(
                frame.direction,
                Cause::FilterHold,
                (start, frame.entered),
                Some(index),
                parts,
            );
            return;
        }
        let first = side.delivered.iter().find(|other| covers(other)).copied();
        if first.is_none() && self.limits.before.is_some() {
            // It was sent too long ago to be remembered, or the filter still has it.
            return;
        }
        let mut parts: Vec<_> = first.map(|data| (data, Part::Data)).into_iter().collect();
        parts.push((index, Part::Repetition));
        self.tell(
            frame.direction,
            Cause::Retransmission,
            (start, frame.entered),
            None,
            parts,
        );
    }

    /// Data leaves the filter.
    fn released(&mut self, index: usize, frame: Crossing) {
        let left = frame.left.unwrap_or(frame.entered);
        let side = &self.sides[frame.direction as usize];
        let start = frame.entered.max(side.last_out).max(side.told);
        if left.saturating_sub(start) <= self.limits.threshold {
            return;
        }
        // Released by an acknowledgement of everything that passed before, which came just now, or was let go just now.
        let came = side.acked_by.map_or(0, |by| {
            let ack = self.at(by);
            ack.left.filter(|at| *at <= left).unwrap_or(ack.entered)
        });
        let by = side.acked_by.filter(|_| {
            let all = side.acked[0].is_some_and(|acked| !before(acked, frame.seq));
            all && came >= start && left.abs_diff(came) <= self.limits.prompt
        });
        let answered = by.and_then(|by| Some((by, self.answers[by]?.data)));
        let (cause, mut parts) = match answered {
            Some((by, data)) => (
                Cause::FilterSerialised,
                vec![(data, Part::Data), (by, Part::Acknowledgement)],
            ),
            None => (Cause::FilterHold, Vec::new()),
        };
        parts.extend([(index, Part::Held), (index, Part::Released)]);
        self.tell(frame.direction, cause, (start, left), None, parts);
    }

    fn tell(
        &mut self,
        direction: Direction,
        cause: Cause,
        (start, end): (u64, u64),
        continuation: Option<usize>,
        parts: Vec<(usize, Part)>,
    ) {
        if end.saturating_sub(start) <= self.limits.threshold || self.drafts.len() >= GAPS {
            return;
        }
        let side = &mut self.sides[direction as usize];
        side.told = side.told.max(end);
        self.drafts.push(Draft {
            direction,
            cause,
            start,
            end,
            continuation,
            parts,
        });
    }
}

pub(super) const fn opposite(direction: Direction) -> Direction {
    match direction {
        Direction::Tx => Direction::Rx,
        Direction::Rx => Direction::Tx,
    }
}
