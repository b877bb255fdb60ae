//! The matrix' dimensions: which port, what it takes off its peer's hands, and what passes.

use std::fmt;

/// What the port under test connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    VhostSplit,
    VhostPacked,
    Tap,
    Endpoint,
    AfPacket,
    AfXdp,
    MicroGuest,
}

/// What is negotiated, in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Offload {
    None,
    Checksum,
    Tso,
    All,
}

/// The IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    V4,
    V6,
}

/// Whether frames on the port under test have a VLAN tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tag {
    Untagged,
    Tagged,
}

/// The VLAN of all traffic.
pub const VLAN: u16 = 10;

/// Octets of the largest IP packet.
pub const MTUS: [u16; 3] = [1280, 1500, 9000];

/// What one port is made for: both IP versions pass through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Setting {
    pub kind: Kind,
    pub offload: Offload,
    pub mtu: u16,
    pub tag: Tag,
}

/// One cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cell {
    pub setting: Setting,
    pub family: Family,
}

impl Kind {
    pub const ALL: [Self; 7] = [
        Self::VhostSplit,
        Self::VhostPacked,
        Self::Tap,
        Self::Endpoint,
        Self::AfPacket,
        Self::AfXdp,
        Self::MicroGuest,
    ];
}

impl Offload {
    pub const ALL: [Self; 4] = [Self::None, Self::Checksum, Self::Tso, Self::All];

    /// Partial checksums are taken.
    pub fn checksum(self) -> bool {
        self != Self::None
    }

    /// Large TCP is taken.
    pub fn tso(self) -> bool {
        matches!(self, Self::Tso | Self::All)
    }

    /// Large UDP is taken.
    pub fn uso(self) -> bool {
        self == Self::All
    }
}

impl Family {
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];
}

impl Tag {
    pub const ALL: [Self; 2] = [Self::Untagged, Self::Tagged];
}

impl Setting {
    /// All of them, those with the same MTU behind each other.
    pub fn all() -> impl Iterator<Item = Self> {
        MTUS.into_iter()
            .flat_map(|mtu| Kind::ALL.into_iter().map(move |kind| (mtu, kind)))
            .flat_map(|(mtu, kind)| {
                let each = move |offload| Tag::ALL.map(|tag| Self { kind, offload, mtu, tag });
                Offload::ALL.into_iter().flat_map(each)
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
            Self::MicroGuest => "micro-guest",
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
        let Self { kind, offload, mtu, tag } = self;
        write!(f, "{kind} / {offload} / MTU {mtu} / {tag}")
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} / {}", self.setting, self.family)
    }
}
