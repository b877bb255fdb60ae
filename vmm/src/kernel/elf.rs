//! ELF images: judged, then loaded (System V ABI, chapter 4 and 5; AMD64 supplement).

use std::io::{Cursor, Read, Seek, SeekFrom};

use linux_loader::loader::KernelLoader;
use linux_loader::loader::elf::{Elf, PvhBootCapability};
use vm_memory::{GuestAddress, ReadVolatile};

use super::fault::KernelFault;
use super::info::Protocol;
use super::source::Source;
use crate::layout::HIGH_MEMORY;
use crate::memory::GuestRam;

const EHDR_LEN: usize = 64;
const PHDR_LEN: usize = 56;
const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;
const PT_NOTE: u32 = 4;
const EM_X86_64: u16 = 62;
/// More program headers than any kernel has.
const PHDRS_MAX: u16 = 128;

/// An ELF kernel in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Loaded {
    /// Physical address of the entry point.
    pub(super) entry: u64,
    /// One past the last octet that the kernel occupies.
    pub(super) end: u64,
    /// How to enter.
    pub(super) protocol: Protocol,
}

/// The physical memory that one loadable segment occupies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    /// First address.
    start: u64,
    /// One past the last address.
    end: u64,
}

/// Loads the image below `top`, after it was judged completely.
pub(super) fn load(source: Source<'_>, ram: &GuestRam, top: u64) -> Result<Loaded, KernelFault> {
    match source {
        Source::File(mut file, len) => load_from(&mut file, len, ram, top),
        Source::Octets(octets) => load_from(&mut Cursor::new(octets), octets.len() as u64, ram, top),
    }
}

fn load_from<F>(image: &mut F, len: u64, ram: &GuestRam, top: u64) -> Result<Loaded, KernelFault>
where
    F: Read + ReadVolatile + Seek,
{
    let header = file_header(image, len)?;
    let segments = segments(image, &header, len)?;
    for Segment { start, end } in &segments {
        within_memory(*start, *end, top)?;
    }
    let loaded = Elf::load(ram, None, image, None).map_err(|error| KernelFault::Loader(error.to_string()))?;
    let (entry, protocol) = match loaded.pvh_boot_cap {
        PvhBootCapability::PvhEntryPresent(GuestAddress(entry)) => (entry, Protocol::Pvh),
        _ => (u64_at(&header, 24), Protocol::Linux64),
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
    Ok(Loaded { entry, end, protocol })
}

/// Refuses what does not fit between the legacy area and `top`.
pub(super) fn within_memory(start: u64, end: u64, top: u64) -> Result<(), KernelFault> {
    if start < HIGH_MEMORY || end > top {
        return Err(KernelFault::OutsideMemory {
            start,
            end,
            low: HIGH_MEMORY,
            top,
        });
    }
    Ok(())
}

/// The loadable segments of the ELF file `image` of `len` octets, checked to lie inside the file.
fn segments<F: Read + Seek>(
    image: &mut F,
    header: &[u8; EHDR_LEN],
    len: u64,
) -> Result<Vec<Segment>, KernelFault> {
    let phoff = u64_at(header, 32);
    let phnum = u16_at(header, 56);
    if usize::from(u16_at(header, 54)) != PHDR_LEN {
        return Err(KernelFault::Malformed("program headers of an unknown size"));
    }
    if phnum == 0 || phnum > PHDRS_MAX {
        return Err(KernelFault::Malformed("no program headers, or too many"));
    }
    let table_len = u64::from(phnum) * PHDR_LEN as u64;
    inside(len, phoff, table_len, "the program header table")?;
    let mut table = vec![0; table_len as usize];
    image.seek(SeekFrom::Start(phoff))?;
    image.read_exact(&mut table)?;

    let mut found = Vec::new();
    for phdr in table.chunks_exact(PHDR_LEN) {
        found.extend(segment(phdr, len)?);
    }
    if found.is_empty() {
        return Err(KernelFault::Malformed("nothing to load"));
    }
    Ok(found)
}

/// The ELF header, once it is known to be one for this machine.
fn file_header<F: Read + Seek>(image: &mut F, len: u64) -> Result<[u8; EHDR_LEN], KernelFault> {
    let mut start = Vec::with_capacity(EHDR_LEN);
    image.seek(SeekFrom::Start(0))?;
    image.by_ref().take(EHDR_LEN as u64).read_to_end(&mut start)?;
    let header: [u8; EHDR_LEN] = start
        .get(..EHDR_LEN)
        .and_then(|header| header.try_into().ok())
        .ok_or(KernelFault::Truncated {
            what: "the ELF header",
            end: EHDR_LEN as u64,
            len,
        })?;
    match (header[4], header[5], u16_at(&header, 18), u16_at(&header, 16)) {
        (2, 1, EM_X86_64, 2 | 3) => Ok(header),
        (1, ..) => Err(KernelFault::WrongMachine("32-bit")),
        (2, 1, EM_X86_64, 1) => Err(KernelFault::WrongMachine("relocatable object")),
        (2, 1, EM_X86_64, _) => Err(KernelFault::WrongMachine("not executable")),
        _ => Err(KernelFault::WrongMachine("other architecture")),
    }
}

/// The memory of one program header, when it is loadable.
fn segment(phdr: &[u8], len: u64) -> Result<Option<Segment>, KernelFault> {
    let kind = u32_at(phdr, 0);
    let (offset, start) = (u64_at(phdr, 8), u64_at(phdr, 24));
    let (file_size, memory_size) = (u64_at(phdr, 32), u64_at(phdr, 40));
    if kind == PT_INTERP {
        return Err(KernelFault::Program);
    }
    if kind == PT_NOTE {
        inside(len, offset, file_size, "a note segment")?;
    }
    if kind != PT_LOAD || memory_size == 0 {
        return Ok(None);
    }
    inside(len, offset, file_size, "a loadable segment")?;
    if file_size > memory_size {
        return Err(KernelFault::Malformed(
            "a segment larger in the file than in memory",
        ));
    }
    let end = start
        .checked_add(memory_size)
        .ok_or(KernelFault::Malformed("a segment that wraps around"))?;
    Ok(Some(Segment { start, end }))
}

fn inside(len: u64, offset: u64, size: u64, what: &'static str) -> Result<(), KernelFault> {
    let end = offset
        .checked_add(size)
        .ok_or(KernelFault::Malformed("an offset that wraps around"))?;
    if end > len {
        return Err(KernelFault::Truncated { what, end, len });
    }
    Ok(())
}

fn u16_at(octets: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes(array_at(octets, offset))
}

fn u32_at(octets: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(array_at(octets, offset))
}

fn u64_at(octets: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(array_at(octets, offset))
}

/// `N` octets at `offset`; zeros past the end, which no caller asks for.
fn array_at<const N: usize>(octets: &[u8], offset: usize) -> [u8; N] {
    octets
        .get(offset..)
        .and_then(|rest| rest.first_chunk())
        .copied()
        .unwrap_or([0; N])
}
