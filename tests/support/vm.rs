//! Machines that `enlight vm` runs and looks after, with the micro-guest inside.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::daemon::Daemon;
use super::machine::wait_for;
use super::skip;

/// A switch, and a directory for the sockets of machines.
pub struct Site {
    /// The switch.
    pub daemon: Daemon,
}

/// One machine. Its process ends with this value.
pub struct Vm {
    /// The process.
    pub child: Child,
    /// What it prints.
    pub log: PathBuf,
}

/// Whether a test with machines cannot run here, which is said of it then.
pub fn without_kvm(test: &str) -> bool {
    let kvm = File::options().read(true).write(true).open("/dev/kvm");
    if let Err(error) = &kvm {
        skip(test, &format!("/dev/kvm: {error}"));
    }
    kvm.is_err()
}

impl Site {
    pub fn new() -> Self {
        Self {
            daemon: Daemon::start(),
        }
    }

    /// A site, unless this machine cannot run guests, which is said of the test.
    pub fn with_kvm(test: &str) -> Option<Self> {
        (!without_kvm(test)).then(Self::new)
    }

    /// Where the sockets of machines are.
    pub fn dir(&self) -> PathBuf {
        self.daemon.path("vm")
    }

    pub fn socket(&self, name: &str) -> PathBuf {
        self.dir().join(format!("{name}.sock"))
    }

    /// A program for this site.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.daemon.command(args);
        command.env("ENLIGHT_VM_DIR", self.dir()).stdin(Stdio::null());
        command
    }

    /// Starts a machine on a port of its own, and does not wait.
    pub fn boot(&self, name: &str, cmdline: &str, more: &[&str]) -> Vm {
        self.daemon.vhost_port(name);
        self.boot_on(name, name, cmdline, more)
    }

    /// Starts a machine on a port that exists.
    pub fn boot_on(&self, name: &str, port: &str, cmdline: &str, more: &[&str]) -> Vm {
        let log = self.daemon.path(&format!("{name}.log"));
        let nic = format!("port={port}");
        let mut command = self.command(&["vm", "run", "--name", name, "--micro-guest", "--memory", "16M"]);
        command.args(["--nic", &nic, "--cmdline", cmdline]).args(more);
        let file = File::create(&log).expect("the log opens");
        let child = command
            .stderr(file.try_clone().expect("a copy"))
            .stdout(file)
            .spawn();
        Vm {
            child: child.expect("the machine starts"),
            log,
        }
    }

    /// A machine that has nothing to do but to listen.
    pub fn idle(&self, name: &str) -> Vm {
        let vm = self.boot(name, "role=server ip=192.0.2.2/24", &[]);
        vm.wait_for("listening");
        vm
    }

    /// Runs `enlight vm`.
    pub fn vm(&self, args: &[&str]) -> Output {
        let mut command = self.command(&["vm"]);
        command.args(args).output().expect("the CLI runs")
    }

    /// Runs `enlight vm ... --json`, which has to succeed.
    pub fn json(&self, args: &[&str]) -> Value {
        let output = self.vm(&[args, &["--json"]].concat());
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {error}");
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// Runs `enlight vm`, which has to fail in one line; that line.
    pub fn refused(&self, args: &[&str]) -> String {
        let output = self.vm(args);
        let error = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {error}");
        assert!(
            error.starts_with("enlight: ") && !error.contains('\n'),
            "{error:?}"
        );
        error
    }

    pub fn info(&self, name: &str) -> Value {
        self.json(&["info", name])
    }

    /// The line of a machine in `vm list`.
    pub fn listed(&self, name: &str) -> Option<Value> {
        let list = self.json(&["list"]);
        let list = list.as_array().expect("a list");
        list.iter().find(|line| line["name"] == name).cloned()
    }
}

impl Vm {
    pub fn wait_for(&self, word: &str) -> String {
        wait_for(&self.log, word)
    }

    /// Waits for the process to end; whether that was a success.
    pub fn ends(&mut self) -> bool {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status.success();
            }
            assert!(Instant::now() < end, "the machine goes on: {}", text(&self.log));
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The phases of a start that `vm info` tells are in order, up to `last`.
pub fn phases_follow_each_other(info: &Value, last: &str) {
    let made = [
        "memory_us",
        "kernel_us",
        "kvm_us",
        "devices_us",
        "vcpus_us",
        "started_us",
    ];
    let boot = &info["boot"];
    let times: Vec<u64> = made
        .into_iter()
        .chain([last])
        .map(|phase| boot[phase].as_u64().expect(phase))
        .collect();
    assert!(times.is_sorted(), "{boot}");
}

pub fn text(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).expect("the log can be read")).into_owned()
}

impl Drop for Vm {
    fn drop(&mut self) {
        super::kill(&mut self.child);
    }
}
