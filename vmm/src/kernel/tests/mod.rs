mod bzimage;
mod unpack;

use std::io::Write;
use std::path::PathBuf;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::memory;
use crate::testing::PvhImage;

const TOP: u64 = 16 << 20;

fn ram() -> GuestRam {
    memory::allocate(TOP).expect("16 MiB")
}

fn load_octets(octets: &[u8]) -> Result<LoadedKernel, KernelFault> {
    super::load_octets(octets, &ram(), TOP)
}

fn load_path(octets: &[u8]) -> KernelError {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(octets).expect("written");
    let kernel = Kernel::File(file.path().to_owned());
    let opened = Opened::open(&kernel).expect("a file");
    let error = opened.load(&ram(), TOP).expect_err("must be refused");
    assert!(
        error.to_string().contains(&file.path().display().to_string()),
        "names the file: {error}"
    );
    error
}

#[test]
fn loads_a_minimal_pvh_image() {
    let image = PvhImage::new(b"\xf4\xf4").build();
    let ram = ram();
    let loaded = super::load_octets(&image, &ram, TOP).expect("loads");
    assert_eq!((loaded.entry, loaded.end), (0x10_0000, 0x10_0002));
    assert_eq!(loaded.info.to_string(), "ELF, PVH");
    assert!(loaded.header.is_none() && loaded.unpacked.is_none());
    assert_eq!(
        ram.read_obj::<u16>(GuestAddress(0x10_0000)).expect("in memory"),
        0xf4f4
    );
}

#[test]
fn empty_file() {
    assert!(matches!(load_path(b"").reason, KernelFault::Empty));
}

#[test]
fn text_file() {
    let error = load_path(b"#!/bin/sh\necho this is no kernel\n");
    assert!(matches!(error.reason, KernelFault::NotAKernel(_)));
    assert!(error.to_string().contains("\"#!/bin/s\""), "{error}");
}

#[test]
fn missing_file_and_directory() {
    let missing = Kernel::File(PathBuf::from("/nonexistent/vmlinux"));
    let error = Opened::open(&missing).expect_err("missing");
    assert!(matches!(error.reason, KernelFault::Unreadable(_)));
    assert!(error.to_string().contains("/nonexistent/vmlinux"), "{error}");
    let error = Opened::open(&Kernel::File(PathBuf::from("/tmp"))).expect_err("a directory");
    assert!(matches!(error.reason, KernelFault::NotAFile));
}

#[test]
fn every_truncation_is_refused() {
    let image = PvhImage::new(&[0x90; 64]).build();
    for len in 1..image.len() {
        let fault = load_octets(&image[..len]).expect_err("cut off");
        assert!(
            matches!(fault, KernelFault::Truncated { .. } | KernelFault::NotAKernel(_)),
            "{len}: {fault}"
        );
    }
}

#[test]
fn an_opened_kernel_loads_again_after_its_path_is_gone() {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(&PvhImage::new(b"\xf4").build()).expect("written");
    let opened = Opened::open(&Kernel::File(file.path().to_owned())).expect("a file");
    file.close().expect("removed");
    for _ in 0..2 {
        let ram = ram();
        assert_eq!(opened.load(&ram, TOP).expect("loads").end, 0x10_0001);
        assert_eq!(
            ram.read_obj::<u8>(GuestAddress(0x10_0000)).expect("in memory"),
            0xf4
        );
    }
}

#[test]
fn elf_without_pvh_note_is_entered_in_long_mode() {
    let image = PvhImage::new(b"\xf4").without_note().build();
    let loaded = load_octets(&image).expect("loads");
    assert_eq!(loaded.entry, 0x10_0000);
    assert_eq!(loaded.info.to_string(), "ELF, 64-bit boot protocol");
    let mut elsewhere = image;
    elsewhere[24..32].copy_from_slice(&0x20_0000_u64.to_le_bytes());
    assert!(matches!(
        load_octets(&elsewhere),
        Err(KernelFault::EntryOutside(0x20_0000))
    ));
}

#[test]
fn programs_are_told_from_kernels() {
    let mut image = PvhImage::new(b"\xf4").build();
    // The note becomes the name of a dynamic linker.
    image[64 + 56] = 3;
    assert!(matches!(load_octets(&image), Err(KernelFault::Program)));
}

#[test]
fn segments_beyond_memory() {
    for address in [TOP - 1, TOP, 0x8000_0000, 0x1000, u64::MAX - 1] {
        let image = PvhImage::new(b"\xf4\xf4").at(address).build();
        let fault = load_octets(&image).expect_err("outside memory");
        assert!(
            matches!(
                fault,
                KernelFault::OutsideMemory { .. } | KernelFault::Malformed(_)
            ),
            "{address:#x}: {fault}"
        );
    }
    let image = PvhImage::new(b"\xf4").with_memory_size(TOP).build();
    assert!(matches!(
        load_octets(&image),
        Err(KernelFault::OutsideMemory { .. })
    ));
}

#[test]
fn entry_outside_what_is_loaded() {
    let image = PvhImage::new(b"\xf4").with_entry(0x20_0000).build();
    assert!(matches!(
        load_octets(&image),
        Err(KernelFault::EntryOutside(0x20_0000))
    ));
}

#[test]
fn other_machines() {
    let mut image = PvhImage::new(b"\xf4").build();
    image[18] = 183;
    assert!(matches!(
        load_octets(&image),
        Err(KernelFault::WrongMachine("other architecture"))
    ));
    image[4] = 1;
    assert!(matches!(
        load_octets(&image),
        Err(KernelFault::WrongMachine("32-bit"))
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn damaged_headers_never_panic(changes in prop::collection::vec((0_usize..232, any::<u8>()), 1..12)) {
        let mut image = PvhImage::new(&[0x90; 32]).build();
        for (offset, value) in changes {
            if let Some(octet) = image.get_mut(offset) {
                *octet = value;
            }
        }
        if let Ok(loaded) = load_octets(&image) {
            prop_assert!(loaded.entry >= 1 << 20 && loaded.entry < loaded.end && loaded.end <= TOP);
        }
    }
}
