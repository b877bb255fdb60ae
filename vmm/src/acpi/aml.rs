//! The machine's description in ACPI machine language (ACPI 6.4, chapter 20; resources: 6.4).

use crate::devices::serial::{COM1, COM1_LINE, PORTS};
use crate::layout::{PCI_MMIO, PCI_MMIO_END};

/// Opcodes.
const NAME: u8 = 0x08;
const DWORD: u8 = 0x0c;
const SCOPE: u8 = 0x10;
const BUFFER: u8 = 0x11;
const PACKAGE: u8 = 0x12;
const DEVICE: [u8; 2] = [0x5b, 0x82];
/// Resource descriptors.
const IRQ: u8 = 0x22;
const IO: u8 = 0x47;
const END: [u8; 2] = [0x79, 0];
const DWORD_SPACE: u8 = 0x87;
const WORD_SPACE: u8 = 0x88;
/// Both ends of an address range are fixed.
const FIXED: u8 = 0b1100;

/// The definition block: PCI, the console, and that sleep type 0 is soft-off.
pub(super) fn description() -> Vec<u8> {
    let devices = [pci(), console()].concat();
    let scope = [vec![SCOPE], counted([&b"_SB_"[..], &devices].concat())].concat();
    let sleep_types = [vec![PACKAGE], counted(vec![4, 0, 0, 0, 0])].concat();
    [scope, name(*b"_S5_", &sleep_types)].concat()
}

/// PCI bus 0, its configuration ports, and the memory that its functions may decode.
fn pci() -> Vec<u8> {
    let (first, last) = (PCI_MMIO as u32, PCI_MMIO_END as u32 - 1);
    let mut resources = vec![WORD_SPACE, 13, 0, 2, FIXED, 0];
    resources.extend([0_u16, 0, 0, 0, 1].iter().flat_map(|word| word.to_le_bytes()));
    resources.extend(ports(0xcf8, 8));
    resources.extend([DWORD_SPACE, 23, 0, 0, FIXED, 1]);
    resources.extend(
        [0, first, last, 0, last - first + 1]
            .iter()
            .flat_map(|word| word.to_le_bytes()),
    );
    let body = [
        name(*b"_HID", &eisa_id(*b"PNP", 0x0a08)),
        name(*b"_CID", &eisa_id(*b"PNP", 0x0a03)),
        name(*b"_CRS", &resource_template(&resources)),
    ];
    device(*b"PCI0", &body.concat())
}

/// The 16550 at COM1.
fn console() -> Vec<u8> {
    let line = (1_u16 << COM1_LINE).to_le_bytes();
    let resources = [&ports(COM1, PORTS as u8)[..], &[IRQ, line[0], line[1]]].concat();
    let body = [
        name(*b"_HID", &eisa_id(*b"PNP", 0x0501)),
        name(*b"_CRS", &resource_template(&resources)),
    ];
    device(*b"COM1", &body.concat())
}

fn ports(first: u16, count: u8) -> [u8; 8] {
    let [low, high] = first.to_le_bytes();
    [IO, 1, low, high, low, high, 1, count]
}

fn resource_template(descriptors: &[u8]) -> Vec<u8> {
    let content = [descriptors, &END].concat();
    let size = u32::try_from(content.len()).unwrap_or(u32::MAX).to_le_bytes();
    [vec![BUFFER], counted([&[DWORD][..], &size, &content].concat())].concat()
}

fn device(segment: [u8; 4], body: &[u8]) -> Vec<u8> {
    [DEVICE.to_vec(), counted([&segment[..], body].concat())].concat()
}

fn name(segment: [u8; 4], object: &[u8]) -> Vec<u8> {
    [&[NAME], &segment[..], object].concat()
}

/// A compressed identifier: three letters of 5 bits, four hexadecimal digits, most significant octet first.
fn eisa_id(vendor: [u8; 3], product: u16) -> Vec<u8> {
    let letters = vendor
        .iter()
        .fold(0_u32, |letters, letter| letters << 5 | u32::from(letter - 0x40));
    let id = letters << 16 | u32::from(product);
    [&[DWORD][..], &id.to_be_bytes()].concat()
}

/// Puts the length in front, itself included (20.2.4).
fn counted(content: Vec<u8>) -> Vec<u8> {
    let len = content.len();
    let prefix = match len {
        0..0x3f => vec![len as u8 + 1],
        0x3f..0xffe => vec![0x40 | ((len + 2) & 0xf) as u8, ((len + 2) >> 4) as u8],
        _ => vec![
            0x80 | ((len + 3) & 0xf) as u8,
            ((len + 3) >> 4) as u8,
            ((len + 3) >> 12) as u8,
        ],
    };
    [prefix, content].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_count_themselves() {
        assert_eq!(counted(vec![7]), [2, 7]);
        assert_eq!(counted(vec![0; 0x3e])[0], 0x3f);
        assert_eq!(counted(vec![0; 0x3f])[..2], [0x41, 0x04]);
        assert_eq!(counted(vec![0; 0x1000])[..3], [0x83, 0x00, 0x01]);
    }

    #[test]
    fn identifiers_are_those_of_the_specification() {
        assert_eq!(eisa_id(*b"PNP", 0x0a03), [0x0c, 0x41, 0xd0, 0x0a, 0x03]);
        assert_eq!(eisa_id(*b"PNP", 0x0501), [0x0c, 0x41, 0xd0, 0x05, 0x01]);
    }

    #[test]
    fn soft_off_is_a_package_of_zeros() {
        assert!(description().ends_with(&[8, b'_', b'S', b'5', b'_', 0x12, 6, 4, 0, 0, 0, 0]));
    }
}
