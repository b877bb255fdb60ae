//! IPv6 headers and their extension headers.

use core::net::Ipv6Addr;

use super::{ViewError, be16, fixed, variable};

/// An IPv6 fixed header (RFC 8200, 3). Accessors never panic.
#[derive(Clone, Copy, Debug)]
pub struct Ipv6View<'a> {
    fixed: &'a [u8; 40],
    payload: &'a [u8],
}

impl<'a> Ipv6View<'a> {
    /// Octets of the fixed header.
    pub const LEN: usize = 40;

    /// Checks the version; the payload length is not judged.
    pub fn new(packet: &'a [u8]) -> Result<Self, ViewError> {
        let (fixed, payload) = fixed::<40>("IPv6", packet)?;
        let found = fixed[0] >> 4;
        if found != 6 {
            return Err(ViewError::Version { expected: 6, found });
        }
        Ok(Self { fixed, payload })
    }

    /// Traffic class: differentiated services and ECN.
    pub const fn traffic_class(&self) -> u8 {
        (self.fixed[0] << 4) | (self.fixed[1] >> 4)
    }

    /// The 20-bit flow label (RFC 6437).
    pub const fn flow_label(&self) -> u32 {
        u32::from_be_bytes([0, self.fixed[1] & 0x0f, self.fixed[2], self.fixed[3]])
    }

    /// Octets behind the fixed header, extension headers included, as the field stands; 0 in a jumbogram.
    pub const fn payload_len(&self) -> u16 {
        be16(self.fixed[4], self.fixed[5])
    }

    /// Number of the first extension header, or of the transport.
    pub const fn next_header(&self) -> u8 {
        self.fixed[6]
    }

    /// Hop limit.
    pub const fn hop_limit(&self) -> u8 {
        self.fixed[7]
    }

    /// Source address.
    pub fn src(&self) -> Ipv6Addr {
        let mut octets = [0; 16];
        octets.copy_from_slice(&self.fixed[8..24]);
        Ipv6Addr::from(octets)
    }

    /// Destination address.
    pub fn dst(&self) -> Ipv6Addr {
        let mut octets = [0; 16];
        octets.copy_from_slice(&self.fixed[24..40]);
        Ipv6Addr::from(octets)
    }

    /// All octets behind the fixed header; they may end before the packet does or go on with Ethernet padding.
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Walks the extension headers.
    pub const fn extensions(&self) -> ExtensionWalk<'a> {
        ExtensionWalk::new(self.next_header(), self.payload)
    }
}

/// The extension headers that can be skipped on the way to the transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtensionKind {
    /// Hop-by-hop options (RFC 8200, 4.3); only right behind the fixed header.
    HopByHop,
    /// Routing (RFC 8200, 4.4).
    Routing,
    /// Fragment (RFC 8200, 4.5).
    Fragment,
    /// Authentication header (RFC 4302).
    Authentication,
    /// Destination options (RFC 8200, 4.6).
    Destination,
}

impl ExtensionKind {
    /// The kind with this next-header number.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::HopByHop),
            43 => Some(Self::Routing),
            44 => Some(Self::Fragment),
            51 => Some(Self::Authentication),
            60 => Some(Self::Destination),
            _ => None,
        }
    }

    /// Octets of a header of this kind whose second octet is `field`.
    const fn stated_len(self, field: u8) -> usize {
        match self {
            Self::Fragment => 8,
            Self::Authentication => (field as usize + 2) * 4,
            Self::HopByHop | Self::Routing | Self::Destination => (field as usize + 1) * 8,
        }
    }
}

/// One extension header. Accessors never panic.
#[derive(Clone, Copy, Debug)]
pub struct ExtensionView<'a> {
    kind: ExtensionKind,
    fixed: &'a [u8; 8],
    data: &'a [u8],
    payload: &'a [u8],
}

impl<'a> ExtensionView<'a> {
    /// Octets of the shortest extension header.
    pub const MIN_LEN: usize = 8;

    /// Checks that `octets` hold a whole header of `kind`.
    pub fn new(kind: ExtensionKind, octets: &'a [u8]) -> Result<Self, ViewError> {
        let (fixed, rest) = fixed::<8>("IPv6 extension", octets)?;
        let stated = kind.stated_len(fixed[1]);
        let (data, payload) = variable("IPv6 extension", Self::MIN_LEN, stated, rest)?;
        Ok(Self {
            kind,
            fixed,
            data,
            payload,
        })
    }

    /// What the header is.
    pub const fn kind(&self) -> ExtensionKind {
        self.kind
    }

    /// Octets of the header.
    pub const fn header_len(&self) -> usize {
        Self::MIN_LEN + self.data.len()
    }

    /// Number of what follows.
    pub const fn next_header(&self) -> u8 {
        self.fixed[0]
    }

    /// A fragment header's offset in octets and its "more fragments" flag; `None` for the other kinds.
    pub const fn fragment(&self) -> Option<(u32, bool)> {
        let field = be16(self.fixed[2], self.fixed[3]);
        match self.kind {
            ExtensionKind::Fragment => Some(((field & 0xfff8) as u32, field & 1 == 1)),
            _ => None,
        }
    }

    /// A fragment header's identification, which ties fragments together; `None` for the other kinds.
    pub const fn fragment_id(&self) -> Option<u32> {
        let [_, _, _, _, a, b, c, d] = *self.fixed;
        match self.kind {
            ExtensionKind::Fragment => Some(u32::from_be_bytes([a, b, c, d])),
            _ => None,
        }
    }

    /// What follows the header.
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// An iterator over extension headers. It ends at the transport, at a header that is cut off or out of place, behind
/// the fragment header of a fragment that is not the first, and after [`Self::MAX_HEADERS`].
#[derive(Clone, Debug)]
pub struct ExtensionWalk<'a> {
    next_header: u8,
    rest: &'a [u8],
    walked: usize,
    headers: usize,
    ended: bool,
}

impl<'a> ExtensionWalk<'a> {
    /// Headers that are looked at before the chain counts as hostile. RFC 8200 recommends at most 7 in a packet.
    pub const MAX_HEADERS: usize = 8;

    /// Starts behind the fixed header, at a header with number `next_header`.
    pub const fn new(next_header: u8, payload: &'a [u8]) -> Self {
        Self {
            next_header,
            rest: payload,
            walked: 0,
            headers: 0,
            ended: false,
        }
    }

    /// Number of what stands at [`Self::rest`]: once the walk has ended, the transport's, or that of the extension
    /// header that stopped it.
    pub const fn next_header(&self) -> u8 {
        self.next_header
    }

    /// The octets that were not walked over.
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Octets that were walked over.
    pub const fn walked(&self) -> usize {
        self.walked
    }
}

impl<'a> Iterator for ExtensionWalk<'a> {
    type Item = ExtensionView<'a>;

    fn next(&mut self) -> Option<ExtensionView<'a>> {
        let kind = ExtensionKind::from_number(self.next_header)?;
        let misplaced = kind == ExtensionKind::HopByHop && self.headers > 0;
        if self.ended || misplaced || self.headers == Self::MAX_HEADERS {
            return None;
        }
        let header = ExtensionView::new(kind, self.rest).ok()?;
        self.next_header = header.next_header();
        self.rest = header.payload();
        self.walked += header.header_len();
        self.headers += 1;
        self.ended = header.fragment().is_some_and(|(offset, _)| offset != 0);
        Some(header)
    }
}
