//! The report for people.

use std::fmt::Write as _;

use introspection::diagnosis::{Finding, FlowDiagnosis};

use super::report::Report;

/// Stalls told for each connection, and connections told.
const STALLS: usize = 5;
const FLOWS: usize = 20;

/// The report as text.
pub fn render(report: &Report) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{}: {}, {} of TCP in {}",
        report.captures.join(" and "),
        many(report.frames, "frame"),
        report.tcp_frames,
        many(report.connections, "connection")
    );
    for notice in &report.notices {
        let _ = writeln!(text, "note: {notice}");
    }
    if report.causes.is_empty() {
        text.push_str("No connection stood still because of a policy, a loss or a filter.\n");
    }
    for total in &report.causes {
        let _ = writeln!(
            text,
            "\n{}, {}: {} in {}\n  remedy: {}",
            many(total.stalls, "stall"),
            seconds(total.ms),
            total.cause,
            many(total.flows, "connection"),
            total.remedy
        );
    }
    if let Some(cost) = &report.filter {
        let _ = writeln!(
            text,
            "\nWithout the filter, {} would have taken {} instead of {}: it caused {}. This takes for granted:",
            many(cost.flows, "connection"),
            seconds(cost.ms_without),
            seconds(cost.ms),
            many(cost.stalls, "stall")
        );
        for assumption in cost.assumptions {
            let _ = writeln!(text, "  - {assumption}");
        }
    }
    for flow in report.flows.iter().take(FLOWS) {
        one(&mut text, flow);
    }
    if report.flows.len() > FLOWS {
        let _ = writeln!(
            text,
            "\nand {} more connections (see --json)",
            report.flows.len() - FLOWS
        );
    }
    text
}

fn one(text: &mut String, flow: &FlowDiagnosis) {
    let _ = writeln!(
        text,
        "\n{}: {} in {}, {}",
        flow.flow,
        many(flow.findings.len() as u64, "stall"),
        seconds(flow.duration_ns as f64 / 1e6),
        many(flow.frames, "frame")
    );
    for finding in flow.findings.iter().take(STALLS) {
        let _ = writeln!(
            text,
            "  at {:.3} s, {}, {:.0} % sure, frames {}\n    {}",
            finding.start.since(flow.start) as f64 / 1e9,
            finding.cause,
            finding.confidence * 100.0,
            frames(finding),
            finding.explain()
        );
    }
    if flow.findings.len() > STALLS {
        let _ = writeln!(text, "  and {} more", flow.findings.len() - STALLS);
    }
}

/// The numbers of the frames that prove a finding; those of the second tap are marked.
pub(super) fn frames(finding: &Finding) -> String {
    use introspection::diagnosis::Tap;
    let number = |exhibit: &introspection::diagnosis::Exhibit| match exhibit.tap {
        Tap::First => exhibit.frame.to_string(),
        Tap::Second => format!("{}'", exhibit.frame),
    };
    let numbers: Vec<String> = finding.evidence.iter().map(number).collect();
    numbers.join(", ")
}

pub(super) fn seconds(ms: f64) -> String {
    if ms >= 10_000.0 {
        format!("{:.1} s", ms / 1e3)
    } else if ms >= 1_000.0 {
        format!("{:.2} s", ms / 1e3)
    } else if ms >= 10.0 {
        format!("{ms:.0} ms")
    } else {
        format!("{ms:.2} ms")
    }
}

/// A count and what is counted.
pub(super) fn many(count: u64, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}
