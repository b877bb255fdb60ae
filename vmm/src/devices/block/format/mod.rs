//! How files hold a disk's sectors.

pub(super) mod qcow2;
mod raw;
pub(super) mod vhd;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::parts::Parts;
use super::request::{Range, SECTOR};
pub(super) use raw::Raw;

/// Octets that are moved at once where guest memory and file are not connected directly.
const BOUNCE: usize = 128 << 10;

/// What is written where nothing else makes zeros.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// A format whose sectors are not simply one after the other. Ranges lie within the disk.
pub(super) trait Format: Send {
    /// Reads all of `into` from `offset`; what was never written is zeros.
    fn read(&mut self, offset: u64, into: &mut [u8]) -> io::Result<()>;

    /// Writes all of `from` at `offset`.
    fn write(&mut self, offset: u64, from: &[u8]) -> io::Result<()>;

    /// Makes everything that was written last.
    fn flush(&mut self) -> io::Result<()>;

    /// Gives the space of whole units in the range back, if the format can; what it reads as afterwards is anything
    /// that was there, or zeros.
    fn discard(&mut self, offset: u64, len: u64) -> io::Result<()>;

    /// Makes the range read as zeros.
    fn write_zeroes(&mut self, offset: u64, len: u64, unmap: bool) -> io::Result<()>;
}

/// An opened image.
pub(super) struct Image {
    kind: Kind,
    sectors: u64,
}

enum Kind {
    Raw(Raw),
    Other(Converted),
}

/// A format, and the buffer between it and guest memory.
struct Converted {
    format: Box<dyn Format>,
    bounce: Box<[u8]>,
    /// It panicked: what it holds may contradict itself, so nothing is done with it any more.
    broken: bool,
}

impl Image {
    /// A disk of `size` octets as they are in the file.
    pub(super) fn raw(raw: Raw, size: u64) -> Self {
        Self {
            kind: Kind::Raw(raw),
            sectors: size / SECTOR,
        }
    }

    /// A disk of `size` octets in another format.
    pub(super) fn converted(format: Box<dyn Format>, size: u64) -> Self {
        let converted = Converted {
            format,
            bounce: vec![0; BOUNCE].into_boxed_slice(),
            broken: false,
        };
        Self {
            kind: Kind::Other(converted),
            sectors: size / SECTOR,
        }
    }

    /// How many sectors of 512 octets the disk has.
    pub(super) fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Fills `into` from `offset`.
    pub(super) fn read(&mut self, mut offset: u64, into: &mut Parts<'_>) -> io::Result<()> {
        let converted = match &mut self.kind {
            Kind::Raw(raw) => return raw.read(offset, into),
            Kind::Other(converted) => converted,
        };
        while into.len() > 0 {
            let count = chunk(offset, into.len());
            converted.run(|format, bounce| {
                let piece = bounce.get_mut(..count).unwrap_or_default();
                format.read(offset, piece)?;
                into.fill(piece);
                Ok(())
            })?;
            offset += count as u64;
        }
        Ok(())
    }

    /// Writes `from` at `offset`.
    pub(super) fn write(&mut self, mut offset: u64, from: &mut Parts<'_>) -> io::Result<()> {
        let converted = match &mut self.kind {
            Kind::Raw(raw) => return raw.write(offset, from),
            Kind::Other(converted) => converted,
        };
        while from.len() > 0 {
            let count = chunk(offset, from.len());
            converted.run(|format, bounce| {
                let piece = bounce.get_mut(..count).unwrap_or_default();
                from.take(piece);
                format.write(offset, piece)
            })?;
            offset += count as u64;
        }
        Ok(())
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        match &mut self.kind {
            Kind::Raw(raw) => raw.flush(),
            Kind::Other(converted) => converted.run(|format, _| format.flush()),
        }
    }

    pub(super) fn discard(&mut self, range: Range) -> io::Result<()> {
        match &mut self.kind {
            _ if range.len == 0 => Ok(()),
            Kind::Raw(raw) => raw.discard(range.offset, range.len),
            Kind::Other(converted) => converted.run(|format, _| format.discard(range.offset, range.len)),
        }
    }

    pub(super) fn write_zeroes(&mut self, range: Range) -> io::Result<()> {
        match &mut self.kind {
            _ if range.len == 0 => Ok(()),
            Kind::Raw(raw) => raw.write_zeroes(range.offset, range.len, range.unmap),
            Kind::Other(converted) => {
                converted.run(|format, _| format.write_zeroes(range.offset, range.len, range.unmap))
            }
        }
    }
}

impl Converted {
    /// Runs `work`; a format that panics on a corrupt image ends as one that fails.
    fn run(&mut self, work: impl FnOnce(&mut dyn Format, &mut [u8]) -> io::Result<()>) -> io::Result<()> {
        if self.broken {
            return Err(io::Error::other("the image is corrupt"));
        }
        let Self { format, bounce, .. } = self;
        let done = catch_unwind(AssertUnwindSafe(|| work(format.as_mut(), bounce)));
        done.unwrap_or_else(|_| {
            self.broken = true;
            Err(io::Error::other("the image is corrupt"))
        })
    }
}

/// How much to move at once: up to the next multiple of the buffer's size, so that clusters are written whole.
fn chunk(offset: u64, len: u64) -> usize {
    let until = BOUNCE as u64 - offset % BOUNCE as u64;
    until.min(len) as usize
}
