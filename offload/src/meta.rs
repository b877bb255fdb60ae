//! What the switch knows of a frame after one pass over its headers.

use core::net::IpAddr;
use core::ops::Range;

use crate::MacAddr;

/// The result of [`crate::parse`]: addresses, offsets and lengths of one Ethernet frame.
///
/// All offsets count from the first octet of the frame. Plain data: it borrows nothing, so it stays right
/// when the frame that it was read from is rewritten by a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameMeta {
    /// Length of the whole frame in octets, Ethernet header included, FCS excluded.
    pub frame_len: u32,
    /// Destination address.
    pub dst: MacAddr,
    /// Source address.
    pub src: MacAddr,
    /// The outermost 802.1Q tag, when there is one.
    pub vlan: Option<VlanTag>,
    /// `EtherType` behind the last VLAN tag, or the length field of an 802.3 frame.
    pub ethertype: u16,
    /// Where the network header starts: 14 without tags.
    pub network_offset: u16,
    /// The network layer.
    pub network: Network,
}

/// The link layer of a frame: the part of its [`FrameMeta`] that every frame has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Destination address.
    pub dst: MacAddr,
    /// Source address.
    pub src: MacAddr,
    /// The outermost 802.1Q tag, when there is one.
    pub vlan: Option<VlanTag>,
    /// `EtherType` behind the last VLAN tag, or the length field of an 802.3 frame.
    pub ethertype: u16,
    /// Where the network header starts: 14 without tags.
    pub network_offset: u16,
}

/// An 802.1Q tag control field (IEEE 802.1Q-2018, 9.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VlanTag(pub u16);

impl VlanTag {
    /// The VLAN identifier, 0 to 4095; 0 is a priority tag without a VLAN.
    pub const fn id(self) -> u16 {
        self.0 & 0x0fff
    }

    /// The priority code point, 0 to 7.
    pub const fn priority(self) -> u8 {
        (self.0 >> 13) as u8
    }
}

/// The network layer of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// ARP for IPv4 over Ethernet (RFC 826).
    Arp,
    /// IPv4 (RFC 791).
    Ipv4(IpMeta),
    /// IPv6 (RFC 8200).
    Ipv6(IpMeta),
    /// Anything else, a malformed or cut-off network header included.
    Other,
}

/// An IP header, of either version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpMeta {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// The transport's protocol number, extension headers skipped.
    pub protocol: u8,
    /// Whether the packet is a fragment, the first one included.
    pub fragment: bool,
    /// Where the transport header starts.
    pub transport_offset: u16,
    /// Where the packet ends: by the IP length field, so Ethernet padding is left out; at most `frame_len`.
    pub end: u32,
    /// The transport layer.
    pub transport: Transport,
}

/// The transport layer of an IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP (RFC 9293).
    Tcp(TcpMeta),
    /// UDP (RFC 768).
    Udp(UdpMeta),
    /// ICMP or ICMPv6: type and code.
    Icmp {
        /// The message's type.
        kind: u8,
        /// The message's code.
        code: u8,
    },
    /// Anything else: an unknown protocol, any fragment but the first, a malformed or cut-off header.
    Other,
}

/// A TCP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpMeta {
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// Sequence number of the first payload octet (of SYN when it is set).
    pub seq: u32,
    /// Acknowledgement number; meaningful when ACK is set.
    pub ack: u32,
    /// The flag bits.
    pub flags: TcpFlags,
    /// Window field, unscaled.
    pub window: u16,
    /// Where the payload starts.
    pub payload_offset: u16,
    /// Payload octets by the IP length.
    pub payload_len: u32,
}

/// The low eight TCP flag bits (RFC 9293, 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// FIN.
    pub const FIN: u8 = 0x01;
    /// SYN.
    pub const SYN: u8 = 0x02;
    /// RST.
    pub const RST: u8 = 0x04;
    /// PSH.
    pub const PSH: u8 = 0x08;
    /// ACK.
    pub const ACK: u8 = 0x10;
    /// ECN echo (RFC 3168, 6.1).
    pub const ECE: u8 = 0x40;
    /// Congestion window reduced (RFC 3168, 6.1.2).
    pub const CWR: u8 = 0x80;

    /// Whether any of the bits in `mask` is set.
    pub const fn any(self, mask: u8) -> bool {
        self.0 & mask != 0
    }
}

/// A UDP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpMeta {
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// Where the payload starts.
    pub payload_offset: u16,
    /// Payload octets, by the UDP length where it is sane, else by the IP length.
    pub payload_len: u32,
}

impl Transport {
    /// Where a TCP segment's or UDP datagram's payload is in the frame; `None` for any other.
    pub fn payload(&self) -> Option<Range<usize>> {
        match self {
            Self::Tcp(tcp) => Some(octets(tcp.payload_offset, tcp.payload_len)),
            Self::Udp(udp) => Some(udp.payload()),
            Self::Icmp { .. } | Self::Other => None,
        }
    }
}

impl UdpMeta {
    /// Where the payload is in the frame.
    pub fn payload(&self) -> Range<usize> {
        octets(self.payload_offset, self.payload_len)
    }
}

fn octets(start: u16, len: u32) -> Range<usize> {
    let start = usize::from(start);
    start..start + len as usize
}

impl FrameMeta {
    /// Metadata of no frame, for a place that is filled later.
    pub const NOTHING: Self = Self {
        frame_len: 0,
        dst: MacAddr([0; 6]),
        src: MacAddr([0; 6]),
        vlan: None,
        ethertype: 0,
        network_offset: 0,
        network: Network::Other,
    };

    /// The IP header, when the frame has one.
    pub const fn ip(&self) -> Option<&IpMeta> {
        match &self.network {
            Network::Ipv4(ip) | Network::Ipv6(ip) => Some(ip),
            Network::Arp | Network::Other => None,
        }
    }

    /// The TCP header, when the frame has one.
    pub const fn tcp(&self) -> Option<&TcpMeta> {
        match self.ip() {
            Some(IpMeta {
                transport: Transport::Tcp(tcp),
                ..
            }) => Some(tcp),
            _ => None,
        }
    }
}
