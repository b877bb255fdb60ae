//! What a fragment says of itself.

use core::net::IpAddr;

use offload::view::{Ipv4View, Ipv6View, protocol};
use offload::{Network, VlanTag};

use crate::{Direction, FrameRef};

/// The next-header number of IPv6 fragment headers.
const FRAGMENT: u8 = 44;
const ETHERNET_LEN: usize = 14;
/// Octets of the longest packet, the IPv4 header included, the IPv6 header not.
const MAX_PACKET: usize = u16::MAX as usize;

/// What fragments of one datagram have in common. (The protocol of an IPv6 datagram is what its first fragment says: RFC 8200, 4.5.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    direction: Direction,
    vlan: u16,
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    id: u32,
}

impl Key {
    /// Whether a flow may come of it.
    pub(super) const fn may_be_judged(&self) -> bool {
        matches!(self.protocol, protocol::TCP | protocol::UDP | FRAGMENT)
    }
}

/// One fragment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fragment<'a> {
    pub(super) key: Key,
    /// Its place in the datagram.
    pub(super) start: u32,
    /// Whether more follows behind it.
    pub(super) more: bool,
    /// What the datagram is, if this is its first fragment.
    pub(super) protocol: u8,
    /// At least one.
    pub(super) octets: &'a [u8],
}

impl<'a> Fragment<'a> {
    /// Reads the fragment in a frame whose packet is shown. `None` when no datagram can be made of it: it is empty, reaches past the end
    /// of the longest packet, or is not the last and no multiple of eight octets.
    pub(super) fn of(frame: &FrameRef<'a>) -> Option<Self> {
        let vlan = frame.meta.vlan.map_or(0, VlanTag::id);
        let (fragment, limit) = match frame.meta.network {
            Network::Ipv4(_) => (
                Self::v4(frame.direction, vlan, frame.payload)?,
                MAX_PACKET - Ipv4View::MIN_LEN,
            ),
            Network::Ipv6(_) => (Self::v6(frame.direction, vlan, frame.payload)?, MAX_PACKET),
            _ => return None,
        };
        let len = fragment.octets.len();
        let fits = fragment.start as usize + len <= limit;
        (len > 0 && fits && (!fragment.more || len.is_multiple_of(8))).then_some(fragment)
    }

    /// Where it ends.
    pub(super) fn end(&self) -> u32 {
        self.start + self.octets.len() as u32
    }

    fn v4(direction: Direction, vlan: u16, packet: &'a [u8]) -> Option<Self> {
        let view = Ipv4View::new(packet).ok()?;
        Some(Self {
            key: Key {
                direction,
                vlan,
                src: view.src().into(),
                dst: view.dst().into(),
                protocol: view.protocol(),
                id: view.id().into(),
            },
            start: view.fragment_offset(),
            more: view.more_fragments(),
            protocol: view.protocol(),
            octets: view.payload(),
        })
    }

    fn v6(direction: Direction, vlan: u16, packet: &'a [u8]) -> Option<Self> {
        let view = Ipv6View::new(packet).ok()?;
        view.extensions().find_map(|header| {
            let (start, more) = header.fragment().filter(|(start, more)| *more || *start != 0)?;
            Some(Self {
                key: Key {
                    direction,
                    vlan,
                    src: view.src().into(),
                    dst: view.dst().into(),
                    protocol: FRAGMENT,
                    id: header.fragment_id()?,
                },
                start,
                more,
                protocol: header.next_header(),
                octets: header.payload(),
            })
        })
    }
}

/// Writes an Ethernet and an IP header for `len` octets of `protocol`.
pub(super) fn begin_frame(key: &Key, protocol: u8, len: u32, out: &mut Vec<u8>) {
    const TTL: u8 = 64;
    out.resize(ETHERNET_LEN - 2, 0);
    match (key.src, key.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let total = (len as usize + Ipv4View::MIN_LEN) as u16;
            out.extend([0x08, 0, 0x45, 0]);
            out.extend(total.to_be_bytes());
            out.extend([0, 0, 0, 0, TTL, protocol, 0, 0]);
            out.extend(src.octets());
            out.extend(dst.octets());
        }
        (src, dst) => {
            out.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            out.extend((len as u16).to_be_bytes());
            out.extend([protocol, TTL]);
            for address in [src, dst] {
                if let IpAddr::V6(address) = address {
                    out.extend(address.octets());
                }
            }
        }
    }
}
