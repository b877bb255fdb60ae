//! Loading a kernel image into guest memory.
//!
//! The image is judged completely before its first octet is copied, so a file that is no kernel ends in one clear
//! [`KernelError`] and never in a machine that runs garbage.

mod inspect;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Cursor, Read, Seek};
use std::path::Path;

use linux_loader::loader::KernelLoader;
use linux_loader::loader::elf::{Elf, PvhBootCapability};
use vm_memory::{GuestAddress, ReadVolatile};

use crate::config::Kernel;
use crate::layout::HIGH_MEMORY;
use crate::memory::GuestRam;

/// A kernel image that cannot be booted, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("kernel {image}: {reason}")]
pub struct KernelError {
    /// The file's path, or the name of the embedded image.
    pub image: String,
    /// What is wrong with it.
    #[source]
    pub reason: KernelFault,
}

/// What is wrong with a kernel image.
#[derive(Debug, thiserror::Error)]
pub enum KernelFault {
    /// The file cannot be opened or read.
    #[error("cannot be read: {0}; check the path and its permissions")]
    Unreadable(#[from] io::Error),
    /// A directory, device or pipe.
    #[error("is not a regular file; name an ELF kernel such as vmlinux")]
    NotAFile,
    /// Nothing in it.
    #[error("is empty; name an ELF kernel such as vmlinux")]
    Empty,
    /// A compressed Linux image.
    #[error(
        "is a bzImage, which is not supported; extract the ELF kernel with Linux' scripts/extract-vmlinux"
    )]
    BzImage,
    /// Something else altogether.
    #[error("is no ELF image (it starts with {0}); name an ELF kernel such as vmlinux")]
    NotElf(String),
    /// An ELF image for another machine.
    #[error(
        "is an ELF image, but not a little-endian 64-bit x86 executable ({0}); use a kernel built for x86-64"
    )]
    WrongMachine(&'static str),
    /// The file ends before its headers or segments do.
    #[error("is truncated: {what} ends at octet {end}, the file at {len}; copy or build it again")]
    Truncated {
        /// Which part is cut off.
        what: &'static str,
        /// Where that part should end.
        end: u64,
        /// Where the file ends.
        len: u64,
    },
    /// Headers that contradict themselves.
    #[error("has a malformed ELF header: {0}; build it again")]
    Malformed(&'static str),
    /// No 32-bit PVH entry point.
    #[error("has no PVH entry point (Xen note 18); build Linux with CONFIG_PVH=y")]
    NoPvhNote,
    /// A segment does not fit.
    #[error(
        "needs physical memory {start:#x} to {end:#x}, the guest has {low:#x} to {top:#x} for it; \
         give the guest more memory or link the kernel elsewhere"
    )]
    OutsideMemory {
        /// First address of the segment.
        start: u64,
        /// One past its last address.
        end: u64,
        /// Where kernels may begin.
        low: u64,
        /// Where memory ends.
        top: u64,
    },
    /// The PVH entry point is in no loaded segment.
    #[error("enters at {0:#x}, where nothing is loaded; build it again")]
    EntryOutside(u64),
    /// The loader itself refused.
    #[error("cannot be loaded: {0}")]
    Loader(String),
}

/// A kernel in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LoadedKernel {
    /// Physical address of the 32-bit PVH entry point.
    pub(crate) entry: u64,
    /// One past the last octet that the kernel occupies.
    pub(crate) end: u64,
}

/// Loads `kernel` below `top`, the end of the memory that begins at address 0.
pub(crate) fn load(kernel: &Kernel, ram: &GuestRam, top: u64) -> Result<LoadedKernel, KernelError> {
    let (image, result) = match kernel {
        Kernel::File(path) => (path.display().to_string(), load_file(path, ram, top)),
        Kernel::Embedded(octets) => {
            let image = "(embedded image)".to_owned();
            (
                image,
                load_image(&mut Cursor::new(*octets), octets.len() as u64, ram, top),
            )
        }
    };
    result.map_err(|reason| KernelError { image, reason })
}

fn load_file(path: &Path, ram: &GuestRam, top: u64) -> Result<LoadedKernel, KernelFault> {
    // Asked before opening: opening a pipe would wait for its writer.
    if !std::fs::metadata(path)?.is_file() {
        return Err(KernelFault::NotAFile);
    }
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    load_image(&mut file, len, ram, top)
}

/// Loads an image that is in memory.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn load_octets(octets: &[u8], ram: &GuestRam, top: u64) -> Result<LoadedKernel, KernelFault> {
    load_image(&mut Cursor::new(octets), octets.len() as u64, ram, top)
}

fn load_image<F>(image: &mut F, len: u64, ram: &GuestRam, top: u64) -> Result<LoadedKernel, KernelFault>
where
    F: Read + ReadVolatile + Seek,
{
    let segments = inspect::segments(image, len)?;
    for segment in &segments {
        if segment.start < HIGH_MEMORY || segment.end > top {
            let (start, end) = (segment.start, segment.end);
            return Err(KernelFault::OutsideMemory {
                start,
                end,
                low: HIGH_MEMORY,
                top,
            });
        }
    }
    let loaded = Elf::load(ram, None, image, None).map_err(|error| KernelFault::Loader(error.to_string()))?;
    let PvhBootCapability::PvhEntryPresent(GuestAddress(entry)) = loaded.pvh_boot_cap else {
        return Err(KernelFault::NoPvhNote);
    };
    if !segments
        .iter()
        .any(|segment| (segment.start..segment.end).contains(&entry))
    {
        return Err(KernelFault::EntryOutside(entry));
    }
    let end = segments
        .iter()
        .map(|segment| segment.end)
        .max()
        .unwrap_or(HIGH_MEMORY);
    Ok(LoadedKernel { entry, end })
}
