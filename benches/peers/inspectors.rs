//! What inspects between two hosts: our switch with `inspect` on the client's port, or Suricata as a bridge (AF_PACKET, IPS mode).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::hosts::Hosts;
use crate::patterns::{self, Planted};
use crate::support::daemon::Daemon;
use crate::support::{enlight, program};

/// How long Suricata may take to compile rules and open its sockets.
const START: Duration = Duration::from_mins(1);
const PORTS: [&str; 2] = ["client", "server"];

/// Something that inspects. Dropping it ends it.
pub(crate) enum Inspector {
    Enlight(Daemon),
    Suricata(Suricata),
}

/// Suricata's process.
pub(crate) struct Suricata {
    child: Child,
    directory: tempfile::TempDir,
}

/// Why Suricata cannot run here, if so.
pub(crate) fn missing() -> Option<String> {
    let wanted = [("suricata", "suricata"), ("ethtool", "ethtool")];
    let (name, package) = wanted.into_iter().find(|(name, _)| program(name).is_none())?;
    Some(format!(
        "{name} is not installed; run: cargo xtask bench-peers (as root), or apt-get install {package} (on Debian 12, where Suricata is \
         in the backports: apt-get install -t bookworm-backports suricata)"
    ))
}

/// The version of Suricata that is installed.
pub(crate) fn version() -> Option<String> {
    let output = Command::new(program("suricata")?).arg("-V").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Some(text.trim().to_owned())
}

impl Inspector {
    /// Our switch with the hosts on two taps.
    pub(crate) fn enlight(hosts: &Hosts, without_offloads: bool) -> Result<Self, String> {
        let daemon = hosts.between.run(Daemon::start);
        for port in PORTS {
            daemon.cli(&["port", "add", port, "--tap", port]);
        }
        hosts.take(PORTS, !without_offloads);
        let (source, rules) = (daemon.path("suricata.rules"), daemon.path("rules.toml"));
        fs::write(&source, patterns::rules()).map_err(|error| error.to_string())?;
        let import = Command::new(enlight())
            .args(["rules", "import"])
            .args([source.as_path(), "-o".as_ref(), rules.as_path()])
            .output()
            .map_err(|error| format!("enlight rules import: {error}"))?;
        if !import.status.success() {
            return Err(format!(
                "enlight rules import: {}",
                String::from_utf8_lossy(&import.stderr)
            ));
        }
        let rules = rules.display().to_string();
        let filter = daemon.cli(&["filter", "set", PORTS[0], "inspect", "--rules", &rules]);
        if filter["rules"] != patterns::RULES {
            return Err(format!("not all rules were taken over: {filter}"));
        }
        Ok(Self::Enlight(daemon))
    }

    /// Suricata between two veth pairs, whose other ends the hosts have.
    pub(crate) fn suricata(hosts: &Hosts) -> Result<Self, String> {
        hosts.between.host(
            "for side in client server; do
               ip link add s-$side type veth peer name $side
               ethtool -K s-$side tx off tso off gso off gro off
               ip link set s-$side up
             done",
        );
        hosts.take(PORTS, false);
        let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
        let dir = directory.path();
        let (configuration, rules) = (dir.join("suricata.yaml"), dir.join("suricata.rules"));
        fs::write(&rules, patterns::rules()).map_err(|error| error.to_string())?;
        fs::write(&configuration, self::configuration(dir)).map_err(|error| error.to_string())?;
        let mut command = Command::new(program("suricata").ok_or("suricata is not installed")?);
        // -k none: what comes from a namespace on the same machine is not damaged; it need not be summed up twice.
        command
            .args(["--af-packet", "--runmode", "workers", "-k", "none", "-c"])
            .args([configuration.as_path(), "-S".as_ref(), rules.as_path()])
            .args(["-l".as_ref(), dir])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = hosts
            .between
            .run(move || command.spawn())
            .map_err(|error| format!("suricata: {error}"))?;
        let mut suricata = Suricata { child, directory };
        suricata.wait_ready()?;
        Ok(Self::Suricata(suricata))
    }

    /// The process that inspects.
    pub(crate) fn process(&mut self) -> u32 {
        match self {
            Self::Enlight(daemon) => daemon.child().id(),
            Self::Suricata(suricata) => suricata.child.id(),
        }
    }

    /// Whether it has told of a planted pattern. Ours counts them, and they are sent in their order.
    pub(crate) fn has_told(&self, what: Planted) -> Result<bool, String> {
        match self {
            Self::Enlight(daemon) => {
                let filters = daemon.cli(&["filter", "show"]);
                let counter = |name: &str| filters[0]["counters"][name].as_u64().unwrap_or(0);
                if counter("failed_open") > 0 || !filters[0]["failure"].is_null() {
                    return Err(format!("not all was judged: {filters}"));
                }
                let is_dropped = what != Planted::Dropped || counter("dropped") > 0;
                Ok(is_dropped && counter("matches") > what as u64)
            }
            Self::Suricata(suricata) => {
                let alerts = fs::read_to_string(suricata.log("fast.log")).unwrap_or_default();
                let wanted = format!("[1:{}:1]", what.sid());
                Ok(alerts.lines().any(|alert| alert.contains(&wanted)))
            }
        }
    }
}

impl Suricata {
    fn log(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn wait_ready(&mut self) -> Result<(), String> {
        let end = Instant::now() + START;
        loop {
            let log = fs::read_to_string(self.log("suricata.log")).unwrap_or_default();
            let last = || log.lines().rev().take(5).collect::<Vec<_>>().join("; ");
            if log.to_lowercase().contains("engine started") {
                return Ok(());
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("suricata ended with {status}: {}", last()));
            }
            if Instant::now() > end {
                return Err(format!("suricata does not start: {}", last()));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Suricata {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A bridge of two interfaces with a thread each, which inspects streams whole and does nothing else.
fn configuration(dir: &Path) -> String {
    let interface = |name: &str, other: &str, cluster: u32| {
        format!(
            "  - interface: s-{name}
    threads: 1
    cluster-id: {cluster}
    cluster-type: cluster_flow
    defrag: no
    use-mmap: yes
    ring-size: 4096
    copy-mode: ips
    copy-iface: s-{other}
"
        )
    };
    let [client, server] = PORTS;
    let off = |name: &&str| format!("    {name}:\n      enabled: no\n");
    let protocols: String = PARSERS.iter().map(off).collect();
    let log = dir.join("suricata.log");
    format!(
        "%YAML 1.1
---
outputs:
  - fast:
      enabled: yes
      filename: fast.log
stats:
  enabled: no
unix-command:
  enabled: no
logging:
  default-log-level: notice
  outputs:
  - console:
      enabled: no
  - file:
      enabled: yes
      filename: {}
af-packet:
{}{}app-layer:
  protocols:
{protocols}stream:
  memcap: 256mb
  checksum-validation: no
  inline: yes
  reassembly:
    memcap: 512mb
    depth: 0
",
        log.display(),
        interface(client, server, 98),
        interface(server, client, 97),
    )
}

/// Parsers of protocols that Suricata need not try on what has none of them.
const PARSERS: [&str; 24] = [
    "bittorrent-dht",
    "dcerpc",
    "dhcp",
    "dnp3",
    "enip",
    "ftp",
    "http",
    "http2",
    "ike",
    "imap",
    "krb5",
    "modbus",
    "mqtt",
    "nfs",
    "ntp",
    "pgsql",
    "quic",
    "rdp",
    "rfb",
    "sip",
    "smb",
    "smtp",
    "snmp",
    "ssh",
];
