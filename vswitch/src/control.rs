//! Typed control of a running switch: what it is told, and what it tells.

mod attribution;
mod filter;

use std::path::PathBuf;

use introspection::Profile;
use offload::MacAddr;
use serde::{Deserialize, Serialize};

use crate::counters::CounterSnapshot;
pub use crate::descriptors::FileLimit;
use crate::port::{BackendStatus, Capabilities};
pub use attribution::{Attribution, AttributionStats, FlowList, ParseAttributionError, PortFlows};
pub use filter::{FilterConfig, FilterInfo, FilterStage};

/// How a switch is to be started.
#[derive(Clone, Debug, Default)]
pub struct SwitchConfig {
    /// One entry a worker; empty means one adaptive worker on any CPU.
    pub workers: Vec<WorkerConfig>,
}

/// One worker thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerConfig {
    /// The CPU that it is pinned to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<usize>,
    /// Whether it ever sleeps.
    #[serde(default)]
    pub mode: WorkerMode,
}

/// What a worker does when there is nothing to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkerMode {
    /// Polls on.
    Poll,
    /// Sleeps on its doorbells after an idle spell.
    #[default]
    Adaptive,
}

/// A port to be added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortConfig {
    /// Its name, unique in the switch: 1 to 32 of `a-z A-Z 0-9 . _ -`.
    pub name: String,
    /// What it connects.
    pub kind: PortKind,
    /// Which VLANs it carries.
    pub vlan: VlanMode,
    /// Queue pairs offered, 1 to 16.
    pub queues: u16,
    /// Largest IP packet in octets, 68 to 65535.
    pub mtu: u16,
    /// Its filter at the start.
    pub filter: FilterConfig,
}

impl PortConfig {
    /// A port with one queue pair, an MTU of 1500, no VLAN and no filter.
    pub fn new(name: impl Into<String>, kind: PortKind) -> Self {
        Self {
            name: name.into(),
            kind,
            vlan: VlanMode::default(),
            queues: 1,
            mtu: 1500,
            filter: FilterConfig::default(),
        }
    }
}

/// What a port connects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PortKind {
    /// A vhost-user socket that the switch listens on.
    VhostUser(PathBuf),
    /// A tap interface, made if it does not exist.
    Tap(String),
    /// A small IP host inside the switch: its address and prefix length, such as `192.0.2.1/24`.
    Endpoint(String),
    /// A network interface of the host, and the wire behind it.
    Uplink(Uplink),
    /// A capture file whose frames enter the switch.
    PcapReplay(Replay),
    /// A capture file that keeps the frames for the port.
    PcapRecord(PathBuf),
}

impl PortKind {
    /// Whether the port leads out of the host: many addresses behind it, and none of them a guest's.
    pub const fn is_uplink(&self) -> bool {
        matches!(self, Self::Uplink(_))
    }
}

/// An uplink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Uplink {
    /// The host's interface.
    pub interface: String,
    /// How its frames are carried.
    #[serde(default)]
    pub mode: UplinkMode,
}

impl Uplink {
    /// The uplink of an interface, its mode left to the switch.
    pub fn new(interface: impl Into<String>) -> Self {
        Self {
            interface: interface.into(),
            mode: UplinkMode::Auto,
        }
    }
}

/// How an uplink's frames are carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UplinkMode {
    /// By AF_XDP when that works, else by AF_PACKET.
    #[default]
    Auto,
    /// By packet sockets: everywhere, with offloads.
    AfPacket,
    /// By AF_XDP: without offloads, past the kernel's stack.
    AfXdp,
}

impl UplinkMode {
    /// Every mode.
    pub const ALL: [Self; 3] = [Self::Auto, Self::AfPacket, Self::AfXdp];

    /// The mode's word in configurations.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::AfPacket => "af-packet",
            Self::AfXdp => "af-xdp",
        }
    }
}

/// A capture file to be replayed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Replay {
    /// The file: pcap or pcapng.
    pub file: PathBuf,
    /// How fast.
    #[serde(default)]
    pub speed: ReplaySpeed,
    /// How often; 0 for without end.
    pub loops: u32,
}

impl Replay {
    /// A file to be replayed once, as it was recorded.
    pub fn new(file: impl Into<PathBuf>) -> Self {
        Self {
            file: file.into(),
            speed: ReplaySpeed::default(),
            loops: 1,
        }
    }
}

/// How fast a capture file is replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReplaySpeed {
    /// So many times as fast as it was recorded, 1 or more.
    Times(u32),
    /// As fast as the switch takes it.
    Max,
}

impl Default for ReplaySpeed {
    fn default() -> Self {
        Self::Times(1)
    }
}

/// Which VLANs a port carries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VlanMode {
    /// Untagged frames of one VLAN; VLAN 0 is the switch's default one.
    Access(u16),
    /// Tagged frames of these VLANs (1 to 4094), and no others.
    Trunk(Vec<u16>),
}

impl Default for VlanMode {
    fn default() -> Self {
        Self::Access(0)
    }
}

/// A port as it stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PortInfo {
    /// Its name.
    pub name: String,
    /// What it connects.
    pub kind: PortKind,
    /// Which VLANs it carries.
    pub vlan: VlanMode,
    /// Queue pairs offered.
    pub queues: u16,
    /// Largest IP packet in octets.
    pub mtu: u16,
    /// Its filter's profile.
    pub filter: Profile,
    /// The worker that serves it.
    pub worker: usize,
    /// Its peer.
    pub peer: BackendStatus,
    /// What the peer takes.
    pub capabilities: Capabilities,
    /// Addresses learned on it, at most 64 of them.
    pub macs: Vec<String>,
    /// Microseconds from the port's making to the first frame that its guest sent.
    pub first_frame_us: Option<u64>,
}

/// Counters of one port.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PortStats {
    /// The port.
    pub name: String,
    /// Its counters.
    #[serde(flatten)]
    pub counters: CounterSnapshot,
    /// Frames kept for the receiver now.
    pub backlog: u64,
    /// Stage by stage, frames that its guest sent, since the port was made or the stages were reset.
    pub stages: introspection::stage::StageSummary,
    /// Frames that its guest sent meanwhile, stamped or not.
    #[serde(default)]
    pub stages_of: u64,
    /// What the port's filter added to frames of both directions, since it was set or the stages were reset.
    #[serde(default)]
    pub filter: introspection::stage::FilterStages,
    /// Stalls seen on it.
    pub stalls: introspection::stall::StallCounts,
    /// The same by the causes that the diagnosis tells apart, with their lengths. They are judged a moment later.
    #[serde(default)]
    pub stall_causes: introspection::stall::StallSummary,
}

/// Counters of one worker.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct WorkerStats {
    /// Its configuration.
    #[serde(flatten)]
    pub config: WorkerConfig,
    /// Rounds of its loop.
    pub rounds: u64,
    /// Rounds that found work.
    pub busy_rounds: u64,
    /// Bursts carried.
    pub bursts: u64,
    /// Frames carried.
    pub frames: u64,
    /// Times that it went to sleep.
    pub sleeps: u64,
}

/// One queue of a port: where it runs, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueStats {
    /// The port.
    pub port: String,
    /// The port's queue, counted from 0; the VM queue has the number after the last.
    pub queue: u16,
    /// Whether it is the port's VM queue, which takes what uplinks send to the port, and not one of its own.
    pub vm: bool,
    /// The worker that serves it.
    pub worker: usize,
    /// What of that worker's time it took in the last second, in thousandths; 0 where there is only one worker.
    pub load: u32,
    /// Frames carried.
    pub frames: u64,
    /// Times that it was handed over to another worker.
    pub moves: u64,
    /// Why it runs there.
    pub why: Why,
}

impl QueueStats {
    /// The queue's name in tables and labels: its number, or `vm`.
    pub fn label(&self) -> String {
        if self.vm {
            "vm".to_owned()
        } else {
            self.queue.to_string()
        }
    }
}

/// Why a queue is with its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// It was put there when its port was made: queues are dealt out in turn.
    Dealt,
    /// Somebody asked for it.
    Assigned,
    /// Load was evened out. All loads are thousandths of a worker's time.
    Balanced {
        /// The worker that gave it away.
        from: usize,
        /// That worker's load with it.
        from_load: u32,
        /// The new worker's load without it.
        to_load: u32,
        /// Its own.
        load: u32,
    },
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let percent = |permille: u32| f64::from(permille) / 10.0;
        match *self {
            Self::Dealt => f.write_str("dealt out in turn"),
            Self::Assigned => f.write_str("assigned"),
            Self::Balanced {
                from,
                from_load,
                to_load,
                load,
            } => write!(
                f,
                "took {:.1} % of worker {from}, which was {:.1} % busy and this one {:.1} %",
                percent(load),
                percent(from_load),
                percent(to_load)
            ),
        }
    }
}

/// Counters of the whole switch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SwitchStats {
    /// By port.
    pub ports: Vec<PortStats>,
    /// By queue of each port.
    #[serde(default)]
    pub queues: Vec<QueueStats>,
    /// By worker.
    pub workers: Vec<WorkerStats>,
    /// Addresses in the forwarding table; one that expired counts for up to half a minute more.
    pub learned: usize,
    /// Which frames are stamped, and what that costs.
    #[serde(default)]
    pub attribution: AttributionStats,
}

/// One learned address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LearnedMac {
    /// The address, as text.
    pub mac: String,
    /// Its VLAN.
    pub vlan: u16,
    /// The port.
    pub port: String,
    /// Seconds since it was last seen.
    pub age: u32,
}

/// Why the switch refused a command.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// There is no such port.
    #[error("there is no port named \"{0}\"; `enlight port list` shows those that exist")]
    NoSuchPort(String),
    /// The name is taken.
    #[error("a port named \"{0}\" exists already; choose another name or remove it first")]
    DuplicatePort(String),
    /// The name does not do.
    #[error("\"{0}\" is no port name; use 1 to 32 letters, digits, dots, dashes and underscores")]
    BadName(String),
    /// A VLAN that does not exist.
    #[error("port {port}: VLAN {vlan} is out of range; VLANs are 1 to 4094")]
    BadVlan {
        /// The port.
        port: String,
        /// The VLAN.
        vlan: u16,
    },
    /// A number that is out of range.
    #[error("port {port}: {what} is {value}; it must be {range}")]
    OutOfRange {
        /// The port.
        port: String,
        /// What is out of range.
        what: &'static str,
        /// Its value.
        value: u64,
        /// What would do.
        range: &'static str,
    },
    /// The backend could not be opened.
    #[error("port {port}: {reason}")]
    Backend {
        /// The port.
        port: String,
        /// The thing, the reason and the remedy.
        reason: String,
    },
    /// The filter's rules do not compile.
    #[error("port {port}: {source}")]
    Rules {
        /// The port.
        port: String,
        /// What is wrong with them.
        source: introspection::RuleError,
    },
    /// The filter's profiles make no chain.
    #[error("port {port}: {source}")]
    Chain {
        /// The port.
        port: String,
        /// Why not.
        source: introspection::ChainError,
    },
    /// A copy would come to where it is copied again.
    #[error("port {port}: a rule cannot mirror to port {to}, {reason}")]
    Mirror {
        /// The port.
        port: String,
        /// The port that was to get copies.
        to: String,
        /// Why not, and what would do.
        reason: &'static str,
    },
    /// The switch is full.
    #[error("the switch has {0} ports already, as many as it can have")]
    TooManyPorts(usize),
    /// The process has as many files open as it may.
    #[error("port {port}: {limit}")]
    OpenFiles {
        /// The port.
        port: String,
        /// How many that are.
        limit: FileLimit,
    },
    /// The thread that places queues and forgets old addresses could not start.
    #[error("no thread to place queues on workers and to forget old addresses: {0}")]
    Upkeep(String),
    /// The switch could not start.
    #[error("worker {worker}: {reason}")]
    Worker {
        /// The worker.
        worker: usize,
        /// Why.
        reason: String,
    },
}

/// Whether a text will do as a port's name.
pub fn is_port_name(name: &str) -> bool {
    (1..=32).contains(&name.len())
        && name
            .bytes()
            .all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'.' | b'_' | b'-'))
}

/// A MAC address made from a port's name: locally administered, the same on every run.
pub fn mac_of_name(name: &str) -> MacAddr {
    // FNV-1a, 64 bits.
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, octet| {
        (hash ^ u64::from(octet)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let mut mac = [0x02; 6];
    mac[1..].copy_from_slice(&hash.to_be_bytes()[..5]);
    MacAddr(mac)
}
