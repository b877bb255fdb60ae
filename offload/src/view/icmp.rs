//! ICMP and ICMPv6 headers.

use super::{ViewError, be16, fixed};

/// The header that all ICMP (RFC 792) and ICMPv6 (RFC 4443) messages share. Accessors never panic.
#[derive(Clone, Copy, Debug)]
pub struct IcmpView<'a> {
    fixed: &'a [u8; 4],
    payload: &'a [u8],
}

impl<'a> IcmpView<'a> {
    /// Octets of type, code and checksum.
    pub const LEN: usize = 4;

    /// Checks that `octets` hold the header.
    pub fn new(octets: &'a [u8]) -> Result<Self, ViewError> {
        let (fixed, payload) = fixed("ICMP", octets)?;
        Ok(Self { fixed, payload })
    }

    /// The message's type.
    pub const fn kind(&self) -> u8 {
        self.fixed[0]
    }

    /// The message's code.
    pub const fn code(&self) -> u8 {
        self.fixed[1]
    }

    /// The checksum field.
    pub const fn checksum(&self) -> u16 {
        be16(self.fixed[2], self.fixed[3])
    }

    /// Identifier and sequence number, where the message is one that has them (echo); `None` when cut off.
    pub fn echo(&self) -> Option<(u16, u16)> {
        let [a, b, c, d] = *self.payload.first_chunk()?;
        Some((be16(a, b), be16(c, d)))
    }

    /// What follows the checksum.
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }
}
