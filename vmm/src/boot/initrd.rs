//! The initial RAM disk.

use std::fs::File;
use std::io::{self, Seek};
use std::path::{Path, PathBuf};

use vm_memory::{Bytes, GuestAddress};

use super::BootError;
use crate::kernel::{LoadedKernel, Protocol};
use crate::layout::PAGE;
use crate::memory::GuestRam;

/// The highest address for kernels that do not tell one; Linux' own choice.
const INITRD_MAX: u64 = 0x7fff_ffff;

/// An initial RAM disk in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Initrd {
    pub(super) start: u64,
    pub(super) size: u64,
}

/// A file that was opened once and can be loaded any number of times, by a process that may open no files.
#[derive(Debug)]
pub(crate) struct OpenedInitrd {
    path: PathBuf,
    file: File,
}

impl OpenedInitrd {
    /// Opens the file.
    pub(crate) fn open(path: &Path) -> Result<Self, BootError> {
        let unreadable = |source| BootError::InitrdUnreadable {
            path: path.to_owned(),
            source,
        };
        // Asked before opening: opening a pipe would wait for its writer.
        let metadata = std::fs::metadata(path).map_err(unreadable)?;
        if !metadata.is_file() {
            return Err(unreadable(io::Error::other("not a regular file")));
        }
        if metadata.len() == 0 {
            return Err(unreadable(io::Error::other("it is empty")));
        }
        Ok(Self {
            path: path.to_owned(),
            file: File::open(path).map_err(unreadable)?,
        })
    }

    /// Copies the file to the end of the memory below `top` that `kernel` may use for it, on a page boundary.
    pub(crate) fn load(&self, ram: &GuestRam, kernel: &LoadedKernel, top: u64) -> Result<Initrd, BootError> {
        let limit = match kernel.info.protocol {
            Protocol::Pvh => top,
            Protocol::Linux64 => top.min(highest(kernel) + 1),
        };
        self.load_between(ram, kernel.end, limit)
    }

    fn load_between(&self, ram: &GuestRam, kernel_end: u64, top: u64) -> Result<Initrd, BootError> {
        let unreadable = |source| BootError::InitrdUnreadable {
            path: self.path.clone(),
            source,
        };
        let mut file = &self.file;
        let size = file.metadata().map_err(unreadable)?.len();
        let start = top
            .checked_sub(size)
            .map(|start| start - start % PAGE)
            .filter(|start| *start >= kernel_end);
        let Some(start) = start else {
            return Err(BootError::InitrdTooLarge {
                path: self.path.clone(),
                size,
                kernel_end,
                top,
            });
        };
        file.rewind().map_err(unreadable)?;
        ram.read_exact_volatile_from(GuestAddress(start), &mut file, size as usize)
            .map_err(|error| unreadable(io::Error::other(error)))?;
        Ok(Initrd { start, size })
    }
}

/// The highest address that the kernel lets an initial RAM disk have.
fn highest(kernel: &LoadedKernel) -> u64 {
    let told = kernel.header.map_or(0, |header| header.initrd_addr_max);
    if told == 0 { INITRD_MAX } else { told.into() }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::memory::allocate;

    const MIB: u64 = 1 << 20;

    fn load(path: &Path, ram: &GuestRam, kernel_end: u64, top: u64) -> Result<Initrd, BootError> {
        OpenedInitrd::open(path)?.load_between(ram, kernel_end, top)
    }

    #[test]
    fn initrd_goes_to_the_end_of_memory() {
        let ram = allocate(16 * MIB).expect("16 MiB");
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(b"cpio!").expect("written");
        let initrd = load(file.path(), &ram, 2 * MIB, 16 * MIB).expect("fits");
        assert_eq!(
            initrd,
            Initrd {
                start: 16 * MIB - PAGE,
                size: 5
            }
        );
        let mut octets = [0; 5];
        ram.read_slice(&mut octets, GuestAddress(initrd.start))
            .expect("in memory");
        assert_eq!(&octets, b"cpio!");
        let tight = load(file.path(), &ram, 16 * MIB - 1, 16 * MIB);
        assert!(matches!(tight, Err(BootError::InitrdTooLarge { size: 5, .. })));
        let missing = OpenedInitrd::open(Path::new("/nonexistent"));
        assert!(matches!(missing, Err(BootError::InitrdUnreadable { .. })));
    }

    #[test]
    fn an_opened_initrd_loads_again_after_its_path_is_gone() {
        let ram = allocate(16 * MIB).expect("16 MiB");
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(b"cpio!").expect("written");
        let opened = OpenedInitrd::open(file.path()).expect("a file");
        file.close().expect("removed");
        for _ in 0..2 {
            let initrd = opened.load_between(&ram, 2 * MIB, 16 * MIB).expect("fits");
            let first = ram.read_obj::<u8>(GuestAddress(initrd.start)).expect("in memory");
            assert_eq!((initrd.size, first), (5, b'c'));
            ram.write_obj(0_u8, GuestAddress(initrd.start)).expect("cleared");
        }
    }
}
