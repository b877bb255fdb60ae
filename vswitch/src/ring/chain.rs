//! What chains of descriptors have in common in both formats: descriptors, indirect tables, checked buffers.
//!
//! `unsafe` is needed to read indirect tables out of guest memory.
#![allow(unsafe_code)]

use super::RingFault;
use crate::frame::Segment;
use crate::memory::{GuestMemory, Nearby};

/// The most descriptors that one chain may have, in a table or not: real drivers use up to a few dozen, and a frame
/// in a great many pieces would cost everybody's time.
pub const CHAIN_LIMIT: u16 = 1024;

/// The least that an indirect table may have although the queue is smaller: Linux goes by the device's limits there,
/// not by the queue's size.
const TABLE_LIMIT: u16 = 256;

pub(super) const NEXT: u16 = 1;
pub(super) const WRITE: u16 = 2;
pub(super) const INDIRECT: u16 = 4;

/// A copy of a descriptor (virtio 1.2, 2.7.5 and 2.8.13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    pub(super) address: u64,
    pub(super) len: u32,
    pub(super) flags: u16,
    /// Split: the chain's next descriptor. Packed: the buffer's identifier.
    pub(super) tag: u16,
}

impl Descriptor {
    /// A split ring's, from its two little-endian words.
    pub(super) const fn of_split(low: u64, high: u64) -> Self {
        let high = u64::from_le(high);
        Self {
            address: u64::from_le(low),
            len: high as u32,
            flags: (high >> 32) as u16,
            tag: (high >> 48) as u16,
        }
    }

    /// A packed ring's, which has its flags last.
    pub(super) const fn of_packed(low: u64, high: u64) -> Self {
        let high = u64::from_le(high);
        Self {
            address: u64::from_le(low),
            len: high as u32,
            flags: (high >> 48) as u16,
            tag: (high >> 32) as u16,
        }
    }

    pub(super) const fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

/// Which way a chain's buffers go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// We read: transmit.
    Read,
    /// We write: receive.
    Write,
}

/// A chain that was walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The driver's name for it.
    pub(super) id: u16,
    /// Places that it takes in its ring: 1 in a split ring, its descriptors in a packed one.
    pub(super) slots: u16,
    /// Octets in all.
    pub(super) total: u64,
}

/// A chain that is one buffer in one piece of memory, which most are.
#[derive(Clone, Copy, Debug)]
pub struct Single {
    /// The buffer.
    pub(super) segment: Segment,
    /// The driver's name for the chain.
    pub(super) id: u16,
}

impl Single {
    /// Tells whether a descriptor is a whole chain in one piece of memory. `None` for any other, whatever is the matter with it.
    #[inline]
    pub(super) fn of(
        memory: &mut Nearby<'_>,
        descriptor: &Descriptor,
        access: Access,
        id: u16,
    ) -> Option<Self> {
        let Descriptor { address, len, .. } = *descriptor;
        let wanted = match access {
            Access::Read => 0,
            Access::Write => WRITE,
        };
        if descriptor.flags & (NEXT | INDIRECT | WRITE) != wanted || len == 0 {
            return None;
        }
        let ptr = memory.translate(address, len.into())?;
        Some(Self {
            segment: Segment { ptr, len },
            id,
        })
    }
}

/// An indirect table in guest memory (virtio 1.2, 2.7.5.3 and 2.8.7).
///
/// Invariant: `16 * entries` octets from `start` are in the memory that it was found in.
#[derive(Debug)]
pub(super) struct Table {
    start: *const u8,
    entries: u16,
}

impl Table {
    pub(super) fn find(
        memory: &GuestMemory,
        descriptor: &Descriptor,
        queue_size: u16,
    ) -> Result<Self, RingFault> {
        if descriptor.has(NEXT) {
            return Err(RingFault::IndirectNested);
        }
        let limit = queue_size.clamp(TABLE_LIMIT, CHAIN_LIMIT);
        let entries = descriptor.len / 16;
        if !descriptor.len.is_multiple_of(16) || entries == 0 || entries > u32::from(limit) {
            return Err(RingFault::IndirectLength(descriptor.len));
        }
        let start = memory
            .translate(descriptor.address, descriptor.len.into())
            .ok_or(RingFault::IndirectAddress(descriptor.address))?;
        Ok(Self {
            start,
            entries: entries as u16,
        })
    }

    pub(super) fn entries(&self) -> u16 {
        self.entries
    }

    /// A copy of an entry's two words.
    pub(super) fn words(&self, index: u16) -> Result<(u64, u64), RingFault> {
        if index >= self.entries {
            return Err(RingFault::DescriptorIndex(index));
        }
        // SAFETY: `index` is below `entries`, and the octets were found in guest memory, which the caller keeps mapped
        // as long as it has the table. A table need not be aligned, hence the array of octets. The read is volatile
        // because the guest may write meanwhile; whatever is read is checked like anything from a guest.
        let raw = unsafe {
            let entry: *const [u8; 16] = self.start.add(16 * usize::from(index)).cast();
            entry.read_volatile()
        };
        let words = u128::from_ne_bytes(raw);
        Ok((words as u64, (words >> 64) as u64))
    }
}

/// Appends one buffer's pieces; returns its length.
#[inline]
pub(super) fn add(
    memory: &GuestMemory,
    descriptor: &Descriptor,
    access: Access,
    segments: &mut Vec<Segment>,
) -> Result<u64, RingFault> {
    let Descriptor { address, len, .. } = *descriptor;
    match (access, descriptor.has(WRITE)) {
        (Access::Read, true) => return Err(RingFault::WriteOnly),
        (Access::Write, false) => return Err(RingFault::ReadOnly),
        // Else a frame's buffers could be millions of descriptors that hold nothing.
        (Access::Write, true) if len == 0 => return Err(RingFault::EmptyBuffer),
        _ => {}
    }
    if let Some(ptr) = memory.translate(address, len.into()) {
        if len > 0 {
            segments.push(Segment { ptr, len });
        }
        return Ok(len.into());
    }
    for run in memory.runs(address, len.into()) {
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
        let split = Descriptor {
            address: 0x1122_3344_5566_7788,
            len: 0x40,
            flags: NEXT | WRITE,
            tag: 5,
        };
        assert_eq!(Descriptor::of_split(low, high), split);
        let packed = Descriptor {
            flags: 5,
            tag: 3,
            ..split
        };
        assert_eq!(Descriptor::of_packed(low, high), packed);
    }
}
