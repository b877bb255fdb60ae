//! Receive segment coalescing of what uplinks send.
//!
//! A wire carries segments; a guest that takes large sends had rather have them merged, for most of what a frame costs
//! it, it costs for each frame. Segments of one burst that go to one port are merged by [`offload::coalesce`]'s rules, which are those of a
//! hardware NIC: a guest that passes them on can cut them again, and nothing waits for more than the burst that it came in.

use offload::coalesce::{Coalesced, Coalescer};
use offload::{FrameMeta, Network, Offloads};

use crate::frame::BufferPool;
use crate::packet::{Arena, Packet};
use crate::port::Capabilities;

/// Flows that are merged at a time; a burst rarely has segments of more.
const FLOWS: usize = 16;

/// A worker's tools for merging; made when they are first needed.
#[derive(Debug, Default)]
pub(super) struct Rsc {
    coalescer: Option<Coalescer>,
    made: Vec<Made>,
    before: Vec<Packet>,
}

/// A frame that left the coalescer.
#[derive(Debug)]
enum Made {
    /// Packet number so-and-so, unchanged.
    Same(usize),
    New {
        octets: Vec<u8>,
        meta: FrameMeta,
        offloads: Offloads,
    },
}

impl Rsc {
    /// Merges segments in a group that goes to a receiver with these abilities. Returns how many fewer packets there are.
    pub(super) fn merge(&mut self, can: Capabilities, group: &mut Vec<Packet>, arena: &mut Arena) -> usize {
        if !is_worthwhile(can, group) {
            return 0;
        }
        for packet in group.iter_mut().filter(|packet| is_segment(can, packet)) {
            arena.make_private(packet);
        }
        std::mem::swap(group, &mut self.before);
        // Apart from the arena, which lends the frames meanwhile.
        let mut pool = std::mem::take(&mut arena.burst.pool);
        self.coalesce(arena, &mut pool);
        arena.burst.pool = pool;
        for made in self.made.drain(..) {
            group.extend(place(made, &self.before, arena));
        }
        let fewer = self.before.len().saturating_sub(group.len());
        self.before.clear();
        fewer
    }

    fn coalesce(&mut self, arena: &Arena, pool: &mut BufferPool) {
        let Self {
            coalescer,
            made,
            before,
        } = self;
        let coalescer = coalescer.get_or_insert_with(|| Coalescer::new(FLOWS));
        let mut keep = |from: Option<(usize, &[u8])>, done: Coalesced<'_>| {
            made.push(match from {
                Some((index, frame)) if frame.as_ptr() == done.frame.as_ptr() => Made::Same(index),
                _ => {
                    let mut octets = pool.empty(done.frame.len());
                    octets.extend_from_slice(done.frame);
                    Made::New {
                        octets,
                        meta: done.meta,
                        offloads: done.offloads,
                    }
                }
            });
        };
        for (index, packet) in before.iter().enumerate() {
            let frame = arena.head(packet.octets);
            coalescer.push(frame, &packet.meta, &packet.offloads, &mut |done| {
                keep(Some((index, frame)), done);
            });
        }
        coalescer.flush(&mut |done| keep(None, done));
    }
}

/// Makes what left the coalescer a packet again: all but its octets it has from the first of those that it was made of.
fn place(made: Made, before: &[Packet], arena: &mut Arena) -> Option<Packet> {
    match made {
        Made::Same(index) => before.get(index).copied(),
        Made::New {
            octets,
            meta,
            offloads,
        } => {
            let first = before.iter().find(|packet| is_same_flow(&packet.meta, &meta))?;
            Some(Packet {
                meta,
                offloads,
                octets: arena.adopt(octets),
                ..*first
            })
        }
    }
}

/// Whether two segments of a group look as if they were of one flow; now and then it is wrong, which costs copies only.
fn is_worthwhile(can: Capabilities, group: &[Packet]) -> bool {
    let mut seen = 0_u64;
    group
        .iter()
        .filter(|packet| is_segment(can, packet))
        .filter_map(|packet| packet.meta.tcp())
        .any(|tcp| {
            let bit = 1 << (u32::from(tcp.src_port ^ tcp.dst_port.rotate_left(3)) % u64::BITS);
            let again = seen & bit != 0;
            seen |= bit;
            again
        })
}

/// Whether a packet is a TCP segment with payload that the receiver would also take as part of a larger one.
fn is_segment(can: Capabilities, packet: &Packet) -> bool {
    let takes = match packet.meta.network {
        Network::Ipv4(_) => can.tso4,
        Network::Ipv6(_) => can.tso6,
        _ => false,
    };
    takes
        && can.checksum
        && packet.offloads.gso.is_none()
        && packet.meta.tcp().is_some_and(|tcp| tcp.payload_len > 0)
}

fn is_same_flow(one: &FrameMeta, other: &FrameMeta) -> bool {
    let flow = |meta: &FrameMeta| {
        let (ip, tcp) = (*meta.ip()?, *meta.tcp()?);
        Some((ip.src, ip.dst, tcp.src_port, tcp.dst_port, meta.vlan))
    };
    flow(one).is_some_and(|one| flow(other) == Some(one))
}
