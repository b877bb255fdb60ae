//! The Internet checksum (RFC 1071, RFC 1624).
//!
//! Partial results are `u64` sums of big-endian 16-bit words: add as many as needed, each over an even number of octets
//! but the last, then [`fold`].

mod copy;
mod lanes;

use core::net::IpAddr;

pub use copy::{copy_and_sum, copy_and_sum_raw};

use crate::view::protocol;
use crate::{Checksum, FrameMeta, IpMeta, Offloads, Transport};

/// The checksum's octets.
const FIELD_LEN: usize = 2;

/// A checksum that cannot be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChecksumError {
    /// The summed range or the field lies outside of the frame.
    #[error("a checksum from {start} at +{offset} does not fit into a frame of {frame_len} octets")]
    OutOfRange {
        /// Where the summed range starts.
        start: u16,
        /// Where the field stands, from `start`.
        offset: u16,
        /// Octets of the frame.
        frame_len: usize,
    },
}

/// The ones' complement sum of `data` as big-endian 16-bit words, an odd last octet padded with a zero behind it.
///
/// The result is at most 0xffff, so that sums of many pieces can be added. Uses AVX-512 or AVX2 where the processor has
/// them.
#[inline]
pub fn sum(data: &[u8]) -> u64 {
    u64::from(u16::from_be(fold(lanes::sum_native(data))))
}

/// Folds a sum to 16 bits with end-around carry.
///
/// A number added to itself with its halves swapped has the halves' sum in its upper half, where the lower one's carry came in.
#[inline]
pub const fn fold(sum: u64) -> u16 {
    let sum = (sum.wrapping_add(sum.rotate_left(32)) >> 32) as u32;
    (sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16
}

/// The Internet checksum of `data` (RFC 1071): the complement of its folded sum.
#[inline]
pub fn internet(data: &[u8]) -> u16 {
    !u16::from_be(fold(lanes::sum_native(data)))
}

/// The sum of a TCP, UDP or ICMPv6 pseudo-header (RFC 9293, 3.1; RFC 8200, 8.1); `len` is the length of the transport
/// header and its payload in octets.
pub fn pseudo_header(src: IpAddr, dst: IpAddr, protocol: u8, len: u32) -> u64 {
    addresses(src) + addresses(dst) + u64::from(protocol) + u64::from(len)
}

fn addresses(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(v4) => u64::from(v4.to_bits()),
        IpAddr::V6(v6) => {
            let bits = v6.to_bits();
            u64::from(fold(bits as u64)) + u64::from(fold((bits >> 64) as u64))
        }
    }
}

/// The checksum `check` after one 16-bit word that it covers went from `old` to `new` (RFC 1624, equation 3).
pub const fn update(check: u16, old: u16, new: u16) -> u16 {
    !fold(!check as u64 + !old as u64 + new as u64)
}

/// Completes a partial checksum: sums `frame` from `start` to its end, with the pseudo-header's sum that stands in
/// the field, and stores the complement at `start + offset`.
///
/// A result of 0 is stored as 0xffff, which means the same in TCP and which UDP asks for (RFC 768).
pub fn finish_partial(frame: &mut [u8], start: u16, offset: u16) -> Result<(), ChecksumError> {
    let error = ChecksumError::OutOfRange {
        start,
        offset,
        frame_len: frame.len(),
    };
    let covered = frame.get_mut(usize::from(start)..).ok_or(error)?;
    let check = nonzero(!fold(sum(covered)));
    let field = usize::from(offset);
    covered
        .get_mut(field..field + FIELD_LEN)
        .ok_or(error)?
        .copy_from_slice(&check.to_be_bytes());
    Ok(())
}

/// Does to a whole frame what `offloads` asks for about its checksum; segmentation is [`crate::Segmenter`]'s task.
pub fn finish(frame: &mut [u8], offloads: &Offloads) -> Result<(), ChecksumError> {
    match offloads.checksum {
        Checksum::Partial { start, offset } => finish_partial(frame, start, offset),
        Checksum::Complete | Checksum::Valid => Ok(()),
    }
}

/// A computed checksum as UDP transmits it: 0 stands for "none" there, so 0 becomes 0xffff.
pub(crate) const fn nonzero(check: u16) -> u16 {
    if check == 0 { 0xffff } else { check }
}

/// Whether the TCP, UDP, ICMP or ICMPv6 checksum of `frame` is right.
///
/// An IPv4 UDP datagram without a checksum counts as right. False where there is nothing that could be verified: no
/// such transport, a fragment, or a `frame` that ends before `meta` says that its packet does.
pub fn verify_transport(frame: &[u8], meta: &FrameMeta) -> bool {
    meta.ip()
        .filter(|ip| !ip.fragment)
        .and_then(|ip| transport_is_right(frame, ip))
        .unwrap_or(false)
}

fn transport_is_right(frame: &[u8], ip: &IpMeta) -> Option<bool> {
    let start = usize::from(ip.transport_offset);
    let end = match ip.transport {
        Transport::Udp(udp) => udp.payload().end,
        _ => ip.end as usize,
    };
    let covered = frame.get(start..end)?;
    let (with_pseudo_header, field) = match ip.transport {
        Transport::Tcp(_) => (true, 16),
        Transport::Udp(_) => (true, 6),
        Transport::Icmp { .. } => (ip.protocol == protocol::ICMPV6, 2),
        Transport::Other => return None,
    };
    if matches!(ip.transport, Transport::Udp(_)) && covered.get(field..field + FIELD_LEN)? == [0, 0] {
        return Some(ip.src.is_ipv4());
    }
    let pseudo = if with_pseudo_header {
        pseudo_header(ip.src, ip.dst, ip.protocol, covered.len() as u32)
    } else {
        0
    };
    Some(fold(pseudo + sum(covered)) == 0xffff)
}

#[cfg(test)]
mod tests;
