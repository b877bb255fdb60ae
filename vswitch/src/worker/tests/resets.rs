//! Rules that reset: what both ends get, and what they no longer get.

use std::collections::BTreeMap;
use std::net::IpAddr;

use etherparse::PacketBuilder;
use introspection::RuleAction;
use offload::{TcpFlags, VnetHeader};

use super::filters::{rule, set};
use super::{ALL, Bench, access, mac, tcp, udp};
use crate::control::VlanMode;
use crate::counters::DropReason;
use crate::port::Capabilities;

/// What host 2 answers to [`tcp`] of host 1.
fn answer(seq: u32, ack: u32) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(mac(2), mac(1))
        .ipv4([192, 0, 2, 2], [192, 0, 2, 1], 64)
        .tcp(2000, 1000, seq, 8192)
        .ack(ack)
        .write(&mut frame, b"answer")
        .expect("a frame");
    frame
}

/// Three guests that the switch has learned; the port of the first two.
fn bench(ports: &[(VlanMode, Capabilities)]) -> Bench {
    let mut bench = Bench::new(1, ports);
    for (from, to) in [(0, 2), (1, 1), (2, 1)] {
        bench.send(from, &udp(from as u8 + 1, to, b"hello"));
        bench.run();
    }
    for port in 0..3 {
        bench.got(port);
    }
    bench
}

/// A RST without a tag: host numbers, ports, sequence and acknowledgement number, flags. It is whole and its checksums are right.
fn reset(frame: &[u8]) -> ([u8; 2], [u16; 2], u32, u32, u8) {
    assert_eq!(frame.len(), 54, "headers and nothing else");
    let meta = offload::parse(frame, frame.len()).expect("a frame");
    assert!(offload::checksum::verify_transport(frame, &meta));
    assert_eq!(offload::checksum::internet(&frame[14..34]), 0, "the IP header's");
    let (ip, tcp) = (meta.ip().expect("IP"), meta.tcp().expect("TCP"));
    let hosts = [meta.src.0[5], meta.dst.0[5]];
    assert_eq!([meta.src.0, meta.dst.0], hosts.map(mac));
    let addresses = hosts.map(|host| IpAddr::from([192, 0, 2, host]));
    assert_eq!([ip.src, ip.dst], addresses);
    (hosts, [tcp.src_port, tcp.dst_port], tcp.seq, tcp.ack, tcp.flags.0)
}

/// What a guest got, which is whole: nothing is left to be done to it.
fn got(bench: &Bench, port: usize) -> Vec<Vec<u8>> {
    let got = bench.guests[port].got.lock().drain(..).collect::<Vec<_>>();
    got.into_iter()
        .map(|(vnet, frame)| {
            assert_eq!(vnet, VnetHeader::default());
            frame
        })
        .collect()
}

/// The filter at the sender's port, and at the receiver's.
#[test]
fn both_ends_get_one_rst_and_nothing_else_of_the_flow() {
    for filtered in [0, 1] {
        let mut bench = bench(&[access(0), access(0), access(0)]);
        set(&bench, filtered, &rule("attack", RuleAction::Reset, None)).expect("good");
        bench.send(0, &tcp(1, 2, 100, b"att"));
        bench.run();
        assert_eq!(got(&bench, 1), [tcp(1, 2, 100, b"att")]);

        bench.send(0, &tcp(1, 2, 103, b"ack!"));
        bench.run();
        let [sender, receiver] = [0, 1].map(|port| got(&bench, port));
        assert_eq!((sender.len(), receiver.len()), (1, 1), "a RST, not the frame");
        // As if the receiver answered, with what the sender acknowledged; and in the place of what was dropped.
        assert_eq!(reset(&sender[0]), ([2, 1], [2000, 1000], 1, 0, TcpFlags::RST));
        let flags = TcpFlags::RST | TcpFlags::ACK;
        assert_eq!(reset(&receiver[0]), ([1, 2], [1000, 2000], 103, 1, flags));

        // Nothing more of the flow either way, be it the same again, and no second RST; other flows go on.
        bench.send(0, &tcp(1, 2, 103, b"ack!"));
        bench.send(0, &tcp(1, 2, 107, b"more"));
        bench.send(1, &answer(1, 107));
        bench.send(0, &udp(1, 2, b"else"));
        bench.run();
        assert!(got(&bench, 0).is_empty());
        assert_eq!(got(&bench, 1), [udp(1, 2, b"else")]);
        assert!(got(&bench, 2).is_empty(), "nobody else gets any of it");
        let counters = bench.port(filtered).counters.snapshot();
        let forth = BTreeMap::from([(DropReason::FilterRule, 1), (DropReason::FilterReset, 2)]);
        let back = BTreeMap::from([(DropReason::FilterReset, 1)]);
        let (tx, rx) = if filtered == 0 {
            (forth, back)
        } else {
            (back, forth)
        };
        assert_eq!((counters.tx_dropped, counters.rx_dropped), (tx, rx));
    }
}

#[test]
fn a_new_connection_of_a_reset_flow_is_judged_anew() {
    let mut bench = bench(&[access(0), access(0), access(0)]);
    set(&bench, 0, &rule("attack", RuleAction::Reset, None)).expect("good");
    bench.send(0, &tcp(1, 2, 100, b"attack"));
    bench.run();
    assert_eq!((got(&bench, 0).len(), got(&bench, 1).len()), (1, 1));
    let mut syn = tcp(1, 2, 70_000, b"");
    // SYN without ACK, and the checksum is made good for the other flags.
    let check = u16::from_be_bytes([syn[50], syn[51]]);
    let check = offload::checksum::update(check, 0x5010, 0x5002);
    syn[47] = TcpFlags::SYN;
    syn[50..52].copy_from_slice(&check.to_be_bytes());
    let harmless = tcp(1, 2, 70_001, b"harmless");
    bench.send(0, &syn);
    bench.send(0, &harmless);
    bench.run();
    assert_eq!(got(&bench, 1), [syn, harmless]);
    bench.send(0, &tcp(1, 2, 70_009, b"attack"));
    bench.run();
    let [sender, receiver] = [0, 1].map(|port| got(&bench, port));
    assert_eq!((sender.len(), receiver.len()), (1, 1));
    assert_eq!(reset(&receiver[0]).2, 70_009);
}

/// A sender on a trunk gets its RST with its tag, the receiver without it.
#[test]
fn a_rst_has_the_tag_of_its_flow() {
    let trunk = (VlanMode::Trunk(vec![10]), ALL);
    let mut bench = Bench::new(1, &[trunk, access(10)]);
    set(&bench, 0, &rule("attack", RuleAction::Reset, None)).expect("good");
    let plain = tcp(1, 2, 100, b"attack");
    let tag = [0x81, 0x00, 0x00, 10];
    bench.send(0, &[&plain[..12], &tag, &plain[12..]].concat());
    bench.run();
    let [sender, receiver] = [0, 1].map(|port| got(&bench, port));
    assert_eq!((sender.len(), receiver.len()), (1, 1));
    assert_eq!(sender[0][12..16], tag);
    let untagged = [&sender[0][..12], &sender[0][16..]].concat();
    assert_eq!(reset(&untagged).0, [2, 1]);
    assert_eq!(reset(&receiver[0]).0, [1, 2]);
}
