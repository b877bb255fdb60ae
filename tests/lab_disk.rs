//! Debian on a disk: it starts, restarts, stops and is killed, and what it wrote is there.
//!
//! All of it happens in one session, because each start of a Linux guest takes seconds: on this machine's KVM if that runs
//! Linux, else in a laboratory that has one. The session's script is `tests/support/disk.sh`; it notes facts, which the tests
//! look at.

mod support;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use kvm_lab::{Add, Kernel, Lab, LabError};
use serde_json::Value;
use support::{has_complete_kvm, program};

const ENLIGHT: &str = env!("CARGO_BIN_EXE_enlight");
const SCRIPT: &str = include_str!("support/disk.sh");
/// The session's own limit; half of it is spent waiting for other work on a busy machine.
const LIMIT: Duration = Duration::from_mins(15);

/// What the script noted, and everything that was printed.
struct Session {
    facts: HashMap<String, String>,
    printed: String,
}

/// What the session needs of this machine.
struct Files {
    kernel: Kernel,
    /// `root.img`, `vmlinuz` and `initrd.img`.
    image: PathBuf,
    e2fsck: PathBuf,
    /// The root as qcow2. Its name says raw, so that the laboratory hands it on as it is.
    qcow2: tempfile::NamedTempFile,
}

/// Why there is no session.
enum Without {
    /// This machine lacks something.
    Missing(String),
    /// It failed. Every test says so, and none tries again.
    Failed(String),
}

fn session(test: &str) -> Option<&'static Session> {
    static SESSION: OnceLock<Result<Session, Without>> = OnceLock::new();
    let begin = || run(&files().map_err(Without::Missing)?);
    match SESSION.get_or_init(begin) {
        Ok(session) => Some(session),
        Err(Without::Missing(reason)) => {
            support::skip(test, reason);
            None
        }
        Err(Without::Failed(reason)) => panic!("the session failed:\n{reason}"),
    }
}

/// Everything, or what is missing.
fn files() -> Result<Files, String> {
    let target = support::target();
    let kernel = Kernel::in_target(&target).map_err(|error| error.to_string())?;
    let image = target.join("debian-disk");
    for part in ["root.img", "vmlinuz", "initrd.img"] {
        let part = image.join(part);
        if !part.is_file() {
            return Err(format!("{} is missing: run `cargo xtask setup`", part.display()));
        }
    }
    let installed = |name: &str| {
        program(name).ok_or_else(|| format!("{name} is not installed: run `cargo xtask setup` as root"))
    };
    let (e2fsck, qemu_img) = (installed("e2fsck")?, installed("qemu-img")?);
    let qcow2 = tempfile::Builder::new()
        .suffix(".img")
        .tempfile()
        .expect("a file");
    let status = Command::new(qemu_img)
        .args(["convert", "-f", "raw", "-O", "qcow2"])
        .args([&image.join("root.img"), qcow2.path()])
        .status();
    assert!(status.expect("qemu-img runs").success());
    // A disk consists of whole sectors.
    let len = qcow2.as_file().metadata().expect("a size").len();
    qcow2
        .as_file()
        .set_len(len.next_multiple_of(512))
        .expect("a size");
    Ok(Files {
        kernel,
        image,
        e2fsck,
        qcow2,
    })
}

fn run(files: &Files) -> Result<Session, Without> {
    let (success, output, errors) = if has_complete_kvm() {
        run_here(files)
    } else {
        run_in_laboratory(files)?
    };
    let output = String::from_utf8_lossy(&output).into_owned();
    let errors = String::from_utf8_lossy(&errors).into_owned();
    let printed = format!("{output}\n{errors}");
    if !success {
        return Err(Without::Failed(printed));
    }
    let fact = |line: &str| {
        let (name, value) = line.strip_prefix("@@ ")?.split_once(' ')?;
        Some((name.to_owned(), value.to_owned()))
    };
    Ok(Session {
        facts: output.lines().filter_map(fact).collect(),
        printed,
    })
}

/// The script's variables are: the program, where the image is, the disk, the qcow2 image, and a directory to write to.
fn run_here(files: &Files) -> (bool, Vec<u8>, Vec<u8>) {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = dir.path().join("root.img");
    let copied = Command::new("cp")
        .arg("--sparse=always")
        .args([&files.image.join("root.img"), &disk])
        .status();
    assert!(copied.expect("cp runs").success());
    let output = Command::new("sh")
        .args(["-c", SCRIPT, "disk.sh", ENLIGHT])
        .args([&files.image, &disk, files.qcow2.path(), dir.path()])
        .output()
        .expect("sh runs");
    (output.status.success(), output.stdout, output.stderr)
}

fn run_in_laboratory(files: &Files) -> Result<(bool, Vec<u8>, Vec<u8>), Without> {
    let add = |file: &Path, inside: &str| Add {
        file: file.to_owned(),
        inside: inside.to_owned(),
    };
    let mut laboratory = Lab::new(files.kernel.clone());
    laboratory.memory = 2560;
    // One guest after the other, each of one processor: a second CPU would only wait.
    laboratory.smp = 1;
    laboratory.limit = LIMIT;
    laboratory.adds = vec![
        add(&support::laboratory::program(), "/bin/enlight"),
        add(&files.e2fsck, "/sbin/e2fsck"),
        add(&files.image.join("vmlinuz"), "/image/vmlinuz"),
        add(&files.image.join("initrd.img"), "/image/initrd.img"),
    ];
    laboratory.disks = vec![files.image.join("root.img"), files.qcow2.path().to_owned()];
    let words = [
        "sh", "-c", SCRIPT, "disk.sh", "enlight", "/image", "/dev/vda", "/dev/vdb", "/tmp",
    ];
    match support::laboratory::run(&laboratory, &words) {
        Ok(ran) => Ok((ran.status == 0, ran.output, ran.errors)),
        Err(error @ LabError::NoProgram { .. }) => Err(Without::Missing(error.to_string())),
        Err(error) => Err(Without::Failed(error.to_string())),
    }
}

impl Session {
    fn fact(&self, name: &str) -> &str {
        let missing = || panic!("no fact {name}:\n{}", self.printed);
        self.facts.get(name).map_or_else(missing, String::as_str)
    }

    #[track_caller]
    fn assert_fact(&self, name: &str, value: &str) {
        assert_eq!(self.fact(name), value, "{name}:\n{}", self.printed);
    }

    #[track_caller]
    fn assert_says(&self, name: &str, part: &str) {
        let value = self.fact(name);
        assert!(
            value.contains(part),
            "{name} is {value:?}, without {part:?}:\n{}",
            self.printed
        );
    }

    fn json(&self, name: &str) -> Value {
        serde_json::from_str(self.fact(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }
}

#[test]
fn a_guest_starts_from_its_disk_and_restarts_in_the_same_process() {
    let Some(session) = session("a_guest_starts_from_its_disk_and_restarts_in_the_same_process") else {
        return;
    };
    let info = session.json("one-info");
    assert_eq!(info["resets"], 1);
    assert_eq!(info["state"], "running");
    session.assert_fact("one-same-process", "yes");
    let init = info["boot"]["init_us"].as_u64();
    assert!(
        init > info["boot"]["started_us"].as_u64(),
        "user space says that it has begun: {info}"
    );
    let counts = &info["disks"][0]["counts"];
    assert!(
        counts["reads"].as_u64() > Some(100) && counts["flushes"].as_u64() > Some(0),
        "{counts}"
    );
    assert_eq!(counts["errors"], 0);
    let refusals = counts["refusals"].as_object().expect("refusals by rule");
    assert!(refusals.values().all(|count| count == 0), "{counts}");
    session.assert_says("one-login", "login: root (automatic login)");
}

#[test]
fn the_power_button_stops_a_guest_with_its_data_written_and_its_file_system_clean() {
    let Some(session) =
        session("the_power_button_stops_a_guest_with_its_data_written_and_its_file_system_clean")
    else {
        return;
    };
    session.assert_fact("one-stop", "0");
    session.assert_fact("one-exit", "0");
    session.assert_says("one-end", "the guest switched itself off");
    session.assert_fact("one-fsck", "0");
    // The next guest has counted the octets of the first one.
    session.assert_fact("two-first-data", "/one: OK");
}

#[test]
fn what_was_synchronised_survives_that_the_process_is_killed() {
    let Some(session) = session("what_was_synchronised_survives_that_the_process_is_killed") else {
        return;
    };
    session.assert_fact("two-exit", "137");
    session.assert_says("two-fsck", "skipping journal recovery");
    session.assert_says("three-recovery", "EXT4-fs (vda): recovery complete");
    session.assert_fact("three-data", "/one: OK /two: OK");
    session.assert_fact("three-exit", "0");
    session.assert_fact("three-fsck", "0");
}

#[test]
fn a_disk_in_use_is_refused_to_a_second_machine_and_the_first_goes_on() {
    let Some(session) = session("a_disk_in_use_is_refused_to_a_second_machine_and_the_first_goes_on") else {
        return;
    };
    let remedies = [
        ("thief", "; end that one, or give both the disk read-only (ro)"),
        ("reader", "; end that one, which writes to it"),
    ];
    for (second, remedy) in remedies {
        session.assert_fact(&format!("{second}-exit"), "1");
        session.assert_says(second, "is in use by another process (process ");
        session.assert_says(second, remedy);
    }
    session.assert_fact("one-after-thief", "running");
}

#[test]
fn a_guest_takes_its_address_and_route_from_the_command_line() {
    let Some(session) = session("a_guest_takes_its_address_and_route_from_the_command_line") else {
        return;
    };
    session.assert_says("three-ping", "1 packets transmitted, 1 received");
    session.assert_says("three-route", "default via 192.0.2.254 dev eth0");
}

#[test]
fn two_guests_share_a_disk_that_both_only_read() {
    let Some(session) = session("two_guests_share_a_disk_that_both_only_read") else {
        return;
    };
    for guest in ["left", "right"] {
        session.assert_fact(&format!("{guest}-data"), "/one: OK /two: OK");
        session.assert_says(&format!("{guest}-write"), "Read-only file system");
        let info = session.json(&format!("{guest}-info"));
        assert_eq!(info["state"], "running");
        assert_eq!(info["disks"][0]["counts"]["writes"], 0);
    }
    session.assert_fact("writer-exit", "1");
    session.assert_says("writer", "is in use by another process");
    session.assert_fact("shared-fsck", "0");
}

#[test]
fn a_guest_starts_and_restarts_from_a_qcow2_image() {
    let Some(session) = session("a_guest_starts_and_restarts_from_a_qcow2_image") else {
        return;
    };
    session.assert_fact("qcow2-data", "/one: OK");
    session.assert_fact("qcow2-exit", "0");
    session.assert_says("qcow2-end", "the guest switched itself off");
}
