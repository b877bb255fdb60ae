//! ACPI tables: processors, interrupt lines, PCI, the console and how to switch off, for kernels that look there.
//!
//! Source: Advanced Configuration and Power Interface Specification 6.4, chapter 5; PCI Firmware Specification 3.0,
//! 4.1.2 (MCFG).

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Name, Package, ResourceTemplate,
    Scope, ZERO,
};
use acpi_tables::facs::FACS;
use acpi_tables::fadt::{FADT, FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace as Space, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, ProcessorLocalApic};
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::devices::power::{PM1_CONTROL, PM1_EVENT, RESET_CONTROL, RESET_CPU, SCI_LINE};
use crate::devices::serial::{COM1, COM1_LINE, PORTS};
use crate::layout::{ACPI_TABLES, ECAM, PCI_MMIO, PCI_MMIO_END};
use crate::memory::GuestRam;

const LOCAL_APIC: u32 = 0xfee0_0000;
const IO_APIC: u32 = 0xfec0_0000;
/// Octets of the header that most tables share (5.2.6).
const HEADER: usize = 36;
/// Who made the tables (5.2.6): OEMID, OEM table ID, OEM revision.
const OEM: [u8; 6] = *b"ENLGHT";
const OEM_TABLE: [u8; 8] = *b"ENLIGHT ";
const OEM_REVISION: u32 = 1;

/// Writes all tables for `vcpus` processors; returns the address of the root pointer.
pub(crate) fn write(ram: &GuestRam, vcpus: u8) -> Result<u64, GuestMemoryError> {
    let mut area = Area {
        ram,
        next: ACPI_TABLES,
    };
    let facs = area.put(&octets(&FACS::new()))?;
    let dsdt = area.put(&table(*b"DSDT", 2, &namespace()))?;
    let fadt = area.put(&octets(&fixed(facs, dsdt)))?;
    let madt = area.put(&processors(vcpus))?;
    let mcfg = area.put(&octets(&configuration_window()))?;
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    for table in [fadt, madt, mcfg] {
        xsdt.add_entry(table);
    }
    let xsdt = area.put(&octets(&xsdt))?;
    area.put(&octets(&Rsdp::new(OEM, xsdt)))
}

/// Memory that is filled from its beginning.
struct Area<'a> {
    ram: &'a GuestRam,
    next: u64,
}

impl Area<'_> {
    /// Appends octets, aligned as the FACS wants it; returns where they are.
    fn put(&mut self, octets: &[u8]) -> Result<u64, GuestMemoryError> {
        let address = self.next;
        self.ram.write_slice(octets, GuestAddress(address))?;
        self.next = (address + octets.len() as u64).next_multiple_of(64);
        Ok(address)
    }
}

fn octets(table: &dyn Aml) -> Vec<u8> {
    let mut octets = Vec::new();
    table.to_aml_bytes(&mut octets);
    octets
}

/// The common header, then `body`.
fn table(signature: [u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    let mut table = Sdt::new(signature, HEADER as u32, revision, OEM, OEM_TABLE, OEM_REVISION);
    table.append_slice(body);
    table.as_slice().to_vec()
}

/// Fixed ACPI description table (5.2.9).
fn fixed(facs: u64, dsdt: u64) -> FADT {
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .firmware_ctrl_32(facs as u32)
        .flag(Flags::Wbinvd)
        // The power button is fixed hardware; of a sleep button there is not even a description.
        .flag(Flags::SlpButton)
        .flag(Flags::ResetRegSup);
    fadt.dsdt = (dsdt as u32).into();
    fadt.x_dsdt = dsdt.into();
    fadt.sci_int = (SCI_LINE as u16).into();
    fadt.pm1a_evt_blk = u32::from(PM1_EVENT).into();
    fadt.pm1a_cnt_blk = u32::from(PM1_CONTROL).into();
    (fadt.pm1_evt_len, fadt.pm1_cnt_len) = (4, 2);
    // Latencies beyond their limits: there are no processor power states.
    (fadt.p_lvl2_lat, fadt.p_lvl3_lat) = (0xffff.into(), 0xffff.into());
    // Legacy devices, but no keyboard controller, no VGA, no CMOS clock.
    fadt.iapc_boot_arch = 0b10_0101.into();
    fadt.reset_reg = GAS::new(
        Space::SystemIo,
        8,
        0,
        AccessSize::ByteAccess,
        RESET_CONTROL.into(),
    );
    fadt.reset_value = RESET_CPU | 2;
    fadt.finalize()
}

/// Multiple APIC description (5.2.12): processors, the I/O APIC, the level-triggered SCI, NMI at LINT1. The crate's own
/// type of this table says that there are no 8259s, and knows neither overrides nor NMIs.
fn processors(vcpus: u8) -> Vec<u8> {
    let mut body = LOCAL_APIC.to_le_bytes().to_vec();
    // The two PICs exist.
    body.extend(1_u32.to_le_bytes());
    for id in 0..vcpus {
        body.extend(octets(&ProcessorLocalApic::new(id, id, EnabledStatus::Enabled)));
    }
    body.extend(octets(&IoApic::new(vcpus, IO_APIC, 0)));
    body.extend([2, 10, 0, SCI_LINE as u8, SCI_LINE as u8, 0, 0, 0, 0b1101, 0]);
    body.extend([4, 6, 0xff, 0, 0, 1]);
    table(*b"APIC", 4, &body)
}

/// Where the configuration space of PCI bus 0 is mapped.
fn configuration_window() -> MCFG {
    let mut mcfg = MCFG::new(OEM, OEM_TABLE, OEM_REVISION);
    mcfg.add_ecam(ECAM, 0, 0, 0);
    mcfg
}

/// What there is on the system bus, and soft-off (7.4.2).
fn namespace() -> Vec<u8> {
    let (bridge, console) = (pci(), console());
    let bus = Scope::raw("_SB_".into(), [bridge, console].concat());
    let off = Name::new("_S5_".into(), &Package::new(vec![&ZERO, &ZERO, &ZERO, &ZERO]));
    [bus, octets(&off)].concat()
}

/// PCI bus 0, its configuration ports, and the memory that its functions may decode.
fn pci() -> Vec<u8> {
    let (first, last) = (PCI_MMIO as u32, PCI_MMIO_END as u32 - 1);
    let buses = AddressSpace::new_bus_number(0_u16, 0);
    let ports = IO::new(0xcf8, 0xcf8, 1, 8);
    let memory = AddressSpace::new_memory(AddressSpaceCacheable::NotCacheable, true, first, last, None);
    let resources = ResourceTemplate::new(vec![&buses, &ports, &memory]);
    octets(&Device::new(
        "PCI0".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0A08")),
            &Name::new("_CID".into(), &EISAName::new("PNP0A03")),
            &Name::new("_UID".into(), &ZERO),
            &Name::new("_CRS".into(), &resources),
        ],
    ))
}

/// The 16550 at COM1.
fn console() -> Vec<u8> {
    let ports = IO::new(COM1, COM1, 1, PORTS as u8);
    let line = Interrupt::new(true, true, false, false, COM1_LINE);
    let resources = ResourceTemplate::new(vec![&ports, &line]);
    octets(&Device::new(
        "COM1".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0501")),
            &Name::new("_UID".into(), &ZERO),
            &Name::new("_CRS".into(), &resources),
        ],
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{HIGH_MEMORY, LEGACY_AREA, MAX_VCPUS};
    use crate::memory::allocate;

    fn read(ram: &GuestRam, address: u64) -> Vec<u8> {
        let len: u32 = ram.read_obj(GuestAddress(address + 4)).expect("in memory");
        let mut octets = vec![0; len as usize];
        ram.read_slice(&mut octets, GuestAddress(address))
            .expect("in memory");
        octets
    }

    fn sum(octets: &[u8]) -> u8 {
        octets.iter().fold(0, |sum, octet| sum.wrapping_add(*octet))
    }

    fn u64_at(octets: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(octets[at..at + 8].try_into().expect("eight octets"))
    }

    #[test]
    fn every_table_is_found_and_sound() {
        let ram = allocate(HIGH_MEMORY).expect("1 MiB");
        let root = write(&ram, MAX_VCPUS).expect("fits");
        assert!(root + 36 <= LEGACY_AREA);
        let mut pointer = [0; 36];
        ram.read_slice(&mut pointer, GuestAddress(root))
            .expect("in memory");
        assert_eq!(
            (&pointer[..8], sum(&pointer[..20]), sum(&pointer)),
            (&b"RSD PTR "[..], 0, 0)
        );
        let xsdt = read(&ram, u64_at(&pointer, 24));
        assert_eq!((&xsdt[..4], sum(&xsdt), xsdt.len()), (&b"XSDT"[..], 0, 36 + 24));
        let tables: Vec<_> = (0..3)
            .map(|index| read(&ram, u64_at(&xsdt, 36 + 8 * index)))
            .collect();
        let names: Vec<_> = tables.iter().map(|table| &table[..4]).collect();
        assert_eq!(names, [b"FACP", b"APIC", b"MCFG"]);
        assert!(tables.iter().all(|table| sum(table) == 0));
        assert_eq!(tables[0].len(), FADT::len());
        let dsdt = read(&ram, u64_at(&tables[0], 140));
        assert_eq!((&dsdt[..4], sum(&dsdt)), (&b"DSDT"[..], 0));
        assert_eq!(u64_at(&tables[2], 44), ECAM);
    }

    #[test]
    fn processor_entries_fill_the_table() {
        let body = processors(3);
        let body = &body[HEADER..];
        let (mut at, mut counts) = (8, [0; 5]);
        while at < body.len() {
            counts[usize::from(body[at])] += 1;
            at += usize::from(body[at + 1]);
        }
        assert_eq!((at, counts), (body.len(), [3, 1, 1, 0, 1]));
    }

    #[test]
    fn the_power_button_is_fixed_hardware() {
        let fadt = octets(&fixed(0x1000, 0x2000));
        let flags = u32::from_le_bytes(fadt[112..116].try_into().expect("four octets"));
        assert_eq!(flags & Flags::PwrButton as u32, 0, "no control method button");
        assert_ne!(flags & Flags::SlpButton as u32, 0, "no sleep button of any kind");
        assert_eq!((fadt[46], fadt[88], fadt[89]), (SCI_LINE as u8, 4, 2));
        assert_eq!((sum(&fadt), fadt[128]), (0, RESET_CPU | 2));
    }

    #[test]
    fn soft_off_is_a_package_of_zeros() {
        assert!(namespace().ends_with(&[8, b'_', b'S', b'5', b'_', 0x12, 6, 4, 0, 0, 0, 0]));
    }
}
