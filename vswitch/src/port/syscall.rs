//! What ports that talk to the kernel by system calls of their own have in common.
//!
//! `unsafe` is for a system call that `std` does not have.
#![allow(unsafe_code)]

use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd;

/// A part of what a call reads or writes.
pub(super) fn piece(base: *mut u8, len: usize) -> libc::iovec {
    libc::iovec {
        iov_base: base.cast(),
        iov_len: len,
    }
}

/// The error of a call that says by a negative number that there is one.
pub(super) fn check<T: Copy + Default + PartialOrd>(result: T) -> io::Result<()> {
    if result < T::default() {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// What a call counted. Calls again when a signal came between.
pub(super) fn retry<T>(mut call: impl FnMut() -> T) -> io::Result<usize>
where
    usize: TryFrom<T>,
{
    loop {
        if let Ok(n) = usize::try_from(call()) {
            return Ok(n);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Lets go of what a descriptor stands for at once, although it stays open for as long as anybody has the port: it is
/// made to stand for the null device.
pub(super) fn release(owner: &impl AsRawFd) -> io::Result<()> {
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    // SAFETY: both descriptors are open and owned; dup3 replaces what the second one stands for in one step, so
    // that a call in another thread meets one of the two.
    check(unsafe { libc::dup3(null.as_raw_fd(), owner.as_raw_fd(), libc::O_CLOEXEC) })
}
