//! Frames for the tests, written by etherparse rather than by the crate under test.
#![allow(dead_code)] // Each test binary uses its part.

pub(crate) mod coalescing;
pub(crate) mod invariants;
pub(crate) mod segmentation;

use etherparse::{
    IpFragOffset, IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header, Ipv4Options, Ipv6Extensions,
    Ipv6FlowLabel, Ipv6FragmentHeader, Ipv6Header, Ipv6RawExtHeader, Ipv6RoutingExtensions, PacketBuilder,
    PacketBuilderStep, TcpHeader, VlanId,
};
use offload::{Gso, GsoKind};
use proptest::collection::vec;
use proptest::prelude::*;

/// The transport of a generated frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// An ICMP or ICMPv6 echo request.
    Icmp,
}

/// A valid frame, described.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) kind: Kind,
    pub(crate) v6: bool,
    pub(crate) tags: Vec<u16>,
    /// Words of IPv4 options; for IPv6 a bit each for hop-by-hop, destination, routing and an atomic fragment header.
    pub(crate) ip_extra: u8,
    pub(crate) id: u16,
    pub(crate) ports: (u16, u16),
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    /// TCP's low eight flag bits.
    pub(crate) flags: u8,
    pub(crate) tcp_options: u8,
    pub(crate) payload: Vec<u8>,
    pub(crate) padding: usize,
}

/// Frames with up to `payload` octets of payload.
pub(crate) fn specs(payload: usize) -> impl Strategy<Value = Spec> {
    let kind = prop_oneof![Just(Kind::Tcp), Just(Kind::Udp), Just(Kind::Icmp)];
    let shape = (kind, any::<bool>(), vec(1..4095_u16, 0..=2), 0..=10_u8, 0..=10_u8);
    let numbers = (
        any::<u16>(),
        any::<(u16, u16)>(),
        any::<u32>(),
        any::<u32>(),
        any::<u8>(),
    );
    let octets = (vec(any::<u8>(), 0..=payload), 0..50_usize);
    (shape, numbers, octets).prop_map(|(shape, numbers, octets)| {
        let (kind, v6, tags, ip_extra, tcp_options) = shape;
        let (id, ports, seq, ack, flags) = numbers;
        let (payload, padding) = octets;
        Spec {
            kind,
            v6,
            tags,
            ip_extra,
            id,
            ports,
            seq,
            ack,
            flags,
            tcp_options,
            payload,
            padding,
        }
    })
}

impl Spec {
    /// A request to cut it into segments of `size` octets of payload.
    pub(crate) fn gso(&self, size: u16) -> Gso {
        let kind = match (self.kind, self.v6) {
            (Kind::Udp, _) => GsoKind::Udp,
            (_, false) => GsoKind::Tcp4,
            (_, true) => GsoKind::Tcp6,
        };
        Gso {
            kind,
            size,
            ecn: false,
        }
    }

    /// The frame's octets, padding included.
    pub(crate) fn write(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let ip = match self.tags[..] {
            [] => ethernet.ip(self.ip()),
            [tag] => ethernet.single_vlan(vlan(tag)).ip(self.ip()),
            [outer, inner, ..] => ethernet.double_vlan(vlan(outer), vlan(inner)).ip(self.ip()),
        };
        self.write_transport(ip, &mut frame);
        frame.resize(frame.len() + self.padding, 0x5a);
        frame
    }

    fn write_transport(&self, ip: PacketBuilderStep<IpHeaders>, frame: &mut Vec<u8>) {
        let (src, dst) = self.ports;
        match (self.kind, self.v6) {
            (Kind::Tcp, _) => ip.tcp_header(self.tcp()).write(frame, &self.payload),
            (Kind::Udp, _) => ip.udp(src, dst).write(frame, &self.payload),
            (Kind::Icmp, false) => ip.icmpv4_echo_request(src, dst).write(frame, &self.payload),
            (Kind::Icmp, true) => ip.icmpv6_echo_request(src, dst).write(frame, &self.payload),
        }
        .expect("a description of a valid frame");
    }

    fn tcp(&self) -> TcpHeader {
        let mut tcp = TcpHeader::new(self.ports.0, self.ports.1, self.seq, 500);
        tcp.acknowledgment_number = self.ack;
        tcp.fin = self.flags & 1 != 0;
        tcp.syn = self.flags & 2 != 0;
        tcp.rst = self.flags & 4 != 0;
        tcp.psh = self.flags & 8 != 0;
        tcp.ack = self.flags & 0x10 != 0;
        tcp.urg = self.flags & 0x20 != 0;
        tcp.ece = self.flags & 0x40 != 0;
        tcp.cwr = self.flags & 0x80 != 0;
        let options = vec![1; usize::from(self.tcp_options) * 4];
        tcp.set_options_raw(&options).expect("at most ten words");
        tcp
    }

    fn ip(&self) -> IpHeaders {
        if self.v6 { self.ipv6() } else { self.ipv4() }
    }

    fn ipv4(&self) -> IpHeaders {
        let mut header = Ipv4Header::new(0, 64, IpNumber::TCP, [192, 0, 2, 1], [198, 51, 100, 2])
            .expect("an empty payload fits");
        let options = vec![1; usize::from(self.ip_extra) * 4];
        header.options = Ipv4Options::try_from(&options[..]).expect("at most ten words");
        header.identification = self.id;
        IpHeaders::Ipv4(header, Ipv4Extensions::default())
    }

    fn ipv6(&self) -> IpHeaders {
        let raw = |len: usize| {
            let mut options = vec![0; len];
            options[1] = (len - 2) as u8;
            options[0] = 1; // PadN
            Ipv6RawExtHeader::new_raw(IpNumber::TCP, &options).expect("a multiple of eight octets")
        };
        let has = |bit: u8| self.ip_extra & bit != 0;
        let extensions = Ipv6Extensions {
            hop_by_hop_options: has(1).then(|| raw(6)),
            destination_options: has(2).then(|| raw(14)),
            routing: has(4).then(|| Ipv6RoutingExtensions {
                routing: raw(22),
                final_destination_options: None,
            }),
            fragment: has(8).then(|| Ipv6FragmentHeader::new(IpNumber::TCP, IpFragOffset::ZERO, false, 7)),
            auth: None,
        };
        let header = Ipv6Header {
            traffic_class: 0,
            flow_label: Ipv6FlowLabel::try_new(0x12345).expect("20 bits"),
            payload_length: 0,
            next_header: IpNumber::TCP,
            hop_limit: 64,
            source: [0xfd; 16],
            destination: [0xfc; 16],
        };
        IpHeaders::Ipv6(header, extensions)
    }
}

fn vlan(id: u16) -> VlanId {
    VlanId::try_new(id).expect("below 4096")
}
