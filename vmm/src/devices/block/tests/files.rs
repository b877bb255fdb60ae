//! Which files are taken for disks, and which are refused with what words.

use std::os::unix::fs::symlink;
use std::process::Command;

use super::*;

fn refusal(config: &DiskConfig) -> String {
    let error = Disk::open(config).err().expect("refused").to_string();
    let path = config.path.display().to_string();
    assert!(error.contains(&path) && !error.contains('\n'), "{error}");
    error
}

#[test]
fn what_is_no_disk_is_refused() {
    let directory = TempDir::new().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    std::fs::write(at("empty"), []).expect("a file");
    std::fs::write(at("odd"), [0; 513]).expect("a file");
    symlink(at("gone"), at("dangling")).expect("a link");
    let fifo = at("fifo");
    let made = Command::new("mkfifo").arg(&fifo).status().expect("coreutils");
    assert!(made.success());
    for (path, needle) in [
        (at("none"), "make it first"),
        (at("dangling"), "make it first"),
        (at("empty"), "truncate -s"),
        (at("odd"), "513 octets"),
        (directory.path().to_owned(), "is a directory"),
        (fifo, "is a pipe"),
        ("/dev/zero".into(), "character device"),
    ] {
        let error = refusal(&config(&path));
        assert!(error.contains(needle), "{error}");
    }
}

#[test]
fn what_a_guest_may_have_written_does_not_decide_the_format() {
    let directory = TempDir::new().expect("a directory");
    let mut octets = vec![0; 4096];
    octets[..4].copy_from_slice(b"QFI\xfb");
    let first = directory.path().join("first.img");
    std::fs::write(&first, &octets).expect("a file");
    let error = refusal(&config(&first));
    assert!(error.contains("say format=qcow2, or format=raw"), "{error}");
    octets[..4].fill(0);
    octets[3584..3592].copy_from_slice(b"conectix");
    let last = directory.path().join("last");
    std::fs::write(&last, &octets).expect("a file");
    let error = refusal(&config(&last));
    assert!(error.contains("say format=vhd, or format=raw"), "{error}");
    for path in [first, last] {
        let raw = DiskConfig {
            format: Some(DiskFormat::Raw),
            ..config(&path)
        };
        assert!(Disk::open(&raw).is_ok());
    }
    for name in ["a.vhdx", "a.VMDK", "a.vdi"] {
        let path = directory.path().join(name);
        std::fs::write(&path, &octets).expect("a file");
        let error = refusal(&config(&path));
        assert!(error.contains("qemu-img convert"), "{error}");
    }
}

#[test]
fn a_writable_disk_is_of_one_machine_and_a_read_only_one_of_many() {
    let directory = TempDir::new().expect("a directory");
    let path = image(&directory, 4);
    let (writable, read_only) = (
        config(&path),
        DiskConfig {
            read_only: true,
            ..config(&path)
        },
    );
    let first = opened(&writable);
    assert!(refusal(&writable).contains("in use by another process"));
    assert!(refusal(&read_only).contains("end that one, which writes to it"));
    drop(first);
    let readers = [(); 3].map(|()| opened(&read_only));
    assert!(refusal(&writable).contains("give both the disk read-only"));
    drop(readers);
    drop(opened(&writable));
}

/// QEMU's own tool, or a word that it is missing.
fn qemu_io(test: &str) -> Option<Command> {
    let there = Command::new("qemu-io").arg("--version").output().is_ok();
    if !there {
        println!("SKIPPED {test}: qemu-io is not installed");
    }
    there.then(|| Command::new("qemu-io"))
}

#[test]
fn locks_and_those_of_qemu_keep_each_other_out() {
    let Some(mut command) = qemu_io("locks_and_those_of_qemu_keep_each_other_out") else {
        return;
    };
    let directory = TempDir::new().expect("a directory");
    let path = image(&directory, 4);
    let writable = opened(&config(&path));
    let output = command
        .args(["-f", "raw", "-c", "read 0 512"])
        .arg(&path)
        .output();
    let output = output.expect("qemu-io runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("lock"), "{said}");
    drop(writable);
    let mut child = Command::new("qemu-io")
        .args(["-f", "raw"])
        .arg(&path)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("qemu-io runs");
    let mut prompt = [0; 8];
    let stdout = child.stdout.as_mut().expect("a pipe");
    std::io::Read::read_exact(stdout, &mut prompt).expect("its prompt");
    let in_use = [false, true].map(|read_only| {
        refusal(&DiskConfig {
            read_only,
            ..config(&path)
        })
    });
    let pid = format!("(process {})", child.id());
    // Ends with its input.
    drop(child.stdin.take());
    child.wait().expect("it ends");
    for error in in_use {
        assert!(error.contains(&pid), "{error}");
    }
}

#[test]
fn the_thread_begins_with_its_prologue() {
    let directory = TempDir::new().expect("a directory");
    let (told, hears) = std::sync::mpsc::channel();
    let prologue = move || {
        let name = std::thread::current().name().map(str::to_owned);
        told.send(name).expect("heard");
    };
    let disk = opened(&config(&image(&directory, 1)));
    disk.begin(prologue).expect("a thread");
    disk.begin(|| unreachable!("it has begun"))
        .expect("nothing to do");
    assert_eq!(hears.recv().expect("said"), Some("disk".to_owned()));
    drop(disk);
}
