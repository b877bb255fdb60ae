//! IPv6 addresses as words, from the header or from extension headers.

use core::net::{IpAddr, Ipv6Addr};

use crate::view::{ExtensionKind, Ipv6View};
use crate::{FrameMeta, IpMeta};

/// Source, destination and ports: what is hashed of an IPv6 packet.
pub(super) struct Words([u32; 9]);

/// The home address option, its number and length (RFC 6275, 6.3).
const HOME_ADDRESS: u8 = 201;
/// The padding option without a length (RFC 8200, 4.2).
const PAD1: u8 = 0;
/// The routing header that carries a mobile node's home address (RFC 6275, 6.4).
const ROUTING_TYPE_2: u8 = 2;
/// Octets in front of a destination options header's options, and of a routing header's address.
const OPTIONS: usize = 2;
const ROUTED: usize = 8;

impl Words {
    pub(super) fn new(ip: &IpMeta) -> Option<Self> {
        let (IpAddr::V6(src), IpAddr::V6(dst)) = (ip.src, ip.dst) else {
            return None;
        };
        let mut words = Self([0; 9]);
        words.place(0, src);
        words.place(4, dst);
        Some(words)
    }

    pub(super) fn addresses(&self) -> &[u32] {
        &self.0[..8]
    }

    pub(super) fn with_ports(&mut self, ports: u32) -> &[u32] {
        self.0[8] = ports;
        &self.0
    }

    fn place(&mut self, at: usize, address: Ipv6Addr) {
        let octets = address.octets();
        for (word, octets) in self.0[at..].iter_mut().zip(octets.as_chunks::<4>().0) {
            *word = u32::from_be_bytes(*octets);
        }
    }
}

/// The addresses of a packet that has extension headers: its home address instead of its source, and the address in a
/// type 2 routing header instead of its destination, where they are. `None` for a packet without extension headers.
pub(super) fn v6_addresses(meta: &FrameMeta, ip: &IpMeta, head: &[u8]) -> Option<Words> {
    let start = usize::from(meta.network_offset);
    if usize::from(ip.transport_offset) <= start + Ipv6View::LEN {
        return None;
    }
    let mut words = Words::new(ip)?;
    let Ok(view) = Ipv6View::new(head.get(start..).unwrap_or_default()) else {
        return Some(words);
    };
    let mut rest = view.payload();
    for header in view.extensions() {
        let Some((octets, behind)) = rest.split_at_checked(header.header_len()) else {
            break;
        };
        rest = behind;
        match header.kind() {
            ExtensionKind::Destination => {
                if let Some(home) = home_address(octets) {
                    words.place(0, home);
                }
            }
            ExtensionKind::Routing if octets.get(OPTIONS) == Some(&ROUTING_TYPE_2) => {
                if let Some(routed) = octets.get(ROUTED..).and_then(address) {
                    words.place(4, routed);
                }
            }
            _ => {}
        }
    }
    Some(words)
}

/// The home address among the options of a destination options header.
fn home_address(header: &[u8]) -> Option<Ipv6Addr> {
    let mut rest = header.get(OPTIONS..)?;
    loop {
        let (kind, behind) = rest.split_first()?;
        if *kind == PAD1 {
            rest = behind;
            continue;
        }
        let (len, behind) = behind.split_first()?;
        let (data, behind) = behind.split_at_checked(usize::from(*len))?;
        if *kind == HOME_ADDRESS {
            return address(data);
        }
        rest = behind;
    }
}

fn address(octets: &[u8]) -> Option<Ipv6Addr> {
    octets.first_chunk::<16>().map(|octets| Ipv6Addr::from(*octets))
}
