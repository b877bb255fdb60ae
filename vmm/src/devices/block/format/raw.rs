//! Sectors one after the other, in a file or on a block device.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::ZEROS;
use crate::devices::block::parts::Parts;
use crate::devices::block::sys;

const KEEP_SIZE: i32 = libc::FALLOC_FL_KEEP_SIZE;
const PUNCH_HOLE: i32 = libc::FALLOC_FL_PUNCH_HOLE | KEEP_SIZE;
const ZERO_RANGE: i32 = libc::FALLOC_FL_ZERO_RANGE | KEEP_SIZE;

/// A file whose octets are the disk's. Data moves between it and guest memory without a copy in between.
pub(in crate::devices::block) struct Raw(File);

impl Raw {
    pub(in crate::devices::block) fn new(file: File) -> Self {
        Self(file)
    }

    pub(super) fn file(&self) -> &File {
        &self.0
    }

    pub(super) fn read(&self, mut offset: u64, into: &mut Parts<'_>) -> io::Result<()> {
        while into.len() > 0 {
            match sys::read_vectored(&self.0, into.slices(), offset) {
                // Somebody made the file shorter.
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    into.advance(count);
                    offset += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    pub(super) fn write(&self, mut offset: u64, from: &mut Parts<'_>) -> io::Result<()> {
        while from.len() > 0 {
            match sys::write_vectored(&self.0, from.slices(), offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    from.advance(count);
                    offset += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    pub(super) fn flush(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    pub(super) fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        allocate(&self.0, PUNCH_HOLE, offset, len)
    }

    pub(super) fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        // Space that the guest wants to keep is not given back.
        let mode = if unmap { PUNCH_HOLE } else { ZERO_RANGE };
        match allocate(&self.0, mode, offset, len) {
            // Block devices also refuse ranges that are no whole blocks of theirs.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL)) => {}
            done => return done,
        }
        write_zeros(&self.0, offset, len)
    }
}

fn allocate(file: &File, mode: i32, offset: u64, len: u64) -> io::Result<()> {
    loop {
        match sys::fallocate(file, mode, offset, len) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// Zeros as data, where neither file system nor device knows better.
fn write_zeros(file: &File, mut offset: u64, mut len: u64) -> io::Result<()> {
    while len > 0 {
        let count = len.min(ZEROS.len() as u64);
        file.write_all_at(ZEROS.get(..count as usize).unwrap_or_default(), offset)?;
        offset += count;
        len -= count;
    }
    Ok(())
}
