//! Packets as frames.

use offload::{FrameMeta, IpMeta, MacAddr, Network, TcpFlags, TcpMeta, Transport};

use super::endpoint::Packet;

/// Where the streams start: close to the wraparound of their numbers.
const BASES: [u32; 2] = [u32::MAX - 2_000, u32::MAX - 90_000];

/// A packet's headers. The guest is 192.0.2.1, so it is the local end.
pub(crate) fn meta(packet: &Packet) -> FrameMeta {
    let addresses = [[192, 0, 2, 1], [192, 0, 2, 2]].map(Into::into);
    let ports = [4_000, 80];
    let (from, to) = (packet.from, 1 - packet.from);
    let len = packet.len as u32;
    let push = if packet.push { TcpFlags::PSH } else { 0 };
    let transport = Transport::Tcp(TcpMeta {
        src_port: ports[from],
        dst_port: ports[to],
        seq: BASES[from]
            .wrapping_add(packet.seq as u32)
            .wrapping_sub(u32::from(packet.syn)),
        ack: BASES[to].wrapping_add(packet.ack as u32),
        flags: TcpFlags(packet.flags() | push),
        window: packet.window as u16,
        payload_offset: 54,
        payload_len: len,
    });
    FrameMeta {
        frame_len: 54 + len,
        dst: MacAddr([2, 0, 0, 0, 0, 2]),
        src: MacAddr([2, 0, 0, 0, 0, 1]),
        vlan: None,
        ethertype: 0x0800,
        network_offset: 14,
        network: Network::Ipv4(IpMeta {
            src: addresses[from],
            dst: addresses[to],
            protocol: 6,
            fragment: false,
            transport_offset: 34,
            end: 54 + len,
            transport,
        }),
    }
}
