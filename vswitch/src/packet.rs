//! A frame with everything that the switch knows of it, and where its octets are.
//!
//! This module reads memory that guests share with the switch, which is why it may use `unsafe`. It only ever
//! copies out of such memory.
#![allow(unsafe_code)]

use introspection::Instant;
use offload::rss::{HashReport, HashTypes, Hasher, Toeplitz};
use offload::{Checksum, FrameMeta, Link, Network, Offloads};

use crate::frame::{Burst, Segment};
use crate::port::PortId;
use crate::ring::prefetch_tail;

/// A frame on its way, after parsing. Plain data: its octets stay in the worker's [`Arena`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet {
    /// What its headers say. Of one that asks for nothing and is shown to nobody, only the link layer was read.
    pub(crate) meta: FrameMeta,
    /// Whether all headers were read.
    pub(crate) is_parsed: bool,
    pub(crate) offloads: Offloads,
    /// The VLAN that it belongs to, whether or not it is tagged.
    pub(crate) vlan: u16,
    pub(crate) ingress: PortId,
    pub(crate) octets: Octets,
    pub(crate) times: Times,
}

/// Where a packet's octets are, in the worker's [`Arena`].
#[derive(Clone, Copy, Debug)]
pub(crate) enum Octets {
    /// Frame number so-and-so of the burst.
    Burst(u16),
    /// A private buffer.
    Owned(u32),
}

/// When a packet passed the stages, as far as it has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Times {
    pub(crate) start: Instant,
    pub(crate) doorbell: Instant,
    pub(crate) wait: Instant,
    pub(crate) parse: Instant,
    /// Nanoseconds spent in filters.
    pub(crate) filter: u64,
    /// Nanoseconds spent held.
    pub(crate) hold: u64,
}

impl Times {
    /// Whether they are taken: of a packet that is not stamped, the end of parsing is not known.
    pub(crate) const fn is_stamped(&self) -> bool {
        self.parse.0 != 0
    }
}

impl Packet {
    /// A place for a packet.
    pub(crate) const NOTHING: Self = Self {
        meta: FrameMeta::NOTHING,
        is_parsed: false,
        offloads: Offloads {
            checksum: Checksum::Complete,
            gso: None,
        },
        vlan: 0,
        ingress: PortId(0),
        octets: Octets::Burst(0),
        times: Times {
            start: Instant(0),
            doorbell: Instant(0),
            wait: Instant(0),
            parse: Instant(0),
            filter: 0,
            hold: 0,
        },
    };

    /// Notes what the link layer of a frame of `len` octets says. Field by field: a whole [`FrameMeta`] is ten times
    /// as long, and to write and read it back costs more than all the rest of a small frame's judgement.
    #[inline]
    pub(crate) fn set_link(&mut self, link: &Link, len: u32) {
        self.meta.frame_len = len;
        self.meta.dst = link.dst;
        self.meta.src = link.src;
        self.meta.vlan = link.vlan;
        self.meta.ethertype = link.ethertype;
        self.meta.network_offset = link.network_offset;
        self.meta.network = Network::Other;
    }

    /// Payload octets of each segment of a large send; 0 for other frames.
    pub(crate) fn gso_size(&self) -> u16 {
        self.offloads.gso.map_or(0, |gso| gso.size)
    }

    /// Reads the headers that were not read yet.
    pub(crate) fn complete(&mut self, arena: &Arena) {
        if !self.is_parsed {
            let len = self.meta.frame_len as usize;
            // Headers that were good before are good.
            let _ = offload::parse_into(&mut self.meta, arena.head(self.octets), len);
            self.is_parsed = true;
        }
    }

    /// What all of its headers say.
    pub(crate) fn whole_meta(&self, arena: &Arena) -> FrameMeta {
        if self.is_parsed {
            return self.meta;
        }
        offload::parse(arena.head(self.octets), self.meta.frame_len as usize).unwrap_or(self.meta)
    }

    /// A hash of addresses and ports that is the same for all frames of one direction of a flow.
    pub(crate) fn flow_hash(&self, arena: &Arena) -> u32 {
        match FLOWS.hash(&self.whole_meta(arena), &[]) {
            (_, HashReport::None) => {
                let [s0, s1, s2, s3, s4, s5] = self.meta.src.0;
                let [d0, d1, d2, d3, d4, d5] = self.meta.dst.0;
                let words = [[s0, s1, s2, s3], [s4, s5, d0, d1], [d2, d3, d4, d5]];
                NEIGHBOURS.hash(&words.map(u32::from_be_bytes))
            }
            (hash, _) => hash,
        }
    }
}

/// What spreads flows where their receiver's guest asks for no certain hash.
static FLOWS: Hasher = Hasher::new(&Toeplitz::DEFAULT_KEY, HashTypes::PLAIN);
/// The same for frames that are not IP.
static NEIGHBOURS: Toeplitz = Toeplitz::new(&Toeplitz::DEFAULT_KEY);

/// The octets of all packets that a worker has in hand.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    pub(crate) burst: Burst,
    owned: Vec<Vec<u8>>,
}

impl Arena {
    /// The private octets at a packet's start.
    pub(crate) fn head(&self, octets: Octets) -> &[u8] {
        match octets {
            Octets::Owned(index) => self.owned.get(index as usize).map_or(&[], Vec::as_slice),
            Octets::Burst(index) => self.burst.head(index.into()),
        }
    }

    /// What follows [`Arena::head`], in the sender's memory.
    pub(crate) fn tail(&self, octets: Octets) -> &[Segment] {
        match octets {
            Octets::Burst(index) => self.burst.tail(index.into()),
            Octets::Owned(_) => &[],
        }
    }

    /// Appends up to `limit` of a packet's octets to `out`.
    pub(crate) fn copy_out(&self, octets: Octets, limit: usize, out: &mut Vec<u8>) {
        let head = self.head(octets);
        let mut left = limit;
        out.extend_from_slice(&head[..head.len().min(left)]);
        left -= head.len().min(left);
        for segment in self.tail(octets) {
            let len = (segment.len as usize).min(left);
            left -= len;
            append(*segment, len, out);
        }
    }

    /// Has the processor fetch what of a packet's octets is in the sender's memory.
    pub(crate) fn prefetch(&self, octets: Octets) {
        prefetch_tail(self.tail(octets));
    }

    /// Makes a packet's octets private, so that what a filter judges is what is delivered.
    pub(crate) fn make_private(&mut self, packet: &mut Packet) {
        if self.tail(packet.octets).is_empty() {
            return;
        }
        let len = packet.meta.frame_len as usize;
        let mut buffer = self.burst.pool.empty(len);
        self.copy_out(packet.octets, len, &mut buffer);
        packet.octets = self.adopt(buffer);
    }

    /// A private copy of a packet's octets, to outlive the burst.
    pub(crate) fn private_copy(&mut self, octets: Octets, len: u32) -> Vec<u8> {
        let mut buffer = self.burst.pool.empty(len as usize);
        self.copy_out(octets, len as usize, &mut buffer);
        buffer
    }

    /// Takes a private buffer in, until [`Arena::clear`].
    pub(crate) fn adopt(&mut self, buffer: Vec<u8>) -> Octets {
        self.owned.push(buffer);
        Octets::Owned((self.owned.len() - 1) as u32)
    }

    /// A pooled buffer of `len` octets.
    pub(crate) fn buffer(&mut self, len: usize) -> Vec<u8> {
        self.burst.pool.take(len)
    }

    /// Lets go of all private buffers.
    pub(crate) fn disown(&mut self) -> impl Iterator<Item = Vec<u8>> {
        self.owned.drain(..)
    }

    /// Forgets all octets.
    pub(crate) fn clear(&mut self) {
        self.burst.clear();
        for buffer in self.owned.drain(..) {
            self.burst.pool.give(buffer);
        }
    }
}

/// Appends `len` octets of a segment to `out`.
pub(crate) fn append(segment: Segment, len: usize, out: &mut Vec<u8>) {
    let len = len.min(segment.len as usize);
    out.reserve(len);
    let start = out.len();
    // SAFETY: a segment is made by a port's ring only after its range was checked against the mapped guest memory,
    // and that mapping outlives the burst (the ring's owner keeps it until the burst is completed). The guest may
    // write the octets meanwhile: they are copied as raw memory, never borrowed, and any value is acceptable. The
    // destination was just reserved and belongs to this process alone, so the ranges cannot overlap.
    unsafe {
        std::ptr::copy_nonoverlapping(segment.ptr, out.as_mut_ptr().add(start), len);
        out.set_len(start + len);
    }
}

/// Whether a receiver with these abilities takes the packet as it is.
pub(crate) fn fits(offloads: &Offloads, meta: &FrameMeta, can: crate::port::Capabilities) -> bool {
    use offload::GsoKind;
    let v4 = matches!(meta.network, offload::Network::Ipv4(_));
    let gso = match offloads.gso {
        None => true,
        Some(gso) => {
            let kind = match (gso.kind, v4) {
                (GsoKind::Tcp4, _) => can.tso4,
                (GsoKind::Tcp6, _) => can.tso6,
                (GsoKind::Udp, true) => can.uso4,
                (GsoKind::Udp, false) => can.uso6,
            };
            kind && (can.ecn || !gso.ecn)
        }
    };
    gso && (can.checksum || !matches!(offloads.checksum, Checksum::Partial { .. }))
}

#[cfg(test)]
mod tests {
    use offload::VnetHeader;

    use super::*;
    use crate::frame::{Body, Frame, HEADER_COPY, MAX_FRAME};

    /// A burst of one frame, all but its headers in `rest`.
    fn fill(arena: &mut Arena, rest: &[u8]) -> Packet {
        let (header, _) = arena.burst.next_header().expect("room");
        *header = [0; HEADER_COPY];
        header[12..14].copy_from_slice(&[0x88, 0xb5]);
        let header = *header;
        let len = HEADER_COPY + rest.len();
        arena.burst.segments.push(Segment {
            ptr: rest.as_ptr(),
            len: rest.len() as u32,
        });
        arena.burst.frames.push(Frame {
            vnet: VnetHeader::default(),
            len: len as u32,
            token: 0,
            queue: 0,
            body: Body::Shared {
                header_len: HEADER_COPY as u16,
                first: 0,
                count: 1,
            },
        });
        Packet {
            meta: offload::parse(&header, len).expect("a frame"),
            is_parsed: true,
            offloads: Offloads::default(),
            vlan: 0,
            ingress: PortId(0),
            octets: Octets::Burst(0),
            times: Times::default(),
        }
    }

    #[test]
    fn private_copies_go_into_the_same_buffers_again() {
        for len in [300, 1500, 9000, MAX_FRAME] {
            let rest = vec![7; len - HEADER_COPY];
            let mut arena = Arena::default();
            let mut places = std::collections::BTreeSet::new();
            for _ in 0..3 {
                let mut packet = fill(&mut arena, &rest);
                arena.make_private(&mut packet);
                let copy = arena.head(packet.octets);
                assert_eq!(copy.len(), len);
                assert_eq!(copy[HEADER_COPY..], rest);
                assert!(arena.tail(packet.octets).is_empty());
                places.insert(copy.as_ptr());
                arena.clear();
            }
            assert_eq!(places.len(), 1, "{len} octets");
        }
    }
}
