//! Rules on the frames of a filter.

use std::collections::VecDeque;
use std::sync::Arc;

use offload::{TcpFlags, TcpMeta};

use super::Caps;
use crate::flow::FlowKey;
use crate::rules::{Compiled, Place, RuleMatch, RuleSet, Seen, Verdict};
use crate::stream::{Budget, Judging, Stream};
use crate::{Action, Direction, FilterCounters, FrameRef, Instant, Needs};

/// Matches kept for whoever asks.
const RECENT: usize = 256;
const TCP: u8 = 6;

/// The two directions of a judged connection, by [`Direction`].
type Streams = Box<[Stream; 2]>;

/// What is kept of a flow to judge it.
#[derive(Debug)]
pub(super) struct Judged {
    /// The way of what the end that opened the flow sends.
    client: Direction,
    /// Whether some rule looks at what leaves the guest, and at what enters it.
    reach: [bool; 2],
    streams: Option<Streams>,
    /// The port that gets copies.
    mirror: Option<Arc<str>>,
    /// The rules that this was made for.
    generation: u32,
}

/// Applies a rule set.
#[derive(Debug)]
pub(super) struct Judge {
    rules: Option<Arc<RuleSet>>,
    generation: u32,
    budget: Budget,
    scratch: Seen,
    recent: VecDeque<RuleMatch>,
}

impl Judge {
    pub(super) fn new(rules: Option<Arc<RuleSet>>, caps: &Caps) -> Self {
        Self {
            rules: rules.filter(|rules| !rules.is_empty()),
            generation: 0,
            budget: Budget::new(caps.stream_octets, caps.total_stream_octets),
            scratch: Seen::new(),
            recent: VecDeque::new(),
        }
    }

    /// Goes on with other rules. What was denied stays denied; a match that is half there begins anew.
    pub(super) fn set_rules(&mut self, rules: Option<Arc<RuleSet>>) {
        self.rules = rules.filter(|rules| !rules.is_empty());
        self.generation = self.generation.wrapping_add(1);
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

    /// Whether any rule may drop.
    pub(super) fn enforces(&self) -> bool {
        self.rules.as_ref().is_some_and(|rules| rules.enforces())
    }

    /// What has to be kept for a flow that `client` opened.
    pub(super) fn judged(&self, flow: &FlowKey, client: Direction) -> Judged {
        let mut judged = Judged {
            client,
            reach: [false; 2],
            streams: None,
            mirror: None,
            generation: self.generation,
        };
        self.refresh(flow, &mut judged);
        judged
    }

    /// Brings what is kept for a flow in line with the rules.
    fn refresh(&self, flow: &FlowKey, judged: &mut Judged) {
        judged.generation = self.generation;
        judged.reach = [false; 2];
        let Some(rules) = self.rules.as_ref() else { return };
        let client = judged.client;
        judged.reach = [Direction::Tx, Direction::Rx].map(|direction| {
            let place = Place {
                flow,
                direction,
                client,
            };
            rules.concerns(place)
        });
        if let Some(streams) = &mut judged.streams {
            streams.iter_mut().for_each(|stream| stream.begin_anew(rules));
        } else if flow.protocol == TCP && judged.reach.contains(&true) {
            judged.streams = Some(Box::new([Stream::new(rules), Stream::new(rules)]));
        }
    }

    /// Gives back what a flow's streams were charged.
    pub(super) fn close(&mut self, judged: &mut Judged) {
        for stream in judged.streams.iter_mut().flat_map(|streams| streams.iter_mut()) {
            stream.close(&mut self.budget);
        }
    }

    pub(super) fn drain_matches(&mut self, matches: &mut Vec<RuleMatch>) {
        matches.extend(self.recent.drain(..));
    }

    /// Judges a frame of a flow, a TCP segment in its stream or a UDP datagram by itself. A copy that is to be made of it stands
    /// before whatever becomes of it.
    pub(super) fn frame(
        &mut self,
        now: Instant,
        flow: &FlowKey,
        judged: &mut Judged,
        frame: &FrameRef<'_>,
        counters: &mut FilterCounters,
        actions: &mut Vec<Action>,
    ) -> Verdict {
        if judged.generation != self.generation {
            self.refresh(flow, judged);
        }
        let verdict = match frame.meta.tcp() {
            Some(tcp) => self.segment(now, flow, judged, tcp, frame, counters),
            None if !judged.reach[frame.direction as usize] => Verdict::Pass,
            None => self.judge(
                now,
                flow,
                judged.client,
                &mut judged.mirror,
                frame,
                counters,
                |judging| judging.whole(frame.payload),
            ),
        };
        if let Some(port) = &judged.mirror {
            counters.mirrored += 1;
            actions.push(Action::Mirror(frame.id, Arc::clone(port)));
        }
        verdict
    }

    fn segment(
        &mut self,
        now: Instant,
        flow: &FlowKey,
        judged: &mut Judged,
        tcp: &TcpMeta,
        frame: &FrameRef<'_>,
        counters: &mut FilterCounters,
    ) -> Verdict {
        let (Some(rules), Some(streams)) = (self.rules.as_ref(), judged.streams.as_mut()) else {
            return Verdict::Pass;
        };
        let [tx, rx] = &mut **streams;
        let (forth, back) = match frame.direction {
            Direction::Tx => (tx, rx),
            Direction::Rx => (rx, tx),
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
        if !judged.reach[frame.direction as usize] {
            return Verdict::Pass;
        }
        let payload = payload(frame, tcp.payload_len);
        self.judge(
            now,
            flow,
            judged.client,
            &mut judged.mirror,
            frame,
            counters,
            |judging| {
                // Octets that the owner did not show are a gap that only the receiver's acknowledgement closes.
                judging.failed_open = payload.len() < tcp.payload_len as usize;
                forth.judge(seq, payload, judging)
            },
        )
    }

    #[allow(clippy::too_many_arguments)] // all of a frame's context, borrowed apart
    fn judge(
        &mut self,
        now: Instant,
        flow: &FlowKey,
        client: Direction,
        mirror: &mut Option<Arc<str>>,
        frame: &FrameRef<'_>,
        counters: &mut FilterCounters,
        work: impl FnOnce(&mut Judging<'_>) -> Verdict,
    ) -> Verdict {
        let Some(rules) = self.rules.as_ref() else {
            return Verdict::Pass;
        };
        let recent = &mut self.recent;
        let mut found = |rule: &Compiled| {
            counters.matches += 1;
            if recent.len() == RECENT {
                recent.pop_front();
            }
            recent.push_back(RuleMatch {
                at: now,
                rule: Arc::clone(&rule.name),
                action: rule.action,
                flow: *flow,
                direction: frame.direction,
            });
            if mirror.is_none() {
                mirror.clone_from(&rule.mirror_to);
            }
        };
        let mut judging = Judging {
            rules,
            place: Place {
                flow,
                direction: frame.direction,
                client,
            },
            budget: &mut self.budget,
            scratch: &mut self.scratch,
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
