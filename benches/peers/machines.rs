//! Virtual machines with the micro-guest and what they are attached to: ours on our switch; QEMU's on a bridge or on Open vSwitch.

use std::io::{BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use microguest::cmdline::{Parameters, Role};
use microguest::report::Line;

use crate::support::daemon::Daemon;
use crate::support::netns::{self, Namespace};
use crate::support::{enlight, program};
use crate::switches::{self, Running};

const QEMU: &str = "qemu-system-x86_64";
/// A firmware that only starts the kernel: on a KVM that interprets ring 0, SeaBIOS takes 16 s.
const QBOOT: &str = "/usr/share/qemu/qboot.rom";
/// Memory of a guest.
const MEMORY: &str = "32M";
/// The processor that guests share while a switch polls on the other one.
const GUESTS_CPU: &str = "0";
/// Ticks of /proc/PID/stat in a second: a constant of the kernel's interface on x86.
const TICKS: f64 = 100.0;

/// A switch that guests are attached to. Dropping it ends it.
pub(crate) struct Site {
    switch: Switch,
    /// A switch polls: guests stay away from its processor.
    polls: bool,
    directory: tempfile::TempDir,
}

enum Switch {
    Enlight(Daemon),
    Bridge(Namespace),
    Ovs(Running),
}

/// A virtual machine. Dropping it ends it.
pub(crate) struct Machine {
    child: Child,
    lines: Receiver<String>,
    last: String,
}

/// Why virtual machines cannot be compared here, if so.
pub(crate) fn missing() -> Option<String> {
    if let Err(error) = std::fs::File::options().read(true).write(true).open("/dev/kvm") {
        return Some(format!("/dev/kvm: {error}"));
    }
    for (name, package) in [(QEMU, "qemu-system-x86"), ("taskset", "util-linux")] {
        if program(name).is_none() {
            return Some(format!(
                "{name} is not installed; run: cargo xtask bench-peers (as root), or apt-get install {package}"
            ));
        }
    }
    netns::missing()
}

/// Seconds that a process has spent on processors, its guest's included.
pub(crate) fn cpu_time(process: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The second field is a name in parentheses, which may have anything in it.
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks = fields.split_whitespace().skip(11).take(2);
    ticks.filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / TICKS
}

impl Site {
    /// Our switch, polling on a processor of its own or sleeping when idle.
    pub(crate) fn enlight(polls: bool) -> Result<Self, String> {
        let worker = format!("[[worker]]\ncpu = {}\nmode = \"poll\"\n", switches::CPU);
        let daemon = Daemon::configured(if polls { &worker } else { "" });
        for role in [Role::Server, Role::Client] {
            daemon.vhost_port(&role.to_string());
        }
        Self::with(Switch::Enlight(daemon), polls)
    }

    /// Two taps on a bridge, in a network namespace.
    pub(crate) fn bridge() -> Result<Self, String> {
        let namespace = Namespace::new();
        namespace.host(
            "ip link add br0 type bridge; ip link set br0 up
             for tap in server client; do
               ip tuntap add dev $tap mode tap vnet_hdr; ip link set $tap master br0 up
             done",
        );
        Self::with(Switch::Bridge(namespace), false)
    }

    /// Open vSwitch with DPDK, polling on a processor of its own.
    pub(crate) fn ovs() -> Result<Self, String> {
        Self::with(Switch::Ovs(switches::ovs(1500)?), true)
    }

    fn with(switch: Switch, polls: bool) -> Result<Self, String> {
        let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
        let site = Self {
            switch,
            polls,
            directory,
        };
        std::fs::write(site.kernel(), vmm::MICROGUEST).map_err(|error| error.to_string())?;
        Ok(site)
    }

    fn kernel(&self) -> PathBuf {
        self.directory.path().join("micro-guest")
    }

    /// The switch's process, if it has one.
    pub(crate) fn process(&mut self) -> Option<u32> {
        match &mut self.switch {
            Switch::Enlight(daemon) => Some(daemon.child().id()),
            Switch::Bridge(_) | Switch::Ovs(_) => None,
        }
    }

    /// Starts a guest on the port of its role.
    pub(crate) fn boot(&self, parameters: &Parameters) -> Result<Machine, String> {
        let role = parameters.role.to_string();
        let number = u8::from(parameters.role == Role::Server) + 1;
        let mac = format!("02:00:00:00:01:{number:02x}");
        let mut command = self.pinned();
        match &self.switch {
            Switch::Enlight(daemon) => {
                let socket = daemon.path(&format!("{role}.sock"));
                let nic = format!("vhost-user={},mac={mac},reconnect=0", socket.display());
                command.arg(enlight()).args([
                    "vm",
                    "run",
                    "--micro-guest",
                    "--memory",
                    MEMORY,
                    "--nic",
                    &nic,
                ]);
                command
                    .arg("--cmdline")
                    .env("ENLIGHT_VM_DIR", self.directory.path());
            }
            Switch::Bridge(_) => {
                // Where the kernel can take the frames from guest to tap itself, it does so faster.
                let vhost = if Path::new("/dev/vhost-net").exists() {
                    "on"
                } else {
                    "off"
                };
                let netdev = format!("tap,id=n,ifname={role},script=no,downscript=no,vhost={vhost}");
                self.qemu(&mut command, &mac, &["-netdev", &netdev]);
            }
            Switch::Ovs(running) => {
                let [client, server] = running.sockets();
                let socket = if parameters.role == Role::Client {
                    client
                } else {
                    server
                };
                let chardev = format!("socket,id=c,path={}", socket.display());
                self.qemu(
                    &mut command,
                    &mac,
                    &["-chardev", &chardev, "-netdev", "vhost-user,id=n,chardev=c"],
                );
            }
        }
        command.arg(parameters.to_string());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let spawned = match &self.switch {
            Switch::Bridge(namespace) => namespace.run(move || command.spawn()),
            _ => command.spawn(),
        };
        Machine::follow(spawned.map_err(|error| format!("the {role}'s machine: {error}"))?)
    }

    /// What a machine's command begins with.
    fn pinned(&self) -> Command {
        let mut command = Command::new(if self.polls { "taskset" } else { "env" });
        if self.polls {
            command.args(["-c", GUESTS_CPU]);
        }
        command
    }

    /// QEMU with everything but the guest's command line.
    fn qemu(&self, command: &mut Command, mac: &str, network: &[&str]) {
        let memory = format!("memory-backend-memfd,id=m,size={MEMORY},share=on");
        let device = format!("virtio-net-pci,netdev=n,mac={mac}");
        // Some KVMs do not have the register that arch-capabilities tells of.
        command.args([
            QEMU,
            "-accel",
            "kvm",
            "-cpu",
            "host,-arch-capabilities",
            "-nodefaults",
        ]);
        command.args([
            "-machine",
            "q35,memory-backend=m",
            "-m",
            MEMORY,
            "-object",
            &memory,
        ]);
        command.args(["-display", "none", "-no-reboot", "-serial", "stdio"]);
        if Path::new(QBOOT).exists() {
            command.args(["-bios", QBOOT]);
        }
        command
            .args(network)
            .args(["-device", &device, "-kernel"])
            .arg(self.kernel())
            .arg("-append");
    }
}

impl Machine {
    /// Reads what a machine's process says.
    fn follow(mut child: Child) -> Result<Self, String> {
        let (tell, lines) = channel();
        let (output, errors) = (child.stdout.take(), child.stderr.take());
        let machine = Self {
            child,
            lines,
            last: "none".to_owned(),
        };
        pass_on(errors.ok_or("its errors")?, tell.clone());
        pass_on(output.ok_or("its output")?, tell);
        Ok(machine)
    }

    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line of the guest's that means something; `what` names it in the error.
    pub(crate) fn find<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut read: impl FnMut(&Line<'_>) -> Option<T>,
    ) -> Result<T, String> {
        let end = Instant::now() + limit;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let text = self.lines.recv_timeout(left).map_err(|error| {
                let how = match error {
                    RecvTimeoutError::Timeout => "did not say",
                    RecvTimeoutError::Disconnected => "ended without saying",
                };
                format!("a guest {how} {what}; its last line: {}", self.last)
            })?;
            match Line::parse(&text) {
                Ok(Line::Error(_) | Line::Fault { .. }) => return Err(format!("a guest gave up: {text}")),
                Ok(line) => {
                    if let Some(value) = read(&line) {
                        return Ok(value);
                    }
                }
                // The machine's own words, or its firmware's.
                Err(_) => {}
            }
            self.last = text;
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pass_on(stream: impl Read + Send + 'static, tell: Sender<String>) {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if tell.send(line).is_err() {
                return;
            }
        }
    });
}
