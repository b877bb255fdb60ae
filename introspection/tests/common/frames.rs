//! Headers of frames between a guest and its peer, made up. Whoever needs them includes this file.

#![allow(dead_code)] // not everybody sends TCP

use offload::{FrameMeta, IpMeta, MacAddr, Network, TcpFlags, TcpMeta, Transport};

/// An address and a port.
pub(crate) type End = ([u8; 4], u16);

/// What a TCP segment says beside its ports.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tcp {
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    /// Octets of payload.
    pub(crate) len: u32,
}

/// A TCP segment over IPv4, both without options, between a guest and its peer.
pub(crate) fn tcp(to_guest: bool, [guest, peer]: [End; 2], fragment: bool, tcp: Tcp) -> FrameMeta {
    let (src_port, dst_port) = ordered(to_guest, guest.1, peer.1);
    let transport = Transport::Tcp(TcpMeta {
        src_port,
        dst_port,
        seq: tcp.seq,
        ack: tcp.ack,
        flags: TcpFlags(tcp.flags),
        window: tcp.window,
        payload_offset: 54,
        payload_len: tcp.len,
    });
    ipv4(to_guest, [guest.0, peer.0], 6, fragment, transport, 54 + tcp.len)
}

/// An untagged IPv4 frame of `len` octets between a guest's address and its peer's.
pub(crate) fn ipv4(
    to_guest: bool,
    [guest, peer]: [[u8; 4]; 2],
    protocol: u8,
    fragment: bool,
    transport: Transport,
    len: u32,
) -> FrameMeta {
    let (src, dst) = ordered(to_guest, guest, peer);
    FrameMeta {
        frame_len: len,
        dst: MacAddr([2, 0, 0, 0, 0, 2]),
        src: MacAddr([2, 0, 0, 0, 0, 1]),
        vlan: None,
        ethertype: 0x0800,
        network_offset: 14,
        network: Network::Ipv4(IpMeta {
            src: src.into(),
            dst: dst.into(),
            protocol,
            fragment,
            transport_offset: 34,
            end: len,
            transport,
        }),
    }
}

/// The sender's first.
fn ordered<T>(to_guest: bool, guest: T, peer: T) -> (T, T) {
    if to_guest { (peer, guest) } else { (guest, peer) }
}
