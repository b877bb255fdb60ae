//! One pass over a frame's headers.

use core::net::IpAddr;

use crate::view::{
    ArpView, EthernetView, ExtensionWalk, IcmpView, Ipv4View, Ipv6View, TcpView, UdpView, VlanView,
    ethertype, protocol,
};
use crate::{FrameMeta, IpMeta, Link, Network, TcpMeta, Transport, UdpMeta, VlanTag};

/// Callers that have a copy of [`ipv4`] and [`ipv6`] each.
const PARSE: u8 = 0;
const PARSE_INTO: u8 = 1;
const PACKET: u8 = 2;
/// VLAN tags that are looked behind: a service tag and a customer tag.
const MAX_TAGS: usize = 2;

/// Why a frame has no metadata at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// The frame, or the prefix of it, ends inside the Ethernet header.
    #[error("{0} octets are too few for an Ethernet header")]
    TooShort(usize),
    /// The prefix is longer than the frame that it is said to start, or the frame is 4 GiB or longer.
    #[error("{prefix} octets cannot start a frame of {frame_len}")]
    Length {
        /// Octets of the prefix.
        prefix: usize,
        /// Octets that the frame is said to have.
        frame_len: usize,
    },
}

/// Reads the headers of a frame of `frame_len` octets that starts with `header`, which may be all of it.
///
/// Headers above Ethernet that are malformed, cut off by the prefix's end or at odds with `frame_len` come out as
/// [`Network::Other`] or [`Transport::Other`]. Up to two VLAN tags and eight IPv6 extension headers are passed over.
/// An IPv4 total length or IPv6 payload length of 0 stands for the rest of the frame, as in the frames above 64 KiB
/// that Linux makes ("BIG TCP").
pub fn parse(header: &[u8], frame_len: usize) -> Result<FrameMeta, ParseError> {
    let link = Link::read(header, frame_len)?;
    let network = network::<PARSE>(&link, header, frame_len);
    Ok(FrameMeta {
        frame_len: frame_len as u32,
        dst: link.dst,
        src: link.src,
        vlan: link.vlan,
        ethertype: link.ethertype,
        network_offset: link.network_offset,
        network: network.unwrap_or(Network::Other),
    })
}

/// [`parse`] into a place that there is already, which is left as it is when there is no metadata. What is returned in memory and
/// copied from there is waited for.
pub fn parse_into(meta: &mut FrameMeta, header: &[u8], frame_len: usize) -> Result<(), ParseError> {
    let link = Link::read(header, frame_len)?;
    meta.network = network::<PARSE_INTO>(&link, header, frame_len).unwrap_or(Network::Other);
    meta.frame_len = frame_len as u32;
    meta.dst = link.dst;
    meta.src = link.src;
    meta.vlan = link.vlan;
    meta.ethertype = link.ethertype;
    meta.network_offset = link.network_offset;
    Ok(())
}

/// What stands behind the link layer.
#[inline(always)]
#[allow(clippy::inline_always)] // Through memory, its result costs as much as the rest of the pass.
fn network<const CALLER: u8>(link: &Link, header: &[u8], frame_len: usize) -> Option<Network> {
    let offset = usize::from(link.network_offset);
    let rest = header.get(offset..).unwrap_or(&[]);
    match link.ethertype {
        ethertype::IPV4 => ipv4::<CALLER>(rest, offset, frame_len).map(Network::Ipv4),
        ethertype::IPV6 => ipv6::<CALLER>(rest, offset, frame_len).map(Network::Ipv6),
        ethertype::ARP => ArpView::new(rest).ok().map(|_| Network::Arp),
        _ => None,
    }
}

impl Link {
    /// Reads the link layer of a frame of `frame_len` octets that starts with `header`: as [`parse`], and no more.
    #[inline]
    pub fn read(header: &[u8], frame_len: usize) -> Result<Self, ParseError> {
        let ethernet = EthernetView::new(header).map_err(|_| ParseError::TooShort(header.len()))?;
        if frame_len < header.len() || u32::try_from(frame_len).is_err() {
            return Err(ParseError::Length {
                prefix: header.len(),
                frame_len,
            });
        }
        let ethertype = ethernet.ethertype();
        let (vlan, ethertype, network_offset) = if ethertype::is_vlan(ethertype) {
            behind_tags(ethertype, ethernet.payload())
        } else {
            (None, ethertype, EthernetView::LEN as u16)
        };
        Ok(Self {
            dst: ethernet.dst(),
            src: ethernet.src(),
            vlan,
            ethertype,
            network_offset,
        })
    }
}

/// The outermost tag, the `EtherType` behind the last one, and where the network header starts.
fn behind_tags(mut ethertype: u16, payload: &[u8]) -> (Option<VlanTag>, u16, u16) {
    let mut vlan = None;
    let mut rest = payload;
    let mut offset = EthernetView::LEN;
    for _ in 0..MAX_TAGS {
        if !ethertype::is_vlan(ethertype) {
            break;
        }
        let Ok(tag) = VlanView::new(rest) else { break };
        vlan = vlan.or(Some(tag.tag()));
        ethertype = tag.ethertype();
        rest = tag.payload();
        offset += VlanView::LEN;
    }
    (vlan, ethertype, offset as u16)
}

/// Reads a packet of `len` octets that starts with `packet`; offsets count from its first octet.
pub(crate) fn packet(ethertype: u16, packet: &[u8], len: usize) -> Network {
    match ethertype {
        ethertype::IPV4 => ipv4::<PACKET>(packet, 0, len).map(Network::Ipv4),
        ethertype::IPV6 => ipv6::<PACKET>(packet, 0, len).map(Network::Ipv6),
        _ => None,
    }
    .unwrap_or(Network::Other)
}

/// A copy of its own for each caller, `parse`, `parse_into` and `packet`: one that is shared costs the first half as much again.
fn ipv4<const CALLER: u8>(packet: &[u8], offset: usize, frame_len: usize) -> Option<IpMeta> {
    let view = Ipv4View::new(packet).ok()?;
    let available = frame_len.checked_sub(offset)?;
    let len = match usize::from(view.total_len()) {
        0 => available,
        stated if (view.header_len()..=available).contains(&stated) => stated,
        _ => return None,
    };
    let segment = Segment {
        octets: view.payload(),
        offset: offset + view.header_len(),
        end: offset + len,
    };
    Some(IpMeta {
        src: IpAddr::V4(view.src()),
        dst: IpAddr::V4(view.dst()),
        protocol: view.protocol(),
        fragment: view.more_fragments() || view.fragment_offset() != 0,
        transport_offset: segment.offset as u16,
        end: segment.end as u32,
        transport: match view.fragment_offset() {
            0 => segment.transport(view.protocol(), protocol::ICMP),
            _ => Transport::Other,
        },
    })
}

/// As [`ipv4`].
fn ipv6<const CALLER: u8>(packet: &[u8], offset: usize, frame_len: usize) -> Option<IpMeta> {
    let view = Ipv6View::new(packet).ok()?;
    let available = frame_len.checked_sub(offset + Ipv6View::LEN)?;
    let len = match usize::from(view.payload_len()) {
        0 if view.next_header() != protocol::NO_NEXT_HEADER => available,
        stated if stated <= available => stated,
        _ => return None,
    };
    let payload = view.payload();
    let payload = payload.get(..len).unwrap_or(payload);
    let mut walk = ExtensionWalk::new(view.next_header(), payload);
    let (mut fragment, mut first) = (false, true);
    for header in walk.by_ref() {
        if let Some((position, more)) = header.fragment() {
            fragment |= more || position != 0;
            first &= position == 0;
        }
    }
    let start = offset + Ipv6View::LEN;
    let segment = Segment {
        octets: walk.rest(),
        offset: start + walk.walked(),
        end: start + len,
    };
    Some(IpMeta {
        src: IpAddr::V6(view.src()),
        dst: IpAddr::V6(view.dst()),
        protocol: walk.next_header(),
        fragment,
        transport_offset: segment.offset as u16,
        end: segment.end as u32,
        transport: if first {
            segment.transport(walk.next_header(), protocol::ICMPV6)
        } else {
            Transport::Other
        },
    })
}

/// An IP payload within its frame: `octets`, perhaps cut off or padded, stand at `offset`; the packet ends at `end`.
struct Segment<'a> {
    octets: &'a [u8],
    offset: usize,
    end: usize,
}

impl Segment<'_> {
    #[inline(always)]
    #[allow(clippy::inline_always)] // Through memory, its result costs as much as the rest of the pass.
    fn transport(&self, number: u8, icmp: u8) -> Transport {
        let len = self.end.saturating_sub(self.offset);
        let octets = self.octets.get(..len).unwrap_or(self.octets);
        match number {
            protocol::TCP => self.tcp(octets, len),
            protocol::UDP => self.udp(octets, len),
            _ if number == icmp => IcmpView::new(octets).ok().map(|view| Transport::Icmp {
                kind: view.kind(),
                code: view.code(),
            }),
            _ => None,
        }
        .unwrap_or(Transport::Other)
    }

    fn tcp(&self, octets: &[u8], len: usize) -> Option<Transport> {
        let view = TcpView::new(octets).ok()?;
        Some(Transport::Tcp(TcpMeta {
            src_port: view.src_port(),
            dst_port: view.dst_port(),
            seq: view.seq(),
            ack: view.ack(),
            flags: view.flags(),
            window: view.window(),
            payload_offset: (self.offset + view.header_len()) as u16,
            payload_len: len.saturating_sub(view.header_len()) as u32,
        }))
    }

    fn udp(&self, octets: &[u8], len: usize) -> Option<Transport> {
        let view = UdpView::new(octets).ok()?;
        let stated = usize::from(view.length());
        let len = if (UdpView::LEN..=len).contains(&stated) {
            stated
        } else {
            len
        };
        Some(Transport::Udp(UdpMeta {
            src_port: view.src_port(),
            dst_port: view.dst_port(),
            payload_offset: (self.offset + UdpView::LEN) as u16,
            payload_len: len.saturating_sub(UdpView::LEN) as u32,
        }))
    }
}

#[cfg(test)]
mod tests;
