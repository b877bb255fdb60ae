//! One direction of a watched connection: what its sender sent, and what of it arrived and was acknowledged.

use std::collections::VecDeque;

use super::{Evidence, Point, Role, StallCause};
use crate::seq::{before, later};
use crate::{Direction, Instant};

/// Frames remembered on their way through the filter, and as many on their way to the receiver.
const MEMORY: usize = 32;

/// Shorter segments are not full ones on any usual path: the segment size that TCP assumes without an option (RFC 9293,
/// 3.7.1).
const SMALL: u32 = 536;
/// How long a sender that does not wait for acknowledgements is remembered as one, in nanoseconds.
const EAGER_MEMORY: u64 = 1_000_000_000;

/// A frame at one place and time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sighting {
    pub(super) at: Instant,
    pub(super) seq: u32,
    /// Sequence numbers that it takes.
    pub(super) len: u32,
    pub(super) ack: u32,
    pub(super) flags: u8,
}

impl Sighting {
    pub(super) const fn end(&self) -> u32 {
        self.seq.wrapping_add(self.len)
    }

    const fn is_same_frame(&self, other: &Self) -> bool {
        self.seq == other.seq && self.len == other.len && self.ack == other.ack && self.flags == other.flags
    }

    pub(super) const fn evidence(&self, role: Role, point: Point, direction: Direction) -> Evidence {
        Evidence {
            role,
            at: self.at,
            point,
            direction,
            seq: self.seq,
            len: self.len,
            ack: self.ack,
            flags: self.flags,
        }
    }
}

/// An acknowledgement that advanced, as its sender sent it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub(super) frame: Sighting,
    /// When it left the filter.
    pub(super) left: Option<Instant>,
    /// The newest data that it acknowledges, as it left the filter.
    pub(super) data: Sighting,
    /// Whether its sender has sent payload since.
    followed: bool,
}

impl Answer {
    /// From the receiver having the data to its acknowledging it.
    pub(super) const fn delay(&self) -> u64 {
        self.frame.at.since(self.data.at)
    }
}

/// Limits that tell a stall from the path.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) threshold: u64,
    pub(super) prompt: u64,
}

/// A stall as a lane finds it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Finding {
    pub(super) cause: StallCause,
    pub(super) start: Instant,
    pub(super) end: Instant,
    pub(super) evidence: [Option<Evidence>; 4],
}

#[derive(Debug)]
pub(super) struct Lane {
    direction: Direction,
    /// Whether its sender has sent anything.
    pub(super) seen: bool,
    /// The sequence number before the first octet seen.
    pub(super) base: Option<u32>,
    /// In the filter, first in first.
    inside: VecDeque<Sighting>,
    /// When the first and the last frame entered that found `inside` full.
    untracked: Option<(Instant, Instant)>,
    /// Data that left the filter and is not acknowledged.
    delivered: VecDeque<Sighting>,
    sent: Option<u32>,
    acked: Option<u32>,
    /// As far as its sender knows: of what the filter let go.
    heard: Option<u32>,
    answer: Option<Answer>,
    /// When data last entered or left the filter, when it was last acknowledged, and how far stalls were told.
    last_sent: Instant,
    last_left: Instant,
    last_acked: Instant,
    told: Instant,
    /// Octets of the newest data.
    last_len: u32,
    /// When its sender last sent a small segment right behind another that was not acknowledged, which Nagle's algorithm
    /// forbids in all its forms.
    eager: Option<Instant>,
    /// The shortest time that the receiver took to answer: the path behind the filter.
    path: Option<u64>,
}

impl Lane {
    pub(super) const fn new(direction: Direction) -> Self {
        Self {
            direction,
            seen: false,
            base: None,
            inside: VecDeque::new(),
            untracked: None,
            delivered: VecDeque::new(),
            sent: None,
            acked: None,
            heard: None,
            answer: None,
            last_sent: Instant(0),
            last_left: Instant(0),
            last_acked: Instant(0),
            told: Instant(0),
            last_len: 0,
            eager: None,
            path: None,
        }
    }

    /// A new connection: forgets the old one, keeps the memory.
    pub(super) fn restart(&mut self) {
        let mut fresh = Self::new(self.direction);
        core::mem::swap(&mut fresh.inside, &mut self.inside);
        core::mem::swap(&mut fresh.delivered, &mut self.delivered);
        fresh.inside.clear();
        fresh.delivered.clear();
        *self = fresh;
    }

    /// Whether a SYN begins another connection than the one that is known.
    pub(super) fn is_other_connection(&self, syn: &Sighting) -> bool {
        self.base.is_some_and(|base| base != syn.seq)
    }

    /// Whether data is on its way, or not acknowledged, or the filter keeps that from its sender.
    pub(super) fn is_waiting(&self) -> bool {
        let unheard = |acked| self.heard.is_none_or(|heard| before(heard, acked));
        !self.delivered.is_empty()
            || self.inside.iter().any(|inside| inside.len > 0)
            || self.acked.is_some_and(unheard)
    }

    pub(super) fn path(&self) -> u64 {
        self.path.unwrap_or(0)
    }

    /// The receiver sent payload of its own: what the sender does next may be because of that.
    pub(super) fn follow_answer(&mut self) {
        if let Some(answer) = &mut self.answer {
            answer.followed = true;
        }
    }

    /// The receiver sent `frame`, which acknowledges something.
    pub(super) fn answered(&mut self, frame: &Sighting) {
        if self.acked.is_some_and(|acked| !before(acked, frame.ack)) {
            return;
        }
        self.acked = Some(frame.ack);
        self.last_acked = frame.at;
        self.answer = None;
        let mut newest = None;
        while let Some(data) = self.delivered.front()
            && !before(frame.ack, data.end())
        {
            newest = self.delivered.pop_front();
        }
        let Some(data) = newest else { return };
        let answer = Answer {
            frame: *frame,
            left: None,
            data,
            followed: false,
        };
        let handshake = data.flags & offload::TcpFlags::SYN != 0;
        if handshake || frame.len > 0 || self.path.is_some() {
            let delay = answer.delay();
            self.path = Some(self.path.map_or(delay, |path| path.min(delay)));
        }
        self.answer = Some(answer).filter(|_| frame.len == 0);
    }

    /// The frame that acknowledges left the filter.
    pub(super) fn answer_left(&mut self, frame: &Sighting) {
        if frame.flags & offload::TcpFlags::ACK != 0 {
            self.heard = Some(self.heard.map_or(frame.ack, |heard| later(heard, frame.ack)));
        }
        if let Some(answer) = &mut self.answer
            && answer.frame.is_same_frame(frame)
        {
            answer.left.get_or_insert(frame.at);
        }
    }

    /// The sender sent `frame`. `there` is the path to the sender.
    pub(super) fn entered(&mut self, frame: &Sighting, there: u64, limits: Limits) -> Option<Finding> {
        self.seen = true;
        let mut finding = None;
        if frame.len > 0 {
            self.base
                .get_or_insert(if frame.flags & offload::TcpFlags::SYN != 0 {
                    frame.seq
                } else {
                    frame.seq.wrapping_sub(1)
                });
            let new = self.sent.is_none_or(|sent| before(sent, frame.end()));
            finding = if new {
                self.note_eagerness(frame);
                self.continued(frame, there, limits)
            } else {
                self.repeated(frame, limits)
            };
            self.sent = Some(self.sent.map_or(frame.end(), |sent| later(sent, frame.end())));
            self.last_sent = frame.at;
        }
        self.track(frame);
        finding
    }

    fn note_eagerness(&mut self, frame: &Sighting) {
        let open = self
            .sent
            .is_some_and(|sent| self.acked.is_none_or(|acked| before(acked, sent)));
        if open && self.last_len < SMALL && frame.len < SMALL {
            self.eager = Some(frame.at);
        }
        self.last_len = frame.len;
    }

    /// Whether it is known that the sender does not keep small segments back for acknowledgements. What it sends behind one
    /// then followed by chance, as it does on a machine that has other work to do.
    fn sends_regardless(&self, frame: &Sighting) -> bool {
        let known = |shown: Instant| frame.at.since(shown) <= EAGER_MEMORY;
        frame.len < SMALL && self.eager.is_some_and(known)
    }

    fn track(&mut self, frame: &Sighting) {
        if self.inside.len() < MEMORY {
            self.inside.push_back(*frame);
        } else {
            let first = self.untracked.map_or(frame.at, |(first, _)| first);
            self.untracked = Some((first, frame.at));
        }
    }

    /// New data: was it kept back for an acknowledgement that came just now?
    fn continued(&mut self, frame: &Sighting, there: u64, limits: Limits) -> Option<Finding> {
        if self.inside.iter().any(|inside| inside.len > 0) {
            return None;
        }
        let answer = self.answer.take().filter(|answer| !answer.followed)?;
        let left = answer.left.unwrap_or(answer.frame.at);
        if frame.at.since(left) > limits.prompt.saturating_add(there) {
            return None;
        }
        let since = self.last_sent.max(self.told);
        let receiver = since.max(answer.data.at);
        let filter = since.max(answer.frame.at);
        let (at_receiver, in_filter) = (answer.frame.at.since(receiver), left.since(filter));
        let late = self.is_late(&answer, limits) && at_receiver > limits.threshold;
        if late && at_receiver >= in_filter && !self.sends_regardless(frame) {
            let evidence = [
                Some(self.delivery(&answer)),
                Some(self.acknowledgement(&answer)),
                Some(frame.evidence(Role::Continuation, Point::entry(self.direction), self.direction)),
                None,
            ];
            return Some(self.tell(StallCause::DelayedAck, receiver, answer.frame.at, evidence));
        }
        if in_filter <= limits.threshold {
            return None;
        }
        let back = opposite(self.direction);
        let out = Sighting {
            at: left,
            ..answer.frame
        };
        let evidence = [
            Some(answer.frame.evidence(Role::Held, Point::entry(back), back)),
            Some(out.evidence(Role::Released, Point::exit(back), back)),
            Some(frame.evidence(Role::Continuation, Point::entry(self.direction), self.direction)),
            None,
        ];
        Some(self.tell(StallCause::FilterHold, filter, left, evidence))
    }

    /// Data that was sent before.
    fn repeated(&mut self, frame: &Sighting, limits: Limits) -> Option<Finding> {
        let acked = self.acked.is_some_and(|acked| !before(acked, frame.end()));
        // A keep-alive probe repeats at most one octet, which was acknowledged (RFC 9293, 3.8.4).
        if acked && frame.len <= 1 {
            return None;
        }
        self.answer = None;
        let covers = |other: &Sighting| {
            other.len > 0 && before(other.seq, frame.end()) && before(frame.seq, other.end())
        };
        if self.inside.iter().any(covers) {
            // The filter still has it, so it is the filter that the sender got impatient with.
            return None;
        }
        let start = self
            .last_sent
            .max(self.last_left)
            .max(self.last_acked)
            .max(self.told);
        if frame.at.since(start) <= limits.threshold {
            return None;
        }
        let first = self.delivered.iter().find(|other| covers(other));
        let evidence = [
            first.map(|data| data.evidence(Role::Delivered, Point::exit(self.direction), self.direction)),
            Some(frame.evidence(Role::Repetition, Point::entry(self.direction), self.direction)),
            None,
            None,
        ];
        Some(self.tell(StallCause::Retransmission, start, frame.at, evidence))
    }

    /// A frame left the filter.
    pub(super) fn left(&mut self, frame: &Sighting, limits: Limits) -> Option<Finding> {
        let entered = self.untrack(frame);
        if frame.len == 0 {
            return None;
        }
        let finding = self.waited(&entered, frame, limits);
        if self.delivered.len() == MEMORY {
            self.delivered.pop_front();
        }
        self.delivered.push_back(*frame);
        self.last_left = frame.at;
        finding
    }

    /// The frame as it entered.
    fn untrack(&mut self, frame: &Sighting) -> Sighting {
        let Some(place) = self.inside.iter().position(|inside| inside.is_same_frame(frame)) else {
            let at = self.untracked.map_or(frame.at, |(first, _)| first);
            return Sighting { at, ..*frame };
        };
        let entered = self.inside.remove(place).unwrap_or(*frame);
        if self.untracked.is_some_and(|(_, last)| last < entered.at) {
            self.untracked = None;
        }
        if place > 0 {
            // What entered before and can no longer be on its way was dropped by the filter: pure acknowledgements, and
            // data that comes before this in the stream.
            let mut index = 0;
            self.inside.retain(|inside| {
                index += 1;
                let may_follow = frame.len == 0 || before(frame.seq, inside.end());
                index > place || (inside.len > 0 && may_follow)
            });
        }
        entered
    }

    /// Whether data sat in the filter for too long, and for what.
    fn waited(&mut self, entered: &Sighting, frame: &Sighting, limits: Limits) -> Option<Finding> {
        let since = entered.at.max(self.last_left).max(self.told);
        if frame.at.since(since) <= limits.threshold {
            return None;
        }
        let here = self.direction;
        let held = Some(entered.evidence(Role::Held, Point::entry(here), here));
        let released = Some(frame.evidence(Role::Released, Point::exit(here), here));
        if let Some(answer) = self.answer.take() {
            let start = since.max(answer.data.at);
            let came = answer.frame.at;
            if frame.at.since(came) <= limits.prompt
                && came.since(start) > limits.threshold
                && self.is_late(&answer, limits)
            {
                let evidence = [
                    Some(self.delivery(&answer)),
                    held,
                    Some(self.acknowledgement(&answer)),
                    released,
                ];
                return Some(self.tell(StallCause::DelayedAck, start, came, evidence));
            }
        }
        Some(self.tell(
            StallCause::FilterHold,
            since,
            frame.at,
            [held, released, None, None],
        ))
    }

    /// Whether the receiver took longer to acknowledge than the path and the threshold explain.
    fn is_late(&self, answer: &Answer, limits: Limits) -> bool {
        answer.delay() > limits.threshold.saturating_add(self.path())
    }

    fn delivery(&self, answer: &Answer) -> Evidence {
        answer
            .data
            .evidence(Role::Delivered, Point::exit(self.direction), self.direction)
    }

    fn acknowledgement(&self, answer: &Answer) -> Evidence {
        let back = opposite(self.direction);
        answer
            .frame
            .evidence(Role::Acknowledgement, Point::entry(back), back)
    }

    fn tell(
        &mut self,
        cause: StallCause,
        start: Instant,
        end: Instant,
        evidence: [Option<Evidence>; 4],
    ) -> Finding {
        self.told = self.told.max(end);
        Finding {
            cause,
            start,
            end,
            evidence,
        }
    }
}

const fn opposite(direction: Direction) -> Direction {
    match direction {
        Direction::Tx => Direction::Rx,
        Direction::Rx => Direction::Tx,
    }
}
