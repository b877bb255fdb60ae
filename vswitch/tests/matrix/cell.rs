//! The matrix' dimensions: which port, what it takes off its peer's hands, and what passes.

use std::fmt;

use vswitch::port::Capabilities;

/// What the port under test connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    VhostSplit,
    VhostPacked,
    Tap,
    Endpoint,
    AfPacket,
    AfXdp,
}

/// What is negotiated, in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Offload {
    None,
    Checksum,
    Tso,
    All,
}

/// The IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Family {
    V4,
    V6,
}

/// Whether frames on the port under test have a VLAN tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Tag {
    Untagged,
    Tagged,
}

/// The VLAN of all traffic.
pub(crate) const VLAN: u16 = 10;

/// Octets of the largest IP packet.
pub(crate) const MTUS: [u16; 3] = [1280, 1500, 9000];

/// The largest that AF_XDP carries.
const XDP_MTU: u16 = 3498;

/// What one port is made for: both IP versions pass through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Setting {
    pub(crate) kind: Kind,
    pub(crate) offload: Offload,
    pub(crate) mtu: u16,
    pub(crate) tag: Tag,
}

/// One cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Cell {
    pub(crate) setting: Setting,
    pub(crate) family: Family,
}

/// Why a cell is blank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Blank {
    EndpointChecksums,
    XdpSegments,
    XdpPage,
}

impl Kind {
    pub(crate) const ALL: [Self; 6] = [
        Self::VhostSplit,
        Self::VhostPacked,
        Self::Tap,
        Self::Endpoint,
        Self::AfPacket,
        Self::AfXdp,
    ];
}

impl Offload {
    pub(crate) const ALL: [Self; 4] = [Self::None, Self::Checksum, Self::Tso, Self::All];

    /// The abilities that it stands for. ECN comes with the last, so that TSO without it is covered.
    pub(crate) fn abilities(self) -> Capabilities {
        let tso = matches!(self, Self::Tso | Self::All);
        let all = self == Self::All;
        Capabilities {
            checksum: self != Self::None,
            tso4: tso,
            tso6: tso,
            uso4: all,
            uso6: all,
            ecn: all,
        }
    }
}

impl Family {
    pub(crate) const ALL: [Self; 2] = [Self::V4, Self::V6];
}

impl Tag {
    pub(crate) const ALL: [Self; 2] = [Self::Untagged, Self::Tagged];

    /// The tag's VLAN.
    pub(crate) fn vlan(self) -> Option<u16> {
        (self == Self::Tagged).then_some(VLAN)
    }
}

impl Setting {
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        Kind::ALL.into_iter().flat_map(|kind| {
            Offload::ALL.into_iter().flat_map(move |offload| {
                MTUS.into_iter().flat_map(move |mtu| {
                    Tag::ALL.map(|tag| Self {
                        kind,
                        offload,
                        mtu,
                        tag,
                    })
                })
            })
        })
    }

    /// Why there is nothing to test.
    pub(crate) fn blank(self) -> Option<Blank> {
        match (self.kind, self.offload) {
            (Kind::Endpoint, Offload::None | Offload::Tso | Offload::All) => Some(Blank::EndpointChecksums),
            (Kind::AfXdp, Offload::Tso | Offload::All) => Some(Blank::XdpSegments),
            (Kind::AfXdp, _) if self.mtu > XDP_MTU => Some(Blank::XdpPage),
            _ => None,
        }
    }

    /// A number that differs between neighbours in the matrix, to vary what is no dimension of it.
    pub(crate) fn variant(self) -> usize {
        let index = MTUS.iter().position(|mtu| *mtu == self.mtu).unwrap_or(0);
        2 * index + usize::from(self.tag == Tag::Tagged) + self.offload as usize
    }
}

impl Blank {
    pub(crate) const ALL: [Self; 3] = [Self::EndpointChecksums, Self::XdpSegments, Self::XdpPage];

    /// Its mark in the table.
    pub(crate) fn letter(self) -> char {
        match self {
            Self::EndpointChecksums => 'e',
            Self::XdpSegments => 'x',
            Self::XdpPage => 'p',
        }
    }
}

impl fmt::Display for Blank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EndpointChecksums => {
                "an endpoint takes partial checksums and nothing larger than a segment, and sends complete checksums: \
                 it has one row"
            }
            Self::XdpSegments => "AF_XDP has no large sends",
            Self::XdpPage => "an AF_XDP frame is in one page, which is 3,498 octets of IP at most",
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::VhostSplit => "vhost-user, split rings",
            Self::VhostPacked => "vhost-user, packed rings",
            Self::Tap => "tap",
            Self::Endpoint => "endpoint",
            Self::AfPacket => "uplink, AF_PACKET",
            Self::AfXdp => "uplink, AF_XDP",
        })
    }
}

impl fmt::Display for Offload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Checksum => "checksum",
            Self::Tso => "TSO",
            Self::All => "TSO, USO, mergeable",
        })
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Untagged => "untagged",
            Self::Tagged => "VLAN",
        })
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            offload,
            mtu,
            tag,
        } = self;
        write!(f, "{kind} / {offload} / MTU {mtu} / {tag}")
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} / {}", self.setting, self.family)
    }
}
