//! What a connection would have been without the filter.

use std::collections::HashMap;

use offload::TcpFlags;
use serde::Serialize;

use super::finding::{Cause, Finding, Part};
use super::judge::{self, Limits, opposite};
use super::pairing::Crossing;
use super::trace::span;
use crate::flow::FlowKey;
use crate::seq::before;

/// What a replay takes for granted.
pub const ASSUMPTIONS: [&str; 4] = [
    "a frame passes at once where the filter was, and the path takes as long as it did",
    "an end that sent something because something came to it does so as long after that as it did",
    "an end that sent something after a pause of its own makes the same pause",
    "acknowledgements that the filter provoked or delayed, and data sent again because of them, are not needed",
];

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
pub(super) fn replay(flow: FlowKey, crossings: &[Crossing], findings: &[Finding], limits: Limits) -> Counterfactual {
    let mut replay = Replay::new(crossings, findings);
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
    awaited: HashMap<usize, ()>,
    /// Data that was repeated only because of the filter.
    needless: HashMap<usize, ()>,
    /// What each sender last sent, with payload.
    sent: [Option<usize>; 2],
    /// What came to each sender, by time, and how far that was looked at.
    arrivals: [Vec<usize>; 2],
    seen: [usize; 2],
    /// The last payload that came to each sender, and the last frame.
    payload: [Option<usize>; 2],
    last: [Option<usize>; 2],
}

impl<'a> Replay<'a> {
    fn new(crossings: &'a [Crossing], findings: &[Finding]) -> Self {
        let mut numbers: HashMap<_, usize> = HashMap::new();
        for (index, frame) in crossings.iter().enumerate() {
            numbers.entry(frame.numbers[0]).or_insert(index);
        }
        let find = |finding: &Finding, part| {
            let of = |exhibit: &&super::finding::Exhibit| exhibit.part == part;
            let exhibit = finding.evidence.iter().find(of)?;
            numbers.get(&(exhibit.frame, exhibit.tap)).copied()
        };
        let (mut awaited, mut needless) = (HashMap::new(), HashMap::new());
        for finding in findings {
            let Some(index) = find(finding, Part::Continuation) else {
                continue;
            };
            let repeats = crossings.iter().take(index).rev().take(256).any(|earlier| {
                earlier.direction == finding.direction
                    && earlier.len() > 0
                    && crossings.get(index).is_some_and(|frame| !before(earlier.end(), frame.end()))
            });
            if finding.cause == Cause::FilterHold && repeats {
                needless.insert(index, ());
            } else {
                awaited.insert(index, ());
            }
        }
        let arrivals = [crate::Direction::Tx, crate::Direction::Rx].map(|sender| {
            let mut list: Vec<usize> = (0..crossings.len())
                .filter(|index| crossings[*index].direction != sender && crossings[*index].left.is_some())
                .collect();
            list.sort_by_key(|index| crossings[*index].left);
            list
        });
        Self {
            crossings,
            times: vec![None; crossings.len()],
            awaited,
            needless,
            sent: [None; 2],
            arrivals,
            seen: [0; 2],
            payload: [None; 2],
            last: [None; 2],
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
        let cause = if frame.len() == 0 {
            self.last[side].map(Moment::Left)
        } else if self.awaited.contains_key(&index) {
            self.last[side].map(Moment::Left)
        } else {
            let newer = |arrived: &usize| {
                let at = self.crossings[*arrived].left.unwrap_or(0);
                self.sent[side].is_none_or(|sent| self.crossings[sent].entered <= at)
            };
            let arrived = self.payload[side].filter(newer).map(Moment::Left);
            arrived.or(self.sent[side].map(Moment::Entered))
        };
        let entered = cause.and_then(|cause| self.after(cause, frame.entered)).unwrap_or(frame.entered);
        // An end's frames keep their order.
        let earlier = self.sent[side].and_then(|sent| self.times[sent]).map_or(0, |sent| sent.entered);
        let entered = entered.max(earlier).min(frame.entered);
        self.times[index] = Some(Replayed { entered, left: entered });
        if frame.len() > 0 {
            self.sent[side] = Some(index);
        }
    }

    fn take_arrivals(&mut self, frame: Crossing) {
        let side = frame.direction as usize;
        while let Some(arrived) = self.arrivals[side].get(self.seen[side]).copied() {
            if self.crossings[arrived].left.is_none_or(|left| left > frame.entered) {
                break;
            }
            self.seen[side] += 1;
            self.last[side] = Some(arrived);
            if self.crossings[arrived].len() > 0 {
                self.payload[side] = Some(arrived);
            }
        }
    }

    fn after(&self, cause: Moment, entered: u64) -> Option<u64> {
        let (was, is) = match cause {
            Moment::Left(index) => (self.crossings[index].left?, self.times[index]?.left),
            Moment::Entered(index) => (self.crossings[index].entered, self.times[index]?.entered),
        };
        Some(is.saturating_add(entered.saturating_sub(was)))
    }

    /// Whether the frame would not have been sent: repeated data that the filter had, or whose acknowledgement it had; a pure
    /// acknowledgement sent while data that came before in the stream was held, which would have been acknowledged with that.
    fn is_needless(&self, index: usize, frame: Crossing) -> bool {
        if self.needless.contains_key(&index) {
            return true;
        }
        let held = |earlier: &Crossing, direction| {
            earlier.direction == direction
                && earlier.entered < frame.entered
                && earlier.left.is_some_and(|left| left >= frame.entered && left > earlier.entered)
                && earlier.len() > 0
        };
        let near = || self.crossings.iter().take(index).rev().take(256);
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
enum Moment {
    Left(usize),
    Entered(usize),
}
