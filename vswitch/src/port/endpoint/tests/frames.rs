//! Single frames in, single frames out, octet by octet.

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetFrame, EthernetProtocol, EthernetRepr, Icmpv4Packet,
    Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, IpProtocol, IpRepr, Ipv4Address, Ipv4Packet, Ipv4Repr, Ipv6Address,
    Ipv6Packet, Ipv6Repr, NdiscNeighborFlags, NdiscRepr, RawHardwareAddress, TcpPacket, TcpSeqNumber,
    UdpPacket, UdpRepr,
};

use super::*;

const A4: Ipv4Address = Ipv4Address::new(192, 0, 2, 1);
const B4: Ipv4Address = Ipv4Address::new(192, 0, 2, 2);
const A6: Ipv6Address = Ipv6Address::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const B6: Ipv6Address = Ipv6Address::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);

fn ethernet(dst: MacAddr, protocol: EthernetProtocol, payload: usize) -> Vec<u8> {
    let mut frame = vec![0; 14 + payload];
    EthernetRepr {
        src_addr: EthernetAddress(MAC_B.0),
        dst_addr: EthernetAddress(dst.0),
        ethertype: protocol,
    }
    .emit(&mut EthernetFrame::new_unchecked(&mut frame));
    frame
}

/// B tells A where it is, by asking where A is.
fn arp_request() -> Vec<u8> {
    let mut frame = ethernet(MacAddr::BROADCAST, EthernetProtocol::Arp, 28);
    ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: EthernetAddress(MAC_B.0),
        source_protocol_addr: B4,
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: A4,
    }
    .emit(&mut ArpPacket::new_unchecked(&mut frame[14..]));
    frame
}

fn neighbor_solicitation() -> Vec<u8> {
    let ndisc = NdiscRepr::NeighborSolicit {
        target_addr: A6,
        lladdr: Some(RawHardwareAddress::from(EthernetAddress(MAC_B.0))),
    };
    let solicited = Ipv6Address::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 1);
    icmpv6(
        MacAddr([0x33, 0x33, 0xff, 0, 0, 1]),
        solicited,
        &Icmpv6Repr::Ndisc(ndisc),
    )
}

fn icmpv6(dst: MacAddr, dst_addr: Ipv6Address, icmp: &Icmpv6Repr<'_>) -> Vec<u8> {
    let ip = Ipv6Repr {
        src_addr: B6,
        dst_addr,
        next_header: IpProtocol::Icmpv6,
        payload_len: icmp.buffer_len(),
        hop_limit: 255,
    };
    let mut frame = ethernet(dst, EthernetProtocol::Ipv6, 40 + icmp.buffer_len());
    ip.emit(&mut Ipv6Packet::new_unchecked(&mut frame[14..]));
    let mut packet = Icmpv6Packet::new_unchecked(&mut frame[54..]);
    icmp.emit(&B6, &dst_addr, &mut packet, &ChecksumCapabilities::default());
    frame
}

fn ipv4(protocol: IpProtocol, dst_addr: Ipv4Address, payload: usize) -> Vec<u8> {
    let ip = Ipv4Repr {
        src_addr: B4,
        dst_addr,
        next_header: protocol,
        payload_len: payload,
        hop_limit: 64,
    };
    let dst = if dst_addr == A4 { MAC_A } else { MacAddr::BROADCAST };
    let mut frame = ethernet(dst, EthernetProtocol::Ipv4, 20 + payload);
    IpRepr::Ipv4(ip).emit(&mut frame[14..], &ChecksumCapabilities::default());
    frame
}

fn udp(src_port: u16, dst_addr: Ipv4Address, text: &[u8]) -> Vec<u8> {
    let mut frame = ipv4(IpProtocol::Udp, dst_addr, 8 + text.len());
    UdpRepr {
        src_port,
        dst_port: ECHO_PORT,
    }
    .emit(
        &mut UdpPacket::new_unchecked(&mut frame[34..]),
        &B4.into(),
        &dst_addr.into(),
        text.len(),
        |payload| payload.copy_from_slice(text),
        &ChecksumCapabilities::default(),
    );
    frame
}

#[test]
fn it_answers_arp() {
    let port = endpoint("192.0.2.1/24", MAC_A);
    let replies = answers(&port, &arp_request());
    assert_eq!(replies.len(), 1);
    let frame = EthernetFrame::new_checked(&replies[0]).expect("an Ethernet frame");
    assert_eq!(frame.dst_addr().0, MAC_B.0);
    let arp = ArpRepr::parse(&ArpPacket::new_checked(frame.payload()).expect("ARP")).expect("ARP");
    assert_eq!(
        arp,
        ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Reply,
            source_hardware_addr: EthernetAddress(MAC_A.0),
            source_protocol_addr: A4,
            target_hardware_addr: EthernetAddress(MAC_B.0),
            target_protocol_addr: B4,
        }
    );
}

#[test]
fn it_answers_neighbour_discovery_and_ping_over_ipv6() {
    let port = endpoint("2001:db8::1/64", MAC_A);
    let replies = answers(&port, &neighbor_solicitation());
    assert_eq!(replies.len(), 1);
    let packet = Icmpv6Packet::new_checked(&replies[0][54..]).expect("ICMPv6");
    let advert =
        Icmpv6Repr::parse(&A6, &B6, &packet, &ChecksumCapabilities::default()).expect("a good checksum");
    assert_eq!(
        advert,
        Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert {
            flags: NdiscNeighborFlags::SOLICITED,
            target_addr: A6,
            lladdr: Some(RawHardwareAddress::from(EthernetAddress(MAC_A.0))),
        })
    );

    let echo = Icmpv6Repr::EchoRequest {
        ident: 7,
        seq_no: 1,
        data: b"ping over six",
    };
    let replies = answers(&port, &icmpv6(MAC_A, A6, &echo));
    assert_eq!(replies.len(), 1);
    let packet = Icmpv6Packet::new_checked(&replies[0][54..]).expect("ICMPv6");
    let reply =
        Icmpv6Repr::parse(&A6, &B6, &packet, &ChecksumCapabilities::default()).expect("a good checksum");
    assert_eq!(
        reply,
        Icmpv6Repr::EchoReply {
            ident: 7,
            seq_no: 1,
            data: b"ping over six"
        }
    );
}

#[test]
fn it_answers_ping() {
    let port = endpoint("192.0.2.1/24", MAC_A);
    answers(&port, &arp_request());
    let echo = Icmpv4Repr::EchoRequest {
        ident: 3,
        seq_no: 4,
        data: b"ping over four",
    };
    let mut frame = ipv4(IpProtocol::Icmp, A4, echo.buffer_len());
    echo.emit(
        &mut Icmpv4Packet::new_unchecked(&mut frame[34..]),
        &ChecksumCapabilities::default(),
    );
    let replies = answers(&port, &frame);
    assert_eq!(replies.len(), 1);
    let packet = Icmpv4Packet::new_checked(&replies[0][34..]).expect("ICMP");
    let reply = Icmpv4Repr::parse(&packet, &ChecksumCapabilities::default()).expect("a good checksum");
    assert_eq!(
        reply,
        Icmpv4Repr::EchoReply {
            ident: 3,
            seq_no: 4,
            data: b"ping over four"
        }
    );
}

#[test]
fn it_echoes_datagrams_of_clients_only() {
    let port = endpoint("192.0.2.1/24", MAC_A);
    answers(&port, &arp_request());
    let replies = answers(&port, &udp(40_000, A4, b"hello"));
    assert_eq!(replies.len(), 1);
    let packet = UdpPacket::new_checked(&replies[0][34..]).expect("UDP");
    assert_eq!((packet.src_port(), packet.dst_port()), (ECHO_PORT, 40_000));
    assert!(packet.verify_checksum(&A4.into(), &B4.into()));
    assert_eq!(packet.payload(), b"hello");

    assert!(
        answers(&port, &udp(ECHO_PORT, A4, b"loop")).is_empty(),
        "two echo services would never end"
    );
    assert!(answers(&port, &udp(40_000, Ipv4Address::BROADCAST, b"all")).is_empty());
    let counts = port.services();
    assert_eq!((counts.echoed_datagrams, counts.refused_datagrams), (1, 2));
}

/// A frame whose checksum is partial holds only the sum of the pseudo-header.
#[test]
fn a_partial_checksum_is_as_good_as_a_full_one() {
    let port = endpoint("192.0.2.1/24", MAC_A);
    answers(&port, &arp_request());
    let mut frame = ipv4(IpProtocol::Tcp, A4, 20);
    let mut syn = TcpPacket::new_unchecked(&mut frame[34..]);
    syn.set_src_port(40_000);
    syn.set_dst_port(ECHO_PORT);
    syn.set_seq_number(TcpSeqNumber(1));
    syn.set_header_len(20);
    syn.set_syn(true);
    syn.set_window_len(1000);
    syn.set_checksum(0x1234);
    let replies = answers(&port, &frame);
    assert_eq!(replies.len(), 1);
    let answer = TcpPacket::new_checked(&replies[0][34..]).expect("TCP");
    assert!(answer.syn() && answer.ack());
    assert!(
        answer.verify_checksum(&A4.into(), &B4.into()),
        "what it sends is complete"
    );
    assert_eq!(
        Ipv4Packet::new_checked(&replies[0][14..]).map(|ip| ip.verify_checksum()),
        Ok(true)
    );
}
