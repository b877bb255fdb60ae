//! What the lab found out, as plain data: the table, the page and the JSON are all made from it.

use introspection::Profile;
use introspection::stage::Stage;
use serde::{Deserialize, Serialize};

use super::args::Workload;
use super::timeline::Timeline;

/// A run of the lab.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LabReport {
    /// Version of the program.
    pub version: String,
    /// What ran client and server.
    pub guests: GuestKind,
    /// Why it was that, when it was not what one would wish for, and the remedy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guests_note: Option<String>,
    /// The machine.
    pub host: HostFacts,
    /// What was asked for.
    pub settings: Settings,
    /// How late ACKs came that payload waited for, in milliseconds: the median of the evidence of all profiles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ack_delay_seen_ms: Option<f64>,
    /// One entry a guest.
    pub guests_info: Vec<GuestInfo>,
    /// One entry a profile, in the order of the command line.
    pub runs: Vec<Run>,
}

/// What runs client and server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GuestKind {
    /// Two KVM virtual machines with the micro-guest.
    Kvm,
    /// Two KVM virtual machines with Linux.
    Linux,
    /// Two endpoint ports inside the switch.
    Endpoint,
}

/// The machine and the moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// The processor's name.
    pub cpu: String,
    /// Processors that this process may use.
    pub cores: usize,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Kernel release.
    pub kernel: String,
    /// What was found out about KVM.
    pub kvm: String,
    /// UTC, as in RFC 3339.
    pub date: String,
    /// The command line.
    pub command: String,
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// What client and server do.
    pub workload: Workload,
    /// Octets of a request and of a response.
    pub size: u32,
    /// Longest ACK delay of both guests, in milliseconds; `None` when that is Linux' own affair.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ack_delay_ms: Option<u64>,
    /// Whether Nagle's algorithm is on in both guests.
    pub nagle: bool,
    /// What was set in the guests' `/proc/sys`, as `KEY=VALUE`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sysctls: Vec<String>,
    /// Seconds measured for each profile.
    pub duration_s: f64,
    /// Longest that a filter may hold a frame, when the command line named it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// The port that the filter sat on.
    pub filter_port: String,
}

/// One guest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GuestInfo {
    /// Its port's name: `client` or `server`.
    pub name: String,
    /// Its address.
    pub ip: String,
    /// Its operating system and release, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// Milliseconds from the start of its process to its first frame; `None` where there is no machine to boot.
    pub first_frame_ms: Option<f64>,
    /// Memory that the guest was given, in MiB.
    pub memory_mib: Option<u64>,
    /// Memory that its process takes beyond that, in KiB.
    pub memory_overhead_kib: Option<u64>,
}

/// One profile's result.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// The profile.
    pub filter: Profile,
    /// What client and server did.
    pub workload: Workload,
    /// Transactions measured.
    pub transactions: u64,
    /// How long that took, in seconds.
    pub seconds: f64,
    /// The client's round-trip times in microseconds.
    pub rtt_us: RttSummary,
    /// Gaps that a policy caused, by cause.
    pub stalls: Stalls,
    /// Mean time of a frame in each stage of the switch, in microseconds, both directions together.
    pub stages_us: StageMeans,
    /// The same for each direction.
    pub directions: Vec<DirectionStages>,
    /// Mean time of a frame in the switch, in microseconds: measured by itself, not added up from the stages.
    pub residence_us: f64,
    /// What the profile did to latency, and why, in a sentence.
    pub explanation: String,
    /// The first few stalls with what proves them.
    pub evidence: Vec<Evidence>,
    /// The client's slowest transactions.
    pub slowest: Vec<Slow>,
    /// The client's distribution: lower bound of a bucket in nanoseconds, and its count.
    pub histogram_ns: Vec<(u64, u64)>,
    /// A few transactions on both sides of the filter.
    #[serde(default, skip_serializing_if = "Timeline::is_empty")]
    pub timeline: Timeline,
}

/// Round-trip times in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RttSummary {
    /// The shortest.
    pub min: f64,
    /// The mean.
    pub mean: f64,
    /// Half were at most this long.
    pub p50: f64,
    /// 90 % were at most this long.
    pub p90: f64,
    /// 99 % were at most this long.
    pub p99: f64,
    /// 99.9 % were at most this long.
    pub p999: f64,
    /// The longest.
    pub max: f64,
}

/// Stalls by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stalls {
    /// The sender waited for an ACK that its receiver delayed.
    pub delayed_ack: u64,
    /// The filter held a frame, and no ACK was what it waited for.
    pub filter_hold: u64,
    /// A frame was lost or came late, and was sent again.
    pub retransmission: u64,
}

impl Stalls {
    /// All of them.
    pub const fn total(self) -> u64 {
        self.delayed_ack + self.filter_hold + self.retransmission
    }
}

/// Mean time in each stage, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StageMeans {
    /// See [`Stage::Doorbell`].
    pub doorbell: f64,
    /// See [`Stage::QueueWait`].
    pub queue_wait: f64,
    /// See [`Stage::Parse`].
    pub parse: f64,
    /// See [`Stage::Filter`].
    pub filter: f64,
    /// See [`Stage::Hold`].
    pub hold: f64,
    /// See [`Stage::Copy`].
    pub copy: f64,
    /// See [`Stage::Notify`].
    pub notify: f64,
}

impl StageMeans {
    /// The mean of one stage.
    pub const fn of(&self, stage: Stage) -> f64 {
        match stage {
            Stage::Doorbell => self.doorbell,
            Stage::QueueWait => self.queue_wait,
            Stage::Parse => self.parse,
            Stage::Filter => self.filter,
            Stage::Hold => self.hold,
            Stage::Copy => self.copy,
            Stage::Notify => self.notify,
        }
    }

    /// Makes one from a function of the stage.
    pub fn from_fn(mut mean: impl FnMut(Stage) -> f64) -> Self {
        Self {
            doorbell: mean(Stage::Doorbell),
            queue_wait: mean(Stage::QueueWait),
            parse: mean(Stage::Parse),
            filter: mean(Stage::Filter),
            hold: mean(Stage::Hold),
            copy: mean(Stage::Copy),
            notify: mean(Stage::Notify),
        }
    }

    /// The sum of all stages.
    pub fn sum(&self) -> f64 {
        Stage::ALL.into_iter().map(|stage| self.of(stage)).sum()
    }
}

/// Stages of the frames that one guest sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DirectionStages {
    /// The port that they came from.
    pub from: String,
    /// Frames measured.
    pub frames: u64,
    /// Mean time in each stage, in microseconds.
    pub stages_us: StageMeans,
    /// Mean time in the switch, in microseconds.
    pub residence_us: f64,
}

/// One stall and what proves it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// Its cause, as in [`Stalls`].
    pub cause: String,
    /// Milliseconds from the phase's start to the gap's end.
    pub at_ms: f64,
    /// The gap in milliseconds.
    pub gap_ms: f64,
    /// How late the ACK came that was waited for, in milliseconds; what waited may have begun to wait later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ack_late_ms: Option<f64>,
    /// The frames that prove it, and what they say, in a sentence.
    pub proof: String,
}

/// A slow transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slow {
    /// Which one of its phase.
    pub n: u64,
    /// Its round-trip time in microseconds.
    pub us: u64,
}
