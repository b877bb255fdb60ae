//! Guests that break every rule of their machine: they break only themselves. The process of each still answers, its
//! memory and its log stay small, its disks are free afterwards, and two bystanders on the same switch lose nothing.

mod support;

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::disk::qcow2;
use support::scene::Scene;
use support::vm::{Vm, text, without_kvm};

/// Octets of each disk.
const DISK: u64 = 1 << 20;
/// Memory that a machine's process may take beyond what it had, whatever its guest does, in KiB.
const GROWTH: u64 = 8 << 10;
/// Lines that a machine's process may print about a guest that breaks every rule.
const LINES: usize = 8;
/// The devices of the guest: an interface, two disks, entropy, a console.
const DEVICES: usize = 5;

/// One machine at a time: each keeps a processor busy.
static TURN: Mutex<()> = Mutex::new(());

/// A switch with bystanders, and a place for one machine.
struct Site {
    scene: Scene,
    _turn: MutexGuard<'static, ()>,
    disks: [PathBuf; 2],
}

impl Site {
    fn new(test: &str) -> Option<Self> {
        if without_kvm(test) {
            return None;
        }
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let scene = Scene::start();
        let disks = ["raw.img", "other.qcow2"].map(|name| scene.daemon.path(name));
        File::create(&disks[0])
            .and_then(|file| file.set_len(DISK))
            .expect("a disk");
        fs::write(&disks[1], qcow2(DISK)).expect("a disk");
        Some(Self {
            scene,
            _turn: turn,
            disks,
        })
    }

    /// Starts a guest with all devices and several processors on the attacked port.
    fn boot(&self, orders: &str, more: &[&str]) -> Vm {
        let log = self.scene.daemon.path("console.log");
        let nic = format!("vhost-user={}", self.scene.socket.display());
        let mut command = self
            .scene
            .daemon
            .command(&["vm", "run", "--name", "chaos", "--json"]);
        command.args([
            "--micro-guest",
            "--memory",
            "32M",
            "--console",
            "virtio",
            "--nic",
            &nic,
        ]);
        for disk in &self.disks {
            command.arg("--disk").arg(disk);
        }
        command
            .args(["--cmdline", &format!("role=chaos {orders}")])
            .args(more);
        command.env("ENLIGHT_VM_DIR", self.dir()).stdin(Stdio::null());
        let console = File::create(&log).expect("the log opens");
        let errors = File::create(self.errors()).expect("the log opens");
        let child = command.stdout(console).stderr(errors).spawn();
        let child = child.expect("the machine starts");
        Vm { child, log }
    }

    fn dir(&self) -> PathBuf {
        self.scene.daemon.path("vm")
    }

    /// What the machine's process says, apart from its guest.
    fn errors(&self) -> PathBuf {
        self.scene.daemon.path("errors.log")
    }

    fn vm(&self, args: &[&str]) -> Output {
        let mut command = self.scene.daemon.command(&["vm"]);
        let command = command.args(args).env("ENLIGHT_VM_DIR", self.dir());
        command.output().expect("the CLI runs")
    }

    fn info(&self) -> Value {
        let output = self.vm(&["info", "chaos", "--json"]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{error}");
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// Status and body of an answer of the machine's control socket.
    fn get(&self, path: &str) -> (u16, Value) {
        let mut stream = UnixStream::connect(self.dir().join("chaos.sock")).expect("the control socket");
        stream
            .write_all(format!("GET {path} HTTP/1.1\r\n\r\n").as_bytes())
            .expect("asked");
        let mut octets = Vec::new();
        stream.read_to_end(&mut octets).expect("answered");
        let text = String::from_utf8_lossy(&octets).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        (
            status.unwrap_or(0),
            serde_json::from_str(body).unwrap_or(Value::Null),
        )
    }

    /// The process had little to say, and did not say that it panicked.
    fn is_quiet(&self) {
        let errors = text(&self.errors());
        assert!(!errors.contains("panicked"), "{errors}");
        assert!(errors.lines().count() <= LINES && errors.len() < 2048, "{errors}");
    }
}

/// Lines of the guest of one kind.
fn lines(vm: &Vm, word: &str) -> usize {
    let start = format!("enlight-guest: {word} ");
    text(&vm.log)
        .lines()
        .filter(|line| line.starts_with(&start))
        .count()
}

/// Waits until the guest has printed so many lines of a kind.
fn wait_for(vm: &Vm, word: &str, count: usize) {
    let end = Instant::now() + Duration::from_mins(1);
    while lines(vm, word) < count {
        assert!(
            Instant::now() < end,
            "no {count} lines \"{word}\" in:\n{}",
            text(&vm.log)
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What the machine said of itself when it ended, behind what its guest printed.
fn report(vm: &Vm) -> Value {
    let text = text(&vm.log);
    let at = text.rfind("\n{\n").expect("a report");
    serde_json::from_str(&text[at..]).expect("JSON")
}

/// Accesses that each device refused.
fn faults(report: &Value) -> Vec<u64> {
    let lists = ["nics", "disks"]
        .into_iter()
        .flat_map(|list| report[list].as_array().expect("devices"));
    let devices = lists.chain([&report["rng"], &report["console"]]);
    devices
        .map(|device| device["guest_faults"].as_u64().expect("a count"))
        .collect()
}

fn beyond(info: &Value) -> u64 {
    info["memory"]["beyond_guest_kib"].as_u64().expect("a size")
}

#[test]
fn guests_that_break_every_rule_break_only_themselves() {
    const ROUNDS: usize = 60;
    let Some(mut site) = Site::new("guests_that_break_every_rule_break_only_themselves") else {
        return;
    };
    for seed in [1, 20, 300] {
        let orders = format!("seed={seed} rounds={ROUNDS} others={}", seed % 2);
        let mut vm = site.boot(&orders, &["--vcpus", "2"]);
        wait_for(&vm, "round", 2);
        site.scene.flows();
        assert!(vm.ends(), "{}", text(&site.errors()));
        assert_eq!(lines(&vm, "round"), ROUNDS);
        let printed = text(&vm.log);
        let last = printed.lines().rfind(|line| line.starts_with("enlight-guest: "));
        let last = last.expect("a line");
        assert!(
            last.contains(&format!("chaos devices={DEVICES} ")) && last.ends_with("recovered=1"),
            "{last}"
        );
        let report = report(&vm);
        assert_eq!(report["stopped"], "the guest switched itself off");
        let faults = faults(&report);
        assert!(
            faults.len() == DEVICES && faults.iter().all(|count| *count > 0),
            "{faults:?}"
        );
        for disk in report["disks"].as_array().expect("disks") {
            let refusals = disk["counts"]["refusals"].as_object().expect("refusals by kind");
            assert!(
                refusals.values().filter_map(Value::as_u64).sum::<u64>() > 0,
                "{disk}"
            );
        }
        site.is_quiet();
        site.scene.alive();
    }
    assert!(site.scene.all_refusals() > 0, "the switch refused some, too");
    assert_eq!(fs::metadata(&site.disks[0]).expect("the disk").len(), DISK);
    site.scene.finish();
}

#[test]
fn a_guest_that_breaks_every_rule_can_be_paused_looked_into_and_stopped() {
    let Some(mut site) = Site::new("a_guest_that_breaks_every_rule_can_be_paused_looked_into_and_stopped")
    else {
        return;
    };
    let mut vm = site.boot("seed=7 rounds=4000000000", &["--vcpus", "2"]);
    wait_for(&vm, "round", 5);
    let before = beyond(&site.info());
    for round in 1..=10 {
        assert!(site.vm(&["pause", "chaos"]).status.success());
        let (status, state) = site.get("/v1/state");
        let devices = state.as_array().map_or(0, Vec::len);
        assert!(status == 200 && devices == 3, "{status} {state}");
        assert!(site.vm(&["resume", "chaos"]).status.success());
        wait_for(&vm, "round", 5 + 5 * round);
    }
    let info = site.info();
    let grown = beyond(&info).saturating_sub(before);
    assert!(grown < GROWTH, "the process has grown by {grown} KiB");
    assert!(faults(&info).iter().all(|count| *count > 0), "{info}");
    let output = site.vm(&["stop", "chaos", "--force"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(vm.ends());
    site.is_quiet();
    // Its disks, its name and its port are free.
    let mut next = site.boot("seed=8 rounds=1", &[]);
    assert!(next.ends(), "{}", text(&site.errors()));
    site.scene.alive();
    site.scene.finish();
}

/// These have devices write into the guest itself, and interrupt it by vectors that it does not take.
#[test]
fn guests_that_break_themselves_end_with_one_line() {
    let Some(mut site) = Site::new("guests_that_break_themselves_end_with_one_line") else {
        return;
    };
    let mut broken = 0;
    for seed in 1..=4 {
        let mut vm = site.boot(&format!("seed={seed} rounds=60 wild=1"), &["--no-reboot"]);
        // A guest that runs nothing sensible any more may do so for ever.
        let end = Instant::now() + Duration::from_secs(5);
        let mut status = None;
        while status.is_none() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
            status = vm.child.try_wait().expect("a child");
        }
        if status.is_none() {
            assert!(site.vm(&["stop", "chaos", "--force"]).status.success());
            vm.ends();
        }
        broken += u32::from(lines(&vm, "chaos") == 0);
        site.is_quiet();
        let errors = text(&site.errors());
        let failed = status.is_some_and(|status| !status.success());
        assert!(
            errors.lines().all(|line| line.starts_with("enlight: ")),
            "{errors}"
        );
        assert!(
            !failed || errors.lines().count() == 1 || text(&vm.log).contains("triple fault"),
            "{errors}"
        );
        site.scene.alive();
    }
    assert!(broken > 0, "none broke itself");
    site.scene.finish();
}

#[test]
fn what_a_guest_does_last_decides_how_its_machine_ends() {
    let Some(site) = Site::new("what_a_guest_does_last_decides_how_its_machine_ends") else {
        return;
    };
    for (ending, stopped, success) in [
        ("off", "the guest switched itself off", true),
        ("keyboard", "the guest asked for a reset", true),
        ("reset-control", "the guest asked for a reset", true),
        (
            "triple-fault",
            "the guest's processor shut down after a triple fault",
            false,
        ),
    ] {
        let mut vm = site.boot(&format!("seed=3 rounds=3 end={ending}"), &["--no-reboot"]);
        assert_eq!(vm.ends(), success, "{ending}: {}", text(&site.errors()));
        assert_eq!(report(&vm)["stopped"], stopped);
        site.is_quiet();
    }
    // Without --no-reboot a guest's reset starts it anew, with devices that know nothing of what was done to them.
    let mut vm = site.boot("seed=4 rounds=3 end=keyboard", &[]);
    wait_for(&vm, "chaos", 4);
    let printed = text(&vm.log);
    let mut ends = printed
        .lines()
        .filter(|line| line.starts_with("enlight-guest: chaos "));
    let first = ends.next().expect("one of four");
    assert!(first.ends_with("recovered=1"), "{first}");
    assert!(
        ends.take(3).all(|line| line == first),
        "the same seed does the same: {printed}"
    );
    assert!(site.info()["resets"].as_u64().is_some_and(|resets| resets >= 3));
    assert!(site.vm(&["stop", "chaos", "--force"]).status.success());
    assert!(vm.ends());
    site.is_quiet();
    site.scene.finish();
}

/// A pipe that nobody reads takes 64 KiB; then a machine whose console it is must still do what it is told.
#[test]
fn a_console_that_nobody_reads_holds_up_its_guest_and_nothing_else() {
    let Some(site) = Site::new("a_console_that_nobody_reads_holds_up_its_guest_and_nothing_else") else {
        return;
    };
    for console in ["serial", "virtio"] {
        let mut command = site
            .scene
            .daemon
            .command(&["vm", "run", "--name", "chaos", "--micro-guest"]);
        command.args(["--memory", "32M", "--console", console]);
        command.args(["--cmdline", "role=chaos seed=1 rounds=4000000000"]);
        command
            .env("ENLIGHT_VM_DIR", site.dir())
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let errors = File::create(site.errors()).expect("the log opens");
        let child = command.stderr(errors).spawn().expect("the machine starts");
        let mut vm = Vm {
            child,
            log: site.errors(),
        };
        let end = Instant::now() + Duration::from_mins(1);
        let mut exits = u64::MAX;
        loop {
            std::thread::sleep(Duration::from_millis(200));
            if !site.dir().join("chaos.sock").exists() {
                continue;
            }
            let now = site.info()["exits"]["port"].as_u64().expect("a count");
            // It waits: the pipe and the store behind it are full. With a serial console that takes a while.
            if now == exits || console == "serial" && now > 20_000 {
                break;
            }
            exits = now;
            assert!(Instant::now() < end, "the guest goes on after {now} exits");
        }
        assert!(
            beyond(&site.info()) < 64 << 10,
            "what it printed is not kept without a bound"
        );
        for command in ["pause", "resume", "pause"] {
            assert!(site.vm(&[command, "chaos"]).status.success(), "{command}");
        }
        let output = site.vm(&["stop", "chaos", "--force"]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(vm.ends());
        site.is_quiet();
    }
    site.scene.finish();
}
