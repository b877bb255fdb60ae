//! What the benchmark found out, as plain data: the table, the page, the JSON and later comparisons are all made from it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::args::{SpacingChoice, Workload};
use super::stats::{Interval, Judgement};
use crate::lab::report::{DirectionStages, HostFacts, RttSummary, StageMeans, Stalls};

/// A run of the benchmark.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Version of the program.
    pub version: String,
    /// Whether it was stopped before its end; then only loads that were measured to their end are here.
    pub interrupted: bool,
    /// The machine.
    pub host: HostFacts,
    /// What was asked for.
    pub settings: Settings,
    /// What two readings of the clock take, in nanoseconds.
    pub stamps_ns: f64,
    /// Transactions a second that the path with A can do, if that was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<f64>,
    /// One entry a load.
    pub points: Vec<Point>,
    /// What changed since another run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comparison: Option<Comparison>,
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// What ran client and server; `None` for somebody else's on two ports.
    pub guests: Option<GuestKind>,
    /// The release of the guests' Linux.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linux: Option<String>,
    /// The ports of `--attach`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attached: Vec<String>,
    /// A and the B's.
    pub filters: Vec<String>,
    /// Rules of the profiles that look at payload.
    pub rules: usize,
    /// Whether those are made up.
    pub patterns: bool,
    /// Longest that a filter may hold a frame, when the command line named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// What client and server do.
    pub workload: Workload,
    /// How an open loop's requests are spaced.
    pub spacing: SpacingChoice,
    /// Whether Nagle's algorithm is on.
    pub nagle: bool,
    /// Longest ACK delay in milliseconds; `None` where it is the kernel's own affair.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ack_delay_ms: Option<u32>,
    /// Whether stalls are counted with filter off, too.
    pub watch: bool,
    /// Slices of each contender.
    pub repeats: u32,
    /// Seconds of a slice.
    pub slice_s: f64,
    /// What decided order, spacing and resampling.
    pub seed: u64,
}

/// What runs client and server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GuestKind {
    /// Threads over the kernel's TCP, through taps in two network namespaces.
    Taps,
    /// Two endpoints inside the switch.
    Endpoint,
    /// Two KVM virtual machines with the micro-guest.
    Micro,
    /// Two KVM virtual machines with Linux.
    Linux,
}

/// What is asked of the path.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Load {
    /// Requests on a schedule.
    Open {
        /// So many a second.
        rate: u32,
        /// Octets of each, and of its response.
        size: u32,
    },
    /// One after the other, each in two writes.
    Wwr {
        /// Octets of each, and of its response.
        size: u32,
        /// Pause between them, in milliseconds.
        gap_ms: u32,
    },
    /// Whatever somebody else does.
    Foreign,
}

impl std::fmt::Display for Load {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Open { rate, size } => write!(out, "{rate}/s of {size} octets"),
            Self::Wwr { size, gap_ms } => write!(out, "wwr of {size} octets, {gap_ms} ms apart"),
            Self::Foreign => out.write_str("the ports' own load"),
        }
    }
}

/// What one load showed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Point {
    /// The load.
    pub load: Load,
    /// A, A again, every B, and the empty path where there is one.
    pub runs: Vec<Run>,
    /// What each B costs.
    pub effects: Vec<Effect>,
    /// The findings in sentences, one for each B.
    pub sentences: Vec<String>,
}

/// Which contender a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// A.
    A,
    /// A again.
    Again,
    /// A B.
    B,
    /// Without a switch.
    Empty,
}

/// All slices of one contender.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// Which contender.
    pub part: Part,
    /// Its filter.
    pub filter: String,
    /// Transactions measured; frames of somebody else's load.
    pub transactions: u64,
    /// Seconds measured.
    pub seconds: f64,
    /// Requests that were due, of an open loop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<u64>,
    /// Of those, answered within their slice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_time: Option<u64>,
    /// How late the generator wrote a request, in the mean, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send_late_us: Option<f64>,
    /// Latencies of all slices together; in an open loop from when a request was due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_us: Option<RttSummary>,
    /// The 99th percentile of a closed loop, corrected for what it did not ask while it waited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corrected_p99_us: Option<f64>,
    /// The figures of each slice, in microseconds.
    pub slices: BTreeMap<Metric, Vec<f64>>,
    /// Transactions of 25 ms or longer.
    pub slow: u64,
    /// Stalls that the switch's watcher counted; `None` where it did not watch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stalls: Option<Stalls>,
    /// Mean time of a frame in each stage of the switch, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stages_us: Option<StageMeans>,
    /// The same for each direction.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub directions: Vec<DirectionStages>,
    /// The distribution of all slices: lower bound of a bucket in nanoseconds, and its count.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub histogram_ns: Vec<(u64, u64)>,
}

/// A figure that slices are compared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// The mean latency.
    Mean,
    /// The median.
    P50,
    /// The 99th percentile.
    P99,
    /// The mean time of a frame in the switch.
    Residence,
}

impl Metric {
    /// Its name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::P50 => "p50",
            Self::P99 => "p99",
            Self::Residence => "residence",
        }
    }
}

/// What a B costs by one figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Effect {
    /// The B.
    pub filter: String,
    /// The figure.
    pub metric: Metric,
    /// What it is, and whether it may be believed.
    #[serde(flatten)]
    pub judgement: Judgement,
}

impl Point {
    /// The run of a contender.
    pub fn run(&self, part: Part) -> Option<&Run> {
        self.runs.iter().find(|run| run.part == part)
    }
}

impl Report {
    /// Whether a difference was refused.
    pub fn refuses(&self) -> bool {
        let effects = self.points.iter().flat_map(|point| &point.effects);
        let changed = self.comparison.as_ref().is_some_and(Comparison::refuses);
        changed
            || effects
                .into_iter()
                .any(|effect| !effect.judgement.refused.is_empty())
    }
}

/// What changed between two runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// When the other one was.
    pub old_date: String,
    /// What differs between the set-ups; if there is anything, nothing is compared.
    pub differs: Vec<String>,
    /// One entry for each load, contender and figure that both have.
    pub changes: Vec<Change>,
}

impl Comparison {
    /// Whether something was refused.
    pub fn refuses(&self) -> bool {
        !self.differs.is_empty() || self.changes.iter().any(|change| change.refused.is_some())
    }
}

/// How one figure changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// The load.
    pub load: Load,
    /// The filter.
    pub filter: String,
    /// The figure.
    pub metric: Metric,
    /// Its median over the old run's slices, in microseconds.
    pub old_us: f64,
    /// Over the new one's.
    pub new_us: f64,
    /// Where the difference, new less old, lies.
    pub interval_us: Interval,
    /// Why it is not to be believed, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}
