//! Frames and packets inside of tunnels.

use core::ops::Range;

use crate::parse::{packet, parse};
use crate::view::{GeneveView, GreView, VxlanView, ethertype, protocol};
use crate::{FrameMeta, IpMeta, Network, Transport};

/// What a tunnel's own header is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelKind {
    /// VXLAN over UDP (RFC 7348).
    Vxlan,
    /// Geneve over UDP (RFC 8926).
    Geneve,
    /// GRE over IP (RFC 2784, RFC 2890); NVGRE (RFC 7637) is GRE with a key around Ethernet.
    Gre,
}

/// A tunnel in a frame and what it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// The tunnel's kind.
    pub kind: TunnelKind,
    /// Where the tunnel's own header starts, behind UDP or IP.
    pub offset: u16,
    /// The network identifier (24 bits) of VXLAN or Geneve, or the GRE key.
    pub id: Option<u32>,
    /// What is inside. All offsets, `frame_len` too, count from the *outer* frame's first octet. A packet without an
    /// Ethernet header has the outer frame's addresses and no VLAN tag here.
    pub inner: FrameMeta,
}

/// Finds the frame or packet in the tunnel that `meta`, parsed of a frame that starts with `header`, is the outside of.
///
/// `None` when the frame is no VXLAN, Geneve or GRE, is a fragment, or the tunnel's header is malformed, cut off or a
/// Geneve control packet. One level is looked at. UDP tunnels are told by destination port alone.
pub fn parse_inner(header: &[u8], meta: &FrameMeta) -> Option<Tunnel> {
    let ip = meta.ip().filter(|ip| !ip.fragment)?;
    let Range { start: offset, end } = match ip.transport {
        Transport::Udp(udp) => udp.payload(),
        _ => usize::from(ip.transport_offset)..ip.end as usize,
    };
    let octets = header.get(offset..end.min(header.len()))?;
    let (kind, id, protocol, payload) = read(ip, octets)?;
    let start = u16::try_from(offset + octets.len() - payload.len()).ok()?;
    let len = end - usize::from(start);
    let inner = match protocol {
        ethertype::TRANSPARENT_ETHERNET => parse(payload, len).ok()?,
        ethertype::IPV4 | ethertype::IPV6 => FrameMeta {
            frame_len: len as u32,
            vlan: None,
            ethertype: protocol,
            network_offset: 0,
            network: packet(protocol, payload, len),
            ..*meta
        },
        _ => return None,
    };
    Some(Tunnel {
        kind,
        offset: offset as u16,
        id,
        inner: moved(inner, start),
    })
}

/// The same metadata with offsets that count from `by` octets further in front. Headers end far below 64 KiB.
fn moved(mut meta: FrameMeta, by: u16) -> FrameMeta {
    meta.frame_len += u32::from(by);
    meta.network_offset += by;
    if let Network::Ipv4(ip) | Network::Ipv6(ip) = &mut meta.network {
        ip.transport_offset += by;
        ip.end += u32::from(by);
        match &mut ip.transport {
            Transport::Tcp(tcp) => tcp.payload_offset += by,
            Transport::Udp(udp) => udp.payload_offset += by,
            Transport::Icmp { .. } | Transport::Other => {}
        }
    }
    meta
}

/// A tunnel's kind, identifier, payload type and payload.
type Header<'a> = (TunnelKind, Option<u32>, u16, &'a [u8]);

fn read<'a>(ip: &IpMeta, octets: &'a [u8]) -> Option<Header<'a>> {
    match ip.transport {
        Transport::Udp(udp) if udp.dst_port == VxlanView::PORT => {
            let view = VxlanView::new(octets).ok().filter(VxlanView::has_vni)?;
            let ethernet = ethertype::TRANSPARENT_ETHERNET;
            Some((TunnelKind::Vxlan, Some(view.vni()), ethernet, view.payload()))
        }
        Transport::Udp(udp) if udp.dst_port == GeneveView::PORT => {
            let view = GeneveView::new(octets).ok().filter(|view| !view.is_control())?;
            Some((
                TunnelKind::Geneve,
                Some(view.vni()),
                view.protocol(),
                view.payload(),
            ))
        }
        Transport::Other if ip.protocol == protocol::GRE => {
            let view = GreView::new(octets).ok()?;
            Some((TunnelKind::Gre, view.key(), view.protocol(), view.payload()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
