//! `enlight vm run` with everything that can be wrong about a machine: each is refused in one line that names it, nothing
//! hangs, and what goes wrong later is an error of the request or the end of the machine.

mod support;

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::frames::Random;
use support::refusal::{PATIENCE, Running, Site};
use support::vm::text;
use support::{host, skip};

#[test]
fn what_is_no_file_is_no_kernel_no_initrd_and_no_disk() {
    let Some(site) = Site::new("what_is_no_file_is_no_kernel_no_initrd_and_no_disk") else {
        return;
    };
    for (name, kind) in site.no_files() {
        let error = site.kernel(&name);
        assert!(
            error.contains(&name) && error.contains("is not a regular file; name a kernel"),
            "{error}"
        );
        let error = site.with(&["--initrd", &name]);
        assert!(
            error.contains(&name) && error.contains("not a regular file"),
            "{error}"
        );
        let error = site.with(&["--disk", &name]);
        assert_eq!(
            error,
            format!("enlight: disk {name} is a {kind}; give a file or a block device")
        );
    }
}

#[test]
fn kernels_that_are_cut_or_too_large_are_refused() {
    let Some(site) = Site::new("kernels_that_are_cut_or_too_large_are_refused") else {
        return;
    };
    let whole = vmm::MICROGUEST;
    for len in [0, 1, 4, 16, 63, 64, 100, 200, 4095, whole.len() / 4] {
        let error = site.kernel(&site.file("cut", &whole[..len]));
        assert!(error.starts_with("enlight: kernel cut: "), "{len}: {error}");
    }
    for (name, start) in [
        ("zeros", &b""[..]),
        ("elf", &whole[..4096]),
        ("gzip", b"\x1f\x8b\x08\0"),
        ("xz", b"\xfd7zXZ\0"),
    ] {
        let name = site.sparse(name, 1 << 42);
        let file = File::options().write(true).open(site.path(&name)).expect("there");
        file.write_all_at(start, 0).expect("written");
        if name == "elf" {
            // Its segments are there, full of zeros.
            continue;
        }
        assert!(
            site.kernel(&name)
                .starts_with(&format!("enlight: kernel {name}: "))
        );
    }
}

#[test]
fn damaged_kernels_are_refused_or_run() {
    let Some(site) = Site::new("damaged_kernels_are_refused_or_run") else {
        return;
    };
    let whole = vmm::MICROGUEST;
    let mut random = Random::new(5);
    let (mut refused, mut ran) = (0, 0);
    for _ in 0..40 {
        let mut damaged = whole.to_vec();
        let headers = random.below(4) > 0;
        for _ in 0..=random.below(4) {
            let at = random.below(if headers { 240 } else { damaged.len() });
            damaged[at] ^= 1 << random.below(8);
        }
        let name = site.file("damaged", &damaged);
        let args = [
            "run",
            "--kernel",
            &name,
            "--memory",
            "32M",
            "--no-reboot",
            "--cmdline",
            "role=none",
        ];
        let errors = File::create(site.path("errors")).expect("a file");
        let mut command = site.command(&args);
        command.stdout(Stdio::null()).stderr(errors);
        let mut vm = Running(command.spawn().expect("the CLI runs"));
        let end = Instant::now() + Duration::from_millis(700);
        while vm.0.try_wait().expect("a child").is_none() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        let forced = vm.0.try_wait().expect("a child").is_none();
        if forced {
            host(&format!("kill -TERM {}", vm.0.id()));
        }
        let status = vm.0.wait().expect("it ends");
        let errors = text(&site.path("errors"));
        assert!(
            matches!(status.code(), Some(0 | 1)) && !errors.contains("panicked"),
            "{status}: {errors}"
        );
        let kernel = errors.starts_with("enlight: kernel damaged: ");
        assert!(!kernel || errors.lines().count() == 1, "{errors}");
        (refused, ran) = (refused + u32::from(kernel), ran + u32::from(!kernel));
    }
    assert!(refused > 3 && ran > 3, "{refused} refused, {ran} ran");
}

#[test]
fn initial_ram_disks_that_do_not_fit_are_refused() {
    let Some(site) = Site::new("initial_ram_disks_that_do_not_fit_are_refused") else {
        return;
    };
    for (len, reason) in [
        (0, "it is empty"),
        (32 << 20, "do not fit"),
        (1 << 42, "do not fit"),
    ] {
        let error = site.with(&["--initrd", &site.sparse("initrd", len)]);
        assert!(
            error.contains("initrd initrd: ") && error.contains(reason),
            "{error}"
        );
    }
    assert!(
        site.with(&["--initrd", "missing"])
            .contains("initrd missing: cannot be read: No such file")
    );
}

#[test]
fn sizes_of_memory_are_judged() {
    let Some(site) = Site::new("sizes_of_memory_are_judged") else {
        return;
    };
    let size = |memory: &str| site.refused(&["--micro-guest", "--memory", memory]);
    for memory in ["0", "1", "4095", "1048575"] {
        assert!(size(memory).contains("octets of memory are too few; give the guest 1 MiB or more"));
    }
    for memory in ["1048577", "18446744073709551615"] {
        assert!(size(memory).contains("are not a multiple of 4096; round the size to whole pages"));
    }
    assert!(
        size("1M").contains("needs physical memory"),
        "the kernel does not fit"
    );
    for memory in ["65536G", "17179869183G"] {
        let error = size(memory);
        let host = host("awk '/^MemTotal/ {print int($2 / 1024)}' /proc/meminfo");
        let host: u64 = host.trim().parse().expect("a number");
        let told = error
            .split("the host has ")
            .nth(1)
            .and_then(|rest| rest.split(' ').next()?.parse().ok());
        // In a control group it is less.
        assert!(
            told.is_some_and(|told: u64| told <= host) && error.ends_with("give the guest less"),
            "{error}"
        );
    }
    for memory in ["3G", "3073M", "4G"] {
        let output = site.run(&["--micro-guest", "--cmdline", "role=none", "--memory", memory]);
        let error = String::from_utf8_lossy(&output.stderr);
        let little = error.contains("give the guest less");
        assert!(output.status.success() || little, "{memory}: {error}");
    }
}

#[test]
fn processors_of_all_numbers_that_are_possible_start() {
    let Some(site) = Site::new("processors_of_all_numbers_that_are_possible_start") else {
        return;
    };
    let output = site.run(&[
        "--micro-guest",
        "--vcpus",
        "254",
        "--cmdline",
        "role=chaos rounds=1 others=1",
    ]);
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && printed.contains("chaos devices="),
        "{printed}"
    );
}

#[test]
fn disks_that_cannot_be_used_are_refused() {
    let Some(site) = Site::new("disks_that_cannot_be_used_are_refused") else {
        return;
    };
    for (len, reason) in [
        (0, "is empty"),
        (511, "has 511 octets"),
        (513, "no whole sectors of 512"),
    ] {
        let error = site.with(&["--disk", &site.sparse("disk", len)]);
        assert!(error.contains("disk disk ") && error.contains(reason), "{error}");
    }
    assert!(site.with(&["--disk", "missing"]).contains("make it first"));
    let disk = site.sparse("good", 1 << 20);
    std::os::unix::fs::symlink("good", site.path("link")).expect("a link");
    for other in ["good", "link", "./good"] {
        let read_only = format!("{disk},ro");
        for first in [&disk, &read_only] {
            let error = site.with(&["--disk", first, "--disk", other]);
            assert!(
                error.contains("is given twice; give each file once, or only read-only"),
                "{error}"
            );
        }
    }
    let many = ["--disk", "good,ro"].repeat(9);
    assert!(site.with(&many).contains("9 disks are too many; 8 fit"));
    let many = ["--nic", "vhost-user=missing"].repeat(9);
    assert!(site.with(&many).contains("9 interfaces are too many; 8 fit"));
}

#[test]
fn a_disk_is_of_one_machine_until_that_ends() {
    let Some(site) = Site::new("a_disk_is_of_one_machine_until_that_ends") else {
        return;
    };
    let disk = site.sparse("good", 1 << 20);
    let mut command = site.command(&[
        "run",
        "--name",
        "user",
        "--micro-guest",
        "--memory",
        "32M",
        "--disk",
        &disk,
    ]);
    command
        .args(["--cmdline", "role=chaos rounds=4000000000"])
        .stdout(Stdio::null());
    let mut user = Running(command.spawn().expect("the CLI runs"));
    let end = Instant::now() + PATIENCE;
    while !site.path("vm/user.sock").exists() {
        assert!(Instant::now() < end, "the machine does not start");
        std::thread::sleep(Duration::from_millis(10));
    }
    let error = site.with(&["--disk", &disk]);
    assert!(
        error.contains(&format!("in use by another process (process {})", user.0.id())),
        "{error}"
    );
    user.0.kill().expect("killed");
    user.0.wait().expect("gone");
    let output = site.run(&[
        "--micro-guest",
        "--memory",
        "32M",
        "--disk",
        &disk,
        "--cmdline",
        "role=chaos rounds=1",
    ]);
    assert!(output.status.success(), "{output:?}");
}

/// Runs a machine whose guest reads and writes its disk, and does something to that all the while; what the machine counted.
fn errors_of(site: &Site, mut command: Command, mut meanwhile: impl FnMut()) -> Value {
    let log = File::create(site.path("log")).expect("a file");
    let errors = File::create(site.path("errors")).expect("a file");
    site.at_home(&mut command);
    let mut vm = Running(command.stdout(log).stderr(errors).spawn().expect("it runs"));
    let end = Instant::now() + Duration::from_mins(1);
    while !text(&site.path("log")).contains("round n=0") {
        assert!(Instant::now() < end, "{}", text(&site.path("errors")));
        std::thread::sleep(Duration::from_millis(2));
    }
    while vm.0.try_wait().expect("a child").is_none() {
        assert!(Instant::now() < end, "the machine goes on");
        // Again and again: what the guest writes makes the file longer.
        meanwhile();
        std::thread::sleep(Duration::from_millis(1));
    }
    let (log, errors) = (text(&site.path("log")), text(&site.path("errors")));
    assert!(vm.0.wait().expect("ended").success(), "{errors}");
    assert!(log.contains("recovered=1"), "the guest went on to its end");
    assert!(
        errors.lines().count() <= 2 && !errors.contains("panicked"),
        "the first error is told: {errors}"
    );
    let report = log.rfind("\n{\n").map(|at| &log[at..]).expect("a report");
    serde_json::from_str(report).expect("JSON")
}

const WRITER: [&str; 7] = [
    "--micro-guest",
    "--memory",
    "32M",
    "--json",
    "--cmdline",
    "role=chaos seed=2 rounds=150",
    "--disk",
];

#[test]
fn a_disk_that_becomes_shorter_or_is_full_fails_its_requests_and_nothing_else() {
    let Some(site) = Site::new("a_disk_that_becomes_shorter_or_is_full_fails_its_requests_and_nothing_else")
    else {
        return;
    };
    let disk = site.sparse("disk", 1 << 20);
    let command = site.command(&[&["run"], &WRITER[..], &[&disk]].concat());
    let file = File::options().write(true).open(site.path(&disk)).expect("there");
    let report = errors_of(&site, command, || file.set_len(0).expect("cut"));
    let counts = &report["disks"][0]["counts"];
    assert!(
        counts["errors"].as_u64().is_some_and(|errors| errors > 0),
        "reads behind the end: {counts}"
    );

    let test = "a file system that is full or read-only";
    let unshare = Command::new("unshare").args(["-m", "true"]).output();
    if !unshare.is_ok_and(|output| output.status.success()) {
        return skip(test, "mounting file systems is not permitted here");
    }
    fs::create_dir(site.path("small")).expect("a directory");
    let inside = |then: &str| {
        let enlight = env!("CARGO_BIN_EXE_enlight");
        let mount = "mount -t tmpfs -o size=64k none small && truncate -s 1M small/disk";
        let script = format!(
            "{mount} && {then} && exec {enlight} vm run {} small/disk",
            quoted(&WRITER)
        );
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", &script]);
        command
    };
    let full = inside("{ cat /dev/zero >small/rest 2>/dev/null || true; }");
    let report = errors_of(&site, full, || ());
    let counts = &report["disks"][0]["counts"];
    assert!(
        counts["errors"].as_u64().is_some_and(|errors| errors > 0),
        "writes without room: {counts}"
    );

    let mut command = inside("mount -o remount,ro small");
    site.at_home(&mut command);
    let output = command.output().expect("sh runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        error.contains("Read-only file system") && error.contains("give the disk read-only (ro)"),
        "{error}"
    );
}

fn quoted(words: &[&str]) -> String {
    words
        .iter()
        .map(|word| format!("'{word}'"))
        .collect::<Vec<_>>()
        .join(" ")
}
