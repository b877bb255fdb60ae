//! What a diagnosis says, as data.

use introspection::diagnosis::{ASSUMPTIONS, Cause, FlowDiagnosis};
use serde::Serialize;

use super::read::Capture;

/// Connections that are told one by one.
const MAX_FLOWS: usize = 200;

/// Stalls of one cause.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct CauseTotal {
    /// The cause.
    pub cause: Cause,
    /// How many.
    pub stalls: u64,
    /// Milliseconds that were lost.
    pub ms: f64,
    /// In how many connections.
    pub flows: u64,
    /// What to do about it.
    pub remedy: &'static str,
}

/// What the filter cost, by the replay without it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct FilterCost {
    /// Connections that were seen on both sides of it.
    pub flows: u64,
    /// Stalls that it caused.
    pub stalls: u64,
    /// Milliseconds that these connections took, added.
    pub ms: f64,
    /// Milliseconds that they would have taken.
    pub ms_without: f64,
    /// What the replay takes for granted.
    pub assumptions: [&'static str; 4],
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What was read.
    pub captures: Vec<String>,
    /// Frames read, and those of TCP among them.
    pub frames: u64,
    /// Frames of TCP.
    pub tcp_frames: u64,
    /// TCP connections.
    pub connections: u64,
    /// What could not be read, and what is missing.
    pub notices: Vec<String>,
    /// Stalls by cause, the most expensive first.
    pub causes: Vec<CauseTotal>,
    /// What the filter cost, when there are two taps.
    pub filter: Option<FilterCost>,
    /// The connections that stood still, at most 200, the most expensive first.
    pub flows: Vec<FlowDiagnosis>,
}

impl Report {
    /// Judges a capture.
    pub fn of(capture: Capture) -> Self {
        let mut notices = capture.notices;
        let (tcp_frames, left_out) = (capture.trace.frames() as u64, capture.trace.left_out());
        if left_out > 0 {
            notices.push(format!(
                "{left_out} frames were too many to remember; cut the capture with `editcap -r` or `editcap -i`"
            ));
        }
        let flows = capture.trace.judge();
        let one_way = flows.iter().filter(|flow| flow.one_way).count();
        if one_way > 0 {
            notices.push(format!(
                "{one_way} of {} connections have frames of one direction only; what waits for acknowledgements cannot be told there",
                flows.len()
            ));
        }
        let connections = flows.len() as u64;
        let (causes, filter) = (totals(&flows), cost(&flows));
        let mut stalled: Vec<FlowDiagnosis> = flows
            .into_iter()
            .filter(|flow| !flow.findings.is_empty())
            .collect();
        if stalled.len() > MAX_FLOWS {
            notices.push(format!(
                "{} more connections stood still",
                stalled.len() - MAX_FLOWS
            ));
            stalled.truncate(MAX_FLOWS);
        }
        Self {
            captures: capture.names,
            frames: capture.frames,
            tcp_frames,
            connections,
            notices,
            causes,
            filter,
            flows: stalled,
        }
    }

    /// Stalls of all causes.
    pub fn stalls(&self) -> u64 {
        self.causes.iter().map(|total| total.stalls).sum()
    }
}

fn totals(flows: &[FlowDiagnosis]) -> Vec<CauseTotal> {
    let total = |cause: Cause| {
        let of = |flow: &FlowDiagnosis| {
            flow.findings
                .iter()
                .filter(|finding| finding.cause == cause)
                .count()
        };
        let findings = flows.iter().flat_map(|flow| &flow.findings);
        let ns: u64 = findings
            .filter(|finding| finding.cause == cause)
            .map(|finding| finding.gap_ns)
            .sum();
        CauseTotal {
            cause,
            stalls: flows.iter().map(|flow| of(flow) as u64).sum(),
            ms: ns as f64 / 1e6,
            flows: flows.iter().filter(|flow| of(flow) > 0).count() as u64,
            remedy: cause.remedy(),
        }
    };
    let mut totals: Vec<CauseTotal> = Cause::ALL
        .into_iter()
        .map(total)
        .filter(|total| total.stalls > 0)
        .collect();
    totals.sort_by(|a, b| b.ms.total_cmp(&a.ms));
    totals
}

fn cost(flows: &[FlowDiagnosis]) -> Option<FilterCost> {
    let replays: Vec<_> = flows.iter().filter_map(|flow| flow.without_filter).collect();
    let sum =
        |of: &dyn Fn(&introspection::diagnosis::Counterfactual) -> u64| replays.iter().map(of).sum::<u64>();
    (!replays.is_empty()).then(|| FilterCost {
        flows: replays.len() as u64,
        stalls: sum(&|replay| replay.caused()),
        ms: sum(&|replay| replay.duration_ns) as f64 / 1e6,
        ms_without: sum(&|replay| replay.without_ns) as f64 / 1e6,
        assumptions: ASSUMPTIONS,
    })
}
