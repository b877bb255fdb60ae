//! Frames from host to host, which are known by a number.

use etherparse::PacketBuilder;

pub(super) fn mac(host: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, host]
}

pub(super) fn udp(from: u8, to: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(mac(from), mac(to))
        .ipv4([192, 0, 2, from], [192, 0, 2, to], 64)
        .udp(1000, 2000)
        .write(&mut frame, payload)
        .expect("a frame");
    frame
}

pub(super) fn tcp(from: u8, to: u8, seq: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(mac(from), mac(to))
        .ipv4([192, 0, 2, from], [192, 0, 2, to], 64)
        .tcp(1000, 2000, seq, 8192)
        .ack(1)
        .write(&mut frame, payload)
        .expect("a frame");
    frame
}
