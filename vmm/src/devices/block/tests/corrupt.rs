//! Images that break the rules of their format.

use std::process::Command;

use super::*;
use crate::devices::block::open;
use crate::devices::block::parts::Parts;
use crate::devices::block::sys::GuestSlice;

/// An image with some data, made by QEMU; `None` when its tools are not installed.
fn sample(directory: &TempDir, test: &str, format: &str, name: &str) -> Option<Vec<u8>> {
    let raw = directory.path().join("source.raw");
    std::fs::write(&raw, vec![0x5a; 1 << 20]).expect("a file");
    std::fs::File::options()
        .write(true)
        .open(&raw)
        .and_then(|file| file.set_len(4 << 20))
        .expect("larger");
    let path = directory.path().join(name);
    let output = Command::new("qemu-img")
        .args(["convert", "-f", "raw", "-O", format])
        .args([&raw, &path])
        .output();
    let Ok(output) = output else {
        println!("SKIPPED {test}: qemu-img is not installed");
        return None;
    };
    assert!(output.status.success());
    Some(std::fs::read(path).expect("the image"))
}

/// Opens `octets` as an image and, if that is possible, reads and writes all over it.
fn use_all(path: &Path, octets: &[u8]) -> Result<(u32, u32), String> {
    std::fs::write(path, octets).expect("a file");
    let mut image = when_unused(|| open::open(&config(path))).map_err(|error| error.to_string())?;
    let (mut good, mut bad) = (0, 0);
    let step = (image.sectors() / 64).max(1);
    for sector in (0..image.sectors()).step_by(step as usize).take(80) {
        let mut memory = [0x77; 512];
        let mut parts = Parts::default();
        parts.push(GuestSlice::from(memory.as_mut_slice()));
        let mut more = [0x77; 512];
        let mut others = Parts::default();
        others.push(GuestSlice::from(more.as_mut_slice()));
        let results = [
            image.read(sector * 512, &mut parts),
            image.write(sector * 512, &mut others),
        ];
        good += results.iter().filter(|result| result.is_ok()).count() as u32;
        bad += results.iter().filter(|result| result.is_err()).count() as u32;
    }
    // Whether that succeeds is the image's affair.
    let _ = image.flush();
    Ok((good, bad))
}

fn with(octets: &[u8], at: usize, field: &[u8]) -> Vec<u8> {
    let mut octets = octets.to_vec();
    octets[at..at + field.len()].copy_from_slice(field);
    octets
}

#[test]
fn a_qcow2_header_that_asks_for_too_much_is_refused() {
    const TEST: &str = "a_qcow2_header_that_asks_for_too_much_is_refused";
    let directory = TempDir::new().expect("a directory");
    let Some(good) = sample(&directory, TEST, "qcow2", "good.qcow2") else {
        return;
    };
    let path = directory.path().join("bad.qcow2");
    assert_eq!(use_all(&path, &good), Ok((128, 0)));
    let cases: [(usize, &[u8], &str); 22] = [
        (0, b"QFI\xfc", "does not begin like one"),
        (4, &[0, 0, 0, 4], "version 4"),
        (8, &[0, 0, 0, 0, 0, 0, 2, 0], "backing file"),
        (20, &[0, 0, 0, 8], "2^8"),
        (20, &[0, 0, 0, 22], "2^22"),
        (20, &[0xff; 4], "clusters of"),
        (24, &[0; 8], "0 octets"),
        (24, &[0, 0, 0, 0, 0, 0, 2, 1], "513 octets"),
        (
            24,
            &[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe, 0],
            "is not possible",
        ),
        (24, &[0, 2, 0, 0, 0, 0, 0, 0], "first level table"),
        (32, &[0, 0, 0, 1], "encrypted"),
        (36, &[0xff; 4], "first level table"),
        (36, &[0; 4], "first level table"),
        (40, &[0; 8], "not inside the file"),
        (
            40,
            &[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
            "not inside the file",
        ),
        (48, &[0xff; 8], "not inside the file"),
        (56, &[0xff; 4], "too large"),
        (60, &[0, 0, 0, 1], "snapshots"),
        (79, &[1], "repair it"),
        (79, &[4], "another file"),
        (72, &[0x80], "unknown feature 63"),
        (96, &[0, 0, 0, 7], "2^7 bits"),
    ];
    for (at, field, needle) in cases {
        let error = use_all(&path, &with(&good, at, field)).expect_err(needle);
        assert!(
            error.contains(needle) && !error.contains('\n'),
            "{needle}: {error}"
        );
    }
}

#[test]
fn corrupt_qcow2_tables_are_refused_or_errors_of_requests() {
    const TEST: &str = "corrupt_qcow2_tables_are_refused_or_errors_of_requests";
    let directory = TempDir::new().expect("a directory");
    let Some(good) = sample(&directory, TEST, "qcow2", "good.qcow2") else {
        return;
    };
    let path = directory.path().join("bad.qcow2");
    let be64 = |at: usize| u64::from_be_bytes(good[at..at + 8].try_into().expect("eight"));
    let (l1, counts) = (be64(40) as usize, be64(48) as usize);
    for entry in [u64::MAX >> 1, 1 << 55, 0x1_0000_0000_0000, 512] {
        let error = use_all(&path, &with(&good, l1, &entry.to_be_bytes())).expect_err("corrupt");
        assert!(error.contains("first level table is corrupt"), "{error}");
        let error = use_all(&path, &with(&good, counts, &entry.to_be_bytes())).expect_err("corrupt");
        assert!(error.contains("reference count table is corrupt"), "{error}");
        // A second count block would describe what is behind the end of the file.
        let error =
            use_all(&path, &with(&good, counts + 8, &0x1_0000_u64.to_be_bytes())).expect_err("corrupt");
        assert!(error.contains("entry 1 of its reference count table"), "{error}");
    }
    let l2 = (be64(l1) & 0x00ff_ffff_ffff_fe00) as usize;
    for entry in [
        1 << 55 | 0x8000_0000_0000_0000_u64,
        0x8000_0000_0000_0200,
        0x4000_0000_0000_0001,
    ] {
        let (_, bad) = use_all(&path, &with(&good, l2, &entry.to_be_bytes())).expect("it opens");
        assert!(bad > 0, "{entry:#x}");
    }
    // An L1 entry that points at its own table, and one at the header.
    for target in [l1 as u64, 0x8000_0000_0000_0000 | l1 as u64] {
        // Whatever it holds is not the guest's; that it ends is what counts.
        let _ = use_all(&path, &with(&good, l1, &target.to_be_bytes()));
    }
}

/// Both footers of a VHD, changed and with the right checksum.
fn footers(good: &[u8], changes: &[(usize, &[u8])]) -> Vec<u8> {
    let mut octets = good.to_vec();
    for base in [0, good.len() - 512] {
        for (at, field) in changes {
            octets[base + at..base + at + field.len()].copy_from_slice(field);
        }
        sum(&mut octets[base..base + 512], 64);
    }
    octets
}

/// The header of a dynamic VHD, changed and with the right checksum.
fn header_of(good: &[u8], at: usize, field: &[u8]) -> Vec<u8> {
    let mut octets = with(good, 512 + at, field);
    sum(&mut octets[512..512 + 1024], 36);
    octets
}

#[test]
fn corrupt_vhds_are_refused() {
    const TEST: &str = "corrupt_vhds_are_refused";
    const TABLE: usize = 1536;
    let directory = TempDir::new().expect("a directory");
    let Some(good) = sample(&directory, TEST, "vpc", "good.vhd") else {
        return;
    };
    let path = directory.path().join("bad.vhd");
    assert!(use_all(&path, &good).is_ok_and(|(_, bad)| bad == 0));
    let footers = |changes: &[(usize, &[u8])]| footers(&good, changes);
    let header = |at: usize, field: &[u8]| header_of(&good, at, field);
    let mut broken = footers(&[(100, &[1])]);
    broken[101] ^= 1;
    let last = broken.len() - 400;
    broken[last] ^= 1;
    let too_large = [0, 0, 0, 0, 0x7f, 0, 0, 0];
    for (octets, needle) in [
        (vec![0; 4096], "no footer"),
        (vec![0; 3], "cannot be read"),
        (broken, "footer is corrupt"),
        (footers(&[(60, &[0, 0, 0, 4])]), "differencing disk"),
        (footers(&[(60, &[0, 0, 0, 9])]), "disk type 9"),
        (footers(&[(60, &[0, 0, 0, 2]), (48, &too_large)]), "too short"),
        (footers(&[(48, &[0; 8])]), "0 octets"),
        (footers(&[(48, &[0xff; 8])]), "is not possible"),
        (
            footers(&[(48, &[0, 0, 1, 0, 0, 0, 0, 0])]),
            "does not fit the disk",
        ),
        (footers(&[(16, &[0xff; 8])]), "header is missing"),
        (with(&good, 700, &[1]), "header is corrupt"),
        (header(32, &[0, 0, 0x30, 0]), "12288 octets"),
        (header(32, &[0; 4]), "blocks of 0 octets"),
        (header(28, &[0xff; 4]), "does not fit the disk"),
        (header(16, &[0xff; 8]), "not inside the file"),
        (with(&good, TABLE, &[0, 0, 0, 0]), "overlaps"),
        (
            with(&good, TABLE, &[0x7f, 0xff, 0xff, 0xff]),
            "not inside the file",
        ),
        (with(&good, TABLE + 4, &good[TABLE..TABLE + 4]), "overlaps"),
    ] {
        let error = use_all(&path, &octets).expect_err(needle);
        assert!(
            error.contains(needle) && !error.contains('\n'),
            "{needle}: {error}"
        );
    }
}

/// Puts the checksum of a footer or header where it belongs.
fn sum(octets: &mut [u8], at: usize) {
    octets[at..at + 4].fill(0);
    let sum = octets
        .iter()
        .fold(0_u32, |sum, octet| sum.wrapping_add((*octet).into()));
    octets[at..at + 4].copy_from_slice(&(!sum).to_be_bytes());
}

#[test]
fn truncated_images_are_refused_or_errors_of_requests() {
    const TEST: &str = "truncated_images_are_refused_or_errors_of_requests";
    let directory = TempDir::new().expect("a directory");
    for (format, ending) in [("qcow2", "qcow2"), ("vpc", "vhd")] {
        let name = format!("good.{ending}");
        let Some(good) = sample(&directory, TEST, format, &name) else {
            return;
        };
        let path = directory.path().join(format!("cut.{ending}"));
        let lens = (0..2048).step_by(101).chain((2048..good.len()).step_by(60_001));
        for len in lens {
            if let Err(error) = use_all(&path, &good[..len]) {
                assert!(error.contains("cut") && !error.contains('\n'), "{error}");
            }
        }
    }
}
