//! Naming the causes of stalls while flows run, by the diagnosis' own judgement of what each did last.
//!
//! What led to a gap is seen when it ends, but often not what came of it: whether the segment that was kept back
//! completed a request. So a flow that stood still is judged a little later.

use std::collections::VecDeque;

use smallvec::SmallVec;

use super::{CauseTable, FlowStalls, Stall, StallCause, StallSummary};
use crate::Instant;
use crate::diagnosis::{Cause, DiagnosisOptions, Window};
use crate::flow::{FlowKey, TopFlows};

/// Frames after which a flow that stood still is judged, so that those before are still known.
const FRAMES: u32 = 24;
/// Time after which it is judged otherwise, in nanoseconds.
const SETTLED: u64 = 30_000_000;
/// Flows that wait to be judged at most.
const WAITING: usize = 1_024;
/// Flows that are judged per second at most; each takes some 20 us.
const PER_SECOND: u64 = 200;
/// Gaps of a flow that wait to be judged, and are remembered by their length.
const GAPS: usize = 4;
/// Flows listed.
const FLOWS: usize = 128;

/// What a flow did last, and whether it is to be judged.
#[derive(Debug, Default)]
pub(super) struct Recent {
    pub(super) window: Window,
    open: Option<Open>,
    /// How far it was judged.
    judged: Instant,
    /// Its last frame.
    at: Instant,
}

/// Gaps that are to be judged.
#[derive(Debug)]
struct Open {
    /// When the first of them had ended.
    at: Instant,
    since: Instant,
    /// When the last of them had ended. What is behind it may be in the filter still, and is judged when it has left.
    until: Instant,
    frames: u32,
    gaps: SmallVec<[(StallCause, u64); GAPS]>,
}

/// The flows to be judged, and what was judged.
#[derive(Debug)]
pub(super) struct Review {
    options: DiagnosisOptions,
    waiting: VecDeque<(Instant, FlowKey)>,
    tokens: u64,
    filled: Instant,
    pub(super) summary: StallSummary,
    pub(super) flows: TopFlows<FlowStalls>,
}

impl Review {
    pub(super) fn new(options: DiagnosisOptions) -> Self {
        Self {
            options,
            waiting: VecDeque::new(),
            tokens: PER_SECOND,
            filled: Instant(0),
            summary: StallSummary::default(),
            flows: TopFlows::new(FLOWS),
        }
    }

    /// A flow stood still since `since`; `gap` is what that looks like.
    pub(super) fn open(
        &mut self,
        now: Instant,
        flow: FlowKey,
        recent: &mut Recent,
        since: Instant,
        gap: Option<(StallCause, u64)>,
    ) {
        if recent.open.is_none() {
            if self.waiting.len() >= WAITING {
                self.count_unjudged(flow, gap);
                return;
            }
            self.waiting.push_back((now, flow));
        }
        let open = recent.open.get_or_insert(Open {
            at: now,
            since,
            until: now,
            frames: 0,
            gaps: SmallVec::new(),
        });
        open.since = open.since.min(since);
        open.until = now;
        // The diagnosis sees them all.
        open.gaps.extend(gap.filter(|_| open.gaps.len() < GAPS));
    }

    /// The flow that has waited long enough, if there is one.
    pub(super) fn due(&mut self, now: Instant) -> Option<FlowKey> {
        let (since, _) = self.waiting.front()?;
        if now.since(*since) < SETTLED {
            return None;
        }
        self.waiting.pop_front().map(|(_, flow)| flow)
    }

    /// The flow that was due, which may have been judged since and be open again.
    pub(super) fn judge_due<'a>(
        &mut self,
        now: Instant,
        flow: FlowKey,
        recent: &mut Recent,
        told: impl Iterator<Item = &'a mut Stall>,
    ) {
        match recent.open.as_ref().map(|open| open.at) {
            Some(at) if now.since(at) < SETTLED => self.waiting.push_back((at, flow)),
            _ => self.judge(now, flow, recent, told),
        }
    }

    /// A frame comes. If nothing came for long although something waited, that may have been a stall of a kind that cannot be told by
    /// one frame; it is looked at as long as that leaves room for those that can.
    pub(super) fn wake<'a>(
        &mut self,
        now: Instant,
        flow: FlowKey,
        recent: &mut Recent,
        waits: bool,
        told: impl Iterator<Item = &'a mut Stall>,
    ) {
        let since = std::mem::replace(&mut recent.at, now);
        if now - since <= self.options.threshold {
            return;
        }
        // What the last gap led to has been seen.
        self.judge(now, flow, recent, told);
        if waits && self.tokens > PER_SECOND / 2 && self.waiting.len() < WAITING {
            self.open(now, flow, recent, since, None);
        }
    }

    /// Judges what a flow did last. What it finds names the stalls in `told`.
    pub(super) fn judge<'a>(
        &mut self,
        now: Instant,
        flow: FlowKey,
        recent: &mut Recent,
        told: impl Iterator<Item = &'a mut Stall>,
    ) {
        let Some(open) = recent.open.take() else { return };
        if !self.may_judge(now) {
            for gap in open.gaps {
                self.count_unjudged(flow, Some(gap));
            }
            return;
        }
        let findings = recent.window.judge(flow, &self.options);
        // What waited may have gone on only behind the next of several frames that came together.
        let until = open.until.after(self.options.prompt);
        let new = |end: Instant| end > recent.judged && (open.since..=until).contains(&end);
        let mut found: Vec<_> = findings
            .iter()
            .filter(|finding| new(finding.end()))
            .map(|finding| (finding.cause, finding.start, finding.end(), finding.gap_ns))
            .collect();
        if found.is_empty() {
            self.summary.think_time += 1;
            return;
        }
        for (cause, _, end, gap_ns) in &found {
            self.count(flow, *cause, *gap_ns);
            recent.judged = recent.judged.max(*end);
        }
        for stall in told.filter(|stall| stall.flow == flow && stall.detail.is_none()) {
            found.sort_by_key(|(_, _, end, _)| end.0.abs_diff(stall.end.0));
            stall.detail = found
                .iter()
                .find(|(_, start, end, _)| *start < stall.end && stall.start < *end)
                .map(|(cause, ..)| *cause);
        }
    }

    fn may_judge(&mut self, now: Instant) -> bool {
        let fresh = now.since(self.filled) / (1_000_000_000 / PER_SECOND);
        if fresh > 0 {
            self.tokens = self.tokens.saturating_add(fresh).min(PER_SECOND);
            self.filled = now;
        }
        let may = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        may
    }

    fn count_unjudged(&mut self, flow: FlowKey, gap: Option<(StallCause, u64)>) {
        let Some((cause, gap_ns)) = gap else { return };
        self.summary.unjudged += 1;
        let cause = match cause {
            StallCause::DelayedAck => Cause::DelayedAck,
            StallCause::FilterHold => Cause::FilterHold,
            StallCause::Retransmission => Cause::Retransmission,
        };
        self.count(flow, cause, gap_ns);
    }

    fn count(&mut self, flow: FlowKey, cause: Cause, gap_ns: u64) {
        let mut causes = CauseTable::default();
        causes.count(cause, gap_ns);
        self.summary.causes.count(cause, gap_ns);
        self.flows.note(Some(flow), &FlowStalls { causes });
    }
}

impl Recent {
    /// Counts a frame. True when the flow is to be judged now.
    pub(super) fn is_due(&mut self) -> bool {
        let Some(open) = &mut self.open else { return false };
        open.frames += 1;
        open.frames >= FRAMES
    }
}
