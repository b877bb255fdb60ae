//! Rules on the frames of a filter.

use std::collections::VecDeque;
use std::sync::Arc;

use offload::{TcpFlags, TcpMeta};

use super::Caps;
use crate::flow::FlowKey;
use crate::rules::{RuleMatch, RuleSet, Verdict};
use crate::stream::{Budget, Judging, Stream};
use crate::{FilterCounters, FrameRef, Instant, Needs};

/// Matches kept for whoever asks.
const RECENT: usize = 256;

/// The two directions of a judged connection, by [`crate::Direction`].
pub(super) type Streams = Box<[Stream; 2]>;

/// Applies a rule set.
#[derive(Debug)]
pub(super) struct Judge {
    rules: Option<Arc<RuleSet>>,
    budget: Budget,
    recent: VecDeque<RuleMatch>,
}

impl Judge {
    pub(super) fn new(rules: Option<Arc<RuleSet>>, caps: &Caps) -> Self {
        Self {
            rules: rules.filter(|rules| !rules.is_empty()),
            budget: Budget::new(caps.stream_octets, caps.total_stream_octets),
            recent: VecDeque::new(),
        }
    }

    pub(super) const fn needs(&self) -> Needs {
        match self.rules {
            Some(_) => Needs::Payload,
            None => Needs::Headers,
        }
    }

    /// Whether rules look into frames at all.
    pub(super) const fn is_active(&self) -> bool {
        self.rules.is_some()
    }

    /// What has to be kept for a flow; `None` when no rule looks at it.
    pub(super) fn streams(&self, flow: &FlowKey) -> Option<Streams> {
        let rules = self.rules.as_ref().filter(|rules| rules.concerns(flow))?;
        Some(Box::new([Stream::new(rules), Stream::new(rules)]))
    }

    /// Gives back what a flow's streams were charged.
    pub(super) fn close(&mut self, streams: &mut Option<Streams>) {
        for stream in streams.iter_mut().flat_map(|streams| streams.iter_mut()) {
            stream.close(&mut self.budget);
        }
    }

    pub(super) fn drain_matches(&mut self, matches: &mut Vec<RuleMatch>) {
        matches.extend(self.recent.drain(..));
    }

    /// Judges a TCP segment in its stream.
    pub(super) fn segment(
        &mut self,
        now: Instant,
        flow: &FlowKey,
        streams: &mut Streams,
        tcp: &TcpMeta,
        frame: &FrameRef<'_>,
        counters: &mut FilterCounters,
    ) -> Verdict {
        let Some(rules) = self.rules.as_ref() else {
            return Verdict::Pass;
        };
        let [tx, rx] = &mut **streams;
        let (forth, back) = match frame.direction {
            crate::Direction::Tx => (tx, rx),
            crate::Direction::Rx => (rx, tx),
        };
        if tcp.flags.any(TcpFlags::ACK) {
            back.acknowledge(tcp.ack, rules, &mut self.budget);
        }
        if tcp.flags.any(TcpFlags::RST) {
            return Verdict::Pass;
        }
        let mut seq = tcp.seq;
        if tcp.flags.any(TcpFlags::SYN) {
            seq = seq.wrapping_add(1);
            forth.open(seq);
        }
        let payload = payload(frame, tcp.payload_len);
        self.judge(now, flow, frame, counters, |judging| {
            // Octets that the owner did not show are a gap that only the receiver's acknowledgement closes.
            judging.failed_open = payload.len() < tcp.payload_len as usize;
            forth.judge(seq, payload, judging)
        })
    }

    /// Judges a UDP datagram by itself.
    pub(super) fn datagram(
        &mut self,
        now: Instant,
        flow: &FlowKey,
        frame: &FrameRef<'_>,
        counters: &mut FilterCounters,
    ) -> Verdict {
        if !self.rules.as_ref().is_some_and(|rules| rules.concerns(flow)) {
            return Verdict::Pass;
        }
        self.judge(now, flow, frame, counters, |judging| judging.whole(frame.payload))
    }

    fn judge(
        &mut self,
        now: Instant,
        flow: &FlowKey,
        frame: &FrameRef<'_>,
        counters: &mut FilterCounters,
        work: impl FnOnce(&mut Judging<'_>) -> Verdict,
    ) -> Verdict {
        let Some(rules) = self.rules.as_ref() else {
            return Verdict::Pass;
        };
        let recent = &mut self.recent;
        let mut found = |rule: &Arc<str>, action| {
            counters.matches += 1;
            if recent.len() == RECENT {
                recent.pop_front();
            }
            recent.push_back(RuleMatch {
                at: now,
                rule: Arc::clone(rule),
                action,
                flow: *flow,
                direction: frame.direction,
            });
        };
        let mut judging = Judging {
            rules,
            flow,
            budget: &mut self.budget,
            found: &mut found,
            octets: 0,
            failed_open: false,
            conflict: false,
        };
        let verdict = work(&mut judging);
        let (octets, failed_open, conflict) = (judging.octets, judging.failed_open, judging.conflict);
        counters.inspected_octets += octets;
        counters.conflicts += u64::from(conflict);
        counters.failed_open += u64::from(failed_open && verdict == Verdict::Pass);
        verdict
    }
}

/// What the owner showed of a frame's payload, at most as much as its headers say.
fn payload<'a>(frame: &FrameRef<'a>, len: u32) -> &'a [u8] {
    frame.payload.get(..len as usize).unwrap_or(frame.payload)
}
