//! Microsoft's virtual hard disk, fixed and dynamic.
//!
//! Source: Virtual Hard Disk Image Format Specification, version 1.0. All fields are big endian. A dynamic image is a
//! copy of the footer, a header, a table with the sector of each block or all ones, the blocks, the footer. A block
//! begins with a bitmap that has a bit for each of its sectors, highest bit first: one if the sector was written.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::{Format, Image, Raw};
use crate::devices::block::request::SECTOR;

const FOOTER_LEN: usize = 512;
const HEADER_LEN: usize = 1024;
const COOKIE: &[u8] = b"conectix";
const HEADER_COOKIE: &[u8] = b"cxsparse";
const FIXED: u32 = 2;
const DYNAMIC: u32 = 3;
const DIFFERENCING: u32 = 4;
/// Where footer and header have their checksums.
const FOOTER_SUM: usize = 64;
const HEADER_SUM: usize = 36;
/// A block that was never written.
const ABSENT: u32 = u32::MAX;
/// The largest disk that the format can describe: 2040 GiB.
const MAX_SIZE: u64 = 2040 << 30;
/// Blocks are 2 MiB or 512 KiB in practice.
const BLOCK_SIZES: std::ops::RangeInclusive<u64> = 64 << 10..=64 << 20;
/// Entries of the table for the largest disk in the smallest blocks in use.
const MAX_BLOCKS: u64 = MAX_SIZE / (512 << 10);

/// Opens a fixed or dynamic image that keeps the rules.
pub(in crate::devices::block) fn open(file: File, end: u64) -> Result<Image, String> {
    let at_end = end.saturating_sub(FOOTER_LEN as u64);
    let footer = read_footer(&file, at_end).or_else(|_| read_footer(&file, 0))?;
    let size = be64(&footer, 48);
    if size == 0 || !size.is_multiple_of(SECTOR) || size > MAX_SIZE {
        return Err(format!("a disk of {size} octets is not possible"));
    }
    match be32(&footer, 60) {
        FIXED if size > at_end => Err(format!("the file is too short for a disk of {size} octets")),
        FIXED => Ok(Image::raw(Raw::new(file), size)),
        DYNAMIC => {
            let dynamic = Dynamic::open(file, &footer, end, size)?;
            Ok(Image::converted(Box::new(dynamic), size))
        }
        DIFFERENCING => {
            Err("it is a differencing disk, whose parent is not opened; merge it first".to_owned())
        }
        kind => Err(format!("disk type {kind} is not supported")),
    }
}

fn read_footer(file: &File, at: u64) -> Result<[u8; FOOTER_LEN], String> {
    let mut footer = [0; FOOTER_LEN];
    file.read_exact_at(&mut footer, at)
        .map_err(|error| format!("its footer cannot be read: {error}"))?;
    if !footer.starts_with(COOKIE) {
        return Err("it has no footer; say which format it has".to_owned());
    }
    if checksum(&footer, FOOTER_SUM) != be32(&footer, FOOTER_SUM) {
        return Err("its footer is corrupt".to_owned());
    }
    Ok(footer)
}

/// The complement of the sum of all octets but those of the checksum.
fn checksum(octets: &[u8], at: usize) -> u32 {
    let counted = octets
        .iter()
        .zip(0..)
        .filter(|(_, place)| !(at..at + 4).contains(place));
    !counted.fold(0_u32, |sum, (octet, _)| sum.wrapping_add((*octet).into()))
}

fn be32(octets: &[u8], at: usize) -> u32 {
    let field = octets.get(at..).and_then(|rest| rest.first_chunk());
    field.map_or(0, |field| u32::from_be_bytes(*field))
}

fn be64(octets: &[u8], at: usize) -> u64 {
    let field = octets.get(at..).and_then(|rest| rest.first_chunk());
    field.map_or(0, |field| u64::from_be_bytes(*field))
}

/// An opened dynamic image.
struct Dynamic {
    file: Raw,
    footer: [u8; FOOTER_LEN],
    table_at: u64,
    /// The sector of each block.
    table: Vec<u32>,
    block: u64,
    /// Octets of a block's bitmap in the file.
    bitmap_len: u64,
    /// The bitmap of the block that was used last, and that block.
    bitmap: Vec<u8>,
    bitmap_of: Option<usize>,
    /// Where the next block goes.
    end: u64,
}

/// A part of a request that is within one block.
#[derive(Clone, Copy)]
struct Piece {
    block: usize,
    /// Octets from the beginning of the block's data.
    within: u64,
    len: u64,
}

impl Dynamic {
    fn open(file: File, footer: &[u8; FOOTER_LEN], end: u64, size: u64) -> Result<Self, String> {
        let header_at = be64(footer, 16);
        let mut header = [0; HEADER_LEN];
        let read = file.read_exact_at(&mut header, header_at);
        if read.is_err() || !header.starts_with(HEADER_COOKIE) || header_at < FOOTER_LEN as u64 {
            return Err("its header is missing".to_owned());
        }
        if checksum(&header, HEADER_SUM) != be32(&header, HEADER_SUM) {
            return Err("its header is corrupt".to_owned());
        }
        let (table_at, count, block) = (be64(&header, 16), be32(&header, 28), be32(&header, 32));
        let (count, block) = (u64::from(count), u64::from(block));
        if !block.is_power_of_two() || !BLOCK_SIZES.contains(&block) {
            return Err(format!("blocks of {block} octets are not supported"));
        }
        if size > count * block || count > MAX_BLOCKS {
            return Err(format!("its table of {count} blocks does not fit the disk"));
        }
        let table_end = table_at
            .checked_add(4 * count)
            .filter(|table_end| *table_end <= end);
        let Some(table_end) = table_end.filter(|_| table_at >= FOOTER_LEN as u64) else {
            return Err("its block table is not inside the file".to_owned());
        };
        let bitmap_len = (block / SECTOR / 8).next_multiple_of(SECTOR);
        let table = read_table(&file, table_at, count as usize)?;
        let first = table_end
            .max(header_at + HEADER_LEN as u64)
            .next_multiple_of(SECTOR);
        let used = judge_blocks(&table, first, bitmap_len + block, end)?;
        Ok(Self {
            file: Raw::new(file),
            footer: *footer,
            table_at,
            table,
            block,
            bitmap_len,
            bitmap: vec![0; bitmap_len as usize],
            bitmap_of: None,
            end: used,
        })
    }

    fn pieces(&self, mut offset: u64, mut len: u64) -> impl Iterator<Item = Piece> + use<> {
        let size = self.block;
        std::iter::from_fn(move || {
            let within = offset % size;
            let piece = Piece {
                block: (offset / size) as usize,
                within,
                len: len.min(size - within),
            };
            offset += piece.len;
            len -= piece.len;
            (piece.len > 0).then_some(piece)
        })
    }

    /// Where a block is in the file, if it is.
    fn place(&self, block: usize) -> Option<u64> {
        let sector = self
            .table
            .get(block)
            .copied()
            .filter(|sector| *sector != ABSENT)?;
        Some(u64::from(sector) * SECTOR)
    }

    fn load_bitmap(&mut self, block: usize, place: u64) -> io::Result<()> {
        if self.bitmap_of != Some(block) {
            self.bitmap_of = None;
            self.file.file().read_exact_at(&mut self.bitmap, place)?;
            self.bitmap_of = Some(block);
        }
        Ok(())
    }

    /// Whether a sector of the block whose bitmap is loaded was written.
    fn is_written(&self, sector: u64) -> bool {
        let octet = self.bitmap.get((sector / 8) as usize).copied().unwrap_or(0);
        octet & 0x80 >> (sector % 8) != 0
    }

    /// Marks the sectors of a piece as written, in the file too if that is new.
    fn mark(&mut self, piece: Piece, place: u64) -> io::Result<()> {
        self.load_bitmap(piece.block, place)?;
        let mut changed = false;
        for sector in piece.within / SECTOR..(piece.within + piece.len) / SECTOR {
            if let Some(octet) = self.bitmap.get_mut((sector / 8) as usize) {
                let bit = 0x80 >> (sector % 8);
                changed |= *octet & bit == 0;
                *octet |= bit;
            }
        }
        if changed {
            let written = self.file.file().write_all_at(&self.bitmap, place);
            if written.is_err() {
                self.bitmap_of = None;
            }
            written?;
        }
        Ok(())
    }

    /// Puts a new block behind the others: first the footer out of the way, then the block, then its table entry, so
    /// that whatever is missing after a crash is at the end.
    fn allocate(&mut self, block: usize) -> io::Result<u64> {
        let (place, len) = (self.end, self.bitmap_len + self.block);
        let sector = u32::try_from(place / SECTOR)
            .ok()
            .filter(|sector| *sector != ABSENT);
        let (Some(sector), Some(entry)) = (sector, self.table.get_mut(block)) else {
            return Err(io::ErrorKind::StorageFull.into());
        };
        let file = self.file.file();
        file.write_all_at(&self.footer, place + len)?;
        self.file.write_zeroes(place, len, true)?;
        // Other programs take a block that is there for one that was written as a whole.
        self.bitmap_of = None;
        self.bitmap.fill(0xff);
        file.write_all_at(&self.bitmap, place)?;
        file.write_all_at(&sector.to_be_bytes(), self.table_at + 4 * block as u64)?;
        *entry = sector;
        self.bitmap_of = Some(block);
        self.end = place + len;
        Ok(place)
    }

    /// Calls `what` with where a piece's data are in the file, if the block is there.
    fn each(
        &self,
        offset: u64,
        len: u64,
        mut what: impl FnMut(&Raw, u64, u64) -> io::Result<()>,
    ) -> io::Result<()> {
        for piece in self.pieces(offset, len) {
            if let Some(place) = self.place(piece.block) {
                what(&self.file, place + self.bitmap_len + piece.within, piece.len)?;
            }
        }
        Ok(())
    }
}

impl Format for Dynamic {
    fn read(&mut self, offset: u64, mut into: &mut [u8]) -> io::Result<()> {
        for piece in self.pieces(offset, into.len() as u64) {
            let (here, rest) = into.split_at_mut(piece.len as usize);
            into = rest;
            let Some(place) = self.place(piece.block) else {
                here.fill(0);
                continue;
            };
            self.load_bitmap(piece.block, place)?;
            let at = place + self.bitmap_len + piece.within;
            self.file.file().read_exact_at(here, at)?;
            for (sector, octets) in (piece.within / SECTOR..).zip(here.chunks_mut(SECTOR as usize)) {
                if !self.is_written(sector) {
                    octets.fill(0);
                }
            }
        }
        Ok(())
    }

    fn write(&mut self, offset: u64, mut from: &[u8]) -> io::Result<()> {
        for piece in self.pieces(offset, from.len() as u64) {
            let (here, rest) = from.split_at(piece.len as usize);
            from = rest;
            let place = match self.place(piece.block) {
                Some(place) => place,
                None => self.allocate(piece.block)?,
            };
            let at = place + self.bitmap_len + piece.within;
            self.file.file().write_all_at(here, at)?;
            self.mark(piece, place)?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }

    fn discard(&mut self, offset: u64, len: u64) -> io::Result<()> {
        self.each(offset, len, Raw::discard)
    }

    fn write_zeroes(&mut self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.each(offset, len, |file, at, len| file.write_zeroes(at, len, unmap))
    }
}

fn read_table(file: &File, at: u64, count: usize) -> Result<Vec<u32>, String> {
    let mut octets = vec![0; 4 * count];
    file.read_exact_at(&mut octets, at)
        .map_err(|error| format!("its block table cannot be read: {error}"))?;
    Ok(octets
        .as_chunks()
        .0
        .iter()
        .map(|entry| u32::from_be_bytes(*entry))
        .collect())
}

/// Whether all blocks are inside the file, behind `first`, and none overlaps another; where the last one ends.
fn judge_blocks(table: &[u32], first: u64, len: u64, end: u64) -> Result<u64, String> {
    let mut places: Vec<u32> = table.iter().copied().filter(|sector| *sector != ABSENT).collect();
    places.sort_unstable();
    let mut used = first;
    for sector in places {
        let place = u64::from(sector) * SECTOR;
        if place < used || place + len > end {
            return Err(format!(
                "its block at octet {place} overlaps something or is not inside the file"
            ));
        }
        used = place + len;
    }
    Ok(used)
}
