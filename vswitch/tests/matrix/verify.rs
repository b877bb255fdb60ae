//! Judges every frame that reaches a receiver, by rules of its own: none of the switch's parsing is used.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use offload::VnetHeader;
use vswitch::port::Capabilities;

use super::headers::{self, Fragment, Headers, ones_complement};

/// What a receiver agreed to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) can: Capabilities,
    /// Octets of the largest IP packet.
    pub(crate) mtu: u16,
    pub(crate) vlan: Option<u16>,
    /// The header comes from the switch itself: lengths in it are exact.
    pub(crate) exact: bool,
}

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
        self.judge_request(vnet)?;
        let Some(headers) = headers::read(frame)? else {
            let plain = vnet.flags == 0 && vnet.gso_type == 0;
            return expect(plain, || "an offload of a frame that is not IP".to_owned());
        };
        let vlan = tag.or(headers.vlan);
        expect(vlan == self.limits.vlan, || format!("VLAN {vlan:?}"))?;
        let padded = frame.len() == 60 && headers.end < 60;
        expect(frame.len() == headers.end || padded, || {
            format!("a packet that ends at {}", headers.end)
        })?;
        self.judge_length(vnet, &headers)?;
        judge_checksums(vnet, &headers, frame)?;
        self.seen.partial += u64::from(vnet.flags & VnetHeader::NEEDS_CSUM != 0);
        self.follow(vnet, &headers, frame)
    }

    /// Nothing that was not negotiated.
    fn judge_request(&self, vnet: &VnetHeader) -> Result<(), String> {
        let can = self.limits.can;
        let known = VnetHeader::NEEDS_CSUM | VnetHeader::DATA_VALID;
        expect(vnet.flags & !known == 0, || "unknown flags".to_owned())?;
        expect(vnet.flags == 0 || can.checksum, || {
            "a checksum flag that was not negotiated".to_owned()
        })?;
        let agreed = match vnet.gso_type & !VnetHeader::GSO_ECN {
            VnetHeader::GSO_NONE => vnet.gso_type == 0 && vnet.gso_size == 0,
            VnetHeader::GSO_TCPV4 => can.tso4,
            VnetHeader::GSO_TCPV6 => can.tso6,
            VnetHeader::GSO_UDP_L4 => can.uso4 || can.uso6,
            _ => false,
        };
        expect(agreed, || "a large send that was not negotiated".to_owned())?;
        let ecn = vnet.gso_type & VnetHeader::GSO_ECN != 0;
        expect(!ecn || can.ecn, || "ECN that was not negotiated".to_owned())
    }

    /// Within the MTU, or cut into what is.
    fn judge_length(&mut self, vnet: &VnetHeader, headers: &Headers) -> Result<(), String> {
        let mtu = usize::from(self.limits.mtu);
        let len = headers.end - headers.network;
        if vnet.gso_type == VnetHeader::GSO_NONE {
            return expect(len <= mtu, || format!("a packet of {len} octets"));
        }
        let (protocol, v6) = match vnet.gso_type & !VnetHeader::GSO_ECN {
            VnetHeader::GSO_TCPV4 => (headers::TCP, Some(false)),
            VnetHeader::GSO_TCPV6 => (headers::TCP, Some(true)),
            _ => (headers::UDP, None),
        };
        let fits = headers.protocol == protocol && v6.is_none_or(|v6| v6 == headers.is_v6());
        expect(fits && headers.fragment.is_none(), || {
            "a large send of another kind".to_owned()
        })?;
        let segment = headers.payload - headers.network + usize::from(vnet.gso_size);
        expect(segment <= mtu, || format!("segments of {segment} octets"))?;
        let payload = headers.end - headers.payload;
        expect(payload > usize::from(vnet.gso_size), || {
            "a large send of one segment".to_owned()
        })?;
        expect(vnet.flags & VnetHeader::NEEDS_CSUM != 0, || {
            "a large send without a partial checksum".to_owned()
        })?;
        let exact = !self.limits.exact || usize::from(vnet.hdr_len) == headers.payload;
        expect(exact, || format!("headers of {} octets", headers.payload))?;
        if protocol == headers::TCP {
            self.seen.large_tcp += 1;
            self.seen.ecn += u64::from(vnet.gso_type & VnetHeader::GSO_ECN != 0);
        } else {
            self.seen.large_udp += 1;
        }
        Ok(())
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

/// Complete, or partial in the proper way.
fn judge_checksums(vnet: &VnetHeader, headers: &Headers, frame: &[u8]) -> Result<(), String> {
    if !headers.is_v6() {
        let header = &frame[headers.network..headers.transport];
        expect(ones_complement(header, 0) == 0xffff, || {
            "a wrong IPv4 checksum".to_owned()
        })?;
    }
    let partial = vnet.flags & VnetHeader::NEEDS_CSUM != 0;
    if headers.fragment.is_some() {
        return expect(!partial, || "a partial checksum of a fragment".to_owned());
    }
    let Some(field) = headers.checksum_field() else {
        return expect(!partial, || {
            "a partial checksum of an unknown protocol".to_owned()
        });
    };
    let segment = &frame[headers.transport..headers.end];
    let stored = u16::from_be_bytes([segment[field], segment[field + 1]]);
    if partial {
        let place = (usize::from(vnet.csum_start), usize::from(vnet.csum_offset));
        expect(place == (headers.transport, field), || {
            "a checksum in another place".to_owned()
        })?;
        let pseudo = ones_complement(&[], headers.pseudo_header());
        return expect(stored == pseudo, || {
            format!("{stored:#x} where {pseudo:#x} is the pseudo-header's sum")
        });
    }
    let sum = ones_complement(segment, headers.pseudo_header());
    let absent = headers.protocol == headers::UDP && stored == 0;
    expect(sum == 0xffff && !absent, || {
        "a wrong transport checksum".to_owned()
    })
}

fn expect(condition: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if condition { Ok(()) } else { Err(otherwise()) }
}
