//! What a PVH kernel finds in memory when it starts: command line, memory map, initial RAM disk.
//!
//! Source: Xen's `public/arch-x86/hvm/start_info.h` and the x86/HVM direct boot ABI.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use linux_loader::loader::elf::start_info::{XEN_HVM_MEMMAP_TYPE_ACPI, XEN_HVM_START_MAGIC_VALUE};
use linux_loader::loader::elf::start_info::{XEN_HVM_MEMMAP_TYPE_RAM, XEN_HVM_MEMMAP_TYPE_RESERVED};
use linux_loader::loader::elf::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestMemoryRegion};

use crate::layout::{
    ACPI_TABLES, CMDLINE, CMDLINE_MAX, ECAM, ECAM_SIZE, HIGH_MEMORY, LEGACY_AREA, LOW_MEMORY_END,
};
use crate::layout::{MEMORY_MAP, MODULE_LIST, PAGE, START_INFO};
use crate::memory::GuestRam;

/// Why the boot information could not be put into guest memory.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The command line does not fit.
    #[error("the command line has {0} octets, at most {max} fit; shorten it", max = CMDLINE_MAX - 1)]
    CmdlineTooLong(usize),
    /// The command line holds what a C string cannot.
    #[error("the command line contains a zero octet; remove it")]
    CmdlineZero,
    /// The initial RAM disk cannot be read.
    #[error("initrd {path}: cannot be read: {source}; check the path and its permissions", path = .path.display())]
    InitrdUnreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The initial RAM disk does not fit.
    #[error(
        "initrd {path}: {size} octets do not fit between the kernel's end at {kernel_end:#x} and the end of memory \
         at {top:#x}; give the guest more memory", path = .path.display()
    )]
    InitrdTooLarge {
        /// The file.
        path: PathBuf,
        /// Its size in octets.
        size: u64,
        /// Where the kernel ends.
        kernel_end: u64,
        /// Where memory below the PCI hole ends.
        top: u64,
    },
    /// Guest memory refused a write.
    #[error("cannot write boot information to guest memory: {0}")]
    Memory(#[from] GuestMemoryError),
}

/// An initial RAM disk in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Initrd {
    start: u64,
    size: u64,
}

/// Copies the file to the end of the memory below the PCI hole, on a page boundary.
pub(crate) fn load_initrd(
    path: &Path,
    ram: &GuestRam,
    kernel_end: u64,
    top: u64,
) -> Result<Initrd, BootError> {
    let unreadable = |source| BootError::InitrdUnreadable {
        path: path.to_owned(),
        source,
    };
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(unreadable(io::Error::other("not a regular file")));
    }
    let size = metadata.len();
    let start = top
        .checked_sub(size)
        .map(|start| start - start % PAGE)
        .filter(|start| *start >= kernel_end);
    let Some(start) = start else {
        return Err(BootError::InitrdTooLarge {
            path: path.to_owned(),
            size,
            kernel_end,
            top,
        });
    };
    let mut file = File::open(path).map_err(unreadable)?;
    ram.read_exact_volatile_from(GuestAddress(start), &mut file, size as usize)
        .map_err(|error| unreadable(io::Error::other(error)))?;
    Ok(Initrd { start, size })
}

/// Checks the command line that the guest is to get.
pub(crate) fn check_cmdline(cmdline: &str) -> Result<(), BootError> {
    if cmdline.len() >= CMDLINE_MAX {
        return Err(BootError::CmdlineTooLong(cmdline.len()));
    }
    if cmdline.contains('\0') {
        return Err(BootError::CmdlineZero);
    }
    Ok(())
}

/// Writes the start of day structure, which EBX points to, and everything that it refers to.
pub(crate) fn write_start_info(
    ram: &GuestRam,
    cmdline: &str,
    initrd: Option<Initrd>,
    acpi: u64,
) -> Result<(), BootError> {
    check_cmdline(cmdline)?;
    ram.write_slice(cmdline.as_bytes(), GuestAddress(CMDLINE))?;
    ram.write_obj(0_u8, GuestAddress(CMDLINE + cmdline.len() as u64))?;

    let map = memory_map(ram);
    let mut address = MEMORY_MAP;
    for entry in &map {
        ram.write_obj(*entry, GuestAddress(address))?;
        address += size_of::<hvm_memmap_table_entry>() as u64;
    }
    let mut info = hvm_start_info {
        magic: XEN_HVM_START_MAGIC_VALUE,
        version: 1,
        cmdline_paddr: CMDLINE,
        rsdp_paddr: acpi,
        memmap_paddr: MEMORY_MAP,
        memmap_entries: map.len() as u32,
        ..Default::default()
    };
    if let Some(Initrd { start, size }) = initrd {
        let module = hvm_modlist_entry {
            paddr: start,
            size,
            ..Default::default()
        };
        ram.write_obj(module, GuestAddress(MODULE_LIST))?;
        info.nr_modules = 1;
        info.modlist_paddr = MODULE_LIST;
    }
    ram.write_obj(info, GuestAddress(START_INFO))?;
    Ok(())
}

/// RAM as it is, without the legacy hole below 1 MiB; the PCI configuration window is reserved.
fn memory_map(ram: &GuestRam) -> Vec<hvm_memmap_table_entry> {
    let entry = |addr, end: u64, type_| hvm_memmap_table_entry {
        addr,
        size: end - addr,
        type_,
        reserved: 0,
    };
    let mut map = vec![
        entry(0, LOW_MEMORY_END, XEN_HVM_MEMMAP_TYPE_RAM),
        entry(ACPI_TABLES, LEGACY_AREA, XEN_HVM_MEMMAP_TYPE_ACPI),
        entry(LEGACY_AREA, HIGH_MEMORY, XEN_HVM_MEMMAP_TYPE_RESERVED),
    ];
    for region in ram.iter() {
        let (start, len) = (region.start_addr().0, region.len());
        let usable = start.max(HIGH_MEMORY);
        if start + len > usable {
            map.push(entry(usable, start + len, XEN_HVM_MEMMAP_TYPE_RAM));
        }
    }
    map.push(entry(ECAM, ECAM + ECAM_SIZE, XEN_HVM_MEMMAP_TYPE_RESERVED));
    map.sort_by_key(|entry| entry.addr);
    map
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::memory::allocate;

    const MIB: u64 = 1 << 20;

    #[test]
    fn start_info_tells_the_kernel_everything() {
        let ram = allocate(16 * MIB).expect("16 MiB");
        let initrd = Some(Initrd {
            start: 0x80_0000,
            size: 5,
        });
        write_start_info(&ram, "role=server tsc_khz=1", initrd, ACPI_TABLES).expect("written");
        let info: hvm_start_info = ram.read_obj(GuestAddress(START_INFO)).expect("in memory");
        assert_eq!((info.magic, info.version, info.nr_modules), (0x336e_c578, 1, 1));
        let mut cmdline = [0; 22];
        ram.read_slice(&mut cmdline, GuestAddress(info.cmdline_paddr))
            .expect("in memory");
        assert_eq!(&cmdline, b"role=server tsc_khz=1\0");
        let module: hvm_modlist_entry = ram.read_obj(GuestAddress(info.modlist_paddr)).expect("in memory");
        assert_eq!((module.paddr, module.size), (0x80_0000, 5));
        assert_eq!((info.memmap_entries, info.rsdp_paddr), (5, ACPI_TABLES));
    }

    #[test]
    fn memory_map_is_ordered_and_covers_the_ram() {
        let map = memory_map(&allocate(16 * MIB).expect("16 MiB"));
        let ram: Vec<_> = map
            .iter()
            .filter(|entry| entry.type_ == XEN_HVM_MEMMAP_TYPE_RAM)
            .map(|entry| (entry.addr, entry.size))
            .collect();
        assert_eq!(ram, [(0, LOW_MEMORY_END), (MIB, 15 * MIB)]);
        assert!(
            map.windows(2)
                .all(|pair| pair[0].addr + pair[0].size <= pair[1].addr)
        );
        let smallest = memory_map(&allocate(MIB).expect("1 MiB"));
        assert_eq!(
            smallest
                .iter()
                .filter(|entry| entry.type_ == XEN_HVM_MEMMAP_TYPE_RAM)
                .count(),
            1
        );
    }

    #[test]
    fn refuses_command_lines_that_do_not_fit() {
        assert!(matches!(
            check_cmdline(&"x".repeat(4096)),
            Err(BootError::CmdlineTooLong(4096))
        ));
        assert!(matches!(check_cmdline("a\0b"), Err(BootError::CmdlineZero)));
        assert!(check_cmdline(&"x".repeat(4095)).is_ok());
    }

    #[test]
    fn initrd_goes_to_the_end_of_memory() {
        let ram = allocate(16 * MIB).expect("16 MiB");
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(b"cpio!").expect("written");
        let initrd = load_initrd(file.path(), &ram, 2 * MIB, 16 * MIB).expect("fits");
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
        let tight = load_initrd(file.path(), &ram, 16 * MIB - 1, 16 * MIB);
        assert!(matches!(tight, Err(BootError::InitrdTooLarge { size: 5, .. })));
        let missing = load_initrd(Path::new("/nonexistent"), &ram, MIB, 16 * MIB);
        assert!(matches!(missing, Err(BootError::InitrdUnreadable { .. })));
    }
}
