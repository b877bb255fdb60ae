//! What a whole connection tells of its ends: the paths to them, whether they wait for acknowledgements, what they are sure to do.

use std::collections::VecDeque;

use offload::TcpFlags;

use super::finding::Cause;
use super::judge::{Draft, opposite};
use super::limits::Limits;
use super::pairing::Crossing;
use crate::Direction;
use crate::seq::before;

/// How long a sender that does not wait for acknowledgements is remembered as one, in nanoseconds, before and after.
const EAGER_MEMORY: u64 = 1_000_000_000;
/// The delays of acknowledgements in use, in milliseconds: Linux' least and FreeBSD's, Solaris', FreeBSD's old one, and that of
/// Windows, which is Linux' greatest.
const KNOWN_DELAYS: [u64; 4] = [40, 50, 100, 200];

/// Frames behind one that are looked at for its answer.
const LOOK: usize = 256;

#[derive(Clone, Debug, Default)]
pub(super) struct Habits {
    /// From the tap to the sender of each direction and back, in nanoseconds.
    paths: [u64; 2],
    /// When each sender sent a small segment behind another that was not acknowledged.
    eager: [Vec<u64>; 2],
    handshake: bool,
}

impl Habits {
    pub(super) fn of(crossings: &[Crossing], full: u32) -> Self {
        let paths = [Direction::Tx, Direction::Rx].map(|sender| path(crossings, sender, full));
        let eager = [Direction::Tx, Direction::Rx].map(|sender| eagerness(crossings, sender, full));
        let handshake = crossings.iter().any(|frame| frame.flags.any(TcpFlags::SYN));
        Self {
            paths,
            eager,
            handshake,
        }
    }

    /// How long the sender of a direction takes at least to answer.
    pub(super) const fn path(&self, sender: Direction) -> u64 {
        self.paths[sender as usize]
    }

    /// Whether a sender showed about then that Nagle's algorithm does not hold it: what it sends behind an acknowledgement
    /// then follows by chance.
    pub(super) fn sends_regardless(&self, sender: Direction, at: u64) -> bool {
        let shown = &self.eager[sender as usize];
        let from = shown.partition_point(|shown| shown.saturating_add(EAGER_MEMORY) < at);
        shown
            .get(from)
            .is_some_and(|shown| *shown <= at.saturating_add(EAGER_MEMORY))
    }

    /// How sure a finding is; `repeated` says whether there are several like it.
    pub(super) fn confidence(&self, draft: &Draft, repeated: bool, limits: Limits) -> f32 {
        let ms = (draft.end - draft.start) / 1_000_000;
        let known = KNOWN_DELAYS
            .iter()
            .any(|delay| ms.abs_diff(*delay) * 10 <= *delay);
        let base = match draft.cause {
            Cause::FilterHold | Cause::FilterSerialised => 0.97,
            Cause::ZeroWindow | Cause::Retransmission => 0.95,
            Cause::Coalescing => 0.85,
            Cause::NagleDelayedAck => 0.75,
            Cause::DelayedAck => 0.7,
            Cause::Unknown => return 0.5,
        };
        let is_policy = matches!(
            draft.cause,
            Cause::NagleDelayedAck | Cause::DelayedAck | Cause::Coalescing
        );
        let mut sure: f32 = base;
        if is_policy {
            sure += if repeated { 0.1 } else { -0.1 };
            sure += if known { 0.1 } else { -0.1 };
            sure -= if limits.two_taps { 0.0 } else { 0.05 };
        }
        sure -= if self.handshake { 0.0 } else { 0.02 };
        sure.clamp(0.1, 0.99)
    }
}

/// The shortest time that the sender of `sender` took to answer what came to it; 0 while nothing shows what is path and what is
/// policy: a delayed acknowledgement alone shows neither.
fn path(crossings: &[Crossing], sender: Direction, full: u32) -> u64 {
    let mut waiting: VecDeque<&Crossing> = VecDeque::new();
    let mut arrivals: Vec<&Crossing> = crossings
        .iter()
        .filter(|frame| frame.direction != sender && frame.len() > 0 && frame.left.is_some())
        .collect();
    arrivals.sort_by_key(|frame| frame.left);
    let mut arrivals = arrivals.into_iter().peekable();
    let (mut shortest, mut shown) = (None::<u64>, false);
    for answer in crossings.iter().filter(|frame| frame.direction == sender) {
        while let Some(arrived) =
            arrivals.next_if(|arrived| arrived.left.is_some_and(|left| left <= answer.entered))
        {
            waiting.push_back(arrived);
        }
        let (mut newest, mut octets, mut merged) = (None, 0_u32, false);
        while let Some(first) = waiting.front()
            && answer.flags.any(TcpFlags::ACK)
            && !before(answer.ack, first.end())
        {
            octets = octets.saturating_add(first.payload);
            merged |= first.merged;
            newest = waiting.pop_front();
        }
        let Some(left) = newest.and_then(|newest| newest.left) else {
            continue;
        };
        let handshake = newest.is_some_and(|newest| newest.flags.any(TcpFlags::SYN));
        shown |= answer.payload > 0 || (octets > full && !merged) || handshake;
        let took = answer.entered - left;
        shortest = Some(shortest.map_or(took, |shortest| shortest.min(took)));
    }
    if shown {
        return shortest.unwrap_or(0);
    }
    steady_reaction(crossings, sender)
}

/// The time that a sender takes to go on after an acknowledgement, when it always takes the same: nobody's thought does.
fn steady_reaction(crossings: &[Crossing], sender: Direction) -> u64 {
    let mut acks: Vec<u64> = crossings
        .iter()
        .filter(|frame| frame.direction != sender && frame.len() == 0)
        .filter_map(|frame| frame.left)
        .collect();
    acks.sort_unstable();
    let mut acks = acks.into_iter().peekable();
    let mut times = Vec::new();
    let mut last = None;
    for frame in crossings
        .iter()
        .filter(|frame| frame.direction == sender && frame.payload > 0)
    {
        while let Some(ack) = acks.next_if(|ack| *ack <= frame.entered) {
            last = Some(ack);
        }
        times.extend(last.take().map(|ack| frame.entered - ack));
    }
    times.sort_unstable();
    match (times.first(), times.get(times.len() / 2)) {
        (Some(least), Some(middle)) if times.len() >= 3 && *middle <= least + least / 4 => *least,
        _ => 0,
    }
}

fn eagerness(crossings: &[Crossing], sender: Direction, full: u32) -> Vec<u64> {
    let mut shown = Vec::new();
    // As the sender knows it: acknowledgements count when they come to it.
    let mut acks: Vec<(u64, u32)> = crossings
        .iter()
        .filter(|frame| frame.direction != sender && frame.flags.any(TcpFlags::ACK))
        .filter_map(|frame| Some((frame.left?, frame.ack)))
        .collect();
    acks.sort_unstable_by_key(|ack| ack.0);
    let mut acks = acks.into_iter().peekable();
    let mut acked: Option<u32> = None;
    let mut last: Option<&Crossing> = None;
    for frame in crossings
        .iter()
        .filter(|frame| frame.direction == sender && frame.payload > 0)
    {
        while let Some((_, ack)) = acks.next_if(|ack| ack.0 <= frame.entered) {
            acked = Some(acked.map_or(ack, |acked| crate::seq::later(acked, ack)));
        }
        if let Some(last) = last {
            let open = acked.is_some_and(|acked| before(acked, last.end()));
            let new = before(last.end(), frame.end());
            if open && new && last.payload < full && frame.payload < full {
                shown.push(frame.entered);
            }
        }
        if last.is_none_or(|last| before(last.end(), frame.end())) {
            last = Some(frame);
        }
    }
    shown
}

/// Takes out what followed an acknowledgement by chance, and tells Nagle's algorithm from an application that waits.
pub(super) fn settle(
    mut drafts: Vec<Draft>,
    crossings: &[Crossing],
    late: [u32; 2],
    full: u32,
    limits: Limits,
) -> Vec<Draft> {
    for direction in [Direction::Tx, Direction::Rx] {
        let waited = |draft: &Draft| {
            draft.direction == direction
                && draft.continuation.is_some()
                && !matches!(draft.cause, Cause::ZeroWindow | Cause::Retransmission)
        };
        let found = drafts.iter().filter(|draft| waited(draft)).count() as u32;
        if late[direction as usize] >= 4 && found * 10 < late[direction as usize] * 4 {
            drafts.retain(|draft| !waited(draft));
        }
        let small: Vec<bool> = drafts
            .iter()
            .filter(|draft| draft.direction == direction && draft.cause == Cause::NagleDelayedAck)
            .map(|draft| is_answered(draft, crossings, full, limits))
            .collect();
        let answered = small.iter().filter(|answered| **answered).count();
        if answered * 2 < small.len() {
            let alike =
                |draft: &&mut Draft| draft.direction == direction && draft.cause == Cause::NagleDelayedAck;
            drafts
                .iter_mut()
                .filter(alike)
                .for_each(|draft| draft.cause = Cause::DelayedAck);
        }
    }
    drafts
}

/// Whether what was kept back completed a request: the receiver's application answers it before the sender's goes on. An application
/// that waits for acknowledgements of its own accord sends record after record.
fn is_answered(draft: &Draft, crossings: &[Crossing], full: u32, limits: Limits) -> bool {
    let Some((index, kept)) = draft
        .continuation
        .and_then(|index| Some((index, crossings.get(index)?)))
    else {
        return false;
    };
    let whole = |frame: &Crossing| frame.payload >= full;
    let next = crossings
        .iter()
        .skip(index + 1)
        .take(LOOK)
        .filter(|frame| frame.payload > 0)
        .find(|frame| {
            frame.direction == opposite(kept.direction)
                || (frame.entered.saturating_sub(kept.entered) > limits.prompt && !whole(frame))
        });
    next.is_some_and(|frame| frame.direction == opposite(kept.direction))
}
