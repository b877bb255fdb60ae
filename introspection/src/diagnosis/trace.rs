//! Sorting a capture's frames into connections.

use std::collections::HashMap;
use std::time::Duration;

use offload::{FrameMeta, TcpFlags, TcpMeta};
use serde::{Deserialize, Serialize};

use super::counterfactual::{self, Counterfactual};
use super::finding::Finding;
use super::judge;
use super::limits::Limits;
use super::pairing::{Crossing, pair};
use crate::flow::FlowKey;
use crate::{Direction, Instant};

/// Where a frame was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tap {
    /// The first file or interface.
    First,
    /// The second one, on the other side of a filter.
    Second,
}

/// A frame of a capture.
#[derive(Clone, Copy, Debug)]
pub struct TraceFrame<'a> {
    /// Its number in its file, from 1.
    pub number: u64,
    /// When it was seen.
    pub at: Instant,
    /// Where it was seen.
    pub tap: Tap,
    /// Its headers.
    pub meta: &'a FrameMeta,
    /// The maximum segment size that it announces (RFC 9293, 3.7.1).
    pub mss: Option<u16>,
}

/// How a stall is told, and how much is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiagnosisOptions {
    /// Shorter gaps are no stalls.
    pub threshold: Duration,
    /// What follows an acknowledgement within this time, and the path, may have waited for it.
    pub prompt: Duration,
    /// Frames remembered at most; each takes 48 octets while they are read, and some 400 while its connection is judged.
    pub frames: usize,
    /// Connections at most.
    pub connections: usize,
}

impl Default for DiagnosisOptions {
    fn default() -> Self {
        Self {
            threshold: Duration::from_millis(25),
            prompt: Duration::from_millis(5),
            frames: 4_000_000,
            connections: 1_000_000,
        }
    }
}

/// A connection, judged.
#[derive(Clone, Debug, Serialize)]
pub struct FlowDiagnosis {
    /// The flow; the lesser of its ends counts as the local one.
    pub flow: FlowKey,
    /// Its first frame.
    pub start: Instant,
    /// From its first frame to its last, in nanoseconds.
    pub duration_ns: u64,
    /// Its frames at both taps.
    pub frames: u64,
    /// Payload octets each way: from the local end, and from the remote one.
    pub octets: [u64; 2],
    /// Whether it was seen at both taps.
    pub two_taps: bool,
    /// Whether one direction is missing.
    pub one_way: bool,
    /// Stretches in which it stood still, by time.
    pub findings: Vec<Finding>,
    /// What it would have been without the filter, when it was seen on both sides of one.
    pub without_filter: Option<Counterfactual>,
}

/// A frame as remembered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) number: u64,
    pub(super) at: u64,
    pub(super) tap: Tap,
    pub(super) direction: Direction,
    pub(super) seq: u32,
    pub(super) payload: u32,
    pub(super) ack: u32,
    pub(super) window: u16,
    pub(super) flags: TcpFlags,
}

impl Seen {
    pub(super) fn of(number: u64, at: Instant, tap: Tap, direction: Direction, tcp: &TcpMeta) -> Self {
        Self {
            number,
            at: at.0,
            tap,
            direction,
            seq: tcp.seq,
            payload: tcp.payload_len,
            ack: if tcp.flags.any(TcpFlags::ACK) { tcp.ack } else { 0 },
            window: tcp.window,
            flags: tcp.flags,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Connection {
    pub(super) frames: Vec<Seen>,
    /// The sequence number of the SYN of each direction.
    syn: [Option<u32>; 2],
    /// The smaller maximum segment size that its ends announced.
    pub(super) mss: Option<u16>,
    ended: bool,
}

/// A capture that is being taken in. Sans-I/O: it is shown frames and never reads a clock.
#[derive(Debug, Default)]
pub struct Trace {
    options: DiagnosisOptions,
    flows: HashMap<FlowKey, Vec<Connection>>,
    frames: usize,
    connections: usize,
    left_out: u64,
}

impl Trace {
    /// A trace without frames.
    pub fn new(options: DiagnosisOptions) -> Self {
        Self {
            options,
            ..Self::default()
        }
    }

    /// Takes a frame in. Frames other than TCP are passed over. Frames may come in any order of time.
    pub fn add(&mut self, frame: &TraceFrame<'_>) {
        let (Some(tcp), Some((key, direction))) = (frame.meta.tcp(), FlowKey::canonical(frame.meta)) else {
            return;
        };
        if self.frames >= self.options.frames {
            self.left_out += 1;
            return;
        }
        let seen = Seen::of(frame.number, frame.at, frame.tap, direction, tcp);
        let full = self.connections >= self.options.connections;
        if full && !self.flows.contains_key(&key) {
            self.left_out += 1;
            return;
        }
        let connections = self.flows.entry(key).or_default();
        let begins = connections.last().is_none_or(|last| last.is_over_for(&seen));
        if begins && (!full || connections.is_empty()) {
            connections.push(Connection::default());
            self.connections += 1;
        }
        if let Some(connection) = connections.last_mut() {
            connection.take(seen, frame.mss);
            self.frames += 1;
        }
    }

    /// Frames that were not remembered because there were too many.
    pub const fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Frames of TCP that were remembered.
    pub const fn frames(&self) -> usize {
        self.frames
    }

    /// Judges every connection; the ones that lost most time first.
    pub fn judge(self) -> Vec<FlowDiagnosis> {
        let options = self.options;
        let mut flows: Vec<FlowDiagnosis> = self
            .flows
            .into_iter()
            .flat_map(|(flow, connections)| connections.into_iter().map(move |one| (flow, one)))
            .map(|(flow, connection)| diagnose(flow, &connection, &options))
            .collect();
        let lost = |flow: &FlowDiagnosis| flow.findings.iter().map(|finding| finding.gap_ns).sum::<u64>();
        flows.sort_by_cached_key(|flow| (core::cmp::Reverse(lost(flow)), flow.start, flow.flow));
        flows
    }
}

impl Connection {
    /// One of which nothing but these frames is known.
    pub(super) fn of(frames: Vec<Seen>) -> Self {
        Self {
            frames,
            ..Self::default()
        }
    }

    /// Whether a frame begins another connection between the same ends.
    fn is_over_for(&self, seen: &Seen) -> bool {
        let known = self.syn.get(seen.direction as usize).copied().flatten();
        let opens = seen.flags.any(TcpFlags::SYN) && !seen.flags.any(TcpFlags::ACK);
        opens && (known.is_some_and(|seq| seq != seen.seq) || (known.is_none() && self.ended))
    }

    fn take(&mut self, seen: Seen, mss: Option<u16>) {
        if seen.flags.any(TcpFlags::SYN)
            && let Some(syn) = self.syn.get_mut(seen.direction as usize)
        {
            *syn = Some(seen.seq);
        }
        self.ended |= seen.flags.any(TcpFlags::FIN | TcpFlags::RST);
        self.mss = match (self.mss, mss) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        self.frames.push(seen);
    }
}

fn diagnose(flow: FlowKey, connection: &Connection, options: &DiagnosisOptions) -> FlowDiagnosis {
    let (crossings, two_taps) = pair(connection);
    let limits = Limits::new(options, connection.mss, two_taps);
    let findings = judge::judge(flow, &crossings, limits);
    let without_filter = two_taps.then(|| counterfactual::replay(flow, &crossings, &findings, limits));
    let payload = |direction| {
        let frames = crossings.iter().filter(|frame| frame.direction == direction);
        frames.map(|frame| u64::from(frame.payload)).sum()
    };
    let (start, end) = span(&crossings);
    let way = |direction| crossings.iter().any(|frame| frame.direction == direction);
    FlowDiagnosis {
        flow,
        start: Instant(start),
        duration_ns: end - start,
        frames: connection.frames.len() as u64,
        octets: [payload(Direction::Tx), payload(Direction::Rx)],
        two_taps,
        one_way: !(way(Direction::Tx) && way(Direction::Rx)),
        findings,
        without_filter,
    }
}

/// When the first frame was seen, and the last.
pub(super) fn span(crossings: &[Crossing]) -> (u64, u64) {
    let start = crossings.iter().map(|frame| frame.entered).min().unwrap_or(0);
    let ends = crossings.iter().map(|frame| frame.left.unwrap_or(frame.entered));
    (start, ends.max().unwrap_or(0).max(start))
}
