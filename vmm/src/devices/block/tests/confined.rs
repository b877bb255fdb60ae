//! Disks whose thread is confined, in a process of their own: this test's program once more.

use std::fs::File;
use std::process::Command;

use super::formats::{VARIANTS, create};
use super::*;
use crate::sandbox::{self, Sandbox, Thread};

/// Tells the program which image to use.
const TRY: &str = "ENLIGHT_TRY_DISK";
/// Feature bits, and what the status octet says.
const FLUSH: u64 = 1 << 9;
const DISCARD: u64 = 1 << 13;
const WRITE_ZEROES: u64 = 1 << 14;
const OK: u8 = 0;
const UNSUPPORTED: u8 = 2;
const DONE: &str = "everything was done";
/// Sectors of a disk, and of what is written in between.
const SECTORS: u64 = 16 << 11;
const STRIDE: u64 = 3 << 11;

/// Runs `test` once more, in its own sandbox with the image at `path`.
fn confined(test: &str, path: &Path) {
    let test = format!("devices::block::tests::confined::{test}");
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command
        .args(["--exact", "--nocapture", &test])
        .env(TRY, path)
        .env("RUST_BACKTRACE", "0");
    let output = command.output().expect("it runs");
    let (out, error) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success() && out.contains(DONE),
        "{}: {out}{error}",
        path.display()
    );
}

/// Everything that a guest can ask of a disk.
fn use_up(path: &Path) {
    let disk = opened(&config(path));
    let nothing = Sandbox {
        reboot: false,
        removes_from: Vec::new(),
        sockets: Vec::new(),
    };
    nothing.enter_process().expect("a sandbox");
    disk.begin(|| sandbox::enter(Thread::Disk)).expect("a thread");
    let disk = Arc::new(disk);
    let mut bench = bench(Arc::clone(&disk));
    bench.start(VERSION_1 | FLUSH | DISCARD | WRITE_ZEROES);
    for sector in (0..SECTORS - 8).step_by(STRIDE as usize) {
        bench.put(DATA, &[sector as u8 | 1; 4096]);
        assert_eq!(bench.request(1, sector, 4096, false), OK, "written at {sector}");
    }
    bench.put(DATA, &[0; 4096]);
    assert_eq!(bench.request(0, STRIDE, 4096, true), OK);
    assert_eq!(bench.get(DATA, 4096), [STRIDE as u8 | 1; 4096]);
    assert_eq!(bench.request(4, 0, 0, false), OK, "flushed");
    assert_eq!(bench.request(8, 0, 20, true), OK, "identified");
    for (kind, flags) in [(11, 0), (13, 0), (13, 1)] {
        // A part of a unit of any format, and many whole ones.
        for (sector, sectors) in [(1, 7), (0, 4 << 11)] {
            bench.put(DATA, &range(sector, sectors, flags));
            let status = bench.request(kind, 0, 16, false);
            assert!(
                status == OK || kind == 11 && status == UNSUPPORTED,
                "{kind} {flags}: {status}"
            );
        }
    }
    assert_eq!(bench.request(0, 0, 4096, true), OK);
    assert_eq!(bench.get(DATA, 4096), [0; 4096], "zeros");
    bench.function.pause();
    bench.function.resume();
    assert_eq!(bench.request(4, 0, 0, false), OK, "flushed");
    drop(bench);
    drop(disk);
    println!("{DONE}");
}

fn wanted() -> Option<std::path::PathBuf> {
    std::env::var_os(TRY).map(Into::into)
}

#[test]
fn images_of_all_formats_are_used_from_inside() {
    if let Some(path) = wanted() {
        return use_up(&path);
    }
    let test = "images_of_all_formats_are_used_from_inside";
    let directory = TempDir::new().expect("a directory");
    let raw = directory.path().join("disk.img");
    let file = File::create(&raw).expect("a file");
    file.set_len(SECTORS * 512).expect("room");
    confined(test, &raw);
    for variant in VARIANTS {
        let Some(path) = create(test, &directory, variant, SECTORS * 512) else {
            return;
        };
        confined(test, &path);
    }
}

#[test]
fn a_block_device_is_used_from_inside() {
    if let Some(path) = wanted() {
        return use_up(&path);
    }
    let test = "a_block_device_is_used_from_inside";
    let directory = TempDir::new().expect("a directory");
    let image = directory.path().join("disk.img");
    let file = File::create(&image).expect("a file");
    file.set_len(SECTORS * 512).expect("room");
    let made = Command::new("losetup")
        .args(["--find", "--show"])
        .arg(&image)
        .output();
    let device = match made {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        Ok(output) => return println!("SKIPPED {test}: {}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => return println!("SKIPPED {test}: losetup: {error}"),
    };
    let tried = std::panic::catch_unwind(|| confined(test, Path::new(&device)));
    let gone = Command::new("losetup").args(["--detach", &device]).status();
    assert!(gone.is_ok_and(|status| status.success()), "{device} is left");
    tried.expect("the device is usable");
}
