//! Follows all flows that reach a receiver.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use offload::VnetHeader;

use super::headers::{self, Fragment, Headers};
use super::judge::{Limits, expect, judge};

/// What was there, to show that a cell tested what it stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) frames: u64,
    pub(crate) partial: u64,
    pub(crate) large_tcp: u64,
    pub(crate) large_udp: u64,
    pub(crate) fragments: u64,
    pub(crate) datagrams: u64,
    /// Large TCP with CWR.
    pub(crate) ecn: u64,
    /// TCP octets that came again.
    pub(crate) again: u64,
}

impl Seen {
    pub(crate) fn add(&mut self, other: Self) {
        self.frames += other.frames;
        self.partial += other.partial;
        self.large_tcp += other.large_tcp;
        self.large_udp += other.large_udp;
        self.fragments += other.fragments;
        self.datagrams += other.datagrams;
        self.ecn += other.ecn;
        self.again += other.again;
    }
}

/// A receiver's side of the wire.
pub(crate) struct Verifier {
    limits: Limits,
    seen: Seen,
    faults: Vec<String>,
    /// The next sequence number of each TCP flow, the next counter of each UDP flow.
    next: HashMap<Flow, u32>,
    /// TCP flows that had a FIN.
    ended: HashSet<Flow>,
    /// The datagram that is coming in fragments: sender, identification, next offset.
    open: Option<(IpAddr, u32, u32)>,
}

/// Source, ports, protocol.
type Flow = (IpAddr, u16, u16, u8);

/// Faults that are told; a cell that is wrong is wrong in every frame.
const TOLD: usize = 4;

impl Verifier {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            seen: Seen::default(),
            faults: Vec::new(),
            next: HashMap::new(),
            ended: HashSet::new(),
            open: None,
        }
    }

    /// What was seen and what was wrong since the last time.
    pub(crate) fn take(&mut self) -> (Seen, Vec<String>) {
        (std::mem::take(&mut self.seen), std::mem::take(&mut self.faults))
    }

    pub(crate) fn fault(&mut self, what: String) {
        if self.faults.len() < TOLD {
            self.faults.push(what);
        }
    }

    /// Takes a frame; `tag` is a tag that was taken out of it before.
    pub(crate) fn frame(&mut self, vnet: &VnetHeader, tag: Option<u16>, frame: &[u8]) {
        self.seen.frames += 1;
        if let Err(what) = self.judge(vnet, tag, frame) {
            let head = &frame[..frame.len().min(96)];
            self.fault(format!("{what}: {vnet:?}, {} octets: {head:02x?}", frame.len()));
        }
    }

    fn judge(&mut self, vnet: &VnetHeader, tag: Option<u16>, frame: &[u8]) -> Result<(), String> {
        let Some(headers) = judge(&self.limits, vnet, tag, frame)? else {
            return Ok(());
        };
        self.seen.partial += u64::from(vnet.flags & VnetHeader::NEEDS_CSUM != 0);
        match vnet.gso_type & !VnetHeader::GSO_ECN {
            VnetHeader::GSO_NONE => {}
            VnetHeader::GSO_UDP_L4 => self.seen.large_udp += 1,
            _ => self.seen.large_tcp += 1,
        }
        self.seen.ecn += u64::from(vnet.gso_type & VnetHeader::GSO_ECN != 0);
        self.follow(vnet, &headers, frame)
    }

    /// In order, and nothing left out.
    fn follow(&mut self, vnet: &VnetHeader, headers: &Headers, frame: &[u8]) -> Result<(), String> {
        if let Some(fragment) = headers.fragment {
            self.seen.fragments += 1;
            self.follow_fragment(fragment, headers)?;
            if fragment.offset > 0 {
                return Ok(());
            }
        }
        let payload = &frame[headers.payload..headers.end];
        match headers.protocol {
            headers::TCP => self.follow_tcp(headers, frame, payload.len()),
            headers::UDP => {
                let step = if vnet.gso_size > 0 {
                    vnet.gso_size.into()
                } else {
                    payload.len().max(1)
                };
                for segment in payload.chunks(step) {
                    self.follow_datagram(headers, segment)?;
                }
                Ok(())
            }
            _ => expect(!headers.is_error(frame), || "an ICMP error".to_owned()),
        }
    }

    fn follow_fragment(&mut self, fragment: Fragment, headers: &Headers) -> Result<(), String> {
        let expected = match self.open {
            Some((src, id, offset)) if src == headers.src && id == fragment.id => offset,
            _ => 0,
        };
        let next = fragment.offset + (headers.end - headers.transport) as u32;
        self.open = fragment.more.then_some((headers.src, fragment.id, next));
        expect(fragment.offset == expected, || {
            format!(
                "a fragment at {} where one at {expected} was due",
                fragment.offset
            )
        })
    }

    fn follow_tcp(&mut self, headers: &Headers, frame: &[u8], payload: usize) -> Result<(), String> {
        let (seq, flags) = headers.tcp(frame);
        let flow = (headers.src, headers.ports.0, headers.ports.1, headers::TCP);
        if flags & headers::RST != 0 {
            // An answer to what comes again after the end.
            return expect(self.ended.contains(&flow), || "a reset".to_owned());
        }
        if flags & headers::FIN != 0 {
            self.ended.insert(flow);
        }
        let begins_and_ends = u32::from(flags & headers::SYN != 0) + u32::from(flags & headers::FIN != 0);
        let end = seq.wrapping_add(payload as u32 + begins_and_ends);
        let next = *self.next.get(&flow).unwrap_or(&seq);
        let ahead = seq.wrapping_sub(next).cast_signed();
        if end.wrapping_sub(next).cast_signed() > 0 || !self.next.contains_key(&flow) {
            self.next.insert(flow, end);
        }
        if ahead < 0 {
            self.seen.again += payload as u64;
        }
        expect(ahead <= 0, || format!("a gap of {ahead} octets in TCP"))
    }

    fn follow_datagram(&mut self, headers: &Headers, payload: &[u8]) -> Result<(), String> {
        self.seen.datagrams += 1;
        let counter = payload.first_chunk().map(|octets| u32::from_be_bytes(*octets));
        let counter = counter.ok_or("a datagram without a counter")?;
        let flow = (headers.src, headers.ports.0, headers.ports.1, headers::UDP);
        let next = self.next.insert(flow, counter.wrapping_add(1)).unwrap_or(0);
        expect(counter == next, || {
            format!("datagram {counter} where {next} was due")
        })
    }
}
