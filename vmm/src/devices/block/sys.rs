//! System calls on a disk's file that have no safe wrapper in the crates used here.
#![allow(unsafe_code)] // preadv and pwritev on guest memory, fallocate and file locks

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use vm_memory::VolatileSlice;

/// A piece of guest memory.
pub(super) type GuestSlice<'r> = VolatileSlice<'r, ()>;

/// The most pieces that one call takes.
pub(super) const MAX_SLICES: usize = 256;

/// Reads from `offset` in octets into the first [`MAX_SLICES`] of `slices`; how much, 0 at the end of the file.
pub(super) fn read_vectored(file: &File, slices: &[GuestSlice<'_>], offset: u64) -> io::Result<usize> {
    let (vectors, count) = vectors(slices);
    let offset = signed(offset)?;
    // SAFETY: each of the first `count` vectors is a piece of a mapping that `slices` keeps borrowed for the call. The
    // kernel writes there like another processor, which guest memory, only accessed volatile, allows at any time.
    let done = unsafe { libc::preadv(file.as_raw_fd(), vectors.as_ptr(), count, offset) };
    usize::try_from(done).map_err(|_| io::Error::last_os_error())
}

/// Writes the first [`MAX_SLICES`] of `slices` at `offset` in octets; how much.
pub(super) fn write_vectored(file: &File, slices: &[GuestSlice<'_>], offset: u64) -> io::Result<usize> {
    let (vectors, count) = vectors(slices);
    let offset = signed(offset)?;
    // SAFETY: each of the first `count` vectors is a piece of a mapping that `slices` keeps borrowed for the call, and
    // the kernel only reads from there. What the guest changes meanwhile is its own data.
    let done = unsafe { libc::pwritev(file.as_raw_fd(), vectors.as_ptr(), count, offset) };
    usize::try_from(done).map_err(|_| io::Error::last_os_error())
}

/// `fallocate(2)` on octets; `mode` are `FALLOC_FL_` bits.
pub(super) fn fallocate(file: &File, mode: i32, offset: u64, len: u64) -> io::Result<()> {
    let (offset, len) = (signed(offset)?, signed(len)?);
    // SAFETY: the call takes integers and touches no memory of this process.
    if unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, len) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Takes (`F_OFD_SETLK`) or probes (`F_OFD_GETLK`) a lock of `kind` on octets; returns the kind of the lock in the way
/// when probing, `F_UNLCK` when there is none.
pub(super) fn lock(file: &File, command: i32, kind: i32, offset: u64, len: u64) -> io::Result<i32> {
    let mut lock = libc::flock {
        l_type: kind as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: signed(offset)?,
        l_len: signed(len)?,
        l_pid: 0,
    };
    // SAFETY: `lock` is a live, writable structure of the type that both commands read and the second fills in.
    if unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut lock) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(i32::from(lock.l_type))
}

fn vectors(slices: &[GuestSlice<'_>]) -> ([libc::iovec; MAX_SLICES], i32) {
    let none = libc::iovec {
        iov_base: std::ptr::null_mut(),
        iov_len: 0,
    };
    let mut vectors = [none; MAX_SLICES];
    for (vector, slice) in vectors.iter_mut().zip(slices) {
        vector.iov_base = slice.ptr_guard_mut().as_ptr().cast();
        vector.iov_len = slice.len();
    }
    (vectors, i32::from(slices.len().min(MAX_SLICES) as u16))
}

fn signed(octets: u64) -> io::Result<i64> {
    i64::try_from(octets).map_err(|_| io::ErrorKind::InvalidInput.into())
}
