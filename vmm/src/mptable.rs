//! The multiprocessor table, by which a kernel without ACPI finds processors and interrupt lines.
//!
//! Source: Intel MultiProcessor Specification 1.4, chapter 4.

use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::layout::{MP_POINTER, MP_TABLE};
use crate::memory::GuestRam;

const APIC_VERSION: u8 = 0x14;
const LOCAL_APIC: u32 = 0xfee0_0000;
const IO_APIC: u32 = 0xfec0_0000;
const ISA_BUS: u8 = 0;
const ISA_LINES: u8 = 16;

/// Entry types (4.3).
const PROCESSOR: u8 = 0;
const BUS: u8 = 1;
const IO_APIC_ENTRY: u8 = 2;
const IO_INTERRUPT: u8 = 3;
const LOCAL_INTERRUPT: u8 = 4;
/// Processor flags: usable, and the one that boots.
const ENABLED: u8 = 1;
const BOOTS: u8 = 2;
/// Interrupt types.
const INT: u8 = 0;
const NMI: u8 = 1;
const EXTERNAL: u8 = 3;
/// Every local APIC.
const ALL: u8 = 0xff;

/// Writes the table for `vcpus` processors and the pointer that kernels search for.
pub(crate) fn write(ram: &GuestRam, vcpus: u8) -> Result<(), GuestMemoryError> {
    ram.write_slice(&table(vcpus), GuestAddress(MP_TABLE))?;
    ram.write_slice(&pointer(), GuestAddress(MP_POINTER))
}

/// The floating pointer structure (4.1).
fn pointer() -> Vec<u8> {
    let mut pointer = b"_MP_".to_vec();
    pointer.extend((MP_TABLE as u32).to_le_bytes());
    // Length in paragraphs, revision 1.4, checksum, no default configuration, no PIC mode.
    pointer.extend([1, 4, 0, 0, 0, 0, 0, 0]);
    set_checksum(&mut pointer, 10);
    pointer
}

/// The configuration table: its header (4.2) and entries (4.3).
fn table(vcpus: u8) -> Vec<u8> {
    let mut entries: Vec<Vec<u8>> = (0..vcpus).map(processor).collect();
    entries.push([&[BUS, ISA_BUS][..], b"ISA   "].concat());
    let io_apic = vcpus;
    entries.push(
        [
            &[IO_APIC_ENTRY, io_apic, APIC_VERSION, ENABLED][..],
            &IO_APIC.to_le_bytes(),
        ]
        .concat(),
    );
    // KVM connects each ISA line to the pin of the same number.
    entries.extend((0..ISA_LINES).map(|line| vec![IO_INTERRUPT, INT, 0, 0, ISA_BUS, line, io_apic, line]));
    entries.push(vec![LOCAL_INTERRUPT, EXTERNAL, 0, 0, ISA_BUS, 0, 0, 0]);
    entries.push(vec![LOCAL_INTERRUPT, NMI, 0, 0, ISA_BUS, 0, ALL, 1]);

    let octets: usize = entries.iter().map(Vec::len).sum();
    let mut table = b"PCMP".to_vec();
    table.extend((44 + octets as u16).to_le_bytes());
    table.extend([4, 0]);
    table.extend(b"ENLIGHT VM          ");
    table.extend([0; 6]);
    table.extend((entries.len() as u16).to_le_bytes());
    table.extend(LOCAL_APIC.to_le_bytes());
    table.extend([0; 4]);
    table.extend(entries.into_iter().flatten());
    set_checksum(&mut table, 7);
    table
}

fn processor(id: u8) -> Vec<u8> {
    let flags = if id == 0 { ENABLED | BOOTS } else { ENABLED };
    let mut entry = vec![PROCESSOR, id, APIC_VERSION, flags];
    // Family 6, and a floating-point unit and local APIC on the chip; kernels ask CPUID for the rest.
    entry.extend(0x600_u32.to_le_bytes());
    entry.extend(0x201_u32.to_le_bytes());
    entry.extend([0; 8]);
    entry
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
    use crate::layout::{HIGH_MEMORY, LOW_MEMORY_END, MAX_VCPUS};
    use crate::memory::allocate;

    #[test]
    fn a_kernel_finds_processors_and_lines() {
        let ram = allocate(HIGH_MEMORY).expect("1 MiB");
        write(&ram, 3).expect("in memory");
        let mut pointer = [0_u8; 16];
        ram.read_slice(&mut pointer, GuestAddress(MP_POINTER))
            .expect("in memory");
        assert_eq!(&pointer[..4], b"_MP_");
        assert_eq!(
            pointer.iter().fold(0_u8, |sum, octet| sum.wrapping_add(*octet)),
            0
        );

        let table = table(3);
        assert_eq!(table.iter().fold(0_u8, |sum, octet| sum.wrapping_add(*octet)), 0);
        assert_eq!(usize::from(u16::from_le_bytes([table[4], table[5]])), table.len());
        let (mut at, mut counts) = (44, [0; 5]);
        while at < table.len() {
            let kind = usize::from(table[at]);
            counts[kind] += 1;
            at += if kind == 0 { 20 } else { 8 };
        }
        assert_eq!((at, counts), (table.len(), [3, 1, 1, 16, 2]));
        assert_eq!(u16::from_le_bytes([table[34], table[35]]), 23);
    }

    #[test]
    fn the_largest_table_fits() {
        assert!(MP_TABLE + table(MAX_VCPUS).len() as u64 <= MP_POINTER);
        const { assert!(LOW_MEMORY_END <= MP_TABLE && MP_POINTER + 16 <= 0xa_0000) };
    }
}
