//! The report as text for a terminal.

use std::fmt::Write as _;

use introspection::stage::Stage;

use super::format::{ack_delay, count, micros};
use super::report::{GuestKind, LabReport, Run, StageMeans};

/// The whole report as text.
pub(super) fn render(report: &LabReport) -> String {
    let mut text = String::new();
    heading(&mut text, report);
    text.push_str("\nRound-trip time at the client\n");
    text.push_str(&align(&latency_rows(report)));
    text.push_str("\nStalls by cause\n");
    text.push_str(&align(&stall_rows(report)));
    text.push_str("\nWhere a frame's time in the switch goes (mean)\n");
    text.push_str(&align(&stage_rows(report)));
    text.push_str("\nWhat each profile did\n");
    for run in &report.runs {
        let _ = writeln!(text, "  {}: {}", run.filter, run.explanation);
    }
    text
}

fn heading(text: &mut String, report: &LabReport) {
    let settings = &report.settings;
    let kind = match report.guests {
        GuestKind::Kvm => "two KVM guests",
        GuestKind::Linux => "two Linux guests",
        GuestKind::Endpoint => "two endpoints inside the switch",
    };
    let _ = writeln!(
        text,
        "Lab: {} between {kind}, {} octets, ACK delay {}, Nagle {}, filter on port \"{}\"",
        settings.workload.name(),
        settings.size,
        ack_delay(report),
        if settings.nagle { "on" } else { "off" },
        settings.filter_port,
    );
    if !settings.sysctls.is_empty() {
        let _ = writeln!(text, "Set in both guests: {}", settings.sysctls.join(", "));
    }
    let host = &report.host;
    let _ = writeln!(
        text,
        "Host: {}, {} cores, Linux {}, {}",
        host.cpu, host.cores, host.kernel, host.kvm
    );
    if let Some(note) = &report.guests_note {
        let _ = writeln!(text, "Note: {note}");
    }
    for guest in &report.guests_info {
        let facts: Vec<String> = [
            guest.system.clone(),
            guest
                .first_frame_ms
                .map(|ms| format!("first frame after {ms:.0} ms")),
            guest
                .memory_overhead_kib
                .zip(guest.memory_mib)
                .map(|(kib, memory)| {
                    format!(
                        "its process takes {:.1} MiB beyond the guest's {memory} MiB",
                        kib as f64 / 1024.0
                    )
                }),
        ]
        .into_iter()
        .flatten()
        .collect();
        if !facts.is_empty() {
            let _ = writeln!(text, "Guest {} ({}): {}", guest.name, guest.ip, facts.join(", "));
        }
    }
}

fn latency_rows(report: &LabReport) -> Vec<Vec<String>> {
    let mut rows = vec![words(&[
        "filter",
        "p50",
        "p90",
        "p99",
        "p99.9",
        "max",
        "transactions",
    ])];
    rows.extend(report.runs.iter().map(|run| {
        let rtt = &run.rtt_us;
        let mut row = vec![run.filter.to_string()];
        row.extend([rtt.p50, rtt.p90, rtt.p99, rtt.p999, rtt.max].map(micros));
        row.push(count(run.transactions));
        row
    }));
    rows
}

fn stall_rows(report: &LabReport) -> Vec<Vec<String>> {
    let mut rows = vec![words(&["filter", "delayed ACK", "filter hold", "retransmission"])];
    rows.extend(report.runs.iter().map(|run| {
        let stalls = &run.stalls;
        let mut row = vec![run.filter.to_string()];
        row.extend([stalls.delayed_ack, stalls.filter_hold, stalls.retransmission].map(count));
        row
    }));
    rows
}

fn stage_rows(report: &LabReport) -> Vec<Vec<String>> {
    let mut header = words(&["filter", "frames from"]);
    header.extend(Stage::ALL.map(|stage| stage.label().to_owned()));
    header.extend(words(&["sum", "residence", "frames"]));
    let mut rows = vec![header];
    for run in &report.runs {
        rows.extend(directions(run).map(|(from, stages, residence, frames)| {
            let mut row = vec![run.filter.to_string(), from.to_owned()];
            row.extend(Stage::ALL.map(|stage| micros(stages.of(stage))));
            row.extend([micros(stages.sum()), micros(residence), count(frames)]);
            row
        }));
    }
    rows
}

fn directions(run: &Run) -> impl Iterator<Item = (&str, StageMeans, f64, u64)> {
    run.directions.iter().map(|direction| {
        (
            direction.from.as_str(),
            direction.stages_us,
            direction.residence_us,
            direction.frames,
        )
    })
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// Rows as lines: columns of equal width, the first one to the left, the others to the right.
fn align(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let cell = |row: &Vec<String>, column: usize| row.get(column).map_or(0, |text| text.chars().count());
    let widths: Vec<usize> = (0..columns)
        .map(|column| rows.iter().map(|row| cell(row, column)).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        let mut line = String::from("  ");
        for (column, (value, width)) in row.iter().zip(&widths).enumerate() {
            if column == 0 {
                let _ = write!(line, "{value:<width$}");
            } else {
                let _ = write!(line, "  {value:>width$}");
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
        if index == 0 {
            let rule: usize = widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1);
            let _ = writeln!(text, "  {}", "─".repeat(rule));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::fixture;

    #[test]
    fn all_figures_of_a_report_are_there() {
        let text = render(&fixture::report());
        for needle in [
            "wwr between two KVM guests",
            "first frame after 61 ms",
            "4.1 MiB beyond the guest's 16 MiB",
            "delayed ACK",
            "p99.9",
            "192.0.2.2's delayed ACK",
        ] {
            assert!(text.contains(needle), "{needle}:\n{text}");
        }
        let serialize = text
            .lines()
            .find(|line| line.trim_start().starts_with("serialize"))
            .unwrap();
        assert_eq!(
            serialize.split_whitespace().collect::<Vec<_>>(),
            [
                "serialize",
                "200.1",
                "ms",
                "200.2",
                "ms",
                "200.2",
                "ms",
                "200.2",
                "ms",
                "200.2",
                "ms",
                "38"
            ]
        );
    }

    #[test]
    fn linux_guests_are_named_with_what_was_seen_of_their_acks() {
        let mut report = fixture::report();
        report.guests = GuestKind::Linux;
        report.settings.ack_delay_ms = None;
        report.settings.sysctls = vec!["net.ipv4.tcp_sack=0".to_owned()];
        report.ack_delay_seen_ms = Some(40.7);
        report.guests_info[0].system = Some("Linux 6.1.0".to_owned());
        let text = render(&report);
        for needle in [
            "between two Linux guests",
            "ACK delay Linux' own (seen: 41 ms)",
            "Guest client (192.0.2.1): Linux 6.1.0, first frame",
            "net.ipv4.tcp_sack=0",
        ] {
            assert!(text.contains(needle), "{needle}:\n{text}");
        }
        report.ack_delay_seen_ms = None;
        assert!(render(&report).contains("Linux' own (none seen)"));
    }

    #[test]
    fn columns_line_up() {
        let rows = [words(&["a", "bb"]), words(&["ccc", "µ"]), words(&["d"])];
        assert_eq!(align(&rows), "  a    bb\n  ───────\n  ccc   µ\n  d\n");
    }
}
