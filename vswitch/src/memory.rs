//! Guest memory, as a vhost-user peer shares it.
//!
//! A peer sends files and says which part of each is which range of the guest's physical addresses. The ranges are
//! mapped as they are and never borrowed: all access is by raw pointers, because the guest writes there at any time.
//! Two address spaces lead into them: guest physical addresses (in descriptors) and the peer's own virtual addresses
//! (where it says its rings are).
//!
//! `unsafe` is needed to ask the kernel about a file, to register mappings with the [`guard`] and to compute
//! addresses inside of them.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{FileOffset, MmapRegion};

use crate::guard::{self, GuardError, Registration};

/// The most regions that one guest may have.
pub const MAX_REGIONS: usize = 32;

/// The largest region in octets: 16 TiB, more than any machine of today holds.
const MAX_REGION: u64 = 1 << 44;

/// Where a region is, as the peer describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionSpec {
    /// Guest physical address of its first octet.
    pub guest: u64,
    /// Its size in octets.
    pub size: u64,
    /// Its address in the peer's own address space.
    pub user: u64,
    /// Its first octet's offset in the file.
    pub offset: u64,
}

/// Why memory could not be mapped.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// None, or more than [`MAX_REGIONS`].
    #[error("{0} memory regions: 1 to {MAX_REGIONS} are possible")]
    RegionCount(usize),
    /// A size of zero, an absurd one, or a range that wraps.
    #[error("memory region {0:x?} is empty, too large or wraps")]
    BadRange(RegionSpec),
    /// Two regions share guest physical or peer addresses.
    #[error("memory regions at {0:#x} and {1:#x} overlap")]
    Overlap(u64, u64),
    /// The region goes past the end of its file.
    #[error("memory region at {guest:#x} ends at {end:#x} of a file of {file:#x} octets")]
    PastEnd {
        /// Its guest physical address.
        guest: u64,
        /// Its end in the file.
        end: u64,
        /// The file's size.
        file: u64,
    },
    /// The kernel knows nothing of the file.
    #[error("memory region at {guest:#x}: its file cannot be examined: {source}")]
    Stat {
        /// Its guest physical address.
        guest: u64,
        /// Why.
        source: io::Error,
    },
    /// The kernel refused to map it.
    #[error("memory region at {guest:#x} cannot be mapped: {source}")]
    Map {
        /// Its guest physical address.
        guest: u64,
        /// Why.
        source: vm_memory::mmap::MmapRegionError,
    },
    /// It cannot be guarded against truncation.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// No region is where one is to be removed.
    #[error("there is no memory region {0:x?}")]
    Unknown(RegionSpec),
}

/// A guest's memory. Unchangeable: another table makes another value, and what is mapped in both stays mapped.
#[derive(Debug, Default)]
pub struct GuestMemory {
    /// What translation needs, apart from the rest so that it stays in one cache line or two.
    spans: Vec<Span>,
    regions: Vec<Arc<Region>>,
}

/// A region's ranges: guest physical, peer's and ours.
#[derive(Clone, Copy, Debug)]
struct Span {
    guest: u64,
    size: u64,
    host: usize,
    user: u64,
}

#[derive(Debug)]
struct Region {
    spec: RegionSpec,
    host: usize,
    // Dropped in this order: a mapping is unregistered before it is unmapped.
    guard: Registration,
    _mapping: MmapRegion,
}

/// A run of octets in this process's address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// First octet.
    pub ptr: *mut u8,
    /// Length in octets.
    pub len: usize,
}

impl GuestMemory {
    /// Maps a whole table.
    pub fn map(table: Vec<(RegionSpec, File)>) -> Result<Self, MemoryError> {
        if table.is_empty() || table.len() > MAX_REGIONS {
            return Err(MemoryError::RegionCount(table.len()));
        }
        table
            .into_iter()
            .try_fold(Self::default(), |memory, (spec, file)| {
                memory.with_region(spec, file)
            })
    }

    /// This memory and one region more.
    pub fn with_region(&self, spec: RegionSpec, file: File) -> Result<Self, MemoryError> {
        if self.regions.len() >= MAX_REGIONS {
            return Err(MemoryError::RegionCount(self.regions.len() + 1));
        }
        check_range(&spec)?;
        for other in &self.regions {
            let apart = |a: u64, b: u64| a >= b + other.spec.size || b >= a + spec.size;
            if !apart(spec.guest, other.spec.guest) || !apart(spec.user, other.spec.user) {
                return Err(MemoryError::Overlap(other.spec.guest, spec.guest));
            }
        }
        let mut regions = self.regions.clone();
        regions.push(Arc::new(Region::map(spec, file)?));
        Ok(Self::of(regions))
    }

    /// This memory without a region; `spec.offset` does not matter.
    pub fn without_region(&self, spec: RegionSpec) -> Result<Self, MemoryError> {
        let same =
            |other: &RegionSpec| (other.guest, other.size, other.user) == (spec.guest, spec.size, spec.user);
        let mut regions = self.regions.clone();
        regions.retain(|region| !same(&region.spec));
        if regions.len() == self.regions.len() {
            return Err(MemoryError::Unknown(spec));
        }
        Ok(Self::of(regions))
    }

    fn of(regions: Vec<Arc<Region>>) -> Self {
        let spans = regions.iter().map(|region| region.span()).collect();
        Self { spans, regions }
    }

    /// Number of regions.
    pub fn regions(&self) -> usize {
        self.regions.len()
    }

    /// Whether a region's pages vanished, and zero pages are in their place.
    pub fn is_lost(&self) -> bool {
        self.regions.iter().any(|region| region.guard.is_lost())
    }

    /// The octet at a guest physical address, and how many follow it in one piece (itself included).
    #[inline]
    pub fn find(&self, guest: u64) -> Option<(*mut u8, u64)> {
        self.spans.iter().find_map(|span| {
            let offset = guest.wrapping_sub(span.guest);
            (offset < span.size).then(|| ((span.host + offset as usize) as *mut u8, span.size - offset))
        })
    }

    /// `len` octets from a guest physical address, if they are all there and in one piece.
    #[inline]
    pub fn translate(&self, guest: u64, len: u64) -> Option<*mut u8> {
        self.find(guest)
            .filter(|(_, room)| len <= *room)
            .map(|(ptr, _)| ptr)
    }

    /// To translate several addresses that are probably in one region.
    #[inline]
    pub(crate) fn nearby(&self) -> Nearby<'_> {
        let nowhere = Span {
            guest: 0,
            size: 0,
            host: 0,
            user: 0,
        };
        Nearby {
            memory: self,
            span: self.spans.first().copied().unwrap_or(nowhere),
        }
    }

    /// The pieces of `len` octets from a guest physical address; ends with `None` where an octet is missing.
    pub fn runs(&self, guest: u64, len: u64) -> Runs<'_> {
        Runs {
            memory: self,
            guest,
            left: len,
        }
    }

    /// `len` octets from an address of the peer's, if they are all there and in one piece.
    pub fn translate_user(&self, user: u64, len: u64) -> Option<*mut u8> {
        self.spans.iter().find_map(|span| {
            let offset = user.wrapping_sub(span.user);
            (offset < span.size && len <= span.size - offset)
                .then(|| (span.host + offset as usize) as *mut u8)
        })
    }

    /// The guest physical address of an address of the peer's.
    pub fn user_to_guest(&self, user: u64) -> Option<u64> {
        self.spans.iter().find_map(|span| {
            let offset = user.wrapping_sub(span.user);
            (offset < span.size).then(|| span.guest + offset)
        })
    }
}

/// Translates like [`GuestMemory::translate`], and looks first where it found the address before. A burst's buffers are mostly in one
/// region, whose bounds then stay in registers.
#[derive(Debug)]
pub(crate) struct Nearby<'a> {
    memory: &'a GuestMemory,
    span: Span,
}

impl Nearby<'_> {
    #[inline]
    pub(crate) fn translate(&mut self, guest: u64, len: u64) -> Option<*mut u8> {
        self.span
            .translate(guest, len)
            .or_else(|| self.search(guest, len))
    }

    #[cold]
    fn search(&mut self, guest: u64, len: u64) -> Option<*mut u8> {
        self.memory.spans.iter().find_map(|span| {
            let found = span.translate(guest, len)?;
            self.span = *span;
            Some(found)
        })
    }
}

impl Span {
    #[inline]
    fn translate(&self, guest: u64, len: u64) -> Option<*mut u8> {
        let offset = guest.wrapping_sub(self.guest);
        (offset < self.size && len <= self.size - offset).then(|| (self.host + offset as usize) as *mut u8)
    }
}

/// The pieces of a range that may cross regions. `Some(None)` says that what follows is missing.
#[derive(Debug)]
pub struct Runs<'a> {
    memory: &'a GuestMemory,
    guest: u64,
    left: u64,
}

impl Iterator for Runs<'_> {
    type Item = Option<Run>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let Some((ptr, room)) = self.memory.find(self.guest) else {
            self.left = 0;
            return Some(None);
        };
        let len = room.min(self.left);
        self.left -= len;
        match self.guest.checked_add(len) {
            Some(next) => self.guest = next,
            None if self.left == 0 => {}
            None => {
                self.left = 0;
                return Some(None);
            }
        }
        Some(Some(Run {
            ptr,
            len: len as usize,
        }))
    }
}

fn check_range(spec: &RegionSpec) -> Result<(), MemoryError> {
    let ends = [spec.guest, spec.user, spec.offset]
        .iter()
        .all(|start| start.checked_add(spec.size).is_some());
    if spec.size == 0 || spec.size > MAX_REGION || spec.offset > MAX_REGION || !ends {
        return Err(MemoryError::BadRange(*spec));
    }
    Ok(())
}

impl Region {
    fn map(spec: RegionSpec, file: File) -> Result<Self, MemoryError> {
        let guest = spec.guest;
        let stat = |source| MemoryError::Stat { guest, source };
        let size = file.metadata().map_err(stat)?.len();
        let end = spec.offset + spec.size;
        if end > size {
            return Err(MemoryError::PastEnd {
                guest,
                end,
                file: size,
            });
        }
        let align = granule(&file).map_err(stat)?;
        let first = spec.offset / align * align;
        let len = end.next_multiple_of(align) - first;
        let mapping = MmapRegionBuilder::<()>::new(len as usize)
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
            .with_mmap_flags(libc::MAP_SHARED | libc::MAP_NORESERVE)
            .with_file_offset(FileOffset::new(file, first))
            .build()
            .map_err(|source| MemoryError::Map { guest, source })?;
        // SAFETY: the mapping was made just now with exactly this range, is owned by the region, which drops the
        // registration first, and is never borrowed: this module hands out raw pointers only.
        let guard = unsafe { guard::register(mapping.as_ptr(), mapping.size())? };
        let host = mapping.as_ptr() as usize + (spec.offset - first) as usize;
        Ok(Self {
            spec,
            host,
            guard,
            _mapping: mapping,
        })
    }

    fn span(&self) -> Span {
        Span {
            guest: self.spec.guest,
            size: self.spec.size,
            host: self.host,
            user: self.spec.user,
        }
    }
}

/// What offsets and lengths of a file's mappings have to be multiples of: the page size, or the huge page's.
fn granule(file: &File) -> io::Result<u64> {
    // SAFETY: `statfs` is plain data for which zeroes are valid.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open and the result goes to a local of the right type.
    if unsafe { libc::fstatfs(file.as_raw_fd(), &raw mut stat) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let block = u64::try_from(stat.f_bsize).unwrap_or(0);
    if stat.f_type == libc::HUGETLBFS_MAGIC && block.is_power_of_two() {
        return Ok(block);
    }
    // SAFETY: asks for a constant of the system.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    Ok(u64::try_from(page).unwrap_or(4096))
}

#[cfg(test)]
mod tests {
    use std::os::fd::FromRawFd;

    use proptest::prelude::*;

    use super::*;

    fn memfd(len: u64) -> File {
        // SAFETY: the name is a C string; the descriptor is new and owned by nobody else.
        let file = unsafe { File::from_raw_fd(libc::memfd_create(c"memory".as_ptr(), libc::MFD_CLOEXEC)) };
        file.set_len(len).unwrap();
        file
    }

    fn spec(guest: u64, size: u64, user: u64, offset: u64) -> RegionSpec {
        RegionSpec {
            guest,
            size,
            user,
            offset,
        }
    }

    /// Two regions of one file that touch in guest physical addresses, the second one lying first in the file.
    fn two_regions() -> GuestMemory {
        let file = memfd(0x3000);
        GuestMemory::map(vec![
            (
                spec(0x1_0000, 0x1000, 0x7f00_0000_0000, 0x2000),
                file.try_clone().unwrap(),
            ),
            (spec(0x1_1000, 0x2000, 0x7f00_1000_0000, 0), file),
        ])
        .unwrap()
    }

    #[test]
    fn both_address_spaces_lead_to_the_same_octet() {
        let memory = two_regions();
        let by_guest = memory.translate(0x1_1234, 8).unwrap();
        let by_user = memory.translate_user(0x7f00_1000_0234, 8).unwrap();
        assert_eq!(by_guest, by_user);
        assert_eq!(memory.user_to_guest(0x7f00_1000_0234), Some(0x1_1234));
        assert_eq!(memory.user_to_guest(0x1_1234), None);
    }

    #[test]
    fn a_range_that_crosses_regions_comes_in_pieces() {
        let memory = two_regions();
        assert_eq!(memory.translate(0x1_0ff0, 0x20), None);
        let runs: Vec<_> = memory.runs(0x1_0ff0, 0x20).collect();
        let first = memory.translate(0x1_0ff0, 0x10).unwrap();
        let second = memory.translate(0x1_1000, 0x10).unwrap();
        assert_eq!(
            runs,
            [
                Some(Run {
                    ptr: first,
                    len: 0x10
                }),
                Some(Run {
                    ptr: second,
                    len: 0x10
                })
            ]
        );
        let past: Vec<_> = memory.runs(0x1_2ff0, 0x20).collect();
        assert_eq!(past.len(), 2);
        assert_eq!(past[1], None);
    }

    #[test]
    fn an_unaligned_offset_reaches_the_right_octets() {
        use std::os::unix::fs::FileExt;
        let file = memfd(0x3000);
        file.write_all_at(b"here", 0x1234).unwrap();
        let memory = GuestMemory::map(vec![(spec(0, 0x100, 0x1000, 0x1234), file)]).unwrap();
        let at = memory.translate(0, 4).unwrap();
        // SAFETY: four octets inside the mapping that nobody else uses.
        let octets = unsafe { at.cast::<[u8; 4]>().read_unaligned() };
        assert_eq!(&octets, b"here");
    }

    #[test]
    fn regions_that_lie_are_refused() {
        let refuse = |table: Vec<RegionSpec>| {
            let table = table.into_iter().map(|spec| (spec, memfd(0x2000))).collect();
            GuestMemory::map(table).unwrap_err()
        };
        assert!(matches!(refuse(vec![]), MemoryError::RegionCount(0)));
        assert!(matches!(refuse(vec![spec(0, 0, 0, 0)]), MemoryError::BadRange(_)));
        assert!(matches!(
            refuse(vec![spec(u64::MAX, 0x1000, 0, 0)]),
            MemoryError::BadRange(_)
        ));
        assert!(matches!(
            refuse(vec![spec(0, 0x1000, u64::MAX - 1, 0)]),
            MemoryError::BadRange(_)
        ));
        assert!(matches!(
            refuse(vec![spec(0, 0x1000, 0, u64::MAX - 0x1000)]),
            MemoryError::BadRange(_)
        ));
        assert!(matches!(
            refuse(vec![spec(0, 0x1001, 0, 0x1000)]),
            MemoryError::PastEnd { .. }
        ));
        let overlap = refuse(vec![spec(0, 0x1000, 0, 0), spec(0xfff, 0x1000, 0x10_0000, 0)]);
        assert!(matches!(overlap, MemoryError::Overlap(0, 0xfff)));
        let overlap = refuse(vec![spec(0, 0x1000, 0x5000, 0), spec(0x1000, 0x1000, 0x5fff, 0)]);
        assert!(matches!(overlap, MemoryError::Overlap(0, 0x1000)));
        let many = (0..33).map(|n| spec(n * 0x1000, 0x1000, n * 0x1000, 0)).collect();
        assert!(matches!(refuse(many), MemoryError::RegionCount(33)));
    }

    #[test]
    fn regions_come_and_go_one_by_one() {
        let memory = two_regions();
        let more = memory
            .with_region(spec(0x8_0000, 0x1000, 0x9000, 0), memfd(0x1000))
            .unwrap();
        assert_eq!((memory.regions(), more.regions()), (2, 3));
        assert!(more.translate(0x8_0000, 1).is_some());
        let fewer = more.without_region(spec(0x8_0000, 0x1000, 0x9000, 77)).unwrap();
        assert!(fewer.translate(0x8_0000, 1).is_none());
        assert!(matches!(
            fewer.without_region(spec(0x8_0000, 0x1000, 0x9000, 0)),
            Err(MemoryError::Unknown(_))
        ));
    }

    #[test]
    fn truncation_is_noticed_and_survived() {
        let file = memfd(0x1000);
        let memory = GuestMemory::map(vec![(spec(0, 0x1000, 0, 0), file.try_clone().unwrap())]).unwrap();
        let at = memory.translate(0x800, 1).unwrap();
        // SAFETY: inside the mapping.
        unsafe { at.write_volatile(1) };
        assert!(!memory.is_lost());
        file.set_len(0).unwrap();
        // SAFETY: inside the mapping, whose page is gone: the guard replaces it.
        assert_eq!(unsafe { at.read_volatile() }, 0);
        assert!(memory.is_lost());
    }

    proptest! {
        #[test]
        fn translation_never_leaves_a_region(guest in 0u64..0x2_0000, len in 0u64..0x4000) {
            let memory = two_regions();
            let inside = |start: u64, size: u64| guest >= start && guest < start + size && guest + len <= start + size;
            let expected = inside(0x1_0000, 0x1000) || inside(0x1_1000, 0x2000);
            prop_assert_eq!(memory.translate(guest, len).is_some(), expected);
            let total: usize = memory.runs(guest, len).map_while(|run| run).map(|run| run.len).sum();
            let reachable = if (0x1_0000..0x1_3000).contains(&guest) { len.min(0x1_3000 - guest) } else { 0 };
            prop_assert_eq!(total as u64, reachable);
        }

        #[test]
        fn any_address_is_answered(guest: u64, len: u64) {
            let memory = two_regions();
            prop_assert!(memory.runs(guest, len).count() <= 4);
            prop_assert!(memory.translate(guest, len).is_none() || guest < 0x1_3000);
            prop_assert!(memory.translate_user(guest, len).is_none() || guest >= 0x7f00_0000_0000);
        }
    }
}
