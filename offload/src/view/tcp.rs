//! TCP headers and their options.

use super::{ViewError, be16, fixed, variable};
use crate::TcpFlags;

/// A TCP header with options (RFC 9293, 3.1). Accessors never panic.
#[derive(Clone, Copy, Debug)]
pub struct TcpView<'a> {
    fixed: &'a [u8; 20],
    options: &'a [u8],
    payload: &'a [u8],
}

impl<'a> TcpView<'a> {
    /// Octets of a header without options.
    pub const MIN_LEN: usize = 20;

    /// Checks that `octets` hold the whole header by its data offset.
    pub fn new(octets: &'a [u8]) -> Result<Self, ViewError> {
        let (fixed, rest) = fixed::<20>("TCP", octets)?;
        let stated = usize::from(fixed[12] >> 4) * 4;
        let (options, payload) = variable("TCP", Self::MIN_LEN, stated, rest)?;
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

    /// Source port.
    pub const fn src_port(&self) -> u16 {
        be16(self.fixed[0], self.fixed[1])
    }

    /// Destination port.
    pub const fn dst_port(&self) -> u16 {
        be16(self.fixed[2], self.fixed[3])
    }

    /// Sequence number.
    pub const fn seq(&self) -> u32 {
        let b = self.fixed;
        u32::from_be_bytes([b[4], b[5], b[6], b[7]])
    }

    /// Acknowledgement number; meaningful when ACK is set.
    pub const fn ack(&self) -> u32 {
        let b = self.fixed;
        u32::from_be_bytes([b[8], b[9], b[10], b[11]])
    }

    /// The low eight flag bits.
    pub const fn flags(&self) -> TcpFlags {
        TcpFlags(self.fixed[13])
    }

    /// The window field, unscaled.
    pub const fn window(&self) -> u16 {
        be16(self.fixed[14], self.fixed[15])
    }

    /// The checksum field.
    pub const fn checksum(&self) -> u16 {
        be16(self.fixed[16], self.fixed[17])
    }

    /// The urgent pointer; meaningful when URG is set.
    pub const fn urgent(&self) -> u16 {
        be16(self.fixed[18], self.fixed[19])
    }

    /// The options, one by one.
    pub const fn options(&self) -> TcpOptions<'a> {
        TcpOptions { rest: self.options }
    }

    /// All octets behind the header; they may end before the segment does or go on with Ethernet padding.
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// One TCP option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpOption<'a> {
    /// Maximum segment size in octets (RFC 9293, 3.7.1).
    MaxSegmentSize(u16),
    /// Window scale as a shift count (RFC 7323, 2).
    WindowScale(u8),
    /// Selective acknowledgement permitted (RFC 2018, 2).
    SackPermitted,
    /// Timestamps (RFC 7323, 3).
    Timestamps {
        /// The sender's clock.
        value: u32,
        /// The value being echoed.
        echo: u32,
    },
    /// Any other option, well-formed SACK blocks included, as its kind and octets behind kind and length.
    Other {
        /// The kind octet.
        kind: u8,
        /// The option's data.
        data: &'a [u8],
    },
}

/// An iterator over TCP options. It skips padding and ends at the end-of-list option or the first malformed one.
#[derive(Clone, Debug)]
pub struct TcpOptions<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for TcpOptions<'a> {
    type Item = TcpOption<'a>;

    fn next(&mut self) -> Option<TcpOption<'a>> {
        let rest = core::mem::take(&mut self.rest);
        let start = rest.iter().position(|&octet| octet != 1)?;
        let (&kind, rest) = rest.get(start..)?.split_first()?;
        if kind == 0 {
            return None;
        }
        let (&length, rest) = rest.split_first()?;
        let (data, rest) = rest.split_at_checked(usize::from(length).checked_sub(2)?)?;
        self.rest = rest;
        Some(match (kind, data) {
            (2, &[high, low]) => TcpOption::MaxSegmentSize(be16(high, low)),
            (3, &[shift]) => TcpOption::WindowScale(shift),
            (4, []) => TcpOption::SackPermitted,
            (8, t) if t.len() == 8 => TcpOption::Timestamps {
                value: u32::from_be_bytes([t[0], t[1], t[2], t[3]]),
                echo: u32::from_be_bytes([t[4], t[5], t[6], t[7]]),
            },
            (kind, data) => TcpOption::Other { kind, data },
        })
    }
}
