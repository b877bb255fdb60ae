//! Requests as the driver writes them (Virtio 1.2, 5.2.6), read once and judged.

use virtio_queue::DescriptorChain;
use vm_memory::GuestMemoryBackend;

use super::counts::Refusal;
use super::parts::Parts;
use super::sys::MAX_SLICES;
use crate::memory::GuestRam;

/// Octets in a sector, whatever the block size.
pub(super) const SECTOR: u64 = 512;
/// The most data octets that one request may carry.
pub(super) const MAX_DATA: u64 = 64 << 20;
/// The most ranges in one discard or write-zeroes request.
pub(super) const MAX_RANGES: u32 = 16;
/// The most sectors in one range of a discard.
pub(super) const MAX_DISCARD_SECTORS: u32 = 1 << 22;
/// The most sectors in one range that is to be zeros.
pub(super) const MAX_ZERO_SECTORS: u32 = 1 << 15;
/// Octets of an identity.
pub(super) const ID_LEN: usize = 20;

const HEADER_LEN: usize = 16;
const RANGE_LEN: u64 = 16;
const FLAG_UNMAP: u32 = 1;

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

/// A request that keeps the rules. Offsets and lengths are octets within the disk.
pub(super) enum Request {
    /// Read into the parts that the device writes.
    Read { offset: u64 },
    /// Write the parts that the device reads.
    Write { offset: u64 },
    /// Make everything that was written last.
    Flush,
    /// Tell the disk's name.
    Identify,
    /// Some ranges are no longer needed.
    Discard(Ranges),
    /// Some ranges are to read as zeros.
    WriteZeroes(Ranges),
}

/// A chain, split by who writes.
#[derive(Default)]
pub(super) struct Chain<'r> {
    /// What the driver tells: header, then data.
    pub(super) told: Parts<'r>,
    /// Room for what the device answers, then for the status.
    pub(super) room: Parts<'r>,
}

/// The disk, as far as a request depends on it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) sectors: u64,
    pub(super) read_only: bool,
}

/// A range of octets, and whether its space may be given back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) unmap: bool,
}

/// Up to [`MAX_RANGES`] ranges.
pub(super) struct Ranges {
    ranges: [Range; MAX_RANGES as usize],
    count: usize,
}

impl Ranges {
    pub(super) fn as_slice(&self) -> &[Range] {
        self.ranges.get(..self.count).unwrap_or_default()
    }
}

/// Finds a chain's parts in guest memory. What is broken comes with the parts, for the status may be among them.
pub(super) fn gather<'r>(
    ram: &'r GuestRam,
    chain: DescriptorChain<&'r GuestRam>,
) -> (Chain<'r>, Option<Refusal>) {
    let (mut parts, mut fault) = (Chain::default(), None);
    let (mut count, mut more, mut answering) = (0, true, false);
    for descriptor in chain {
        count += 1;
        if count > MAX_SLICES {
            break;
        }
        more = descriptor.has_next();
        let writes = descriptor.is_write_only();
        if answering && !writes {
            fault = fault.or(Some(Refusal::Order));
        }
        answering |= writes;
        let side = if writes { &mut parts.room } else { &mut parts.told };
        match ram.get_slice(descriptor.addr(), descriptor.len() as usize) {
            Ok(slice) if !slice.is_empty() => side.push(slice),
            Ok(_) => fault = fault.or(Some(Refusal::Empty)),
            Err(_) => {
                // What comes before is not the end of this side any more.
                *side = Parts::default();
                fault = fault.or(Some(Refusal::Address));
            }
        }
    }
    if more {
        // Where the chain ends, and so where the status is, cannot be told.
        (Chain::default(), Some(Refusal::Chain))
    } else {
        (parts, fault)
    }
}

/// Reads and judges a request whose status has been taken out of `chain`; leaves the data in there.
pub(super) fn parse(chain: &mut Chain<'_>, limits: Limits) -> Result<Request, Refusal> {
    let mut header = [0; HEADER_LEN];
    if !chain.told.take(&mut header) {
        return Err(Refusal::Header);
    }
    let (kind, sector) = (le32(&header, 0), le64(&header, 8));
    match kind {
        IN => {
            let offset = data_offset(sector, chain.room.len(), limits)?;
            Ok(Request::Read { offset })
        }
        OUT => {
            writable(limits)?;
            let offset = data_offset(sector, chain.told.len(), limits)?;
            Ok(Request::Write { offset })
        }
        FLUSH => Ok(Request::Flush),
        GET_ID if chain.room.len() < ID_LEN as u64 => Err(Refusal::Size),
        GET_ID => Ok(Request::Identify),
        DISCARD => Ok(Request::Discard(ranges(chain, limits, MAX_DISCARD_SECTORS, 0)?)),
        WRITE_ZEROES => {
            let ranges = ranges(chain, limits, MAX_ZERO_SECTORS, FLAG_UNMAP)?;
            Ok(Request::WriteZeroes(ranges))
        }
        _ => Err(Refusal::Unsupported),
    }
}

fn writable(limits: Limits) -> Result<(), Refusal> {
    if limits.read_only {
        Err(Refusal::ReadOnly)
    } else {
        Ok(())
    }
}

/// Where `len` octets of data from `sector` on are.
fn data_offset(sector: u64, len: u64, limits: Limits) -> Result<u64, Refusal> {
    if len == 0 || len > MAX_DATA || !len.is_multiple_of(SECTOR) {
        return Err(Refusal::Size);
    }
    within(sector, len / SECTOR, limits)
}

/// The offset of `sector` when `count` sectors from there are on the disk.
fn within(sector: u64, count: u64, limits: Limits) -> Result<u64, Refusal> {
    match sector.checked_add(count) {
        Some(end) if end <= limits.sectors => Ok(sector * SECTOR),
        _ => Err(Refusal::Range),
    }
}

/// `virtio_blk_discard_write_zeroes` structures (Virtio 1.2, 5.2.6), each copied once.
fn ranges(
    chain: &mut Chain<'_>,
    limits: Limits,
    max_sectors: u32,
    known_flags: u32,
) -> Result<Ranges, Refusal> {
    writable(limits)?;
    let len = chain.told.len();
    let count = (len / RANGE_LEN) as usize;
    if len == 0 || !len.is_multiple_of(RANGE_LEN) || len > RANGE_LEN * u64::from(MAX_RANGES) {
        return Err(Refusal::Size);
    }
    let mut ranges = [Range::default(); MAX_RANGES as usize];
    for range in ranges.iter_mut().take(count) {
        let mut octets = [0; RANGE_LEN as usize];
        chain.told.take(&mut octets);
        let (sectors, flags) = (le32(&octets, 8), le32(&octets, 12));
        if flags & !known_flags != 0 {
            return Err(Refusal::Unsupported);
        }
        if sectors > max_sectors {
            return Err(Refusal::Size);
        }
        *range = Range {
            offset: within(le64(&octets, 0), sectors.into(), limits)?,
            len: u64::from(sectors) * SECTOR,
            unmap: flags & FLAG_UNMAP != 0,
        };
    }
    Ok(Ranges { ranges, count })
}

fn le32(octets: &[u8; 16], at: usize) -> u32 {
    let field = octets.get(at..).and_then(|rest| rest.first_chunk());
    field.map_or(0, |field| u32::from_le_bytes(*field))
}

fn le64(octets: &[u8; 16], at: usize) -> u64 {
    let field = octets.get(at..).and_then(|rest| rest.first_chunk());
    field.map_or(0, |field| u64::from_le_bytes(*field))
}
