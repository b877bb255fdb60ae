//! ARP packets.

use core::net::Ipv4Addr;

use super::{ViewError, ethertype, fixed};
use crate::MacAddr;

/// What an ARP packet asks or says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArpOperation {
    /// Who has the target address?
    Request,
    /// The sender has the sender address.
    Reply,
    /// Another operation (RARP and the like).
    Other(u16),
}

/// An ARP packet for IPv4 over Ethernet (RFC 826). Accessors never panic.
#[derive(Clone, Copy, Debug)]
pub struct ArpView<'a> {
    fixed: &'a [u8; 28],
}

impl<'a> ArpView<'a> {
    /// Octets of the packet.
    pub const LEN: usize = 28;

    /// Checks that `packet` holds ARP for IPv4 over Ethernet.
    pub fn new(packet: &'a [u8]) -> Result<Self, ViewError> {
        let (fixed, _) = fixed::<28>("ARP", packet)?;
        let [ip_high, ip_low] = ethertype::IPV4.to_be_bytes();
        if fixed[..6] != [0, 1, ip_high, ip_low, 6, 4] {
            return Err(ViewError::ArpKind);
        }
        Ok(Self { fixed })
    }

    /// Request or reply.
    pub const fn operation(&self) -> ArpOperation {
        match super::be16(self.fixed[6], self.fixed[7]) {
            1 => ArpOperation::Request,
            2 => ArpOperation::Reply,
            other => ArpOperation::Other(other),
        }
    }

    /// The sender's hardware address.
    pub const fn sender_mac(&self) -> MacAddr {
        let b = self.fixed;
        MacAddr([b[8], b[9], b[10], b[11], b[12], b[13]])
    }

    /// The sender's IPv4 address.
    pub const fn sender_ip(&self) -> Ipv4Addr {
        let b = self.fixed;
        Ipv4Addr::new(b[14], b[15], b[16], b[17])
    }

    /// The target's hardware address; without meaning in a request.
    pub const fn target_mac(&self) -> MacAddr {
        let b = self.fixed;
        MacAddr([b[18], b[19], b[20], b[21], b[22], b[23]])
    }

    /// The target's IPv4 address.
    pub const fn target_ip(&self) -> Ipv4Addr {
        let b = self.fixed;
        Ipv4Addr::new(b[24], b[25], b[26], b[27])
    }
}
