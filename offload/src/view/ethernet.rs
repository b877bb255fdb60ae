//! Ethernet II / 802.3 and 802.1Q headers.

use super::{ViewError, be16, fixed};
use crate::{MacAddr, VlanTag};

/// `EtherType` values (IEEE registry).
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// 802.1Q customer tag.
    pub const VLAN: u16 = 0x8100;
    /// 802.1ad service tag.
    pub const SERVICE_VLAN: u16 = 0x88a8;
    /// An Ethernet frame inside of a tunnel (RFC 1701, 8; RFC 8926, 3.4).
    pub const TRANSPARENT_ETHERNET: u16 = 0x6558;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;

    /// Whether a VLAN tag follows.
    pub const fn is_vlan(ethertype: u16) -> bool {
        matches!(ethertype, VLAN | SERVICE_VLAN)
    }
}

/// An Ethernet header (IEEE 802.3-2018, 3.1). Accessors never panic.
#[derive(Clone, Copy, Debug)]
pub struct EthernetView<'a> {
    fixed: &'a [u8; 14],
    payload: &'a [u8],
}

impl<'a> EthernetView<'a> {
    /// Octets of the header.
    pub const LEN: usize = 14;

    /// Checks that `frame` holds the header.
    pub fn new(frame: &'a [u8]) -> Result<Self, ViewError> {
        let (fixed, payload) = fixed("Ethernet", frame)?;
        Ok(Self { fixed, payload })
    }

    /// Destination address.
    pub const fn dst(&self) -> MacAddr {
        let m = self.fixed;
        MacAddr([m[0], m[1], m[2], m[3], m[4], m[5]])
    }

    /// Source address.
    pub const fn src(&self) -> MacAddr {
        let m = self.fixed;
        MacAddr([m[6], m[7], m[8], m[9], m[10], m[11]])
    }

    /// The `EtherType` that follows the addresses; below 0x600 it is an 802.3 length.
    pub const fn ethertype(&self) -> u16 {
        be16(self.fixed[12], self.fixed[13])
    }

    /// What follows the header, a VLAN tag's control field included.
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// The four octets that follow a VLAN `EtherType`: control field and next `EtherType` (IEEE 802.1Q-2018, 9.6).
/// Accessors never panic.
#[derive(Clone, Copy, Debug)]
pub struct VlanView<'a> {
    fixed: &'a [u8; 4],
    payload: &'a [u8],
}

impl<'a> VlanView<'a> {
    /// Octets that one tag adds to a frame.
    pub const LEN: usize = 4;

    /// Checks that `octets`, which start behind the tag's `EtherType`, hold the tag.
    pub fn new(octets: &'a [u8]) -> Result<Self, ViewError> {
        let (fixed, payload) = fixed("802.1Q", octets)?;
        Ok(Self { fixed, payload })
    }

    /// The tag control field.
    pub const fn tag(&self) -> VlanTag {
        VlanTag(be16(self.fixed[0], self.fixed[1]))
    }

    /// The `EtherType` behind the tag.
    pub const fn ethertype(&self) -> u16 {
        be16(self.fixed[2], self.fixed[3])
    }

    /// What follows the tag.
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }
}
