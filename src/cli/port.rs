//! `enlight port`.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use vswitch::control::{PortInfo, PortKind, VlanMode};

use super::{Common, port_target, table};
use crate::spec::{PortSpec, Profiles};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Add a port
    #[command(after_help = "Examples:
  enlight port add v0 --vhost-user /tmp/v0.sock
      A port for a virtual machine; the switch makes the socket and listens on it.
  enlight port add t0 --tap enlight0 --trunk 10,20
      A tap interface of the host's (needs root) that carries two VLANs.
  enlight port add wire --uplink eth1 --queues 2
      The host's interface eth1 (needs root), with the wire behind it; see docs/ports.md.
  enlight port add old --pcap-replay trace.pcapng --pcap-speed max --pcap-loops 10
      The frames of a capture file, ten times over, as fast as the switch takes them.
  enlight port add log --pcap-record log.pcapng
      A file that keeps what is flooded: broadcasts, and frames for unknown addresses.
  enlight port add probe --endpoint 192.0.2.1/24
      A small host inside the switch that answers ping and runs a TCP echo and a discard service.")]
    Add(Box<AddArgs>),
    /// Remove a port
    #[command(after_help = "Example:\n  enlight port rm v0")]
    Rm(RmArgs),
    /// List the ports
    #[command(after_help = "Examples:\n  enlight port list\n  enlight port list --json")]
    List(ListArgs),
}

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("kind").required(true).args(["vhost_user", "tap", "uplink", "pcap_replay", "pcap_record", "endpoint"]))]
pub(super) struct AddArgs {
    /// Its name: 1 to 32 letters, digits, dots, dashes and underscores
    name: String,

    /// Listen on this vhost-user socket for a virtual machine
    #[arg(long, value_name = "PATH")]
    vhost_user: Option<PathBuf>,

    /// Take this tap interface; it is made if it does not exist
    #[arg(long, value_name = "IF")]
    tap: Option<String>,

    /// Take this network interface of the host, with the wire behind it
    #[arg(long, value_name = "IF")]
    uplink: Option<String>,

    /// How the uplink's frames are carried: auto, af-packet or af-xdp
    #[arg(long, value_name = "MODE", requires = "uplink")]
    uplink_mode: Option<String>,

    /// Send the frames of this pcap or pcapng file into the switch
    #[arg(long, value_name = "FILE")]
    pcap_replay: Option<PathBuf>,

    /// Replay so many times as fast as recorded, or as fast as possible: max
    #[arg(long, value_name = "N|max", requires = "pcap_replay")]
    pcap_speed: Option<String>,

    /// Replay so many times; 0 for without end
    #[arg(
        long,
        value_name = "N",
        requires = "pcap_replay",
        allow_negative_numbers = true
    )]
    pcap_loops: Option<i64>,

    /// Write the frames that the port is given to this pcapng file
    #[arg(long, value_name = "FILE")]
    pcap_record: Option<PathBuf>,

    /// Be a small IP host with this address
    #[arg(long, value_name = "CIDR")]
    endpoint: Option<String>,

    /// Carry untagged frames of one VLAN, 1 to 4094
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        conflicts_with = "trunk"
    )]
    vlan: Option<i64>,

    /// Carry tagged frames of these VLANs
    #[arg(
        long,
        value_name = "N,N,...",
        value_delimiter = ',',
        allow_negative_numbers = true
    )]
    trunk: Option<Vec<i64>>,

    /// Queue pairs offered, 1 to 16
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    queues: Option<i64>,

    /// Largest IP packet in octets, 68 to 65535
    #[arg(long, value_name = "OCTETS", allow_negative_numbers = true)]
    mtu: Option<i64>,

    /// The filter's profile: off, inspect, hold, serialize, coalesce or thin-acks; or several
    #[arg(long, value_name = "PROFILE,...")]
    filter: Option<Profiles>,

    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
pub(super) struct RmArgs {
    /// The port
    name: String,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    common: Common,
}

pub(super) fn run(command: Command) -> Result<()> {
    match command {
        Command::Add(args) => add(*args),
        Command::Rm(args) => {
            args.common.client().delete(&port_target(&args.name, "")?)?;
            args.common.print(&serde_json::Value::Null, |_| {
                format!("port {} is gone", args.name)
            })
        }
        Command::List(args) => {
            let ports: Vec<PortInfo> = args.common.client().get("/v1/ports")?;
            args.common.print(&ports, |ports| list(ports))
        }
    }
}

fn add(args: AddArgs) -> Result<()> {
    // The switch may run in another directory.
    let absolute = |path: Option<PathBuf>| path.map(std::path::absolute).transpose();
    let spec = PortSpec {
        name: args.name,
        vhost_user: absolute(args.vhost_user).context("the socket's path")?,
        pcap_replay: absolute(args.pcap_replay).context("the file's path")?,
        pcap_speed: args.pcap_speed,
        pcap_loops: args.pcap_loops,
        pcap_record: absolute(args.pcap_record).context("the file's path")?,
        tap: args.tap,
        uplink: args.uplink,
        uplink_mode: args.uplink_mode,
        endpoint: args.endpoint,
        vlan: args.vlan,
        trunk: args.trunk,
        queues: args.queues,
        mtu: args.mtu,
        filter: args.filter,
        ..PortSpec::default()
    };
    // Mistakes are told even when no switch runs.
    spec.clone().check()?;
    let info: PortInfo = args.common.client().send("POST", "/v1/ports", &spec)?;
    args.common
        .print(&info, |info| format!("port {}: {}", info.name, place(&info.kind)))
}

fn list(ports: &[PortInfo]) -> String {
    if ports.is_empty() {
        return "no ports; add one with `enlight port add`".to_owned();
    }
    let rows: Vec<Vec<String>> = ports
        .iter()
        .map(|port| {
            vec![
                port.name.clone(),
                place(&port.kind),
                if port.peer.up { "up" } else { "down" }.to_owned(),
                vlan(&port.vlan),
                port.queues.to_string(),
                port.mtu.to_string(),
                port.filter.to_string(),
                port.macs.join(" "),
            ]
        })
        .collect();
    let mut text = table::render(
        &[
            "PORT",
            "CONNECTS",
            "STATE",
            "VLAN",
            "QUEUES",
            "MTU",
            "FILTER",
            "ADDRESSES",
        ],
        &rows,
    );
    for port in ports {
        if let Some(served) = &port.peer.served {
            text.push_str(&format!("{}: {served}\n", port.name));
        }
        if let Some(error) = &port.peer.last_error {
            text.push_str(&format!("{}: {error}\n", port.name));
        }
        let refusals: Vec<String> = port
            .peer
            .refusals
            .iter()
            .map(|(kind, count)| format!("{kind} {count}"))
            .collect();
        if !refusals.is_empty() {
            text.push_str(&format!(
                "{}: refused so far: {}\n",
                port.name,
                refusals.join(", ")
            ));
        }
    }
    text
}

/// What a port connects, in words.
fn place(kind: &PortKind) -> String {
    match kind {
        PortKind::VhostUser(path) => format!("vhost-user {}", path.display()),
        PortKind::Tap(interface) => format!("tap {interface}"),
        PortKind::Uplink(uplink) => format!("uplink {}", uplink.interface),
        PortKind::PcapReplay(replay) => format!("pcap-replay {}", replay.file.display()),
        PortKind::PcapRecord(file) => format!("pcap-record {}", file.display()),
        PortKind::Endpoint(cidr) => format!("endpoint {cidr}"),
    }
}

fn vlan(mode: &VlanMode) -> String {
    match mode {
        VlanMode::Access(0) => "-".to_owned(),
        VlanMode::Access(vlan) => vlan.to_string(),
        VlanMode::Trunk(vlans) => vlans
            .iter()
            .map(|vlan| format!("{vlan}t"))
            .collect::<Vec<_>>()
            .join(","),
    }
}
