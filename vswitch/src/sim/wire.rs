//! What goes into the switch and what comes out of it, flow by flow.
//!
//! Large sends are looked at as the segments that they stand for, so that it does not matter who cuts them.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use introspection::Instant;
use offload::VnetHeader;

use super::headers::{self, FIN, Headers, SYN, TCP};

const PSH: u8 = 8;
/// Congestion window reduced (RFC 3168, 6.1.2).
pub(super) const CWR: u8 = 0x80;

type Flow = (IpAddr, IpAddr, u8, u16, u16);

/// What of a flow is in the switch.
#[derive(Default)]
struct Passage {
    segments: VecDeque<Segment>,
    /// The sequence number behind all that TCP has sent.
    end: Option<u32>,
}

#[derive(Clone, Copy)]
struct Segment {
    hash: u64,
    /// It has payload, SYN or FIN that was not sent before.
    new: bool,
}

/// All flows through the switch, and the trace of all deliveries.
#[derive(Default)]
pub(super) struct Wire {
    flows: HashMap<Flow, Passage>,
    /// Acknowledgements and repetitions may overtake, as the profile `serialize` lets them, or stay out (`thin-acks`).
    pub(super) relaxed: bool,
    trace: DefaultHasher,
    pub(super) delivered: u64,
}

impl Wire {
    /// A frame was put into a ring.
    pub(super) fn enter(&mut self, vnet: VnetHeader, frame: &[u8]) {
        let Some(headers) = headers::read(frame).expect("hosts send sound frames") else {
            return;
        };
        if is_multicast(headers.dst) {
            return;
        }
        let passage = self.flows.entry(flow(&headers)).or_default();
        for (hash, end) in segments(vnet, &headers, frame) {
            // Behind a lost segment, an acknowledgement's number is ahead too, but it brings nothing.
            let ahead = |end: u32, last: u32| end.wrapping_sub(last).cast_signed() > 0;
            let brings = end.is_some_and(|end| passage.end.is_none_or(|last| ahead(end, last)));
            let new = headers.protocol != TCP || brings;
            if new {
                passage.end = end;
            }
            passage.segments.push_back(Segment { hash, new });
        }
    }

    /// A frame came out of one.
    pub(super) fn leave(&mut self, now: Instant, host: usize, vnet: VnetHeader, frame: &[u8]) {
        (now.0, host, vnet.to_bytes(), frame).hash(&mut self.trace);
        self.delivered += 1;
        let Some(headers) = headers::read(frame).expect("the switch delivers sound frames") else {
            return;
        };
        if is_multicast(headers.dst) {
            return;
        }
        let sent = &mut self.flows.entry(flow(&headers)).or_default().segments;
        for (hash, _) in segments(vnet, &headers, frame) {
            let place = sent.iter().position(|other| other.hash == hash);
            let place = place.unwrap_or_else(|| panic!("changed on the way: {headers:?}"));
            let waiting = sent.range(..place).any(|other| other.new || !self.relaxed);
            let may_overtake = self.relaxed && !sent[place].new;
            assert!(
                !waiting || may_overtake,
                "segment {place} overtakes others: {headers:?}"
            );
            sent.remove(place);
        }
    }

    /// Shows that all that went in came out, but for at most so many acknowledgements that were left out.
    pub(super) fn settle(&self, thinned: u64) {
        let mut rest = 0;
        for (flow, passage) in &self.flows {
            let lost = passage.segments.iter().find(|segment| segment.new);
            assert!(lost.is_none(), "segments of {flow:?} are lost");
            rest += passage.segments.len() as u64;
        }
        // What is flooded may be left out at several ports.
        assert!(
            rest <= thinned,
            "{rest} segments are lost, {thinned} were left out"
        );
    }

    /// A number for all that was delivered, when and to whom.
    pub(super) fn trace(&self) -> u64 {
        self.trace.finish()
    }
}

fn flow(headers: &Headers) -> Flow {
    let (from, to) = headers.ports;
    (headers.src, headers.dst, headers.protocol, from, to)
}

fn is_multicast(address: IpAddr) -> bool {
    address.is_multicast() || address == IpAddr::V4([255; 4].into())
}

/// A hash of each segment, of payload and of where TCP says that it belongs; and the sequence number behind it, if it takes
/// any.
fn segments(vnet: VnetHeader, headers: &Headers, frame: &[u8]) -> Vec<(u64, Option<u32>)> {
    let payload = &frame[headers.payload..headers.end];
    let step = if vnet.gso_type == VnetHeader::GSO_NONE {
        payload.len()
    } else {
        vnet.gso_size.into()
    };
    let parts: Vec<&[u8]> = if payload.is_empty() {
        vec![payload]
    } else {
        payload.chunks(step).collect()
    };
    let last = parts.len() - 1;
    let mut offset = 0_u32;
    let hash = |(index, part): (usize, &&[u8])| {
        let mut hasher = DefaultHasher::new();
        part.hash(&mut hasher);
        let mut end = None;
        if headers.protocol == TCP {
            let (seq, mut flags) = headers.tcp(frame);
            let seq = seq.wrapping_add(offset);
            flags &= if index == last { 0xff } else { !(FIN | PSH) };
            flags &= if index == 0 { 0xff } else { !CWR };
            (seq, flags).hash(&mut hasher);
            frame[headers.transport + 8..headers.transport + 12].hash(&mut hasher);
            let len = part.len() as u32 + u32::from(flags & (SYN | FIN) != 0);
            end = (len > 0).then(|| seq.wrapping_add(len));
        }
        offset += part.len() as u32;
        (hasher.finish(), end)
    };
    parts.iter().enumerate().map(hash).collect()
}
