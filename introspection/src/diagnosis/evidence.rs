//! Findings with the frames that prove them.

use std::collections::HashMap;

use offload::TcpFlags;

use super::finding::{Cause, Exhibit, Finding, Part};
use super::habits::Habits;
use super::judge::{Draft, opposite};
use super::limits::Limits;
use super::pairing::Crossing;
use crate::flow::FlowKey;
use crate::{Direction, Instant};

/// Gaps of one cause that make each of them surer.
const REPEATED: usize = 3;

/// The sequence numbers before the first octet of each direction.
pub(super) fn bases(crossings: &[Crossing]) -> [u32; 2] {
    [Direction::Tx, Direction::Rx].map(|direction| {
        let syn = |frame: &&Crossing| frame.direction == direction && frame.flags.any(TcpFlags::SYN);
        let first = |frame: &&Crossing| frame.direction == direction;
        let back = |frame: &&Crossing| frame.direction != direction && frame.flags.any(TcpFlags::ACK);
        let find = |what: &dyn Fn(&&Crossing) -> bool| crossings.iter().find(what);
        find(&syn)
            .map(|frame| frame.seq)
            .or_else(|| find(&first).map(|frame| frame.seq.wrapping_sub(1)))
            .or_else(|| find(&back).map(|frame| frame.ack.wrapping_sub(1)))
            .unwrap_or(0)
    })
}

/// What all findings of a connection rest on.
pub(super) struct Told<'a> {
    pub(super) flow: FlowKey,
    pub(super) crossings: &'a [Crossing],
    /// The sequence numbers before the first octets.
    pub(super) bases: [u32; 2],
    pub(super) limits: Limits,
    pub(super) habits: &'a Habits,
    /// How many gaps there are of each cause in each direction.
    pub(super) alike: HashMap<(Cause, Direction), usize>,
}

/// How many gaps there are of each cause in each direction.
pub(super) fn alike(drafts: &[Draft]) -> HashMap<(Cause, Direction), usize> {
    let mut counts = HashMap::new();
    for draft in drafts {
        *counts.entry((draft.cause, draft.direction)).or_default() += 1;
    }
    counts
}

impl Told<'_> {
    /// A draft as a finding.
    pub(super) fn finding(&self, draft: &Draft) -> Finding {
        let mut evidence: Vec<Exhibit> = draft
            .parts
            .iter()
            .filter_map(|(index, part)| self.exhibit(*index, *part))
            .collect();
        evidence.sort_by_key(|exhibit| exhibit.at);
        let alike = self.alike.get(&(draft.cause, draft.direction));
        let repeated = alike.is_some_and(|alike| *alike >= REPEATED);
        Finding {
            flow: self.flow,
            direction: draft.direction,
            cause: draft.cause,
            start: Instant(draft.start),
            gap_ns: draft.end - draft.start,
            confidence: self.habits.confidence(draft, repeated, self.limits),
            evidence,
            remedy: draft.cause.remedy().to_owned(),
        }
    }

    /// What arrives is seen where it arrives, and what is sent where it is sent.
    fn exhibit(&self, index: usize, part: Part) -> Option<Exhibit> {
        let frame = self.crossings.get(index)?;
        let arrives = matches!(
            part,
            Part::Data | Part::Released | Part::WindowClosed | Part::WindowOpened
        );
        let [entry, exit] = frame.numbers;
        let ((number, tap), at) = if arrives {
            (exit, frame.left.unwrap_or(frame.entered))
        } else {
            (entry, frame.entered)
        };
        let base = |direction| self.bases[direction as usize];
        Some(Exhibit {
            frame: number,
            tap,
            part,
            at: Instant(at),
            direction: frame.direction,
            seq: frame.seq.wrapping_sub(base(frame.direction)),
            len: frame.payload,
            ack: frame.ack.wrapping_sub(base(opposite(frame.direction))),
        })
    }
}
