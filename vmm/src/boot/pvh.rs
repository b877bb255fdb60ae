//! The start of day structure of PVH kernels, which EBX points to.
//!
//! Source: Xen's `public/arch-x86/hvm/start_info.h` and the x86/HVM direct boot ABI.

use linux_loader::loader::elf::start_info::{
    XEN_HVM_START_MAGIC_VALUE, hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::{Bytes, GuestAddress};

use super::{BootError, Initrd, memory_map};
use crate::layout::{CMDLINE, MEMORY_MAP, MODULE_LIST, START_INFO};
use crate::memory::GuestRam;

/// Writes the structure and everything that it refers to but the command line.
pub(super) fn write(ram: &GuestRam, initrd: Option<Initrd>, acpi: u64) -> Result<(), BootError> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::ACPI_TABLES;
    use crate::memory::allocate;

    #[test]
    fn start_info_tells_the_kernel_everything() {
        let ram = allocate(16 << 20).expect("16 MiB");
        let initrd = Some(Initrd {
            start: 0x80_0000,
            size: 5,
        });
        super::write(&ram, initrd, ACPI_TABLES).expect("written");
        let info: hvm_start_info = ram.read_obj(GuestAddress(START_INFO)).expect("in memory");
        assert_eq!((info.magic, info.version, info.nr_modules), (0x336e_c578, 1, 1));
        assert_eq!(info.cmdline_paddr, CMDLINE);
        let module: hvm_modlist_entry = ram.read_obj(GuestAddress(info.modlist_paddr)).expect("in memory");
        assert_eq!((module.paddr, module.size), (0x80_0000, 5));
        assert_eq!((info.memmap_entries, info.rsdp_paddr), (5, ACPI_TABLES));
    }
}
