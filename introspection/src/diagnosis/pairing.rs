//! Finding each frame of one tap at the other.

use std::collections::{HashMap, VecDeque};

use offload::TcpFlags;

use super::trace::{Connection, Seen, Tap};
use crate::Direction;
use crate::seq::{before, distance};

/// How many frames an octet is looked for in that was not found as a frame of its own.
const SEARCH: usize = 64;

/// A frame on its way from its sender's tap to its receiver's. With one tap the two are one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Crossing {
    pub(super) direction: Direction,
    pub(super) seq: u32,
    pub(super) payload: u32,
    pub(super) ack: u32,
    pub(super) window: u16,
    pub(super) flags: TcpFlags,
    /// When it was at the sender's tap.
    pub(super) entered: u64,
    /// When it was at the receiver's; `None` when it never came there.
    pub(super) left: Option<u64>,
    /// Its numbers at the two taps, and which taps these are.
    pub(super) numbers: [(u64, Tap); 2],
    /// What it left in: equal for frames that were merged into one.
    pub(super) carrier: u64,
    /// Whether what it left in carries other frames, too.
    pub(super) merged: bool,
}

impl Crossing {
    /// Sequence numbers that it takes.
    pub(super) fn len(&self) -> u32 {
        let controls = u32::from(self.flags.any(TcpFlags::SYN)) + u32::from(self.flags.any(TcpFlags::FIN));
        self.payload.saturating_add(controls)
    }

    pub(super) fn end(&self) -> u32 {
        self.seq.wrapping_add(self.len())
    }

    fn at_one_tap(seen: &Seen) -> Self {
        Self {
            direction: seen.direction,
            seq: seen.seq,
            payload: seen.payload,
            ack: seen.ack,
            window: seen.window,
            flags: seen.flags,
            entered: seen.at,
            left: Some(seen.at),
            numbers: [(seen.number, seen.tap); 2],
            carrier: seen.number,
            merged: false,
        }
    }
}

type Name = (u32, u32, u32, u8);

fn name(seen: &Seen) -> Name {
    (seen.seq, seen.payload, seen.ack, seen.flags.0)
}

/// The connection's frames by the time at which they were sent, and whether they were seen at two taps.
pub(super) fn pair(connection: &Connection) -> (Vec<Crossing>, bool) {
    let mut frames = connection.frames.clone();
    frames.sort_by_key(|frame| (frame.at, frame.number));
    let has = |tap| frames.iter().any(|frame| frame.tap == tap);
    let mut crossings = if has(Tap::First) && has(Tap::Second) {
        let entries = orient(&mut frames);
        let mut both = cross(&frames, Direction::Tx, entries);
        both.extend(cross(&frames, Direction::Rx, other(entries)));
        crossings_or_frames(both, &frames)
    } else {
        (frames.iter().map(Crossing::at_one_tap).collect(), false)
    };
    crossings.0.sort_by_key(|frame| frame.entered);
    crossings
}

/// Two taps that have nothing in common are no two sides of a filter: each frame then stands for itself.
fn crossings_or_frames(crossings: Vec<Crossing>, frames: &[Seen]) -> (Vec<Crossing>, bool) {
    let met = |frame: &Crossing| frame.numbers.first() != frame.numbers.last();
    if crossings.iter().any(met) {
        (crossings, true)
    } else {
        (frames.iter().map(Crossing::at_one_tap).collect(), false)
    }
}

const fn other(tap: Tap) -> Tap {
    match tap {
        Tap::First => Tap::Second,
        Tap::Second => Tap::First,
    }
}

/// Sets the second tap's clock by the first one's, and says where frames of the local end are seen first.
///
/// A frame takes some time from tap to tap, so the times of both directions added are positive when the first tap is
/// the local end's, however the clocks differ. Clocks by which frames of one direction arrive before they leave do differ.
fn orient(frames: &mut [Seen]) -> Tap {
    let [forth, back] = [Direction::Tx, Direction::Rx].map(|direction| passages(frames, direction));
    let median = |times: &[i64]| times.get(times.len() / 2).copied();
    let entries = match (median(&forth), median(&back)) {
        (Some(forth), Some(back)) if forth - back < 0 => Tap::Second,
        (Some(forth), None) if forth < 0 => Tap::Second,
        (None, Some(back)) if back > 0 => Tap::Second,
        _ => Tap::First,
    };
    // Both are times from the first tap to the second; frames of the one go that way, and of the other against it.
    let (with, against) = if entries == Tap::First {
        (forth, back)
    } else {
        (back, forth)
    };
    let earliest = with.first().copied().unwrap_or(0);
    let latest = against.last().copied().unwrap_or(0);
    if earliest < 0 || latest > 0 {
        let ahead = i64::midpoint(earliest, latest);
        for frame in frames.iter_mut().filter(|frame| frame.tap == Tap::Second) {
            frame.at = frame.at.saturating_add_signed(ahead.saturating_neg());
        }
    }
    frames.sort_by_key(|frame| (frame.at, frame.number));
    entries
}

/// The times that frames of one direction take from the first tap to the second, in order; negative when they are seen
/// there earlier.
fn passages(frames: &[Seen], direction: Direction) -> Vec<i64> {
    let mut waiting: HashMap<Name, VecDeque<&Seen>> = HashMap::new();
    let mut times = Vec::new();
    for frame in frames.iter().filter(|frame| frame.direction == direction) {
        let queue = waiting.entry(name(frame)).or_default();
        match queue.front() {
            Some(first) if first.tap != frame.tap => {
                let gone = frame.at.cast_signed().wrapping_sub(first.at.cast_signed());
                times.push(if first.tap == Tap::First { gone } else { -gone });
                queue.pop_front();
            }
            _ => queue.push_back(frame),
        }
    }
    times.sort_unstable();
    times
}

/// The frames of one direction, which enter at `entries`.
fn cross(frames: &[Seen], direction: Direction, entries: Tap) -> Vec<Crossing> {
    let mut crossings: Vec<Crossing> = Vec::new();
    let mut waiting: HashMap<Name, VecDeque<usize>> = HashMap::new();
    let mut data: VecDeque<usize> = VecDeque::new();
    // A frame leaves behind its entry where both have one time.
    let mut ordered: Vec<&Seen> = frames
        .iter()
        .filter(|frame| frame.direction == direction)
        .collect();
    ordered.sort_by_key(|frame| (frame.at, frame.tap != entries, frame.number));
    for frame in ordered {
        if frame.tap == entries {
            let index = crossings.len();
            waiting.entry(name(frame)).or_default().push_back(index);
            if frame.payload > 0 {
                data.push_back(index);
            }
            crossings.push(Crossing {
                left: None,
                ..Crossing::at_one_tap(frame)
            });
            continue;
        }
        let exact = waiting.get_mut(&name(frame)).and_then(|queue| {
            // Others left as parts of something else.
            while let Some(index) = queue.pop_front() {
                if crossings.get(index).is_some_and(|one| one.left.is_none()) {
                    return Some(index);
                }
            }
            None
        });
        let found = match exact {
            Some(index) => leave(&mut crossings, &[index], frame),
            None => leave_in_parts(&mut crossings, &data, frame),
        };
        if !found {
            crossings.push(Crossing::at_one_tap(frame));
        }
        while let Some(first) = data.front()
            && (data.len() > SEARCH * 16 || crossings.get(*first).is_some_and(|one| one.left.is_some()))
        {
            data.pop_front();
        }
    }
    crossings
}

fn leave(crossings: &mut [Crossing], indices: &[usize], frame: &Seen) -> bool {
    for index in indices {
        if let Some(crossing) = crossings.get_mut(*index) {
            crossing.left = Some(frame.at);
            crossing.carrier = frame.number;
            crossing.merged = indices.len() > 1;
            if let Some(last) = crossing.numbers.last_mut() {
                *last = (frame.number, frame.tap);
            }
        }
    }
    !indices.is_empty()
}

/// A frame whose octets came in others: merged from several, or cut from one.
fn leave_in_parts(crossings: &mut [Crossing], data: &VecDeque<usize>, frame: &Seen) -> bool {
    let end = frame.seq.wrapping_add(frame.payload);
    let mut carried = Vec::new();
    let mut part = false;
    for index in data.iter().take(SEARCH * 16) {
        let Some(one) = crossings.get(*index).filter(|one| one.left.is_none()) else {
            continue;
        };
        let one_end = one.seq.wrapping_add(one.payload);
        if distance(frame.seq, one.seq) >= 0 && !before(end, one_end) {
            carried.push(*index);
        } else if before(one.seq, end) && before(frame.seq, one_end) {
            // Its last octet decides when it has left.
            part = true;
            if end == one_end {
                carried.push(*index);
            }
        }
        if carried.len() >= SEARCH {
            break;
        }
    }
    leave(crossings, &carried, frame) || part
}
