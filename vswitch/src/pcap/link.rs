//! What stands before a packet in a capture (<https://www.tcpdump.org/linktypes.html>), and the Ethernet header that says the same.

use offload::view::ethertype;

/// What captured packets begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkType {
    /// `LINKTYPE_ETHERNET` (1).
    Ethernet,
    /// `LINKTYPE_LINUX_SLL` (113): what Linux knows of a frame on any interface.
    LinuxCooked,
    /// `LINKTYPE_LINUX_SLL2` (276): the same, and the interface.
    LinuxCooked2,
    /// `LINKTYPE_RAW` (101), `LINKTYPE_IPV4` (228) and `LINKTYPE_IPV6` (229): IP packets.
    Raw,
    /// `LINKTYPE_NULL` (0) and `LINKTYPE_LOOP` (108): an address family of the system that captured, in either byte order.
    Loopback,
}

/// Where a capture of all interfaces met a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Station {
    /// The interface's index; 0 where the capture does not tell.
    pub interface: u32,
    /// Whether the machine sent it there, and did not receive it.
    pub outgoing: bool,
}

/// A link header, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    len: usize,
    ethertype: u16,
    station: Option<Station>,
}

impl LinkType {
    /// The link type with this number in capture files.
    pub const fn from_number(number: u16) -> Option<Self> {
        match number {
            0 | 108 => Some(Self::Loopback),
            1 => Some(Self::Ethernet),
            101 | 228 | 229 => Some(Self::Raw),
            113 => Some(Self::LinuxCooked),
            276 => Some(Self::LinuxCooked2),
            _ => None,
        }
    }

    /// Writes `octets`, a packet of this type that is `len` long as a whole, to `frame` as an Ethernet frame: its length as a whole, and
    /// where it was met. Addresses are all zero. Of a packet that is cut off within the header of its link nothing is left.
    pub(super) fn as_ethernet(self, octets: &[u8], len: u32, frame: &mut Vec<u8>) -> (u32, Option<Station>) {
        const ETHERNET_LEN: usize = 14;
        frame.clear();
        let header = match self {
            Self::Ethernet => {
                frame.extend_from_slice(octets);
                return (len, None);
            }
            Self::LinuxCooked => cooked(octets),
            Self::LinuxCooked2 => cooked2(octets),
            Self::Raw => raw(octets),
            Self::Loopback => loopback(octets),
        };
        let Some(header) = header else { return (len, None) };
        frame.resize(ETHERNET_LEN - 2, 0);
        frame.extend(header.ethertype.to_be_bytes());
        frame.extend_from_slice(octets.get(header.len..).unwrap_or_default());
        let len = len
            .saturating_sub(header.len as u32)
            .saturating_add(ETHERNET_LEN as u32);
        (len, header.station)
    }
}

/// `PACKET_OUTGOING` of Linux.
const OUTGOING: u16 = 4;

/// Packet type, ARPHRD type, length of the address, address, protocol. A VLAN tag stands behind it as behind an Ethernet header.
fn cooked(octets: &[u8]) -> Option<Header> {
    let [kind @ .., _, _, _, _, _, _, _, _, _, _, _, _, high, low] = octets.first_chunk::<16>()?;
    Some(Header {
        len: 16,
        ethertype: u16::from_be_bytes([*high, *low]),
        station: Some(Station {
            interface: 0,
            outgoing: u16::from_be_bytes(*kind) == OUTGOING,
        }),
    })
}

/// Protocol, two reserved octets, interface index, ARPHRD type, packet type, length of the address, address.
fn cooked2(octets: &[u8]) -> Option<Header> {
    let [high, low, _, _, a, b, c, d, _, _, kind, ..] = octets.first_chunk::<20>()?;
    Some(Header {
        len: 20,
        ethertype: u16::from_be_bytes([*high, *low]),
        station: Some(Station {
            interface: u32::from_be_bytes([*a, *b, *c, *d]),
            outgoing: u16::from(*kind) == OUTGOING,
        }),
    })
}

fn raw(octets: &[u8]) -> Option<Header> {
    let ethertype = match octets.first()? >> 4 {
        4 => ethertype::IPV4,
        6 => ethertype::IPV6,
        _ => 0,
    };
    Some(Header {
        len: 0,
        ethertype,
        station: None,
    })
}

/// `AF_INET` is 2 everywhere; `AF_INET6` is 10 on Linux, 24 on NetBSD and OpenBSD, 28 on FreeBSD, 30 on Darwin.
fn loopback(octets: &[u8]) -> Option<Header> {
    let word = *octets.first_chunk::<4>()?;
    let family = u32::from_be_bytes(word).min(u32::from_le_bytes(word));
    let ethertype = match family {
        2 => ethertype::IPV4,
        10 | 24 | 28 | 30 => ethertype::IPV6,
        _ => 0,
    };
    Some(Header {
        len: 4,
        ethertype,
        station: None,
    })
}
