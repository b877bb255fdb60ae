//! Checked, borrowed views of protocol headers.
//!
//! Each view's `new` checks once that the header fits into the given octets and that its own length field is
//! possible. After that no accessor can panic: the fixed part is an array, the rest a slice. Octets behind the
//! header are allowed, and the payload may be cut off; lengths that reach beyond the header (IP total length, UDP
//! length) are reported as they stand and judged by [`crate::parse`], which knows the frame's length.

mod arp;
mod ethernet;
mod icmp;
mod ipv4;
mod ipv6;
mod tcp;
mod tunnel;
mod udp;

pub use arp::{ArpOperation, ArpView};
pub use ethernet::{EthernetView, VlanView, ethertype};
pub use icmp::IcmpView;
pub use ipv4::Ipv4View;
pub use ipv6::{ExtensionKind, ExtensionView, ExtensionWalk, Ipv6View};
pub use tcp::{TcpOption, TcpOptions, TcpView};
pub use tunnel::{GeneveView, GreView, VxlanView};
pub use udp::UdpView;

/// IP protocol numbers (IANA registry "Assigned Internet Protocol Numbers").
pub mod protocol {
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// GRE.
    pub const GRE: u8 = 47;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
    /// IPv6: nothing follows (RFC 8200, 4.7).
    pub const NO_NEXT_HEADER: u8 = 59;
}

/// Why octets are not the header that they were taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ViewError {
    /// The octets end inside the header.
    #[error("{header} header needs {needed} octets, but there are {available}")]
    Truncated {
        /// The header's name.
        header: &'static str,
        /// Octets that the header takes.
        needed: usize,
        /// Octets that there are.
        available: usize,
    },
    /// The version field does not match.
    #[error("IP version {found} where {expected} was expected")]
    Version {
        /// The version that the view is for.
        expected: u8,
        /// The version in the octets.
        found: u8,
    },
    /// The header's own length field is below the header's minimum.
    #[error("{header} header claims a length of {stated} octets, below its minimum")]
    HeaderLength {
        /// The header's name.
        header: &'static str,
        /// The claimed length in octets.
        stated: usize,
    },
    /// A tunnel's header of an unknown version, or with the routing field that RFC 2784 took out of GRE.
    #[error("{header} header of version {found} or of an unknown form")]
    TunnelVersion {
        /// The header's name.
        header: &'static str,
        /// The version in the octets.
        found: u8,
    },
    /// An ARP packet for other hardware or another protocol than Ethernet and IPv4.
    #[error("ARP packet is not for IPv4 over Ethernet")]
    ArpKind,
}

/// Splits a header's fixed part off.
fn fixed<'a, const N: usize>(
    header: &'static str,
    octets: &'a [u8],
) -> Result<(&'a [u8; N], &'a [u8]), ViewError> {
    octets.split_first_chunk::<N>().ok_or(ViewError::Truncated {
        header,
        needed: N,
        available: octets.len(),
    })
}

/// Splits a header's variable part off what follows its `fixed` octets, given the header's whole `stated` length.
fn variable<'a>(
    header: &'static str,
    fixed: usize,
    stated: usize,
    rest: &'a [u8],
) -> Result<(&'a [u8], &'a [u8]), ViewError> {
    let options = stated
        .checked_sub(fixed)
        .ok_or(ViewError::HeaderLength { header, stated })?;
    rest.split_at_checked(options).ok_or(ViewError::Truncated {
        header,
        needed: stated,
        available: fixed + rest.len(),
    })
}

const fn be16(high: u8, low: u8) -> u16 {
    u16::from_be_bytes([high, low])
}

#[cfg(test)]
mod tests;
