//! IPv4 headers.

use core::net::Ipv4Addr;

use super::{ViewError, be16, fixed, variable};

/// An IPv4 header with options (RFC 791, 3.1). Accessors never panic.
#[derive(Clone, Copy, Debug)]
pub struct Ipv4View<'a> {
    fixed: &'a [u8; 20],
    options: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Ipv4View<'a> {
    /// Octets of a header without options.
    pub const MIN_LEN: usize = 20;

    /// Checks version and header length; the total length is not judged.
    pub fn new(packet: &'a [u8]) -> Result<Self, ViewError> {
        let (fixed, rest) = fixed::<20>("IPv4", packet)?;
        let found = fixed[0] >> 4;
        if found != 4 {
            return Err(ViewError::Version { expected: 4, found });
        }
        let stated = usize::from(fixed[0] & 0x0f) * 4;
        let (options, payload) = variable("IPv4", Self::MIN_LEN, stated, rest)?;
        Ok(Self {
            fixed,
            options,
            payload,
        })
    }

    /// Octets of the header, options included: 20 to 60.
    pub const fn header_len(&self) -> usize {
        Self::MIN_LEN + self.options.len()
    }

    /// Differentiated services and ECN (RFC 2474, RFC 3168).
    pub const fn traffic_class(&self) -> u8 {
        self.fixed[1]
    }

    /// The total length field in octets, as it stands.
    pub const fn total_len(&self) -> u16 {
        be16(self.fixed[2], self.fixed[3])
    }

    /// Identification, which ties fragments together.
    pub const fn id(&self) -> u16 {
        be16(self.fixed[4], self.fixed[5])
    }

    /// The "don't fragment" flag.
    pub const fn dont_fragment(&self) -> bool {
        self.fixed[6] & 0x40 != 0
    }

    /// The "more fragments" flag.
    pub const fn more_fragments(&self) -> bool {
        self.fixed[6] & 0x20 != 0
    }

    /// Where this fragment stands in its packet, in octets.
    pub const fn fragment_offset(&self) -> u32 {
        ((be16(self.fixed[6], self.fixed[7]) & 0x1fff) as u32) * 8
    }

    /// Time to live in hops.
    pub const fn ttl(&self) -> u8 {
        self.fixed[8]
    }

    /// The payload's protocol number.
    pub const fn protocol(&self) -> u8 {
        self.fixed[9]
    }

    /// The header checksum field.
    pub const fn checksum(&self) -> u16 {
        be16(self.fixed[10], self.fixed[11])
    }

    /// Source address.
    pub const fn src(&self) -> Ipv4Addr {
        let b = self.fixed;
        Ipv4Addr::new(b[12], b[13], b[14], b[15])
    }

    /// Destination address.
    pub const fn dst(&self) -> Ipv4Addr {
        let b = self.fixed;
        Ipv4Addr::new(b[16], b[17], b[18], b[19])
    }

    /// The options' octets, padding included.
    pub const fn options(&self) -> &'a [u8] {
        self.options
    }

    /// All octets behind the header; they may end before the packet does or go on with Ethernet padding.
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }
}
