//! What judging a frame's headers costs, by what stands in them.
//!
//! `cargo bench -p offload --bench parse`
#![allow(missing_docs)]

use std::hint::black_box;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use etherparse::{PacketBuilder, PacketBuilderStep, UdpHeader, VlanId};
use offload::parse;

const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];
const V4: [[u8; 4]; 2] = [[192, 0, 2, 1], [192, 0, 2, 2]];
const PAYLOAD: usize = 1200;
/// Octets that the switch copies and judges.
const HEADER_COPY: usize = 192;
/// UDP's port for VXLAN (RFC 7348).
const VXLAN: u16 = 4789;

fn v6(host: u16) -> [u8; 16] {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host).octets()
}

fn tcp4(payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(MACS[0], MACS[1])
        .ipv4(V4[0], V4[1], 64)
        .tcp(4000, 80, 1, 1000)
        .ack(1)
        .write(&mut frame, payload)
        .expect("a frame");
    frame
}

fn udp(step: PacketBuilderStep<UdpHeader>, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    step.write(&mut frame, payload).expect("a frame");
    frame
}

fn arp() -> Vec<u8> {
    let mut frame = [&MACS[1][..], &MACS[0], &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]].concat();
    frame.extend([&MACS[0][..], &Ipv4Addr::from(V4[0]).octets(), &[0; 6], &V4[1]].concat());
    frame.resize(60, 0);
    frame
}

fn frames() -> [(&'static str, Vec<u8>); 7] {
    let payload = [0; PAYLOAD];
    let ethernet = || PacketBuilder::ethernet2(MACS[0], MACS[1]);
    let inner = tcp4(&payload);
    let vxlan = [&[8, 0, 0, 0, 0, 0, 1, 0][..], &inner].concat();
    let vlan = VlanId::try_new(100).expect("below 4096");
    [
        ("ARP", arp()),
        ("IPv4, TCP", inner),
        ("IPv4, TCP, 60 octets", tcp4(&[0; 6])),
        (
            "IPv4, UDP",
            udp(ethernet().ipv4(V4[0], V4[1], 64).udp(1, 2), &payload),
        ),
        (
            "VLAN, IPv4, UDP",
            udp(
                ethernet().single_vlan(vlan).ipv4(V4[0], V4[1], 64).udp(1, 2),
                &payload,
            ),
        ),
        (
            "IPv6, UDP",
            udp(ethernet().ipv6(v6(1), v6(2), 64).udp(1, 2), &payload),
        ),
        (
            "IPv4, VXLAN, IPv4, TCP",
            udp(ethernet().ipv4(V4[0], V4[1], 64).udp(1, VXLAN), &vxlan),
        ),
    ]
}

fn headers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse");
    group.throughput(Throughput::Elements(1));
    for (name, frame) in frames() {
        let head = &frame[..frame.len().min(HEADER_COPY)];
        parse(head, frame.len()).expect("a good frame");
        group.bench_function(name, |bencher| {
            bencher.iter(|| parse(black_box(head), black_box(frame.len())));
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = headers
}
criterion_main!(benches);
