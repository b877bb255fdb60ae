//! Receive-side scaling: which hash a frame has by a receiver's wishes, and which queue that means (virtio 1.2,
//! 5.1.6.4.3 and 5.1.6.5.7).

mod addresses;
#[cfg(test)]
mod tests;
mod toeplitz;

use core::net::IpAddr;

use crate::{FrameMeta, IpMeta, Network, Transport};
use addresses::{Words, v6_addresses};
pub use toeplitz::Toeplitz;

/// Which frames are hashed, and over what: `VIRTIO_NET_HASH_TYPE_*` (virtio 1.2, 5.1.6.4.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HashTypes(pub u32);

impl HashTypes {
    /// IPv4 addresses.
    pub const IPV4: Self = Self(1 << 0);
    /// IPv4 addresses and TCP ports.
    pub const TCPV4: Self = Self(1 << 1);
    /// IPv4 addresses and UDP ports.
    pub const UDPV4: Self = Self(1 << 2);
    /// IPv6 addresses.
    pub const IPV6: Self = Self(1 << 3);
    /// IPv6 addresses and TCP ports.
    pub const TCPV6: Self = Self(1 << 4);
    /// IPv6 addresses and UDP ports.
    pub const UDPV6: Self = Self(1 << 5);
    /// As [`Self::IPV6`], with addresses from extension headers.
    pub const IP_EX: Self = Self(1 << 6);
    /// As [`Self::TCPV6`], with addresses from extension headers.
    pub const TCP_EX: Self = Self(1 << 7);
    /// As [`Self::UDPV6`], with addresses from extension headers.
    pub const UDP_EX: Self = Self(1 << 8);
    /// All that need no look into extension headers.
    pub const PLAIN: Self = Self(0x3f);
    /// All of them.
    pub const ALL: Self = Self(0x1ff);

    /// Whether all of `other` are in here.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// What a hash was taken over: `VIRTIO_NET_HASH_REPORT_*` (virtio 1.2, 5.1.6.4.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum HashReport {
    /// Nothing: there is no hash.
    #[default]
    None = 0,
    /// IPv4 addresses.
    Ipv4 = 1,
    /// IPv4 addresses and TCP ports.
    Tcpv4 = 2,
    /// IPv4 addresses and UDP ports.
    Udpv4 = 3,
    /// IPv6 addresses.
    Ipv6 = 4,
    /// IPv6 addresses and TCP ports.
    Tcpv6 = 5,
    /// IPv6 addresses and UDP ports.
    Udpv6 = 6,
    /// IPv6 addresses, perhaps from extension headers.
    Ipv6Ex = 7,
    /// The same and TCP ports.
    Tcpv6Ex = 8,
    /// The same and UDP ports.
    Udpv6Ex = 9,
}

/// A receiver's hash: its key, and what it wants hashed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hasher {
    toeplitz: Toeplitz,
    types: HashTypes,
}

impl Hasher {
    /// A hash with a key of up to [`Toeplitz::KEY_LEN`] octets.
    pub const fn new(key: &[u8], types: HashTypes) -> Self {
        Self {
            toeplitz: Toeplitz::new(key),
            types,
        }
    }

    /// A frame's hash and what it was taken over; 0 and [`HashReport::None`] for a frame that is not to be hashed. A
    /// fragment has addresses only, so that all fragments of a packet have the same hash. `head` are the frame's first
    /// octets, where extension headers are looked for.
    #[inline]
    pub fn hash(&self, meta: &FrameMeta, head: &[u8]) -> (u32, HashReport) {
        match &meta.network {
            Network::Ipv4(ip) => self.v4(ip),
            Network::Ipv6(ip) => self.v6(meta, ip, head),
            Network::Arp | Network::Other => None,
        }
        .unwrap_or_default()
    }

    #[inline]
    fn v4(&self, ip: &IpMeta) -> Option<(u32, HashReport)> {
        let (IpAddr::V4(src), IpAddr::V4(dst)) = (ip.src, ip.dst) else {
            return None;
        };
        let (src, dst) = (src.to_bits(), dst.to_bits());
        let whole = |ports, report| Some((self.toeplitz.hash(&[src, dst, ports]), report));
        match ports(ip) {
            Ports::Tcp(ports) if self.wants(HashTypes::TCPV4) => whole(ports, HashReport::Tcpv4),
            Ports::Udp(ports) if self.wants(HashTypes::UDPV4) => whole(ports, HashReport::Udpv4),
            _ if self.wants(HashTypes::IPV4) => Some((self.toeplitz.hash(&[src, dst]), HashReport::Ipv4)),
            _ => None,
        }
    }

    fn v6(&self, meta: &FrameMeta, ip: &IpMeta, head: &[u8]) -> Option<(u32, HashReport)> {
        let ports = ports(ip);
        let mut words = Words::new(ip)?;
        let mut whole = |ports, report| Some((self.toeplitz.hash(words.with_ports(ports)), report));
        if let Some(extended) = v6_addresses(meta, ip, head) {
            let mut words = extended;
            let mut whole = |ports, report| Some((self.toeplitz.hash(words.with_ports(ports)), report));
            match ports {
                Ports::Tcp(ports) if self.wants(HashTypes::TCP_EX) => {
                    return whole(ports, HashReport::Tcpv6Ex);
                }
                Ports::Udp(ports) if self.wants(HashTypes::UDP_EX) => {
                    return whole(ports, HashReport::Udpv6Ex);
                }
                _ if self.wants(HashTypes::IP_EX) => {
                    return Some((self.toeplitz.hash(words.addresses()), HashReport::Ipv6Ex));
                }
                _ => {}
            }
        }
        match ports {
            Ports::Tcp(ports) if self.wants(HashTypes::TCPV6) => whole(ports, HashReport::Tcpv6),
            Ports::Udp(ports) if self.wants(HashTypes::UDPV6) => whole(ports, HashReport::Udpv6),
            _ if self.wants(HashTypes::IPV6) => {
                Some((self.toeplitz.hash(words.addresses()), HashReport::Ipv6))
            }
            _ => None,
        }
    }

    const fn wants(&self, types: HashTypes) -> bool {
        self.types.contains(types)
    }
}

/// A packet's ports as they stand in its header, the source's first.
#[derive(Clone, Copy)]
enum Ports {
    Tcp(u32),
    Udp(u32),
    None,
}

#[inline]
fn ports(ip: &IpMeta) -> Ports {
    let pair = |src: u16, dst: u16| u32::from(src) << 16 | u32::from(dst);
    match &ip.transport {
        _ if ip.fragment => Ports::None,
        Transport::Tcp(tcp) => Ports::Tcp(pair(tcp.src_port, tcp.dst_port)),
        Transport::Udp(udp) => Ports::Udp(pair(udp.src_port, udp.dst_port)),
        Transport::Icmp { .. } | Transport::Other => Ports::None,
    }
}

/// Which queue a hash means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Indirection {
    table: Box<[u16]>,
    unclassified: u16,
}

/// An indirection table whose length is no power of two, or beyond [`Indirection::MAX_LEN`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an indirection table of {0} entries: powers of two up to {max} are possible", max = Indirection::MAX_LEN)]
pub struct TableLength(pub usize);

impl Indirection {
    /// The longest table: what a device has to take at least (virtio 1.2, 5.1.4.1), and the most that Linux has room for.
    pub const MAX_LEN: usize = 128;

    /// Queue pairs by the low bits of the hash, and the one for frames without a hash.
    pub fn new(table: Box<[u16]>, unclassified: u16) -> Result<Self, TableLength> {
        if !table.len().is_power_of_two() || table.len() > Self::MAX_LEN {
            return Err(TableLength(table.len()));
        }
        Ok(Self { table, unclassified })
    }

    /// The queue pair of a frame with this hash.
    #[inline]
    pub fn queue(&self, hash: u32, report: HashReport) -> u16 {
        if report == HashReport::None {
            return self.unclassified;
        }
        let index = hash as usize & (self.table.len() - 1);
        self.table.get(index).copied().unwrap_or(self.unclassified)
    }

    /// The highest queue pair that a frame can get.
    pub fn highest(&self) -> u16 {
        self.table.iter().copied().fold(self.unclassified, u16::max)
    }
}
