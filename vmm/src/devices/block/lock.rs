//! Locks that keep two machines off one image.
//!
//! Open file description locks, which QEMU uses too. QEMU says with a shared lock on octet 100 + N that it uses
//! permission N, and on 200 + N that others must not have it (`block/file-posix.c`); permission 1 is to write. A
//! writable image is locked as a whole, which conflicts with all of that. A read-only image takes part in QEMU's
//! way, so that two machines, of whichever kind, can read it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::error::DiskError;
use super::sys;

const READS: u64 = 100;
const WRITES: u64 = 101;
const OTHERS_MUST_NOT_WRITE: u64 = 201;

/// Locks an opened image until its last descriptor is closed.
pub(super) fn lock(file: &File, path: &Path, read_only: bool) -> Result<(), DiskError> {
    let taken = if read_only {
        share(file)
    } else {
        take(file, libc::F_WRLCK, 0, 0)
    };
    match taken {
        Ok(true) => Ok(()),
        Ok(false) => Err(DiskError::InUse {
            path: path.to_owned(),
            who: holder(file).map_or(String::new(), |pid| format!(" (process {pid})")),
            remedy: if read_only {
                "end that one, which writes to it"
            } else {
                "end that one, or give both the disk read-only (ro)"
            },
        }),
        Err(source) => Err(DiskError::Lock {
            path: path.to_owned(),
            source,
        }),
    }
}

fn share(file: &File) -> io::Result<bool> {
    for octet in [READS, OTHERS_MUST_NOT_WRITE] {
        if !take(file, libc::F_RDLCK, octet, 1)? {
            return Ok(false);
        }
    }
    // Probed with the lock that only a descriptor open for writing could really take.
    let in_the_way = sys::lock(file, libc::F_OFD_GETLK, libc::F_WRLCK, WRITES, 1)?;
    Ok(in_the_way == libc::F_UNLCK)
}

/// Whether nobody has a conflicting lock; a length of 0 is the whole file.
fn take(file: &File, kind: i32, offset: u64, len: u64) -> io::Result<bool> {
    match sys::lock(file, libc::F_OFD_SETLK, kind, offset, len) {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// A process that has the file open, as far as this one may see. The kernel does not tell who has such a lock.
fn holder(file: &File) -> Option<u32> {
    let wanted = file.metadata().ok()?;
    let opened = |pid: &u32| {
        let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else {
            return false;
        };
        descriptors.flatten().any(|entry| {
            let found = fs::metadata(entry.path());
            found.is_ok_and(|found| (found.dev(), found.ino()) == (wanted.dev(), wanted.ino()))
        })
    };
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != std::process::id())
        .find(opened)
}
