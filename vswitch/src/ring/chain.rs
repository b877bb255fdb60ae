//! Walks a chain of descriptors into checked segments.
//!
//! `unsafe` is needed to read indirect tables out of guest memory.
#![allow(unsafe_code)]

use super::RingFault;
use super::layout::Layout;
use crate::frame::Segment;

/// The most descriptors that one chain may have, in a table or not: real drivers use up to a few dozen, and a frame
/// in a great many pieces would cost everybody's time.
pub const CHAIN_LIMIT: u16 = 1024;

/// The least that an indirect table may have although the queue is smaller: Linux goes by the device's limits there,
/// not by the queue's size.
const TABLE_LIMIT: u16 = 256;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// A copy of a descriptor (virtio 1.2, 2.7.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Descriptor {
    address: u64,
    len: u32,
    flags: u16,
    next: u16,
}

impl Descriptor {
    /// From its two little-endian words.
    pub(super) const fn of(low: u64, high: u64) -> Self {
        let high = u64::from_le(high);
        Self {
            address: u64::from_le(low),
            len: high as u32,
            flags: (high >> 32) as u16,
            next: (high >> 48) as u16,
        }
    }
}

/// Which way a chain's buffers go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// We read: transmit.
    Read,
    /// We write: receive.
    Write,
}

/// Appends the pieces of the chain from `head` to `segments` and returns their total length.
///
/// On a fault some may have been appended.
#[inline]
pub(super) fn walk(
    layout: &Layout,
    indirect: bool,
    head: u16,
    access: Access,
    segments: &mut Vec<Segment>,
) -> Result<u64, RingFault> {
    let size = layout.size();
    let mut index = head;
    let mut total = 0;
    for _ in 0..size.min(CHAIN_LIMIT) {
        if index >= size {
            return Err(RingFault::DescriptorIndex(index));
        }
        let descriptor = layout.descriptor(index);
        if descriptor.flags & INDIRECT != 0 {
            if !indirect {
                return Err(RingFault::IndirectUnexpected);
            }
            return Ok(total + walk_table(layout, &descriptor, head, access, segments)?);
        }
        total += add(layout, &descriptor, access, segments)?;
        if descriptor.flags & NEXT == 0 {
            return Ok(total);
        }
        index = descriptor.next;
    }
    Err(RingFault::ChainTooLong(head))
}

/// The same for an indirect table (virtio 1.2, 2.7.5.3).
fn walk_table(
    layout: &Layout,
    table: &Descriptor,
    head: u16,
    access: Access,
    segments: &mut Vec<Segment>,
) -> Result<u64, RingFault> {
    if table.flags & NEXT != 0 {
        return Err(RingFault::IndirectNested);
    }
    let limit = layout.size().clamp(TABLE_LIMIT, CHAIN_LIMIT);
    let entries = table.len / 16;
    if !table.len.is_multiple_of(16) || entries == 0 || entries > u32::from(limit) {
        return Err(RingFault::IndirectLength(table.len));
    }
    let start = layout
        .memory()
        .translate(table.address, table.len.into())
        .ok_or(RingFault::IndirectAddress(table.address))?;
    let mut index = 0;
    let mut total = 0;
    for _ in 0..entries {
        if index >= entries {
            return Err(RingFault::DescriptorIndex(index as u16));
        }
        // SAFETY: `index` is below `entries`, and `entries * 16` octets from `start` were just found in guest memory,
        // which the layout keeps mapped. A table need not be aligned, hence the array of octets. The read is volatile
        // because the guest may write meanwhile; whatever is read is checked like anything from a guest.
        let raw = unsafe { start.add(16 * index as usize).cast::<[u8; 16]>().read_volatile() };
        let words = u128::from_ne_bytes(raw);
        let descriptor = Descriptor::of(words as u64, (words >> 64) as u64);
        if descriptor.flags & INDIRECT != 0 {
            return Err(RingFault::IndirectNested);
        }
        total += add(layout, &descriptor, access, segments)?;
        if descriptor.flags & NEXT == 0 {
            return Ok(total);
        }
        index = descriptor.next.into();
    }
    Err(RingFault::ChainTooLong(head))
}

/// Appends one buffer's pieces.
#[inline]
fn add(
    layout: &Layout,
    descriptor: &Descriptor,
    access: Access,
    segments: &mut Vec<Segment>,
) -> Result<u64, RingFault> {
    match (access, descriptor.flags & WRITE != 0) {
        (Access::Read, true) => return Err(RingFault::WriteOnly),
        (Access::Write, false) => return Err(RingFault::ReadOnly),
        // Else a frame's buffers could be millions of descriptors that hold nothing.
        (Access::Write, true) if descriptor.len == 0 => return Err(RingFault::EmptyBuffer),
        _ => {}
    }
    let Descriptor { address, len, .. } = *descriptor;
    if let Some(ptr) = layout.memory().translate(address, len.into()) {
        if len > 0 {
            segments.push(Segment { ptr, len });
        }
        return Ok(len.into());
    }
    for run in layout.memory().runs(address, len.into()) {
        let run = run.ok_or(RingFault::Buffer { address, len })?;
        segments.push(Segment {
            ptr: run.ptr,
            len: run.len as u32,
        });
    }
    Ok(len.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_is_read_as_the_specification_lays_it_out() {
        let low = 0x1122_3344_5566_7788_u64.to_le();
        let high = (0x0005_u64 << 48 | 0x0003 << 32 | 0x0000_0040).to_le();
        let expected = Descriptor {
            address: 0x1122_3344_5566_7788,
            len: 0x40,
            flags: NEXT | WRITE,
            next: 5,
        };
        assert_eq!(Descriptor::of(low, high), expected);
    }
}
