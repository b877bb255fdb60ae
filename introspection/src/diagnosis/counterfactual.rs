//! What a connection would have been without the filter.

use std::collections::{HashMap, HashSet};

use offload::TcpFlags;
use serde::Serialize;

use super::finding::{Cause, Finding, Part};
use super::habits::Habits;
use super::judge::{self, opposite};
use super::limits::Limits;
use super::pairing::Crossing;
use super::trace::span;
use crate::Direction;
use crate::flow::FlowKey;
use crate::seq::before;

/// What a replay takes for granted.
pub const ASSUMPTIONS: [&str; 4] = [
    "a frame passes at once where the filter was, and the path takes as long as it did",
    "an end that sent something because something came to it does so as long after that as it did",
    "an end that sent something after a pause of its own makes the same pause",
    "acknowledgements that the filter provoked or delayed, and data sent again because of them, are not needed",
];

/// Frames before one that are looked at for what it repeats or follows.
const NEAR: usize = 256;
const BOTH: [Direction; 2] = [Direction::Tx, Direction::Rx];

/// A connection replayed in virtual time as if there were no filter.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Counterfactual {
    /// How long the connection took, in nanoseconds.
    pub duration_ns: u64,
    /// How long it would have taken.
    pub without_ns: u64,
    /// Stalls seen.
    pub stalls: u64,
    /// Stalls that would have been there without the filter.
    pub stalls_without: u64,
}

impl Counterfactual {
    /// The time that the filter cost, in nanoseconds.
    pub const fn saved_ns(&self) -> u64 {
        self.duration_ns.saturating_sub(self.without_ns)
    }

    /// The stalls that the filter caused.
    pub const fn caused(&self) -> u64 {
        self.stalls.saturating_sub(self.stalls_without)
    }
}

/// A frame's moments in virtual time.
#[derive(Clone, Copy)]
struct Replayed {
    entered: u64,
    left: u64,
}

/// Replays a connection.
pub(super) fn replay(
    flow: FlowKey,
    crossings: &[Crossing],
    findings: &[Finding],
    limits: Limits,
) -> Counterfactual {
    let mut replay = Replay::new(crossings, findings, limits);
    for index in 0..crossings.len() {
        replay.step(index);
    }
    let (frames, real) = (replay.frames(), span(crossings));
    let virtual_span = span(&frames);
    let stalls = judge::judge(flow, &frames, limits);
    let duration_ns = real.1 - real.0;
    Counterfactual {
        duration_ns,
        without_ns: (virtual_span.1 - virtual_span.0).min(duration_ns),
        stalls: findings.len() as u64,
        stalls_without: (stalls.len() as u64).min(findings.len() as u64),
    }
}

struct Replay<'a> {
    crossings: &'a [Crossing],
    times: Vec<Option<Replayed>>,
    /// Frames that an end sent because an acknowledgement came, and which.
    awaited: HashSet<usize>,
    /// Data that was repeated only because of the filter.
    needless: HashSet<usize>,
    /// Acknowledgements that were late because segments were merged, and the data that they are for.
    merged: HashMap<usize, usize>,
    /// What each sender last sent, with payload.
    sent: [Option<usize>; 2],
    /// What came to each sender, by time, and how far that was looked at.
    arrivals: [Vec<usize>; 2],
    seen: [usize; 2],
    /// The last payload that came to each sender, and the last frame.
    payload: [Option<usize>; 2],
    last: [Option<usize>; 2],
    /// The longest time in which each sender answers at once.
    prompt: [u64; 2],
}

/// What the findings say of single frames.
#[derive(Default)]
struct Known {
    awaited: HashSet<usize>,
    needless: HashSet<usize>,
    merged: HashMap<usize, usize>,
}

impl Known {
    fn of(crossings: &[Crossing], findings: &[Finding]) -> Self {
        let (mut sent, mut came) = (HashMap::new(), HashMap::new());
        for (index, frame) in crossings.iter().enumerate() {
            let [entry, exit] = frame.numbers;
            sent.entry((entry, frame.direction)).or_insert(index);
            came.entry((exit, frame.direction)).or_insert(index);
        }
        let find = |finding: &Finding, part| {
            let exhibit = finding.evidence.iter().find(|exhibit| exhibit.part == part)?;
            let places = if part == Part::Data { &came } else { &sent };
            places
                .get(&((exhibit.frame, exhibit.tap), exhibit.direction))
                .copied()
        };
        let mut known = Self::default();
        for finding in findings {
            let late = find(finding, Part::Acknowledgement).zip(find(finding, Part::Data));
            if finding.cause == Cause::Coalescing {
                known.merged.extend(late);
            }
            let Some(index) = find(finding, Part::Continuation) else {
                continue;
            };
            if finding.cause == Cause::FilterHold && is_repeated(crossings, index) {
                known.needless.insert(index);
            } else {
                known.awaited.insert(index);
            }
        }
        known
    }
}

/// Whether a frame's data was sent shortly before.
fn is_repeated(crossings: &[Crossing], index: usize) -> bool {
    let Some(frame) = crossings.get(index) else {
        return false;
    };
    let mut earlier = crossings.iter().take(index).rev().take(NEAR);
    earlier.any(|one| one.direction == frame.direction && one.len() > 0 && !before(one.end(), frame.end()))
}

impl<'a> Replay<'a> {
    fn new(crossings: &'a [Crossing], findings: &[Finding], limits: Limits) -> Self {
        let habits = Habits::of(crossings, limits.full(crossings));
        let prompt = BOTH.map(|sender| limits.prompt.saturating_add(habits.path(sender)));
        let arrivals = BOTH.map(|sender| {
            let mut list: Vec<usize> = (0..crossings.len())
                .filter(|index| crossings[*index].direction != sender && crossings[*index].left.is_some())
                .collect();
            list.sort_by_key(|index| crossings[*index].left);
            list
        });
        let Known {
            awaited,
            needless,
            merged,
        } = Known::of(crossings, findings);
        Self {
            crossings,
            times: vec![None; crossings.len()],
            awaited,
            needless,
            merged,
            sent: [None; 2],
            arrivals,
            seen: [0; 2],
            payload: [None; 2],
            last: [None; 2],
            prompt,
        }
    }

    /// Gives a frame its time: as long after what caused it as it was.
    fn step(&mut self, index: usize) {
        let frame = self.crossings[index];
        self.take_arrivals(frame);
        if self.is_needless(index, frame) {
            return;
        }
        let side = frame.direction as usize;
        let cause = if let Some(data) = self.merged.get(&index) {
            self.crossings[*data].left.map(|_| Moment::Prompt(*data))
        } else if frame.len() == 0 {
            self.payload[side].map(Moment::Left)
        } else if self.awaited.contains(&index) {
            self.last[side].map(Moment::Left)
        } else {
            let newer = |arrived: &usize| {
                let at = self.crossings[*arrived].left.unwrap_or(0);
                self.sent[side].is_none_or(|sent| self.crossings[sent].entered <= at)
            };
            let arrived = self.payload[side].filter(newer).map(Moment::Left);
            // What follows an acknowledgement at once had no room before it.
            let prompt = |arrived: &usize| {
                let at = self.crossings[*arrived].left.unwrap_or(0);
                newer(arrived) && frame.entered.saturating_sub(at) <= self.prompt[side]
            };
            let room = self.last[side].filter(prompt).map(Moment::Left);
            arrived.or(room).or(self.sent[side].map(Moment::Entered))
        };
        let entered = cause
            .and_then(|cause| self.after(cause, frame.entered))
            .unwrap_or(frame.entered);
        // An end's frames keep their order.
        let earlier = self.sent[side]
            .and_then(|sent| self.times[sent])
            .map_or(0, |sent| sent.entered);
        let entered = entered.max(earlier).min(frame.entered);
        self.times[index] = Some(Replayed {
            entered,
            left: entered,
        });
        if frame.len() > 0 {
            self.sent[side] = Some(index);
        }
    }

    fn take_arrivals(&mut self, frame: Crossing) {
        let side = frame.direction as usize;
        while let Some(arrived) = self.arrivals[side].get(self.seen[side]).copied() {
            if self.crossings[arrived]
                .left
                .is_none_or(|left| left > frame.entered)
            {
                break;
            }
            self.seen[side] += 1;
            if self.times[arrived].is_none() {
                continue;
            }
            self.last[side] = Some(arrived);
            if self.crossings[arrived].len() > 0 {
                self.payload[side] = Some(arrived);
            }
        }
    }

    fn after(&self, cause: Moment, entered: u64) -> Option<u64> {
        let (was, is) = match cause {
            Moment::Left(index) => (self.crossings[index].left?, self.times[index]?.left),
            // At once: two segments or more are acknowledged without delay.
            Moment::Prompt(index) => return self.times[index].map(|times| times.left),
            Moment::Entered(index) => (self.crossings[index].entered, self.times[index]?.entered),
        };
        Some(is.saturating_add(entered.saturating_sub(was)))
    }

    /// Whether the frame would not have been sent: repeated data that the filter had, or whose acknowledgement it had; a pure
    /// acknowledgement sent while data that came before in the stream was held, which would have been acknowledged with that.
    fn is_needless(&self, index: usize, frame: Crossing) -> bool {
        if self.needless.contains(&index) {
            return true;
        }
        let held = |earlier: &Crossing, direction| {
            earlier.direction == direction
                && earlier.entered < frame.entered
                && earlier
                    .left
                    .is_some_and(|left| left >= frame.entered && left > earlier.entered)
                && earlier.len() > 0
        };
        let near = || self.crossings.iter().take(index).rev().take(NEAR);
        if frame.len() == 0 && !frame.flags.any(TcpFlags::RST) {
            return near().any(|earlier| held(earlier, opposite(frame.direction)));
        }
        near().any(|earlier| held(earlier, frame.direction) && !before(earlier.end(), frame.end()))
    }

    /// The frames as they would have been seen.
    fn frames(&self) -> Vec<Crossing> {
        let replayed = self.crossings.iter().zip(&self.times);
        let mut frames: Vec<Crossing> = replayed
            .filter_map(|(frame, times)| {
                let times = (*times)?;
                Some(Crossing {
                    entered: times.entered,
                    left: Some(times.left),
                    merged: false,
                    ..*frame
                })
            })
            .collect();
        frames.sort_by_key(|frame| frame.entered);
        frames
    }
}

/// A moment of a frame that caused another one.
#[derive(Clone, Copy)]
enum Moment {
    Left(usize),
    Entered(usize),
    Prompt(usize),
}
