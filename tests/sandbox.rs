//! The sandbox of a machine's process as the kernel shows it, and what goes on inside: resets, switches that come back,
//! disks that grow.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use support::vm::{Site, Vm, text};
use support::{obedient, skip};

/// A machine with two processors, an interface and a disk.
fn machine(site: &Site, name: &str, more: &[&str]) -> Vm {
    let disk = site.daemon.path(&format!("{name}.img"));
    fs::write(&disk, [0; 4096]).expect("a disk");
    let disk = disk.display().to_string();
    let args = [&["--vcpus", "2", "--disk", &disk], more].concat();
    let vm = site.boot(name, "role=server ip=192.0.2.2/24", &args);
    vm.wait_for("listening");
    vm
}

/// The names of a process's threads, and of each what its status says.
fn threads(pid: u32) -> BTreeMap<String, BTreeMap<String, String>> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("a process");
    threads
        .map(|thread| {
            let path = thread.expect("a thread").path();
            let status = fs::read_to_string(path.join("status")).expect("readable");
            let fields = status.lines().filter_map(|line| line.split_once(':'));
            let fields: BTreeMap<_, _> = fields
                .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
                .collect();
            (fields["Name"].clone(), fields)
        })
        // KVM's own, which run nothing of the program's.
        .filter(|(name, _)| !name.starts_with("kvm-"))
        .collect()
}

const NAMES: [&str; 7] = [
    "console",
    "control",
    "control-ask",
    "disk",
    "enlight",
    "vcpu0",
    "vcpu1",
];

#[test]
fn every_thread_of_a_machine_is_confined() {
    let Some(site) = Site::with_kvm("every_thread_of_a_machine_is_confined") else {
        return;
    };
    let vm = machine(&site, "web", &[]);
    let threads = threads(vm.child.id());
    let names: Vec<&str> = threads.keys().map(String::as_str).collect();
    assert_eq!(names, NAMES);
    for (name, status) in &threads {
        assert_eq!(
            (&*status["Seccomp"], &*status["NoNewPrivs"]),
            ("2", "1"),
            "{name}"
        );
        for set in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
            assert_eq!(status[set], "0000000000000000", "{name}: {set}");
        }
        // The one for the whole process and the thread's own; those of processors have their parent's in between.
        let filters = if name.starts_with("vcpu") { "3" } else { "2" };
        // Before Linux 5.9 they are not counted.
        let counted = status.get("Seccomp_filters").map_or(filters, String::as_str);
        assert_eq!(counted, filters, "{name}");
    }
    let info = site.info("web");
    assert_eq!(
        (&info["sandbox"]["seccomp"], &info["sandbox"]["no_new_privs"]),
        (&true.into(), &true.into())
    );
    let words = String::from_utf8_lossy(&site.vm(&["info", "web"]).stdout).into_owned();
    assert!(
        words.contains("\nsandbox: seccomp, no new privileges, Landlock "),
        "{words}"
    );
}

#[test]
fn without_its_sandbox_a_machine_keeps_what_its_user_has() {
    let Some(site) = Site::with_kvm("without_its_sandbox_a_machine_keeps_what_its_user_has") else {
        return;
    };
    let vm = machine(&site, "web", &["--no-sandbox"]);
    let own = fs::read_to_string("/proc/self/status").expect("readable");
    for (name, status) in threads(vm.child.id()) {
        for key in ["Seccomp", "NoNewPrivs", "CapEff", "CapPrm"] {
            let line = format!("{key}:\t{}\n", status[key]);
            assert!(own.contains(&line), "{name}: {line}");
        }
    }
    assert_eq!(site.info("web")["sandbox"]["seccomp"], false);
    let words = String::from_utf8_lossy(&site.vm(&["info", "web"]).stdout).into_owned();
    assert!(words.contains("\nsandbox: none\n"), "{words}");
}

#[test]
fn a_switch_that_comes_back_is_found_from_inside() {
    let Some(mut site) = Site::with_kvm("a_switch_that_comes_back_is_found_from_inside") else {
        return;
    };
    let mut machines = [
        ("web", machine(&site, "web", &[])),
        ("db", machine(&site, "db", &["--no-reboot"])),
    ];
    for round in 1..=2_u32 {
        site.daemon.restart();
        for (name, vm) in &machines {
            site.daemon.vhost_port(name);
            until(vm, || site.info(name)["nics"][0]["counts"]["reconnects"] == round);
        }
    }
    for (name, vm) in &mut machines {
        assert!(site.vm(&["pause", name]).status.success());
        assert!(site.vm(&["resume", name]).status.success());
        assert!(site.vm(&["stop", name, "--force"]).status.success());
        assert!(!site.socket(name).exists());
        assert!(vm.ends());
    }
}

#[test]
fn a_guest_that_resets_starts_again_from_inside() {
    let Some(site) = Site::with_kvm("a_guest_that_resets_starts_again_from_inside") else {
        return;
    };
    let path = |name: &str| site.daemon.path(name);
    fs::write(path("kernel"), obedient::image()).expect("a kernel");
    fs::write(path("initrd"), [7; 5000]).expect("an initial RAM disk");
    fs::write(path("disk"), [0; 4096]).expect("a disk");
    let nic = format!("vhost-user={}", site.daemon.vhost_port("web").display());
    for (console, memory) in [("serial", "16M"), ("serial", "64M"), ("virtio", "16M")] {
        let log = path("log");
        let file = fs::File::create(&log).expect("the log opens");
        let mut command = site.command(&["vm", "run", "--name", "web", "--vcpus", "2", "--nic", &nic]);
        command.args(["--memory", memory, "--console", console]);
        for (option, name) in [("--kernel", "kernel"), ("--initrd", "initrd"), ("--disk", "disk")] {
            command.arg(option).arg(path(name));
        }
        command.stdin(Stdio::piped());
        let child = command
            .stderr(file.try_clone().expect("a copy"))
            .stdout(file)
            .spawn();
        let mut vm = Vm {
            child: child.expect("the machine starts"),
            log,
        };
        let mut keys = vm.child.stdin.take().expect("a pipe");
        // What is typed at a virtio console, this guest does not see; it is stopped.
        let resets = if console == "serial" { 3 } else { 0 };
        for count in 0..=resets {
            until(&vm, || text(&vm.log).matches("up\n").count() == count + 1);
            keys.write_all(b"r").expect("typed");
        }
        until(&vm, || {
            site.info("web")["resets"] == resets + usize::from(resets > 0)
        });
        let names: Vec<String> = threads(vm.child.id()).into_keys().collect();
        assert_eq!(names, NAMES);
        assert!(site.vm(&["stop", "web", "--force"]).status.success());
        assert!(vm.ends(), "{}", text(&vm.log));
    }
}

/// Waits for something that happens soon.
fn until(vm: &Vm, happens: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !happens() {
        assert!(Instant::now() < end, "{}", text(&vm.log));
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_was_inherited_by_accident_is_closed() {
    let Some(site) = Site::with_kvm("what_was_inherited_by_accident_is_closed") else {
        return;
    };
    let secret = site.daemon.path("secret");
    fs::write(&secret, "secret").expect("written");
    site.daemon.vhost_port("web");
    // A shell passes on what it opened. The disk is named by such a descriptor, too.
    let disk = site.daemon.path("web.img");
    fs::write(&disk, [0; 4096]).expect("a disk");
    let script = format!(
        "exec 7<{} 8<>{}; exec \"$0\" vm run --name web --micro-guest --memory 16M --nic port=web --disk /dev/fd/8 \
         --cmdline 'role=server ip=192.0.2.2/24'",
        secret.display(),
        disk.display()
    );
    let log = site.daemon.path("web.log");
    let file = fs::File::create(&log).expect("the log opens");
    let enlight = site.command(&[]).get_program().to_owned();
    let mut command = std::process::Command::new("sh");
    for (key, value) in site.command(&[]).get_envs() {
        if let Some(value) = value {
            command.env(key, value);
        }
    }
    command.args(["-c".as_ref(), script.as_ref(), enlight.as_os_str()]);
    let child = command
        .stdin(Stdio::null())
        .stderr(file.try_clone().expect("a copy"))
        .stdout(file)
        .spawn()
        .expect("a shell");
    let vm = Vm { child, log };
    vm.wait_for("listening");
    let Ok(open) = fs::read_dir(format!("/proc/{}/fd", vm.child.id())) else {
        // Nobody else may look into a process in its sandbox.
        return skip(
            "what_was_inherited_by_accident_is_closed",
            "only root sees the descriptors",
        );
    };
    let open: Vec<_> = open
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .collect();
    let count = |path: &Path| open.iter().filter(|open| *open == path).count();
    assert_eq!((count(&secret), count(&disk)), (0, 1), "{open:?}");
}
