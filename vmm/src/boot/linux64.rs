//! The zero page, page tables and descriptors of Linux' 64-bit boot protocol.
//!
//! Source: Linux, Documentation/arch/x86/boot.rst ("64-bit boot protocol") and zero-page.rst.

use linux_loader::bootparam::{CAN_USE_HEAP, LOADED_HIGH, boot_e820_entry, boot_params, setup_header};
use linux_loader::configurator::linux::LinuxBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use vm_memory::{Bytes, GuestAddress};

use super::{BootError, Initrd, memory_map};
use crate::layout::{BOOT_GDT, CMDLINE, PAGE, PAGE_TABLES, ZERO_PAGE};
use crate::memory::GuestRam;

/// What a setup header without a kernel of its own starts with.
const BOOT_FLAG: u16 = 0xaa55;
const HEADER_MAGIC: u32 = u32::from_le_bytes(*b"HdrS");
const PROTOCOL_VERSION: u16 = 0x20f;
/// A boot loader without a number.
const LOADER_UNDEFINED: u8 = 0xff;

/// Null, unused, `__BOOT_CS` (0x10: execute, read, 64-bit), `__BOOT_DS` (0x18: read, write).
pub(crate) const GDT: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];

/// Page table entries: present and writable; a page of 2 MiB.
const TABLE: u64 = 0b11;
const LARGE_PAGE: u64 = TABLE | 1 << 7;
/// Gigabytes that are mapped to themselves, and entries in a table.
const GIBS: u64 = 4;
const ENTRIES: u64 = 512;

/// Writes everything but the command line, which has `cmdline_len` octets.
pub(super) fn write(
    ram: &GuestRam,
    header: Option<&setup_header>,
    cmdline_len: usize,
    initrd: Option<Initrd>,
    acpi: u64,
) -> Result<(), BootError> {
    let mut zero_page = boot_params {
        hdr: header.copied().unwrap_or(setup_header {
            boot_flag: BOOT_FLAG,
            header: HEADER_MAGIC,
            version: PROTOCOL_VERSION,
            loadflags: LOADED_HIGH,
            cmdline_size: cmdline_len as u32,
            ..Default::default()
        }),
        acpi_rsdp_addr: acpi,
        ..Default::default()
    };
    zero_page.hdr.type_of_loader = LOADER_UNDEFINED;
    zero_page.hdr.loadflags &= !CAN_USE_HEAP;
    zero_page.hdr.setup_data = 0;
    zero_page.hdr.cmd_line_ptr = CMDLINE as u32;
    if let Some(Initrd { start, size }) = initrd {
        zero_page.hdr.ramdisk_image = start as u32;
        zero_page.hdr.ramdisk_size = size as u32;
    }
    let map = memory_map(ram);
    zero_page.e820_entries = map.len() as u8;
    for (slot, entry) in zero_page.e820_table.iter_mut().zip(&map) {
        *slot = boot_e820_entry {
            addr: entry.addr,
            size: entry.size,
            r#type: entry.type_,
        };
    }
    let params = BootParams::new(&zero_page, GuestAddress(ZERO_PAGE));
    LinuxBootConfigurator::write_bootparams(&params, ram).map_err(|_| {
        BootError::Memory(vm_memory::GuestMemoryError::InvalidGuestAddress(GuestAddress(
            ZERO_PAGE,
        )))
    })?;
    write_tables(ram)
}

/// Descriptors, and page tables that map the first 4 GiB to themselves: one top level, one directory pointer table,
/// one directory for each GiB.
fn write_tables(ram: &GuestRam) -> Result<(), BootError> {
    let write = |address: u64, entries: &[u64]| {
        let octets: Vec<u8> = entries.iter().flat_map(|entry| entry.to_le_bytes()).collect();
        ram.write_slice(&octets, GuestAddress(address))
    };
    write(BOOT_GDT, &GDT)?;
    let (pointers, directories) = (PAGE_TABLES + PAGE, PAGE_TABLES + 2 * PAGE);
    let mut top = [0; ENTRIES as usize];
    top[0] = pointers | TABLE;
    write(PAGE_TABLES, &top)?;
    let mut table = [0; ENTRIES as usize];
    for (entry, gib) in table.iter_mut().zip(0..GIBS) {
        *entry = (directories + gib * PAGE) | TABLE;
    }
    write(pointers, &table)?;
    let pages: Vec<u64> = (0..GIBS * ENTRIES).map(|page| page << 21 | LARGE_PAGE).collect();
    write(directories, &pages)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::ACPI_TABLES;
    use crate::memory::allocate;

    fn read(ram: &GuestRam, address: u64) -> u64 {
        ram.read_obj(GuestAddress(address)).expect("in memory")
    }

    #[test]
    fn the_zero_page_tells_the_kernel_everything() {
        let ram = allocate(16 << 20).expect("16 MiB");
        let header = setup_header {
            version: 0x20c,
            setup_data: 0x1234,
            loadflags: LOADED_HIGH | CAN_USE_HEAP,
            ..Default::default()
        };
        let initrd = Some(Initrd {
            start: 0x80_0000,
            size: 5,
        });
        write(&ram, Some(&header), 3, initrd, ACPI_TABLES).expect("written");
        let page: boot_params = ram.read_obj(GuestAddress(ZERO_PAGE)).expect("in memory");
        let hdr = page.hdr;
        let (image, size, version) = (hdr.ramdisk_image, hdr.ramdisk_size, hdr.version);
        assert_eq!((image, size, version), (0x80_0000, 5, 0x20c));
        let (cmdline, data, flags) = (hdr.cmd_line_ptr, hdr.setup_data, hdr.loadflags);
        assert_eq!((u64::from(cmdline), data, flags), (CMDLINE, 0, LOADED_HIGH));
        let (rsdp, entries) = (page.acpi_rsdp_addr, page.e820_entries);
        assert_eq!((rsdp, entries), (ACPI_TABLES, 5));
        let (first, kind) = (page.e820_table[0].size, page.e820_table[0].r#type);
        assert_eq!((first, kind), (crate::layout::LOW_MEMORY_END, 1));

        write(&ram, None, 3, None, 0).expect("written");
        let page: boot_params = ram.read_obj(GuestAddress(ZERO_PAGE)).expect("in memory");
        let hdr = page.hdr;
        let (magic, flag, image) = (hdr.header, hdr.boot_flag, hdr.ramdisk_image);
        assert_eq!((magic, flag, image), (0x5372_6448, 0xaa55, 0));
    }

    #[test]
    fn every_address_below_4_gib_is_mapped_to_itself() {
        let ram = allocate(1 << 20).expect("1 MiB");
        write_tables(&ram).expect("written");
        let frame = |entry: u64| entry & 0x000f_ffff_ffff_f000;
        for address in [0, 0x1f_ffff, 0x20_0000, 0x1234_5678, 0xc000_0000, 0xffff_ffff_u64] {
            let top = read(&ram, PAGE_TABLES + 8 * (address >> 39));
            let pointer = read(&ram, frame(top) + 8 * (address >> 30 & 511));
            let entry = read(&ram, frame(pointer) + 8 * (address >> 21 & 511));
            assert_eq!((top & 0b11, pointer & 0b11, entry & 0x83), (3, 3, 0x83));
            assert_eq!(frame(entry), address & !0x1f_ffff, "{address:#x}");
        }
        assert_eq!(read(&ram, BOOT_GDT + 0x10), GDT[2]);
    }
}
