//! What a kernel finds in memory when it starts: command line, memory map, initial RAM disk.

mod initrd;
mod linux64;
mod pvh;

use std::io;
use std::path::PathBuf;

use linux_loader::loader::elf::start_info::{
    XEN_HVM_MEMMAP_TYPE_ACPI, XEN_HVM_MEMMAP_TYPE_RAM, XEN_HVM_MEMMAP_TYPE_RESERVED, hvm_memmap_table_entry,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestMemoryRegion};

use crate::config::VmConfig;
use crate::error::VmError;
use crate::kernel::{self, LoadedKernel, Protocol};
use crate::layout::{
    ACPI_TABLES, CMDLINE, CMDLINE_MAX, ECAM, ECAM_SIZE, HIGH_MEMORY, LEGACY_AREA, LOW_MEMORY_END,
};
use crate::memory::GuestRam;
use initrd::{Initrd, OpenedInitrd};
pub(crate) use linux64::GDT;

/// Why the boot information could not be put into guest memory.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The command line does not fit.
    #[error("the command line has {len} octets, at most {max} fit; shorten it")]
    CmdlineTooLong {
        /// Its octets.
        len: usize,
        /// The most that the kernel takes.
        max: usize,
    },
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
        "initrd {path}: {size} octets do not fit between the kernel's end at {kernel_end:#x} and {top:#x}, where \
         its memory ends; give the guest more memory or make the initrd smaller", path = .path.display()
    )]
    InitrdTooLarge {
        /// The file.
        path: PathBuf,
        /// Its size in octets.
        size: u64,
        /// Where the kernel ends.
        kernel_end: u64,
        /// Where the memory that it may lie in ends.
        top: u64,
    },
    /// Guest memory refused a write.
    #[error("cannot write boot information to guest memory: {0}")]
    Memory(#[from] GuestMemoryError),
}

/// What a machine boots, opened once: a guest that resets itself needs no path again.
#[derive(Debug)]
pub(crate) struct Images {
    pub(crate) kernel: kernel::Opened,
    initrd: Option<OpenedInitrd>,
}

impl Images {
    /// Opens the files that `config` names.
    pub(crate) fn open(config: &VmConfig) -> Result<Self, VmError> {
        Ok(Self {
            kernel: kernel::Opened::open(&config.kernel)?,
            initrd: config.initrd.as_deref().map(OpenedInitrd::open).transpose()?,
        })
    }

    /// Loads the initial RAM disk, if there is one, where `kernel` may have it below `top`.
    pub(crate) fn load_initrd(
        &self,
        ram: &GuestRam,
        kernel: &LoadedKernel,
        top: u64,
    ) -> Result<Option<Initrd>, BootError> {
        let initrd = self.initrd.as_ref();
        initrd.map(|initrd| initrd.load(ram, kernel, top)).transpose()
    }
}

/// Checks the command line that the guest is to get against what fits any kernel.
pub(crate) fn check_cmdline(cmdline: &str) -> Result<(), BootError> {
    check_cmdline_of(cmdline, CMDLINE_MAX - 1)
}

fn check_cmdline_of(cmdline: &str, max: usize) -> Result<(), BootError> {
    let len = cmdline.len();
    if len > max {
        return Err(BootError::CmdlineTooLong { len, max });
    }
    if cmdline.contains('\0') {
        return Err(BootError::CmdlineZero);
    }
    Ok(())
}

/// Writes everything that `kernel` is told when it starts, as its boot protocol wants it. `acpi` is the address of
/// the root pointer.
pub(crate) fn write(
    ram: &GuestRam,
    kernel: &LoadedKernel,
    cmdline: &str,
    initrd: Option<Initrd>,
    acpi: u64,
) -> Result<(), BootError> {
    let limit = kernel.header.map_or(0, |header| header.cmdline_size as usize);
    let max = if limit == 0 {
        CMDLINE_MAX - 1
    } else {
        limit.min(CMDLINE_MAX - 1)
    };
    check_cmdline_of(cmdline, max)?;
    ram.write_slice(cmdline.as_bytes(), GuestAddress(CMDLINE))?;
    ram.write_obj(0_u8, GuestAddress(CMDLINE + cmdline.len() as u64))?;
    match kernel.info.protocol {
        Protocol::Pvh => pvh::write(ram, initrd, acpi),
        Protocol::Linux64 => linux64::write(ram, kernel.header.as_ref(), cmdline.len(), initrd, acpi),
    }
}

/// RAM as it is, without the legacy hole below 1 MiB; the PCI configuration window is reserved. The types are those
/// of e820 as well.
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
    use super::*;
    use crate::kernel::{Format, KernelInfo};
    use crate::memory::allocate;

    const MIB: u64 = 1 << 20;

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
            Err(BootError::CmdlineTooLong { len: 4096, max: 4095 })
        ));
        assert!(matches!(check_cmdline("a\0b"), Err(BootError::CmdlineZero)));
        assert!(check_cmdline(&"x".repeat(4095)).is_ok());
    }

    #[test]
    fn a_kernel_that_tells_its_limit_is_not_given_more() {
        let ram = allocate(16 * MIB).expect("16 MiB");
        let header = linux_loader::bootparam::setup_header {
            cmdline_size: 7,
            ..Default::default()
        };
        for protocol in [Protocol::Pvh, Protocol::Linux64] {
            let kernel = LoadedKernel {
                entry: MIB,
                end: 2 * MIB,
                info: KernelInfo {
                    format: Format::BzImage,
                    file: None,
                    payload: None,
                    protocol,
                },
                header: Some(header),
                unpacked: None,
            };
            assert!(write(&ram, &kernel, "7 chars", None, 0).is_ok());
            let error = write(&ram, &kernel, "8 chars.", None, 0).expect_err("one too many");
            assert_eq!(
                error.to_string(),
                "the command line has 8 octets, at most 7 fit; shorten it"
            );
        }
    }
}
