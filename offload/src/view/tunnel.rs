//! Headers of tunnels: VXLAN, Geneve and GRE.

use super::{ViewError, be16, fixed, variable};

/// A VXLAN header (RFC 7348, 5). Accessors never panic.
#[derive(Clone, Copy, Debug)]
pub struct VxlanView<'a> {
    fixed: &'a [u8; 8],
    payload: &'a [u8],
}

impl<'a> VxlanView<'a> {
    /// Octets of the header.
    pub const LEN: usize = 8;
    /// The UDP port (RFC 7348, 5).
    pub const PORT: u16 = 4789;

    /// Checks that `octets` hold the header.
    pub fn new(octets: &'a [u8]) -> Result<Self, ViewError> {
        let (fixed, payload) = fixed("VXLAN", octets)?;
        Ok(Self { fixed, payload })
    }

    /// Whether the network identifier is valid, as it must be.
    pub const fn has_vni(&self) -> bool {
        self.fixed[0] & 0x08 != 0
    }

    /// The 24-bit network identifier.
    pub const fn vni(&self) -> u32 {
        let b = self.fixed;
        u32::from_be_bytes([0, b[4], b[5], b[6]])
    }

    /// The inner Ethernet frame.
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// A Geneve header with options (RFC 8926, 3.4). Accessors never panic.
#[derive(Clone, Copy, Debug)]
pub struct GeneveView<'a> {
    fixed: &'a [u8; 8],
    options: &'a [u8],
    payload: &'a [u8],
}

impl<'a> GeneveView<'a> {
    /// Octets of a header without options.
    pub const MIN_LEN: usize = 8;
    /// The UDP port (RFC 8926, 3.3).
    pub const PORT: u16 = 6081;

    /// Checks the version, which is 0, and that `octets` hold the header with all options.
    pub fn new(octets: &'a [u8]) -> Result<Self, ViewError> {
        let (fixed, rest) = fixed::<8>("Geneve", octets)?;
        let version = fixed[0] >> 6;
        if version != 0 {
            return Err(ViewError::TunnelVersion {
                header: "Geneve",
                found: version,
            });
        }
        let stated = Self::MIN_LEN + usize::from(fixed[0] & 0x3f) * 4;
        let (options, payload) = variable("Geneve", Self::MIN_LEN, stated, rest)?;
        Ok(Self {
            fixed,
            options,
            payload,
        })
    }

    /// Octets of the header, options included: 8 to 260.
    pub const fn header_len(&self) -> usize {
        Self::MIN_LEN + self.options.len()
    }

    /// Whether this is a control packet (O), whose payload is no traffic.
    pub const fn is_control(&self) -> bool {
        self.fixed[1] & 0x80 != 0
    }

    /// The `EtherType` of the payload.
    pub const fn protocol(&self) -> u16 {
        be16(self.fixed[2], self.fixed[3])
    }

    /// The 24-bit network identifier.
    pub const fn vni(&self) -> u32 {
        let b = self.fixed;
        u32::from_be_bytes([0, b[4], b[5], b[6]])
    }

    /// The options' octets.
    pub const fn options(&self) -> &'a [u8] {
        self.options
    }

    /// What follows the options.
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// A GRE header, version 0, with the optional fields of RFC 2784 and RFC 2890. Accessors never panic.
#[derive(Clone, Copy, Debug)]
pub struct GreView<'a> {
    fixed: &'a [u8; 4],
    optional: &'a [u8],
    payload: &'a [u8],
}

impl<'a> GreView<'a> {
    /// Octets of a header without optional fields.
    pub const MIN_LEN: usize = 4;

    const CHECKSUM: u8 = 0x80;
    const KEY: u8 = 0x20;
    const SEQUENCE: u8 = 0x10;

    /// Checks version and length. The routing field of RFC 1701 and version 1 (PPTP) are refused.
    pub fn new(octets: &'a [u8]) -> Result<Self, ViewError> {
        let (fixed, rest) = fixed::<4>("GRE", octets)?;
        let found = fixed[1] & 0x07;
        if found != 0 || fixed[0] & 0x40 != 0 {
            return Err(ViewError::TunnelVersion { header: "GRE", found });
        }
        let fields = fixed[0] & (Self::CHECKSUM | Self::KEY | Self::SEQUENCE);
        let stated = Self::MIN_LEN + fields.count_ones() as usize * 4;
        let (optional, payload) = variable("GRE", Self::MIN_LEN, stated, rest)?;
        Ok(Self {
            fixed,
            optional,
            payload,
        })
    }

    /// Octets of the header: 4 to 16.
    pub const fn header_len(&self) -> usize {
        Self::MIN_LEN + self.optional.len()
    }

    /// The `EtherType` of the payload.
    pub const fn protocol(&self) -> u16 {
        be16(self.fixed[2], self.fixed[3])
    }

    /// Where the checksum stands in the header, when there is one. It covers the header and the payload.
    pub const fn checksum_offset(&self) -> Option<usize> {
        self.offset_of(Self::CHECKSUM)
    }

    /// The key, when there is one; NVGRE (RFC 7637, 3.2) has its 24-bit network identifier in the upper bits.
    pub fn key(&self) -> Option<u32> {
        self.word(self.offset_of(Self::KEY)?)
    }

    /// Where the sequence number stands in the header, when there is one.
    pub const fn sequence_offset(&self) -> Option<usize> {
        self.offset_of(Self::SEQUENCE)
    }

    /// The sequence number, when there is one.
    pub fn sequence(&self) -> Option<u32> {
        self.word(self.sequence_offset()?)
    }

    /// What follows the header.
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// A field stands behind those of higher bits that are there.
    const fn offset_of(&self, field: u8) -> Option<usize> {
        let flags = self.fixed[0];
        if flags & field == 0 {
            return None;
        }
        let above = (Self::CHECKSUM | Self::KEY | Self::SEQUENCE) & !(field | (field - 1));
        Some(Self::MIN_LEN + (flags & above).count_ones() as usize * 4)
    }

    fn word(&self, offset: usize) -> Option<u32> {
        let octets = self.optional.get(offset - Self::MIN_LEN..)?.first_chunk()?;
        Some(u32::from_be_bytes(*octets))
    }
}
