//! Receive segment coalescing (RSC): merging adjacent TCP segments of a flow into one large frame, which can be undone.
//!
//! A [`Coalescer`] takes a burst's frames one by one and passes them on, merged where the rules allow it. It does no I/O and
//! looks at no clock: the end of a burst is the only time-out. A merged frame has the form of a large send, with a
//! GSO size and a partial checksum, so it can be delivered to a receiver that takes those or be cut by [`crate::Segmenter`]. With
//! its [`Parts`] the very frames that it was made of can be had back.
//!
//! Segments are merged when a receiver could not tell, the rules of Linux' generic receive offload (`net/ipv4/tcp_offload.c`,
//! `net/ipv4/af_inet.c`):
//! - equal Ethernet headers with all tags, addresses, ports, traffic class with its ECN mark, hop limit, flow label, DF;
//! - no IP options, extension headers, fragments, or octets behind the packet;
//! - payload that follows in sequence, of the first one's length or, at the end, shorter;
//! - equal acknowledgement number, window and options, timestamps included. Windows' rules (NDIS 6.30, "Rules for Coalescing
//!   TCP/IP Segments") also merge growing timestamps and acknowledgements, and tell the host of them beside the frame; nothing
//!   here would;
//! - ACK set, no SYN, RST or URG; PSH and FIN end a merged frame, CWR only starts one; other flags are equal;
//! - IPv4 identifications that count up by one or, with DF, stay the same;
//! - checksums that are known to be right, or found to be here; or still partial, all alike.

mod candidate;
mod undo;

use core::net::IpAddr;

use crate::checksum::{fold, internet, pseudo_header};
use crate::octets::put;
use crate::offloads::TCP_FIELD;
use crate::view::{Ipv6View, protocol};
use crate::{Checksum, FrameMeta, Gso, GsoKind, IpMeta, Network, Offloads, TcpFlags, TcpMeta, Transport};
use candidate::Candidate;
pub use undo::{Parts, Undo};

/// Octets of the longest frame that is made: an IPv4 packet of 65,535 octets behind an Ethernet header with two tags.
pub const MAX_LEN: usize = 22 + u16::MAX as usize;

/// A frame that leaves a [`Coalescer`].
#[derive(Clone, Copy, Debug)]
pub struct Coalesced<'a> {
    /// The frame.
    pub frame: &'a [u8],
    /// What [`crate::parse`] says of it.
    pub meta: FrameMeta,
    /// What is still to be done to it: for a merged frame, segmentation.
    pub offloads: Offloads,
    /// What it was merged from; `None` for a frame that leaves as it came.
    pub parts: Option<&'a Parts>,
}

/// Merges the segments of a bounded number of flows.
///
/// Memory is taken once: 64 KiB for each flow. Frames of one flow leave in the order in which they came; a frame that cannot be merged
/// leaves at once, behind those of its flow that are held.
#[derive(Debug)]
pub struct Coalescer {
    slots: Box<[Slot]>,
    /// Slots that hold something, the oldest first.
    held: Vec<usize>,
}

/// Segments of one flow that are being merged.
#[derive(Debug)]
struct Slot {
    /// The first segment's headers and the payload so far.
    octets: Vec<u8>,
    meta: FrameMeta,
    parts: Parts,
    next_seq: u32,
}

impl Coalescer {
    /// Flows that are worth holding: beyond a burst's frames none could be used.
    pub const MAX_FLOWS: usize = 64;

    /// For up to `flows` flows at a time, 1 to [`Self::MAX_FLOWS`]; other numbers are brought into that range.
    pub fn new(flows: usize) -> Self {
        let flows = flows.clamp(1, Self::MAX_FLOWS);
        let slots: Box<[Slot]> = (0..flows).map(|_| Slot::new()).collect();
        Self {
            slots,
            held: Vec::with_capacity(flows),
        }
    }

    /// Flows of which something is held.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Takes a whole frame, of which `meta` was parsed, and passes on to `out`, in order, what need not be held any longer.
    pub fn push(
        &mut self,
        frame: &[u8],
        meta: &FrameMeta,
        offloads: &Offloads,
        out: &mut impl FnMut(Coalesced<'_>),
    ) {
        let Some((ip, tcp)) = tcp_of(meta) else {
            self.make_way(meta, out);
            return out(unchanged(frame, meta, offloads));
        };
        let candidate = Candidate::read(frame, meta, offloads);
        let held = self.find(ip, tcp);
        if let (Some(place), Some(candidate)) = (held, &candidate)
            && let Some(slot) = self.slot(place)
            && let Some(done) = slot.append(candidate)
        {
            if done {
                self.release(place, out);
            }
            return;
        }
        if let Some(place) = held {
            self.release(place, out);
        }
        match candidate {
            Some(candidate) if !candidate.ends => self.start(&candidate, out),
            _ => out(unchanged(frame, meta, offloads)),
        }
    }

    /// Passes on everything that is held, the oldest flow first: the end of a burst.
    pub fn flush(&mut self, out: &mut impl FnMut(Coalesced<'_>)) {
        while !self.held.is_empty() {
            self.release(0, out);
        }
    }

    fn find(&self, ip: &IpMeta, tcp: &TcpMeta) -> Option<usize> {
        self.held.iter().position(|&index| {
            self.slots.get(index).is_some_and(|slot| {
                tcp_of(&slot.meta).is_some_and(|(held_ip, held)| {
                    (held.src_port, held.dst_port) == (tcp.src_port, tcp.dst_port)
                        && (held_ip.src, held_ip.dst) == (ip.src, ip.dst)
                })
            })
        })
    }

    /// Lets flows go that a packet without readable ports may belong to.
    fn make_way(&mut self, meta: &FrameMeta, out: &mut impl FnMut(Coalesced<'_>)) {
        let Some(ip) = meta.ip().filter(|ip| ip.transport == Transport::Other) else {
            return;
        };
        let addresses: (IpAddr, IpAddr) = (ip.src, ip.dst);
        let same = |slot: &Slot| {
            slot.meta
                .ip()
                .is_some_and(|held| (held.src, held.dst) == addresses)
        };
        while let Some(place) = self
            .held
            .iter()
            .position(|&index| self.slots.get(index).is_some_and(same))
        {
            self.release(place, out);
        }
    }

    fn slot(&mut self, place: usize) -> Option<&mut Slot> {
        self.slots.get_mut(*self.held.get(place)?)
    }

    /// Holds a first segment; the oldest flow makes room if need be.
    fn start(&mut self, candidate: &Candidate<'_>, out: &mut impl FnMut(Coalesced<'_>)) {
        if self.held.len() == self.slots.len() {
            self.release(0, out);
        }
        let free = (0..self.slots.len()).find(|index| !self.held.contains(index));
        if let Some((index, slot)) = free.and_then(|index| Some((index, self.slots.get_mut(index)?))) {
            slot.start(candidate);
            self.held.push(index);
        }
    }

    fn release(&mut self, place: usize, out: &mut impl FnMut(Coalesced<'_>)) {
        let index = self.held.remove(place);
        if let Some(slot) = self.slots.get_mut(index) {
            out(slot.finish());
        }
    }
}

impl Slot {
    fn new() -> Self {
        Self {
            octets: Vec::with_capacity(MAX_LEN),
            meta: FrameMeta::NOTHING,
            parts: Parts::default(),
            next_seq: 0,
        }
    }

    fn start(&mut self, first: &Candidate<'_>) {
        self.octets.clear();
        self.octets.extend_from_slice(first.frame);
        self.meta = *first.meta;
        self.parts = Parts::first(first.size(), first.checksum, first.part);
        self.next_seq = first.tcp.seq.wrapping_add(first.tcp.payload_len);
    }

    /// Adds a segment if the rules allow it, and says whether it must be the last.
    fn append(&mut self, next: &Candidate<'_>) -> Option<bool> {
        let len = self.octets.len() + next.payload().len();
        let packet = len - usize::from(self.meta.network_offset);
        let fits = u16::try_from(packet).is_ok()
            && !self.parts.is_full()
            && next.size() <= self.parts.size()
            && next.tcp.seq == self.next_seq
            && self.parts.accept(next.checksum, next.part, next.has_free_id)
            && next.continues(&self.octets, &self.meta);
        if !fits {
            return None;
        }
        self.octets.extend_from_slice(next.payload());
        self.parts.push(next.part);
        self.next_seq = self.next_seq.wrapping_add(next.tcp.payload_len);
        Some(next.ends || next.size() < self.parts.size() || self.parts.is_full())
    }

    /// The frame that was made, or the only one that came, unchanged.
    fn finish(&mut self) -> Coalesced<'_> {
        let merged = if self.parts.len() > 1 {
            self.write_headers()
        } else {
            None
        };
        let offloads = merged.unwrap_or(Offloads {
            checksum: self.parts.checksum(),
            gso: None,
        });
        Coalesced {
            frame: &self.octets,
            meta: self.meta,
            offloads,
            parts: merged.map(|_| &self.parts),
        }
    }

    /// Turns the first segment's headers into those of all. [`Candidate::read`] has seen that the fields exist.
    fn write_headers(&mut self) -> Option<Offloads> {
        let len = self.octets.len();
        self.meta.frame_len = len as u32;
        let network = usize::from(self.meta.network_offset);
        let (Network::Ipv4(ip) | Network::Ipv6(ip)) = &mut self.meta.network else {
            return None;
        };
        ip.end = len as u32;
        let Transport::Tcp(tcp) = &mut ip.transport else {
            return None;
        };
        tcp.payload_len = len as u32 - u32::from(tcp.payload_offset);
        tcp.flags.0 |= self.parts.last_flags();
        let (transport, v4) = (usize::from(ip.transport_offset), ip.src.is_ipv4());
        let header = self.octets.get_mut(network..transport)?;
        if v4 {
            put(header, 2, ((len - network) as u16).to_be_bytes())?;
            put(header, 10, [0, 0])?;
            let check = internet(header);
            put(header, 10, check.to_be_bytes())?;
        } else {
            put(header, 4, ((len - network - Ipv6View::LEN) as u16).to_be_bytes())?;
        }
        let pseudo = pseudo_header(ip.src, ip.dst, protocol::TCP, (len - transport) as u32);
        let header = self.octets.get_mut(transport..)?;
        put(header, 13, [tcp.flags.0])?;
        put(header, TCP_FIELD.into(), fold(pseudo).to_be_bytes())?;
        Some(Offloads {
            checksum: Checksum::Partial {
                start: transport as u16,
                offset: TCP_FIELD,
            },
            gso: Some(Gso {
                kind: if v4 { GsoKind::Tcp4 } else { GsoKind::Tcp6 },
                size: self.parts.size(),
                ecn: tcp.flags.any(TcpFlags::CWR),
            }),
        })
    }
}

fn unchanged<'a>(frame: &'a [u8], meta: &FrameMeta, offloads: &Offloads) -> Coalesced<'a> {
    Coalesced {
        frame,
        meta: *meta,
        offloads: *offloads,
        parts: None,
    }
}

fn tcp_of(meta: &FrameMeta) -> Option<(&IpMeta, &TcpMeta)> {
    meta.ip().zip(meta.tcp())
}

#[cfg(test)]
mod tests;
