//! Images in other formats, against QEMU's tools.

use std::path::PathBuf;
use std::process::Command;

use proptest::prelude::*;

use super::*;
use crate::devices::block::format::Image;
use crate::devices::block::open;
use crate::devices::block::parts::Parts;
use crate::devices::block::request::Range;
use crate::devices::block::sys::GuestSlice;

const MIB: u64 = 1 << 20;

/// Format, options of `qemu-img`, and the ending of the name.
pub(super) type Variant = (&'static str, &'static str, &'static str);

pub(super) const VARIANTS: [Variant; 7] = [
    ("qcow2", "compat=1.1", "qcow2"),
    ("qcow2", "compat=0.10", "qcow2"),
    ("qcow2", "cluster_size=512", "qcow2"),
    ("qcow2", "cluster_size=2M,refcount_bits=1", "qcow2"),
    ("qcow2", "preallocation=metadata,lazy_refcounts=off", "qcow2"),
    ("vpc", "subformat=dynamic,force_size=on", "vhd"),
    ("vpc", "subformat=fixed,force_size=on", "vhd"),
];

/// Runs QEMU's tool; `None` when it is not installed.
fn qemu_img(test: &str, args: &[&str]) -> Option<bool> {
    let end = Instant::now() + Duration::from_secs(10);
    let output = loop {
        let Ok(output) = Command::new("qemu-img").args(args).output() else {
            println!("SKIPPED {test}: qemu-img is not installed");
            return None;
        };
        // As in `when_unused`.
        let is_locked = String::from_utf8_lossy(&output.stderr).contains("lock");
        if !is_locked || Instant::now() >= end {
            break output;
        }
    };
    if !output.status.success() {
        println!("{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Some(output.status.success())
}

fn text(path: &Path) -> &str {
    path.to_str().expect("plain names")
}

/// A new image of `size` octets.
pub(super) fn create(test: &str, directory: &TempDir, variant: Variant, size: u64) -> Option<PathBuf> {
    let (format, options, ending) = variant;
    let path = directory.path().join(format!("disk.{ending}"));
    // A second run of a test starts with a new file.
    let _ = std::fs::remove_file(&path);
    let size = size.to_string();
    let made = qemu_img(
        test,
        &["create", "-q", "-f", format, "-o", options, text(&path), &size],
    )?;
    assert!(made, "{variant:?}");
    Some(path)
}

/// What QEMU reads from an image.
fn read_by_qemu(test: &str, path: &Path, variant: Variant) -> Vec<u8> {
    let raw = path.with_extension("raw");
    let args = ["convert", "-f", variant.0, "-O", "raw", text(path), text(&raw)];
    assert_eq!(qemu_img(test, &args), Some(true), "{variant:?}");
    std::fs::read(raw).expect("the copy")
}

fn check_by_qemu(test: &str, path: &Path, variant: Variant) {
    if variant.0 == "qcow2" {
        assert_eq!(
            qemu_img(test, &["check", "-q", text(path)]),
            Some(true),
            "{variant:?}"
        );
    }
}

/// An image without a device before it.
struct Bare(Image);

impl Bare {
    fn open(path: &Path) -> Self {
        Self(when_unused(|| open::open(&config(path))).expect("a usable image"))
    }

    fn write(&mut self, offset: u64, octets: &[u8]) -> std::io::Result<()> {
        let mut octets = octets.to_vec();
        let mut parts = Parts::default();
        parts.push(GuestSlice::from(octets.as_mut_slice()));
        self.0.write(offset, &mut parts)
    }

    fn read(&mut self, offset: u64, len: u64) -> std::io::Result<Vec<u8>> {
        let mut octets = vec![0xa5; len as usize];
        let mut parts = Parts::default();
        parts.push(GuestSlice::from(octets.as_mut_slice()));
        self.0.read(offset, &mut parts)?;
        Ok(octets)
    }

    fn zero(&mut self, offset: u64, len: u64, unmap: bool) -> std::io::Result<()> {
        self.0.write_zeroes(Range { offset, len, unmap })
    }
}

/// Octets that tell where they belong.
fn pattern(seed: u64, len: usize) -> Vec<u8> {
    (0..len as u64)
        .map(|at| (at / 512 + seed).wrapping_mul(37) as u8 ^ at as u8)
        .collect()
}

#[test]
fn qemu_reads_what_was_written_here() {
    const TEST: &str = "qemu_reads_what_was_written_here";
    let directory = TempDir::new().expect("a directory");
    for variant in VARIANTS {
        let Some(path) = create(TEST, &directory, variant, 5 * MIB) else {
            return;
        };
        let mut model = vec![0; 5 << 20];
        let mut disk = Bare::open(&path);
        assert_eq!(disk.0.sectors(), 5 * MIB / 512, "{variant:?}");
        for (offset, len) in [
            (0, 512),
            (MIB - 512, 2048),
            (5 * MIB - 1024, 1024),
            (2 * MIB, 300 << 10),
        ] {
            let octets = pattern(offset, len);
            disk.write(offset, &octets).expect("room");
            model[offset as usize..offset as usize + len].copy_from_slice(&octets);
        }
        disk.zero(2 * MIB + 512, 128 << 10, true).expect("possible");
        model[(2 << 20) + 512..(2 << 20) + 512 + (128 << 10)].fill(0);
        disk.zero(2 * MIB + (200 << 10), 512, false).expect("possible");
        model[(2 << 20) + (200 << 10)..(2 << 20) + (200 << 10) + 512].fill(0);
        assert!(disk.read(0, 5 * MIB).expect("readable") == model, "{variant:?}");
        disk.0.flush().expect("possible");
        drop(disk);
        check_by_qemu(TEST, &path, variant);
        assert!(read_by_qemu(TEST, &path, variant) == model, "{variant:?}");
        let mut again = Bare::open(&path);
        assert!(again.read(0, 5 * MIB).expect("readable") == model, "{variant:?}");
    }
}

#[test]
fn what_qemu_wrote_is_read_here() {
    const TEST: &str = "what_qemu_wrote_is_read_here";
    let directory = TempDir::new().expect("a directory");
    let raw = directory.path().join("source.raw");
    let mut model = pattern(3, 5 << 20);
    model[1 << 20..3 << 20].fill(0);
    std::fs::write(&raw, &model).expect("a file");
    for variant in VARIANTS {
        let path = directory.path().join(format!("copy.{}", variant.2));
        let args = [
            "convert",
            "-f",
            "raw",
            "-O",
            variant.0,
            "-o",
            variant.1,
            text(&raw),
            text(&path),
        ];
        let Some(made) = qemu_img(TEST, &args) else { return };
        assert!(made, "{variant:?}");
        let mut disk = Bare::open(&path);
        assert!(disk.read(0, 5 * MIB).expect("readable") == model, "{variant:?}");
        assert!(disk.read(512, 1024).expect("readable") == model[512..1536]);
    }
    let path = directory.path().join("compressed.qcow2");
    let args = [
        "convert",
        "-c",
        "-f",
        "raw",
        "-O",
        "qcow2",
        text(&raw),
        text(&path),
    ];
    assert_eq!(qemu_img(TEST, &args), Some(true));
    let mut disk = Bare::open(&path);
    assert!(disk.read(0, 5 * MIB).expect("readable") == model);
    disk.write(4096, &[0x11; 512]).expect("room");
    model[4096..4608].fill(0x11);
    assert!(disk.read(0, 5 * MIB).expect("readable") == model);
}

/// The process dies: nothing that is only in its memory reaches the file.
#[test]
fn what_was_flushed_survives_a_crash() {
    const TEST: &str = "what_was_flushed_survives_a_crash";
    let directory = TempDir::new().expect("a directory");
    for variant in VARIANTS {
        let Some(path) = create(TEST, &directory, variant, 8 * MIB) else {
            return;
        };
        let mut disk = Bare::open(&path);
        disk.write(MIB, &pattern(1, 512 << 10)).expect("room");
        disk.0.flush().expect("possible");
        disk.write(6 * MIB, &pattern(2, 4096)).expect("room");
        let copy = directory.path().join(format!("after.{}", variant.2));
        std::fs::copy(&path, &copy).expect("a copy");
        drop(disk);
        let mut after = Bare::open(&copy);
        assert!(
            after.read(MIB, 512 << 10).expect("readable") == pattern(1, 512 << 10),
            "{variant:?}"
        );
        after.write(0, &[1; 512]).expect("it goes on");
        drop(after);
        assert!(read_by_qemu(TEST, &copy, variant)[1 << 20..][..512 << 10] == pattern(1, 512 << 10));
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Write(u64, u64, u8),
    Zero(u64, u64, bool),
    Discard(u64, u64),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    // In sectors of a disk of 2 MiB.
    let range = || (0_u64..4000, 1_u64..96);
    prop_oneof![
        4 => (range(), any::<u8>()).prop_map(|((at, len), fill)| Step::Write(at, len, fill)),
        2 => (range(), any::<bool>()).prop_map(|((at, len), unmap)| Step::Zero(at, len, unmap)),
        1 => range().prop_map(|(at, len)| Step::Discard(at, len)),
        1 => Just(Step::Reopen),
    ]
}

fn run(variant: Variant, steps: &[Step]) {
    const TEST: &str = "images_are_what_the_model_is";
    let directory = TempDir::new().expect("a directory");
    let Some(path) = create(TEST, &directory, variant, 2 * MIB) else {
        return;
    };
    let mut model = vec![0; 2 << 20];
    let mut disk = Bare::open(&path);
    let octets = |at: u64, len: u64| (at * 512) as usize..((at + len) * 512) as usize;
    for step in steps {
        match *step {
            Step::Write(at, len, fill) => {
                model[octets(at, len)].fill(fill);
                disk.write(at * 512, &vec![fill; (len * 512) as usize])
                    .expect("room");
            }
            Step::Zero(at, len, unmap) => {
                model[octets(at, len)].fill(0);
                disk.zero(at * 512, len * 512, unmap).expect("possible");
            }
            Step::Discard(at, len) => {
                let range = Range {
                    offset: at * 512,
                    len: len * 512,
                    unmap: true,
                };
                if let Err(error) = disk.0.discard(range) {
                    // Version 2 of qcow2 has no mark for it.
                    assert_eq!(error.kind(), std::io::ErrorKind::Unsupported);
                }
                // It reads as what it was or as zeros; from here on as what it reads as now.
                let now = disk.read(at * 512, len * 512).expect("readable");
                for (was, now) in model[octets(at, len)].chunks_mut(512).zip(now.chunks(512)) {
                    assert!(now == was || now == [0; 512]);
                    was.copy_from_slice(now);
                }
            }
            Step::Reopen => {
                drop(disk);
                check_by_qemu(TEST, &path, variant);
                disk = Bare::open(&path);
            }
        }
    }
    assert!(disk.read(0, 2 * MIB).expect("readable") == model);
    drop(disk);
    check_by_qemu(TEST, &path, variant);
    assert!(read_by_qemu(TEST, &path, variant) == model);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn images_are_what_the_model_is(
        variant in prop::sample::select(VARIANTS.as_slice()),
        steps in prop::collection::vec(step(), 1..16),
    ) {
        run(variant, &steps);
    }
}
