//! Guest memory: a sealed memfd where vhost-user back ends share it, else anonymous memory.
//!
//! Anonymous memory comes in huge pages, which spares a booting guest thousands of page faults. A memfd does so only
//! where `/sys/kernel/mm/transparent_hugepage/shmem_enabled` says `advise` or more.
#![allow(unsafe_code)] // memfd_create, its seals, madvise and sysinfo have no safe wrapper in the crates used here

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::path::Path;

use vm_memory::GuestRegionCollectionError;
use vm_memory::mmap::{FromRangesError, MmapRegionError};
use vm_memory::{FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};
use vm_memory::{GuestRegionMmap, MmapRegion};

use crate::layout::{FOUR_GIB, HIGH_MEMORY, PAGE, PCI_HOLE};

/// The guest's RAM as the rest of the crate uses it.
pub(crate) type GuestRam = GuestMemoryMmap<()>;

/// The name that the mapping has in `/proc/PID/smaps`.
const MEMFD_NAME: &CStr = c"enlight-guest-ram";

/// Why guest memory could not be had.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// Less than a machine can boot in.
    #[error("{0} octets of memory are too few; give the guest 1 MiB or more")]
    TooSmall(u64),
    /// Not whole pages.
    #[error("{0} octets of memory are not a multiple of 4096; round the size to whole pages")]
    NotPages(u64),
    /// More than the host has.
    #[error(
        "the guest asks for {} MiB of memory, the host has {} MiB for it; give the guest less",
        .asked.div_ceil(MIB),
        .host / MIB
    )]
    BeyondHost {
        /// Octets asked for.
        asked: u64,
        /// Octets of RAM that the host has, or that the control group of this process may have.
        host: u64,
    },
    /// The kernel refused to make or seal the memory file.
    #[error("cannot make a memory file of {size} octets: {source}")]
    File {
        /// Octets asked for.
        size: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// The memory file could not be mapped.
    #[error("cannot map guest memory: {0}")]
    Map(#[from] MmapRegionError),
    /// The regions did not fit the address space.
    #[error("cannot lay out guest memory: {0}")]
    Layout(String),
}

impl From<FromRangesError> for MemoryError {
    fn from(error: FromRangesError) -> Self {
        Self::Layout(error.to_string())
    }
}

impl From<GuestRegionCollectionError> for MemoryError {
    fn from(error: GuestRegionCollectionError) -> Self {
        Self::Layout(error.to_string())
    }
}

/// Octets of a MiB.
const MIB: u64 = 1 << 20;
/// Octets of a huge page.
const HUGE_PAGE: usize = 2 << 20;
/// Holes in the address space that a mapping avoids before it is taken where it is.
const ALIGN_ATTEMPTS: usize = 16;

/// Makes and maps `size` octets of guest memory that other processes can share.
pub(crate) fn allocate(size: u64) -> Result<GuestRam, MemoryError> {
    check_size(size, host_memory())?;
    let file = sealed_file(size).map_err(|source| MemoryError::File { size, source })?;
    lay_out(size, Some(&file))
}

/// Makes and maps `size` octets of guest memory for this process alone.
pub(crate) fn allocate_private(size: u64) -> Result<GuestRam, MemoryError> {
    check_size(size, host_memory())?;
    lay_out(size, None)
}

/// The parts of this process's address space that are guest memory: first and one past the last address.
pub(crate) fn host_ranges(ram: &GuestRam) -> Vec<(u64, u64)> {
    let range = |region: &GuestRegionMmap<()>| {
        let start = region.as_ptr() as u64;
        (start, start + region.len())
    };
    ram.iter().map(range).collect()
}

/// Up to 3 GiB from address 0, the rest from 4 GiB on.
fn lay_out(size: u64, file: Option<&File>) -> Result<GuestRam, MemoryError> {
    let low = size.min(PCI_HOLE);
    let mut regions = vec![map(file, 0, low, 0)?];
    if size > low {
        regions.push(map(file, low, size - low, FOUR_GIB)?);
    }
    Ok(GuestRam::from_regions(regions)?)
}

fn check_size(size: u64, host: u64) -> Result<(), MemoryError> {
    if size < HIGH_MEMORY {
        return Err(MemoryError::TooSmall(size));
    }
    if !size.is_multiple_of(PAGE) {
        return Err(MemoryError::NotPages(size));
    }
    if size > host {
        return Err(MemoryError::BeyondHost { asked: size, host });
    }
    Ok(())
}

fn map(file: Option<&File>, offset: u64, size: u64, guest: u64) -> Result<GuestRegionMmap<()>, MemoryError> {
    let mapping = map_aligned(file, offset, size)?;
    // SAFETY: the range is exactly the mapping made above; the advice changes how it is backed, not what it holds.
    let advised = unsafe { libc::madvise(mapping.as_ptr().cast(), mapping.size(), libc::MADV_HUGEPAGE) };
    if advised != 0 {
        tracing::debug!(error = %io::Error::last_os_error(), "no huge pages for guest memory");
    }
    GuestRegionMmap::new(mapping, GuestAddress(guest))
        .ok_or_else(|| MemoryError::Layout(format!("{size} octets at {guest:#x} overflow the address space")))
}

/// A mapping on a huge page's boundary, so that both the host and KVM can use huge pages, if one can be had: what is
/// too much at the end of a mapping's place is filled until the next one ends on a boundary.
fn map_aligned(file: Option<&File>, offset: u64, size: u64) -> Result<MmapRegion, MemoryError> {
    let mut fillers = Vec::new();
    for _ in 0..ALIGN_ATTEMPTS {
        let mapping = map_anywhere(file, offset, size)?;
        let excess = mapping.as_ptr() as usize % HUGE_PAGE;
        if excess == 0 || (size as usize) < HUGE_PAGE {
            return Ok(mapping);
        }
        drop(mapping);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        fillers.push(MmapRegion::<()>::build(None, excess, libc::PROT_NONE, flags)?);
    }
    map_anywhere(file, offset, size)
}

fn map_anywhere(file: Option<&File>, offset: u64, size: u64) -> Result<MmapRegion, MemoryError> {
    let file = file
        .map(File::try_clone)
        .transpose()
        .map_err(|source| MemoryError::File { size, source })?;
    let sharing = match file {
        Some(_) => libc::MAP_SHARED,
        None => libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
    };
    Ok(MmapRegion::build(
        file.map(|file| FileOffset::new(file, offset)),
        size as usize,
        libc::PROT_READ | libc::PROT_WRITE,
        sharing | libc::MAP_NORESERVE,
    )?)
}

/// A memory file whose size nobody, this process included, can change again.
fn sealed_file(size: u64) -> io::Result<File> {
    // SAFETY: the name is a C string literal, and the call keeps no reference to it.
    let fd = unsafe { libc::memfd_create(MEMFD_NAME.as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: memfd_create just returned this descriptor, so nothing else owns it.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(size)?;
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: F_ADD_SEALS takes an integer and touches no memory of this process.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file)
}

/// The host's RAM in octets, or what the control groups of this process may have of it.
fn host_memory() -> u64 {
    // SAFETY: sysinfo is plain data, for which all-zero octets are a value.
    let mut info: libc::sysinfo = unsafe { std::mem::zeroed() };
    // SAFETY: `info` is a live, writable structure of the type that the call fills in.
    let host = match unsafe { libc::sysinfo(&raw mut info) } {
        0 => info.totalram.saturating_mul(u64::from(info.mem_unit)),
        _ => u64::MAX,
    };
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    host.min(group_limit(&groups, Path::new("/sys/fs/cgroup")))
}

/// The lowest limit of the control group that `groups` (`/proc/self/cgroup`) names, and of those that it is in. Version 2
/// only; no limit where there is none.
fn group_limit(groups: &str, root: &Path) -> u64 {
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/"));
    let directory = group.map_or_else(|| root.to_owned(), |group| root.join(group));
    let limit = |directory: &Path| {
        std::fs::read_to_string(directory.join("memory.max"))
            .ok()?
            .trim()
            .parse()
            .ok()
    };
    let within = directory
        .ancestors()
        .take_while(|directory| directory.starts_with(root));
    within.filter_map(limit).min().unwrap_or(u64::MAX)
}

/// Octets of memory that the host could give to a guest now without taking them from others; `None` where it does not tell.
pub fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestMemoryBackend, GuestMemoryRegion};

    use super::*;

    #[test]
    fn refuses_sizes_that_no_guest_can_have() {
        assert!(matches!(allocate(0), Err(MemoryError::TooSmall(0))));
        assert!(matches!(allocate(0xf_f000), Err(MemoryError::TooSmall(_))));
        assert!(matches!(allocate(0x10_0001), Err(MemoryError::NotPages(_))));
        let error = allocate(1 << 50).expect_err("a pebibyte is more than the host has");
        assert!(matches!(error, MemoryError::BeyondHost { asked, .. } if asked == 1 << 50));
        assert!(error.to_string().contains("give the guest less"), "{error}");
    }

    #[test]
    fn smallest_memory_is_sealed_and_shared() {
        let ram = allocate(0x10_0000).expect("1 MiB");
        let region = ram.iter().next().expect("one region");
        let file = region.file_offset().expect("file-backed").file();
        assert!(file.set_len(0).is_err(), "must not shrink");
        assert!(file.set_len(0x20_0000).is_err(), "must not grow");
        ram.write_obj(0x1234_5678_u32, GuestAddress(0xf_fffc))
            .expect("the last word");
        assert!(ram.write_obj(1_u32, GuestAddress(0xf_fffd)).is_err());
    }

    #[test]
    fn memory_begins_where_a_huge_page_can() {
        // Tests beside this one map and unmap memory, which a machine that starts does not.
        if !crate::testing::is_alone("memory::tests::memory_begins_where_a_huge_page_can") {
            return;
        }
        for allocate in [allocate, allocate_private] {
            let ranges = host_ranges(&allocate(64 << 20).expect("64 MiB"));
            assert_eq!(ranges.len(), 1);
            let (start, end) = ranges[0];
            assert_eq!(end - start, 64 << 20);
            assert_eq!(start % HUGE_PAGE as u64, 0);
        }
    }

    #[test]
    fn memory_beyond_the_hole_continues_at_4_gib() {
        let size = PCI_HOLE + 0x10_0000;
        if size > host_memory() {
            println!("skipped: the host has less than {size} octets of memory");
            return;
        }
        let ram = allocate(size).expect("untouched pages cost nothing");
        let layout: Vec<_> = ram
            .iter()
            .map(|region| (region.start_addr().0, region.len()))
            .collect();
        assert_eq!(layout, [(0, PCI_HOLE), (FOUR_GIB, 0x10_0000)]);
        let offset = ram
            .iter()
            .nth(1)
            .and_then(GuestMemoryRegion::file_offset)
            .map(FileOffset::start);
        assert_eq!(offset, Some(PCI_HOLE));
    }

    #[test]
    fn the_lowest_limit_of_all_control_groups_counts() {
        let root = tempfile::tempdir().expect("a directory");
        let inner = root.path().join("user/shell");
        std::fs::create_dir_all(&inner).expect("directories");
        let limit = |groups| group_limit(groups, root.path());
        assert_eq!(limit("0::/user/shell\n"), u64::MAX, "no limits at all");
        std::fs::write(inner.join("memory.max"), "max\n").expect("written");
        std::fs::write(root.path().join("user/memory.max"), "4194304\n").expect("written");
        assert_eq!(limit("1:name=systemd:/x\n0::/user/shell\n"), 4 << 20);
        std::fs::write(inner.join("memory.max"), "2097152\n").expect("written");
        assert_eq!(limit("0::/user/shell\n"), 2 << 20);
        assert_eq!(limit("0::/other\n"), u64::MAX);
    }

    #[test]
    fn the_host_tells_what_is_available() {
        let available = available_memory().expect("Linux 3.14 and later");
        assert!((1 << 20..=host_memory().max(available)).contains(&available));
        let error = MemoryError::BeyondHost {
            asked: 64 << 30,
            host: (24 << 30) - 1,
        };
        let text =
            "the guest asks for 65536 MiB of memory, the host has 24575 MiB for it; give the guest less";
        assert_eq!(error.to_string(), text);
    }
}
