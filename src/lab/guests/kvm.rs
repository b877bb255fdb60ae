//! Two virtual machines, one process each: this program itself, as `enlight vm run`, with the micro-guest or with Linux.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write as _};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result};
use crossbeam_channel::{Receiver, Sender, bounded};
use microguest::cmdline::Parameters;
use vswitch::Switch;
use vswitch::control::{PortConfig, PortKind, mac_of_name};

use super::linux::{self, BootFiles, Linux};
use super::{Event, Guests, Orders, Role};
use crate::lab::private_dir::PrivateDir;
use crate::lab::report::GuestInfo;

/// Memory of a micro-guest, in MiB.
const MICROGUEST_MIB: u64 = 16;
/// Longest line that is taken from a guest.
const MAX_LINE: u64 = 4096;

/// Whether KVM can be used: what it is, or why not and what helps.
pub(crate) fn probe_kvm() -> Result<String, String> {
    match OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        Ok(_) => Ok(kvm_note(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(
            "there is no /dev/kvm: load the module (modprobe kvm_intel or kvm_amd), or, inside a virtual machine, \
             switch nested virtualization on"
                .to_owned(),
        ),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(
            "/dev/kvm may not be used by this user: join the group kvm (usermod -aG kvm USER) and log in again"
                .to_owned(),
        ),
        Err(error) => Err(format!("/dev/kvm cannot be opened: {error}")),
    }
}

fn kvm_note(cpuinfo: &str) -> String {
    if has_virtualization_flags(cpuinfo) {
        "KVM".to_owned()
    } else {
        "KVM without hardware virtualization flags (slow exits and interrupts)".to_owned()
    }
}

/// Whether the processor has hardware virtualization, by `/proc/cpuinfo`.
pub(super) fn has_virtualization_flags(cpuinfo: &str) -> bool {
    let flags = cpuinfo
        .lines()
        .find(|line| line.starts_with("flags"))
        .unwrap_or_default();
    flags
        .split_whitespace()
        .any(|flag| flag == "vmx" || flag == "svm")
}

/// What a machine boots.
enum Boot {
    /// The small guest that is part of this program.
    Microguest,
    /// A kernel, with this program as its first process.
    Linux(BootFiles),
}

impl Boot {
    /// Words for `vm run`.
    fn words(&self, parameters: &Parameters) -> Vec<OsString> {
        let (mut words, cmdline) = match self {
            Self::Microguest => (vec!["--micro-guest".into()], parameters.to_string()),
            Self::Linux(files) => (
                vec![
                    "--kernel".into(),
                    files.kernel.clone().into(),
                    "--initrd".into(),
                    files.initramfs.clone().into(),
                ],
                linux::cmdline(parameters),
            ),
        };
        words.extend(["--memory".into(), format!("{}M", self.memory_mib()).into()]);
        words.extend(["--cmdline".into(), cmdline.into()]);
        words
    }

    /// What runs in the guest, if that has a name.
    fn system(&self) -> Option<String> {
        match self {
            Self::Microguest => None,
            Self::Linux(files) => Some(format!("Linux {}", files.release)),
        }
    }

    const fn memory_mib(&self) -> u64 {
        match self {
            Self::Microguest => MICROGUEST_MIB,
            Self::Linux(files) => files.memory_mib,
        }
    }
}

/// A guest's process. Dropping it ends it.
struct Process {
    role: Role,
    child: Child,
    started: Instant,
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when the process is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Client and server in virtual machines.
pub(crate) struct KvmGuests<'a> {
    switch: &'a Switch,
    dir: &'a PrivateDir,
    orders: Orders,
    boot: Boot,
    /// When the ports were made: what the switch counts a first frame from.
    ports_made: Instant,
    processes: Vec<Process>,
    sender: Sender<(Role, Event)>,
    events: Receiver<(Role, Event)>,
}

impl<'a> KvmGuests<'a> {
    /// Adds both ports, with their sockets in `dir`, and starts the server. The client follows when the server
    /// listens, so that neither slows the other's boot.
    pub(crate) fn start(
        switch: &'a Switch,
        dir: &'a PrivateDir,
        orders: &Orders,
        linux: Option<&Linux>,
    ) -> Result<Self> {
        let boot = match linux {
            Some(linux) => Boot::Linux(linux.prepare(dir)?),
            None => Boot::Microguest,
        };
        let (sender, events) = bounded(4096);
        let ports_made = Instant::now();
        for role in [Role::Server, Role::Client] {
            let config = PortConfig::new(role.name(), PortKind::VhostUser(dir.file(role.name())));
            switch
                .add_port(config)
                .with_context(|| format!("adding the port {}", role.name()))?;
        }
        let mut guests = Self {
            switch,
            dir,
            orders: *orders,
            boot,
            ports_made,
            processes: Vec::new(),
            sender,
            events,
        };
        guests.spawn(Role::Server)?;
        Ok(guests)
    }

    /// Starts one guest on the vhost-user socket of its port.
    fn spawn(&mut self, role: Role) -> Result<()> {
        let program = std::env::current_exe().context("finding this program's own file")?;
        let mut nic = OsString::from("vhost-user=");
        nic.push(self.dir.file(role.name()));
        // Without the switch there is nothing left to do for a guest, so it need not wait for another one.
        nic.push(format!(",mac={},reconnect=0", mac_of_name(role.name())));
        let started = Instant::now();
        let child = Command::new(program)
            .args(["vm", "run"])
            .args(self.boot.words(&self.orders.of(role)))
            .arg("--nic")
            .arg(nic)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting the {}'s virtual machine", role.name()))?;
        let mut process = Process { role, child, started };
        let stdout = process
            .child
            .stdout
            .take()
            .context("the machine's standard output")?;
        let stderr = process
            .child
            .stderr
            .take()
            .context("the machine's standard error")?;
        self.processes.push(process);
        follow(role, stderr, self.sender.clone(), None)?;
        follow(role, stdout, self.sender.clone(), Some("its serial port closed"))
    }
}

/// Passes a stream's lines on, and then `end`.
fn follow(
    role: Role,
    stream: impl Read + Send + 'static,
    sender: Sender<(Role, Event)>,
    end: Option<&'static str>,
) -> Result<()> {
    thread::Builder::new()
        .name(format!("{}-serial", role.name()))
        .spawn(move || {
            let mut stream = BufReader::new(stream);
            let mut line = Vec::new();
            while (&mut stream)
                .take(MAX_LINE)
                .read_until(b'\n', &mut line)
                .is_ok_and(|octets| octets > 0)
            {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                line.clear();
                if sender.send((role, Event::Line(text))).is_err() {
                    return;
                }
            }
            if let Some(how) = end {
                // Nobody listens any more when the lab is over.
                let _ = sender.send((role, Event::Gone(how.to_owned())));
            }
        })
        .context("starting a thread")?;
    Ok(())
}

impl Guests for KvmGuests<'_> {
    fn events(&self) -> &Receiver<(Role, Event)> {
        &self.events
    }

    fn start_client(&mut self) -> Result<()> {
        self.spawn(Role::Client)
    }

    fn go(&mut self) -> Result<()> {
        let client = self
            .processes
            .iter_mut()
            .find(|process| process.role == Role::Client);
        let stdin = client
            .and_then(|process| process.child.stdin.as_mut())
            .context("the client is not running")?;
        stdin
            .write_all(b"g")
            .and_then(|()| stdin.flush())
            .context("writing to the client's serial port")
    }

    fn info(&self) -> Vec<GuestInfo> {
        let ports = self.switch.ports();
        self.processes
            .iter()
            .map(|process| {
                let port = ports.iter().find(|port| port.name == process.role.name());
                let before = process.started.duration_since(self.ports_made).as_secs_f64() * 1_000.0;
                GuestInfo {
                    name: process.role.name().to_owned(),
                    ip: process.role.ip().to_string(),
                    system: self.boot.system(),
                    first_frame_ms: port
                        .and_then(|port| port.first_frame_us)
                        .map(|us| (us as f64 / 1_000.0 - before).max(0.0)),
                    memory_mib: Some(self.boot.memory_mib()),
                    memory_overhead_kib: fs::read_to_string(format!("/proc/{}/smaps", process.child.id()))
                        .ok()
                        .map(|smaps| resident_kib(&smaps)),
                }
            })
            .collect()
    }

    fn stop(&mut self) {
        // The end of its console and the switch's going tell a machine to stop; a signal is the last resort.
        for process in &mut self.processes {
            drop(process.child.stdin.take());
        }
        self.processes.clear();
    }
}

/// Resident memory of a process in KiB, its guest's memory left out, from `/proc/PID/smaps`.
fn resident_kib(smaps: &str) -> u64 {
    let mut guest = false;
    let mut total = 0;
    for line in smaps.lines() {
        let first = line.split_whitespace().next().unwrap_or_default();
        if !first.ends_with(':') {
            // A mapping's first line: range, permissions, offset, device, inode, name.
            guest = line.contains("/memfd:");
        } else if first == "Rss:" && !guest {
            total += line
                .split_whitespace()
                .nth(1)
                .and_then(|kib| kib.parse::<u64>().ok())
                .unwrap_or(0);
        }
    }
    total
}
