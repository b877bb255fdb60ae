//! The frames that are carried.

use etherparse::{PacketBuilder, PacketBuilderStep, TcpHeader};
use offload::{VnetHeader, checksum};

/// Octets of Ethernet, IPv4 and TCP headers.
pub(crate) const HEADERS: usize = 14 + 20 + 20;
const MSS: u16 = 1448;
const IP_START: usize = 14;
const TCP_START: usize = 34;
const TCP_CHECKSUM: usize = 16;

/// A host, by number.
pub(crate) fn mac(host: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, host]
}

fn segment(from: u8, to: u8, seq: u32, ack: u32) -> PacketBuilderStep<TcpHeader> {
    PacketBuilder::ethernet2(mac(from), mac(to))
        .ipv4([192, 0, 2, from], [192, 0, 2, to], 64)
        .tcp(4000, 80, seq, 1000)
        .ack(ack)
}

/// A TCP segment of a flow, complete.
pub(crate) fn tcp(from: u8, to: u8, seq: u32, payload: usize) -> Vec<u8> {
    let mut frame = Vec::new();
    segment(from, to, seq, 1)
        .write(&mut frame, &vec![b'.'; payload])
        .expect("a frame");
    frame
}

/// The same back, without payload: acknowledges up to `ack`.
pub(crate) fn acknowledgement(from: u8, to: u8, ack: u32) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(mac(from), mac(to))
        .ipv4([192, 0, 2, from], [192, 0, 2, to], 64)
        .tcp(80, 4000, 1, 1000)
        .ack(ack)
        .write(&mut frame, &[])
        .expect("a frame");
    frame
}

/// A segment whose checksum is left to the NIC, to be cut if it is a large one.
pub(crate) fn unfinished(from: u8, to: u8, seq: u32, payload: usize) -> (VnetHeader, Vec<u8>) {
    let mut frame = tcp(from, to, seq, payload);
    let addresses = [IP_START + 12, IP_START + 16].map(|at| {
        let octets: [u8; 4] = frame[at..at + 4].try_into().expect("four octets");
        octets.into()
    });
    let len = (frame.len() - TCP_START) as u32;
    let pseudo = checksum::pseudo_header(addresses[0], addresses[1], 6, len);
    let at = TCP_START + TCP_CHECKSUM;
    frame[at..at + 2].copy_from_slice(&(!checksum::fold(pseudo)).to_be_bytes());
    let large = payload > usize::from(MSS);
    let vnet = VnetHeader {
        flags: VnetHeader::NEEDS_CSUM,
        gso_type: u8::from(large),
        hdr_len: if large { HEADERS as u16 } else { 0 },
        gso_size: if large { MSS } else { 0 },
        csum_start: TCP_START as u16,
        csum_offset: TCP_CHECKSUM as u16,
        num_buffers: 0,
    };
    (vnet, frame)
}

/// Frames that a large send of so much payload is cut into.
pub(crate) fn cut_into(payload: usize) -> usize {
    payload.div_ceil(MSS.into())
}
