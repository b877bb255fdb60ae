//! ACPI tables: processors, interrupt lines, PCI, the console and how to switch off, for kernels that look there.
//!
//! Source: Advanced Configuration and Power Interface Specification 6.4, chapter 5; PCI Firmware Specification 3.0,
//! 4.1.2 (MCFG).

mod aml;

use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::devices::power::{PM1_CONTROL, PM1_EVENT, RESET_CONTROL, RESET_CPU};
use crate::layout::{ACPI_TABLES, ECAM};
use crate::memory::GuestRam;

const LOCAL_APIC: u32 = 0xfee0_0000;
const IO_APIC: u32 = 0xfec0_0000;
/// The line of the system control interrupt; nothing raises it.
const SCI_LINE: u8 = 9;
/// Octets of the header that most tables share (5.2.6).
const HEADER: usize = 36;
/// Octets of a FADT of revision 6.
const FADT: usize = 276;

/// Writes all tables for `vcpus` processors; returns the address of the root pointer.
pub(crate) fn write(ram: &GuestRam, vcpus: u8) -> Result<u64, GuestMemoryError> {
    let mut area = Area {
        ram,
        next: ACPI_TABLES,
    };
    let facs = area.put(&facs())?;
    let dsdt = area.put(&table(*b"DSDT", 2, &aml::description()))?;
    let fadt = area.put(&fadt(facs, dsdt))?;
    let madt = area.put(&table(*b"APIC", 4, &processors(vcpus)))?;
    let mcfg = area.put(&table(*b"MCFG", 1, &configuration_window()))?;
    let addresses: Vec<u8> = [fadt, madt, mcfg]
        .iter()
        .flat_map(|address| address.to_le_bytes())
        .collect();
    let xsdt = area.put(&table(*b"XSDT", 1, &addresses))?;
    area.put(&root_pointer(xsdt))
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

/// A table: the common header, then `body`.
fn table(signature: [u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    let mut table = signature.to_vec();
    table.extend((HEADER as u32 + body.len() as u32).to_le_bytes());
    table.extend([revision, 0]);
    table.extend(b"ENLGHTENLIGHT ");
    table.extend(1_u32.to_le_bytes());
    table.extend(b"ENLT");
    table.extend(1_u32.to_le_bytes());
    table.extend(body);
    set_checksum(&mut table, 9);
    table
}

/// Root system description pointer (5.2.5.3).
fn root_pointer(xsdt: u64) -> Vec<u8> {
    let mut pointer = b"RSD PTR \0ENLGHT\x02\0\0\0\0".to_vec();
    set_checksum(&mut pointer, 8);
    pointer.extend(36_u32.to_le_bytes());
    pointer.extend(xsdt.to_le_bytes());
    pointer.extend([0; 4]);
    set_checksum(&mut pointer, 32);
    pointer
}

/// Firmware control structure (5.2.10): there is no firmware to control.
fn facs() -> Vec<u8> {
    let mut facs = b"FACS".to_vec();
    facs.extend(64_u32.to_le_bytes());
    facs.resize(64, 0);
    facs[32] = 2;
    facs
}

/// Fixed ACPI description table (5.2.9).
fn fadt(facs: u64, dsdt: u64) -> Vec<u8> {
    let mut body = vec![0; FADT - HEADER];
    let mut put = |offset: usize, octets: &[u8]| {
        for (cell, octet) in body.iter_mut().skip(offset - HEADER).zip(octets) {
            *cell = *octet;
        }
    };
    put(36, &(facs as u32).to_le_bytes());
    put(40, &(dsdt as u32).to_le_bytes());
    put(46, &[SCI_LINE, 0]);
    put(56, &u32::from(PM1_EVENT).to_le_bytes());
    put(64, &u32::from(PM1_CONTROL).to_le_bytes());
    put(88, &[4, 2]);
    // Latencies beyond their limits: there are no processor power states.
    put(96, &[0xff; 4]);
    // Legacy devices, but no keyboard controller, no VGA, no CMOS clock.
    put(109, &0b10_0101_u16.to_le_bytes());
    // WBINVD works, no fixed buttons, and the reset register exists.
    put(112, &(1_u32 | 1 << 4 | 1 << 5 | 1 << 10).to_le_bytes());
    put(116, &[1, 8, 0, 1]);
    put(120, &u64::from(RESET_CONTROL).to_le_bytes());
    put(128, &[RESET_CPU | 2]);
    put(140, &dsdt.to_le_bytes());
    table(*b"FACP", 6, &body)
}

/// Multiple APIC description (5.2.12): processors, the I/O APIC, the level-triggered SCI, NMI at LINT1.
fn processors(vcpus: u8) -> Vec<u8> {
    let mut body = LOCAL_APIC.to_le_bytes().to_vec();
    // The two PICs exist.
    body.extend(1_u32.to_le_bytes());
    for id in 0..vcpus {
        body.extend([0, 8, id, id, 1, 0, 0, 0]);
    }
    body.extend([1, 12, vcpus, 0]);
    body.extend(IO_APIC.to_le_bytes());
    body.extend([0; 4]);
    body.extend([2, 10, 0, SCI_LINE, SCI_LINE, 0, 0, 0, 0b1101, 0]);
    body.extend([4, 6, 0xff, 0, 0, 1]);
    body
}

/// Where the configuration space of PCI bus 0 is mapped.
fn configuration_window() -> Vec<u8> {
    let mut body = vec![0; 8];
    body.extend(ECAM.to_le_bytes());
    body.extend([0; 8]);
    body
}

/// Makes the sum of all octets zero.
fn set_checksum(octets: &mut [u8], at: usize) {
    let sum = octets.iter().fold(0_u8, |sum, octet| sum.wrapping_add(*octet));
    if let Some(checksum) = octets.get_mut(at) {
        *checksum = checksum.wrapping_sub(sum);
    }
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
        assert_eq!(tables[0].len(), FADT);
        let dsdt = read(&ram, u64_at(&tables[0], 140));
        assert_eq!((&dsdt[..4], sum(&dsdt)), (&b"DSDT"[..], 0));
        assert_eq!(u64_at(&tables[2], 44), ECAM);
    }

    #[test]
    fn processor_entries_fill_the_table() {
        let body = processors(3);
        let (mut at, mut counts) = (8, [0; 5]);
        while at < body.len() {
            counts[usize::from(body[at])] += 1;
            at += usize::from(body[at + 1]);
        }
        assert_eq!((at, counts), (body.len(), [3, 1, 1, 0, 1]));
    }
}
