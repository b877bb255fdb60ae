//! UDP headers.

use super::{ViewError, be16, fixed};

/// A UDP header (RFC 768). Accessors never panic.
#[derive(Clone, Copy, Debug)]
pub struct UdpView<'a> {
    fixed: &'a [u8; 8],
    payload: &'a [u8],
}

impl<'a> UdpView<'a> {
    /// Octets of the header.
    pub const LEN: usize = 8;

    /// Checks that `octets` hold the header; the length field is not judged.
    pub fn new(octets: &'a [u8]) -> Result<Self, ViewError> {
        let (fixed, payload) = fixed("UDP", octets)?;
        Ok(Self { fixed, payload })
    }

    /// Source port.
    pub const fn src_port(&self) -> u16 {
        be16(self.fixed[0], self.fixed[1])
    }

    /// Destination port.
    pub const fn dst_port(&self) -> u16 {
        be16(self.fixed[2], self.fixed[3])
    }

    /// The length field: octets of header and payload, as it stands.
    pub const fn length(&self) -> u16 {
        be16(self.fixed[4], self.fixed[5])
    }

    /// The checksum field; 0 stands for none.
    pub const fn checksum(&self) -> u16 {
        be16(self.fixed[6], self.fixed[7])
    }

    /// All octets behind the header.
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }
}
