//! The switches that are compared: each with one poll-mode core, on processor 1, and two vhost-user ports.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::rows::{Filter, Row};
use crate::support::daemon::Daemon;
use crate::support::program;

/// The processor that a switch has for itself.
pub(crate) const CPU: u32 = 1;
/// Debian's name for Open vSwitch with DPDK.
const OVS: &str = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk";
const LIMIT: Duration = Duration::from_secs(20);

/// A switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// Ours.
    Enlight,
    /// Ours, without the filter that the row is about.
    Plain,
    /// Open vSwitch with DPDK, learning addresses (action NORMAL).
    Ovs,
    /// DPDK's vhost library moving frames from port to port without a lookup: what a switch built on it cannot exceed.
    Wire,
    /// The kernel's bridge between taps, for virtual machines.
    Bridge,
    /// Suricata between two interfaces, for inspection.
    Suricata,
}

/// A switch that runs. Dropping it ends it.
pub(crate) struct Running {
    sockets: [PathBuf; 2],
    processes: Vec<Process>,
    daemon: Option<Daemon>,
    _directory: tempfile::TempDir,
}

/// A process that ends with this value.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Enlight => "enlight",
            Self::Plain => "off",
            Self::Ovs => "ovs-dpdk",
            Self::Wire => "vhost-wire",
            Self::Bridge => "bridge",
            Self::Suricata => "suricata",
        })
    }
}

/// Why frames cannot be measured here, if so.
pub(crate) fn missing(peers: &[Peer]) -> Option<String> {
    if program("dpdk-testpmd").is_none() {
        return Some("dpdk-testpmd is not installed; run: cargo xtask bench-peers (as root), or apt-get install dpdk-dev".to_owned());
    }
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        return Some("this needs two processors: one for the load, one for the switch".to_owned());
    }
    peers
        .contains(&Peer::Ovs)
        .then(missing_ovs)
        .flatten()
        .or_else(missing_pages)
}

/// Why Open vSwitch cannot run here, if so.
pub(crate) fn missing_ovs() -> Option<String> {
    if !Path::new(OVS).exists() {
        return Some(format!(
            "{OVS} is not installed; run: cargo xtask bench-peers (as root), or apt-get install openvswitch-switch-dpdk"
        ));
    }
    missing_pages()
}

fn missing_pages() -> Option<String> {
    let pages = std::fs::read_to_string("/proc/sys/vm/nr_hugepages").unwrap_or_default();
    (pages.trim().parse::<u32>().unwrap_or(0) < 600).then(|| {
        "DPDK needs 600 huge pages; run (as root): cargo xtask bench-peers, or echo 1024 >/proc/sys/vm/nr_hugepages"
            .to_owned()
    })
}

impl Peer {
    pub(crate) fn named(name: &str) -> Result<Self, String> {
        match name {
            "ovs" | "ovs-dpdk" => Ok(Self::Ovs),
            "wire" | "vhost-wire" => Ok(Self::Wire),
            "bridge" => Ok(Self::Bridge),
            "suricata" => Ok(Self::Suricata),
            _ => Err(format!(
                "there is no peer {name}; there are: ovs, wire, bridge, suricata"
            )),
        }
    }

    /// Starts a switch with two vhost-user ports.
    pub(crate) fn start(self, row: &Row) -> Result<Running, String> {
        match self {
            Self::Enlight => Ok(enlight(row, row.filter)),
            Self::Plain => Ok(enlight(row, None)),
            Self::Ovs => ovs(row.mtu),
            Self::Wire => wire(),
            Self::Bridge | Self::Suricata => Err(format!("{self} has no vhost-user ports")),
        }
    }
}

impl Running {
    pub(crate) fn sockets(&self) -> [&Path; 2] {
        self.sockets.each_ref().map(PathBuf::as_path)
    }
}

fn enlight(row: &Row, filter: Option<Filter>) -> Running {
    let directory = directory();
    let daemon = Daemon::configured(&format!("[[worker]]\ncpu = {CPU}\nmode = \"poll\"\n"));
    let sockets = sockets(directory.path());
    let rules = filter.map(|filter| rules(directory.path(), filter.patterns));
    let filtered = filter.map_or(0, |filter| filter.ports);
    for (index, (name, socket)) in ["v0", "v1"].into_iter().zip(&sockets).enumerate() {
        let (path, mtu) = (socket.display().to_string(), row.mtu.to_string());
        daemon.cli(&["port", "add", name, "--vhost-user", &path, "--mtu", &mtu]);
        if let Some(rules) = rules.as_ref().filter(|_| index < filtered) {
            daemon.cli(&[
                "filter",
                "set",
                name,
                "inspect",
                "--rules",
                &rules.display().to_string(),
            ]);
        }
    }
    Running {
        sockets,
        processes: Vec::new(),
        daemon: Some(daemon),
        _directory: directory,
    }
}

/// A rule file of patterns that no frame has.
fn rules(directory: &Path, count: usize) -> PathBuf {
    let path = directory.join("rules.toml");
    let rule = |n: usize| {
        let word = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        format!("[[rule]]\nname = \"r{n}\"\npattern = \"pattern-{word:016x}\"\naction = \"alert\"\n")
    };
    let text: String = (0..count).map(rule).collect();
    std::fs::write(&path, text).expect("the directory is writable");
    path
}

/// Open vSwitch with its database, as in its documentation of DPDK.
pub(crate) fn ovs(mtu: u16) -> Result<Running, String> {
    let directory = directory();
    let dir = directory.path();
    let socket = format!("unix:{}/db.sock", dir.display());
    let database = dir.join("conf.db").display().to_string();
    let schema = "/usr/share/openvswitch/vswitch.ovsschema";
    tool(dir, "ovsdb-tool", &["create", &database, schema])?;
    let remote = format!("--remote=p{socket}");
    let mut processes = vec![process(dir, "ovsdb-server", &[&remote, &database])?];
    wait_for(&dir.join("db.sock"))?;
    let db = format!("--db={socket}");
    let vsctl = |words: &str| {
        let words: Vec<&str> = words.split_whitespace().collect();
        tool(dir, "ovs-vsctl", &[&["--timeout=20", &db], &words[..]].concat())
    };
    vsctl("--no-wait init")?;
    vsctl(&format!(
        "--no-wait set Open_vSwitch . other_config:dpdk-init=true other_config:dpdk-lcore-mask=0x1
         other_config:pmd-cpu-mask={:#x} other_config:dpdk-socket-mem=512",
        1 << CPU
    ))?;
    processes.push(process(dir, OVS, &[&socket])?);
    vsctl("add-br br0 -- set bridge br0 datapath_type=netdev")?;
    for port in ["v0", "v1"] {
        vsctl(&format!(
            "add-port br0 {port} -- set Interface {port} type=dpdkvhostuser mtu_request={mtu}"
        ))?;
    }
    let sockets = sockets_named(dir, "");
    for socket in &sockets {
        wait_for(socket)?;
    }
    Ok(Running {
        sockets,
        processes,
        daemon: None,
        _directory: directory,
    })
}

/// Runs one of Open vSwitch's programs.
fn tool(dir: &Path, program: &str, args: &[&str]) -> Result<(), String> {
    let output = Command::new(program)
        .args(args)
        .envs(surroundings(dir))
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program} {}: {said}", args.join(" ")))
}

/// testpmd with the vhost library on both sides.
fn wire() -> Result<Running, String> {
    let directory = directory();
    let dir = directory.path();
    let sockets = sockets(dir);
    let cores = format!("0@{CPU},1@{CPU}");
    let devices = [0, 1].map(|n| format!("net_vhost{n},iface={},queues=1", sockets[n].display()));
    let args = [
        "--lcores",
        &cores,
        "--no-pci",
        "--in-memory",
        "--single-file-segments",
        "--no-telemetry",
        "--file-prefix",
        "wire",
        "-m",
        "256",
        "--vdev",
        &devices[0],
        "--vdev",
        &devices[1],
        "--",
        "--auto-start",
        "--nb-cores=1",
        "--total-num-mbufs=16384",
        "--burst=32",
        "--txd=1024",
        "--rxd=1024",
        "--forward-mode=io",
        "--stats-period=60",
    ];
    let processes = vec![process(dir, "dpdk-testpmd", &args)?];
    for socket in &sockets {
        wait_for(socket)?;
    }
    Ok(Running {
        sockets,
        processes,
        daemon: None,
        _directory: directory,
    })
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn sockets(directory: &Path) -> [PathBuf; 2] {
    sockets_named(directory, ".sock")
}

fn sockets_named(directory: &Path, suffix: &str) -> [PathBuf; 2] {
    ["v0", "v1"].map(|name| directory.join(format!("{name}{suffix}")))
}

/// Where Open vSwitch's programs look for each other.
fn surroundings(dir: &Path) -> [(&'static str, &Path); 3] {
    ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR"].map(|name| (name, dir))
}

fn process(dir: &Path, program: &str, args: &[&str]) -> Result<Process, String> {
    let log = std::fs::File::create(dir.join("log")).map_err(|error| error.to_string())?;
    let copy = log.try_clone().map_err(|error| error.to_string())?;
    let child = Command::new(program)
        .args(args)
        .envs(surroundings(dir))
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(copy)
        .spawn();
    child.map(Process).map_err(|error| format!("{program}: {error}"))
}

fn wait_for(path: &Path) -> Result<(), String> {
    let end = Instant::now() + LIMIT;
    while !path.exists() {
        if Instant::now() > end {
            return Err(format!("{} does not appear", path.display()));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

impl Drop for Running {
    fn drop(&mut self) {
        self.daemon = None;
        // The switch before its database.
        while let Some(process) = self.processes.pop() {
            drop(process);
        }
    }
}
