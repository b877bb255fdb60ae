//! What a running machine's process has given up.

mod support;

use std::collections::BTreeMap;
use std::fs::{self, File};

use support::skip;
use support::vm::{Site, no_kvm};

/// The threads of a process by name, each with some lines of its status.
fn threads(pid: u32) -> BTreeMap<String, [String; 4]> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("a process");
    let tasks = tasks.map(|task| task.expect("a thread").path().join("status"));
    tasks
        .map(|status| {
            let text = fs::read_to_string(status).expect("a status");
            let value = |key: &str| {
                let line = text.lines().find_map(|line| line.strip_prefix(key));
                line.expect(key).trim().to_owned()
            };
            let lines = ["NoNewPrivs:", "Seccomp:", "CapEff:", "CapPrm:"];
            (value("Name:"), lines.map(value))
        })
        .collect()
}

/// A machine with a disk of each format that needs no tool, on a port.
fn machine(test: &str, more: &[&str]) -> Option<(Site, support::vm::Vm)> {
    if let Some(reason) = no_kvm() {
        skip(test, &reason);
        return None;
    }
    let site = Site::new();
    let disk = site.daemon.path("disk.img");
    File::create(&disk)
        .and_then(|file| file.set_len(1 << 20))
        .expect("an image");
    let words = ["--disk", disk.to_str().expect("a path"), "--vcpus", "2"];
    let vm = site.boot("web", "role=server ip=192.0.2.2/24", &[&words, more].concat());
    vm.wait_for("listening");
    Some((site, vm))
}

#[test]
fn every_thread_is_confined() {
    let Some((site, vm)) = machine("every_thread_is_confined", &[]) else {
        return;
    };
    let threads = threads(vm.child.id());
    // KVM may have a thread of its own there, which runs in the kernel only.
    let threads = threads.into_iter().filter(|(name, _)| !name.starts_with("kvm-"));
    let threads: BTreeMap<_, _> = threads.collect();
    let names: Vec<&str> = threads.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        ["control", "control-ask", "disk", "enlight", "vcpu0", "vcpu1"]
    );
    for (name, [privileges, seccomp, effective, permitted]) in &threads {
        let none = "0000000000000000";
        assert_eq!(
            [privileges.as_str(), seccomp, effective, permitted],
            ["1", "2", none, none],
            "{name}"
        );
    }
    let info = site.info("web");
    assert_eq!(info["sandbox"]["on"], true);
    println!("Landlock: {}", info["sandbox"]["landlock_abi"]);
}

#[test]
fn a_machine_without_a_sandbox_keeps_what_it_has() {
    let Some((site, vm)) = machine("a_machine_without_a_sandbox_keeps_what_it_has", &["--no-sandbox"]) else {
        return;
    };
    let own = threads(std::process::id());
    let own = own.values().next().expect("a thread");
    for (name, status) in threads(vm.child.id()) {
        if name.starts_with("kvm-") {
            continue;
        }
        assert_eq!(&status, own, "{name}");
    }
    assert_eq!(site.info("web")["sandbox"]["on"], false);
}
