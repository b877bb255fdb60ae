//! Packets as frames.

use offload::{FrameMeta, TcpFlags};

#[path = "../common/frames.rs"]
mod frames;

use super::endpoint::Packet;

/// Where the streams start: close to the wraparound of their numbers.
const BASES: [u32; 2] = [u32::MAX - 2_000, u32::MAX - 90_000];

/// A packet's headers. The guest is 192.0.2.1, so it is the local end.
pub(crate) fn meta(packet: &Packet) -> FrameMeta {
    let (from, to) = (packet.from, 1 - packet.from);
    let push = if packet.push { TcpFlags::PSH } else { 0 };
    let segment = frames::Tcp {
        seq: BASES[from]
            .wrapping_add(packet.seq as u32)
            .wrapping_sub(u32::from(packet.syn)),
        ack: BASES[to].wrapping_add(packet.ack as u32),
        flags: packet.flags() | push,
        window: packet.window as u16,
        len: packet.len as u32,
    };
    frames::tcp(
        from == 1,
        [([192, 0, 2, 1], 4_000), ([192, 0, 2, 2], 80)],
        false,
        segment,
    )
}
