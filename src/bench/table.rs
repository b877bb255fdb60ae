//! The report as text for a terminal.

use std::fmt::Write as _;

use super::report::{Comparison, GuestKind, Part, Point, Report, Run, Settings};
use super::stats::Refusal;
use crate::cli::table;
use crate::lab::format::{count, micros};

/// The whole report as text.
pub(super) fn render(report: &Report) -> String {
    let mut text = heading(report);
    for point in &report.points {
        let _ = writeln!(text, "\n{}", point.load);
        text.push_str(&table::render(&RUN_HEADING, &run_rows(point)));
        text.push('\n');
        text.push_str(&table::render(&EFFECT_HEADING, &effect_rows(point)));
        text.push_str(&refusals(point));
        for sentence in &point.sentences {
            let _ = writeln!(text, "{sentence}");
        }
    }
    if let Some(comparison) = &report.comparison {
        text.push_str(&changes(comparison));
    }
    if report.interrupted {
        text.push_str("\nStopped by a signal: this is what was measured so far.\n");
    }
    text
}

const RUN_HEADING: [&str; 9] = [
    "FILTER",
    "P50",
    "P99",
    "P99.9",
    "MAX",
    "TRANSACTIONS",
    "IN TIME",
    "SLOW",
    "STALLS",
];
const EFFECT_HEADING: [&str; 6] = ["COST OF", "BY", "DIFFERENCE", "95 %, µs", "A/A, µs", "BIAS, µs"];

fn heading(report: &Report) -> String {
    let settings = &report.settings;
    let mut text = format!(
        "Latency through {}; {} repeats of {} s, seed {}\n",
        guests(settings),
        settings.repeats,
        settings.slice_s,
        settings.seed
    );
    let host = &report.host;
    let _ = writeln!(
        text,
        "Host: {}, {} cores, Linux {}, {}",
        host.cpu, host.cores, host.kernel, host.date
    );
    let _ = writeln!(
        text,
        "Rules: {}{}; two readings of the clock take {:.0} ns",
        count(settings.rules as u64),
        if settings.patterns { " made up" } else { "" },
        report.stamps_ns
    );
    if let Some(capacity) = report.capacity {
        let _ = writeln!(
            text,
            "The path can do {} transactions a second",
            count(capacity as u64)
        );
    }
    text
}

/// What ran client and server, in words.
pub(super) fn guests(settings: &Settings) -> String {
    let words = match settings.guests {
        None => return format!("the load on ports {}", settings.attached.join(" and ")),
        Some(GuestKind::Taps) => "two taps, with the kernel's TCP in two network namespaces",
        Some(GuestKind::Endpoint) => "two endpoints inside the switch",
        Some(GuestKind::Micro) => "two KVM virtual machines",
        Some(GuestKind::Linux) => {
            let release = settings.linux.as_deref().unwrap_or_default();
            return format!("two KVM virtual machines with Linux {release}");
        }
    };
    words.to_owned()
}

/// A contender's name in tables.
pub(super) fn name(run: &Run) -> String {
    match run.part {
        Part::Again => format!("{} (again)", run.filter),
        _ => run.filter.clone(),
    }
}

fn run_rows(point: &Point) -> Vec<Vec<String>> {
    let row = |run: &Run| {
        let mut row = vec![name(run)];
        let latency = run.latency_us;
        let times = latency.map(|latency| [latency.p50, latency.p99, latency.p999, latency.max]);
        row.extend(times.map_or_else(|| ["-"; 4].map(str::to_owned), |times| times.map(micros)));
        let in_time = run.due.zip(run.in_time);
        let in_time = in_time.map(|(due, in_time)| (100.0 * in_time as f64 / due.max(1) as f64).min(100.0));
        row.extend([
            count(run.transactions),
            in_time.map_or_else(|| "-".to_owned(), |share| format!("{share:.1} %")),
            count(run.slow),
            run.stalls
                .map_or_else(|| "-".to_owned(), |stalls| count(stalls.total())),
        ]);
        row
    };
    point.runs.iter().map(row).collect()
}

fn effect_rows(point: &Point) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for effect in &point.effects {
        let judgement = &effect.judgement;
        let difference = match judgement.refused.as_slice() {
            [] => format!("{:+.2} µs", judgement.difference_us),
            _ => "refused".to_owned(),
        };
        let interval = judgement.interval_us;
        rows.push(vec![
            effect.filter.clone(),
            effect.metric.name().to_owned(),
            difference,
            format!("{:+.2} to {:+.2}", interval.low, interval.high),
            format!("{:+.2}", judgement.aa_us),
            format!("{:.2}", judgement.bias_us),
        ]);
    }
    rows
}

/// Why differences are refused, a line each.
fn refusals(point: &Point) -> String {
    let mut text = String::new();
    for effect in &point.effects {
        let reasons: Vec<String> = effect.judgement.refused.iter().map(Refusal::to_string).collect();
        if !reasons.is_empty() {
            let (filter, metric) = (&effect.filter, effect.metric.name());
            let _ = writeln!(text, "  {filter}, {metric} refused: {}", reasons.join("; "));
        }
    }
    text
}

fn changes(comparison: &Comparison) -> String {
    let mut text = format!("\nSince {}\n", comparison.old_date);
    if !comparison.differs.is_empty() {
        text.push_str("Nothing is compared, since the set-ups differ:\n");
        for differs in &comparison.differs {
            let _ = writeln!(text, "  {differs}");
        }
        return text;
    }
    if comparison.changes.is_empty() {
        text.push_str("The two runs have no load in common.\n");
    }
    for change in &comparison.changes {
        let interval = change.interval_us;
        let _ = write!(
            text,
            "{}, {}, {}: {} then, {} now, 95 % {:+.2} to {:+.2} µs",
            change.load,
            change.filter,
            change.metric.name(),
            micros(change.old_us),
            micros(change.new_us),
            interval.low,
            interval.high
        );
        match &change.refused {
            Some(why) => {
                let _ = writeln!(text, "; no change is reported: {why}");
            }
            None => {
                let _ = writeln!(text, "; changed by {:+.2} µs", change.new_us - change.old_us);
            }
        }
    }
    text
}
