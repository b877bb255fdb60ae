//! The report as one self-contained page: no script, no font, no picture from elsewhere, readable in light and
//! dark.

pub(crate) mod cdf;
mod sequence;
pub(crate) mod stages;
pub(crate) mod svg;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;

use introspection::Profile;
use introspection::stage::Stage;

use self::svg::escape;
use super::format::{ack_delay, count, micros};
use super::report::{GuestKind, HostFacts, LabReport, Run};

/// The style sheet of this program's pages.
pub(crate) const STYLE: &str = include_str!("style.css");
/// Pieces of evidence shown for each run and cause.
const EVIDENCE: usize = 3;

/// The whole page.
pub(super) fn render(report: &LabReport) -> String {
    let mut page = String::new();
    head(&mut page, report);
    cards(&mut page, report);
    section(&mut page, "Round-trip time", &distributions(report), "");
    latency_table(&mut page, report);
    sequences(&mut page, report);
    section(
        &mut page,
        "Where a frame's time in the switch goes",
        &stage_bars(report),
        "Mean of all frames of the measured phase. Each stage ends where the next one starts, so they sum to the \
         residence time, which is measured by itself.",
    );
    stage_table(&mut page, report);
    stalls(&mut page, report);
    facts(&mut page, report);
    page.push_str("</main>\n</body>\n</html>\n");
    page
}

fn head(page: &mut String, report: &LabReport) {
    let settings = &report.settings;
    let kind = match report.guests {
        GuestKind::Kvm => "two KVM virtual machines on one switch",
        GuestKind::Linux => "two Linux virtual machines on one switch",
        GuestKind::Endpoint => "two endpoints inside a switch",
    };
    let _ = write!(
        page,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>Enlight lab: {workload}, ACK delay {delay}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <header>\n<p class=\"brand\">Enlight lab</p>\n<h1>{headline}</h1>\n\
         <p class=\"sub\">Workload <b>{workload}</b>, {size} octets, between {kind}. ACK delay \
         <b>{delay}</b>, Nagle {nagle}. The filter sits on the port of the {port}.</p>\n</header>\n",
        workload = settings.workload.name(),
        delay = escape(&ack_delay(report)),
        size = settings.size,
        nagle = if settings.nagle { "on" } else { "off" },
        port = escape(&settings.filter_port),
        headline = escape(&headline(report)),
    );
    if let Some(note) = &report.guests_note {
        let _ = writeln!(page, "<p class=\"note\">{}</p>", escape(note));
    }
}

/// The finding in a few words: the most expensive profile against the cheapest.
fn headline(report: &LabReport) -> String {
    let measured = report.runs.iter().filter(|run| run.transactions > 0);
    let p50 = |run: &&Run| run.rtt_us.p50;
    let worst = measured.clone().max_by(|a, b| p50(a).total_cmp(&p50(b)));
    let Some(worst) = worst else {
        return "No transaction was measured".to_owned();
    };
    match report.runs.iter().find(|run| run.filter == Profile::Off) {
        Some(off) if off.filter != worst.filter && off.transactions > 0 => format!(
            "{} turns {} into {}",
            worst.filter,
            micros(off.rtt_us.p50),
            micros(worst.rtt_us.p50)
        ),
        _ => format!("{}: {} at p50", worst.filter, micros(worst.rtt_us.p50)),
    }
}

fn cards(page: &mut String, report: &LabReport) {
    page.push_str("<section class=\"cards\">\n");
    for run in &report.runs {
        let stalls = match run.stalls.total() {
            0 => "no stall".to_owned(),
            n => format!("{} stalls", count(n)),
        };
        let _ = write!(
            page,
            "<article class=\"card b-{filter}\">\n<h2 class=\"p-{filter}\">{filter}</h2>\n\
             <p class=\"big\">{p50}</p>\n<p class=\"small\">p50 of {transactions} transactions, {stalls}</p>\n\
             <p>{explanation}</p>\n</article>\n",
            filter = run.filter,
            p50 = micros(run.rtt_us.p50),
            transactions = count(run.transactions),
            explanation = escape(&run.explanation),
        );
    }
    page.push_str("</section>\n");
}

fn distributions(report: &LabReport) -> String {
    fn curve(run: &Run) -> cdf::Curve<'_> {
        cdf::Curve {
            name: run.filter.to_string(),
            class: format!("p-{}", run.filter),
            rtt: &run.rtt_us,
            histogram_ns: &run.histogram_ns,
        }
    }
    let curves: Vec<cdf::Curve<'_>> = report.runs.iter().map(curve).collect();
    cdf::draw(&curves, "round-trip time at the client")
}

fn stage_bars(report: &LabReport) -> String {
    let bars: Vec<stages::Bar<'_>> = report
        .runs
        .iter()
        .flat_map(|run| {
            run.directions.iter().map(move |direction| stages::Bar {
                name: run.filter.to_string(),
                class: format!("p-{}", run.filter),
                direction,
            })
        })
        .collect();
    stages::draw(&bars)
}

pub(crate) fn section(page: &mut String, title: &str, drawing: &str, note: &str) {
    let _ = write!(
        page,
        "<h2>{title}</h2>\n<figure class=\"wide\">\n{drawing}</figure>\n"
    );
    if !note.is_empty() {
        let _ = writeln!(page, "<p class=\"small\">{note}</p>");
    }
}

/// Writes a table; the first cell of a row names it.
pub(crate) fn table(page: &mut String, header: &[String], rows: &[Vec<String>]) {
    page.push_str("<div class=\"scroll\"><table>\n<thead><tr>");
    for cell in header {
        let _ = write!(page, "<th>{}</th>", escape(cell));
    }
    page.push_str("</tr></thead>\n<tbody>\n");
    for row in rows {
        page.push_str("<tr>");
        for cell in row {
            let _ = write!(page, "<td>{}</td>", escape(cell));
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</tbody>\n</table></div>\n");
}

pub(crate) fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

fn latency_table(page: &mut String, report: &LabReport) {
    let rows: Vec<Vec<String>> = report
        .runs
        .iter()
        .map(|run| {
            let rtt = &run.rtt_us;
            let mut row = vec![run.filter.to_string()];
            row.extend([rtt.min, rtt.p50, rtt.p90, rtt.p99, rtt.p999, rtt.max, rtt.mean].map(micros));
            row.extend([count(run.transactions), format!("{:.1} s", run.seconds)]);
            row
        })
        .collect();
    let header = owned(&[
        "filter",
        "min",
        "p50",
        "p90",
        "p99",
        "p99.9",
        "max",
        "mean",
        "transactions",
        "measured",
    ]);
    table(page, &header, &rows);
}

/// The time-lines: every profile that stalls or holds, beside one that does not.
fn sequences(page: &mut String, report: &LabReport) {
    let drawn = report.runs.iter().filter(|run| !run.timeline.is_empty());
    let (slow, quick): (Vec<&Run>, Vec<&Run>) =
        drawn.partition(|run| run.stalls.total() > 0 || run.stages_us.of(Stage::Hold) > 0.0);
    let reference = quick
        .iter()
        .find(|run| run.filter == Profile::Inspect)
        .or(quick.first());
    let shown: Vec<&Run> = reference.into_iter().chain(&slow).copied().collect();
    if shown.is_empty() {
        return;
    }
    page.push_str(
        "<h2>A few transactions, on both sides of the filter</h2>\n<section class=\"sequences\">\n",
    );
    for run in shown {
        let _ = write!(
            page,
            "<figure>\n<figcaption><b class=\"p-{filter}\">{filter}</b>: {frames} frames in {span}</figcaption>\n",
            filter = run.filter,
            frames = run.timeline.frames.len(),
            span = micros(run.timeline.span_us()),
        );
        page.push_str(&sequence::draw(run));
        page.push_str("</figure>\n");
    }
    page.push_str(
        "</section>\n<p class=\"small\">From a capture on the filter's port: left edge of its lane the guest's side, \
         right edge the switch's. Times count from the first frame shown; the vertical axis is not to scale. \
         capture.pcapng has the frames of both sides: <code>frame.interface_id == 0</code> shows one.</p>\n",
    );
}

fn stage_table(page: &mut String, report: &LabReport) {
    let mut header = owned(&["filter", "from"]);
    header.extend(Stage::ALL.map(|stage| stage.label().to_owned()));
    header.extend(owned(&["sum", "residence", "frames"]));
    let rows: Vec<Vec<String>> = report
        .runs
        .iter()
        .flat_map(|run| run.directions.iter().map(move |direction| (run, direction)))
        .map(|(run, direction)| {
            let stages = &direction.stages_us;
            let mut row = vec![run.filter.to_string(), direction.from.clone()];
            row.extend(Stage::ALL.map(|stage| micros(stages.of(stage))));
            row.extend([
                micros(stages.sum()),
                micros(direction.residence_us),
                count(direction.frames),
            ]);
            row
        })
        .collect();
    table(page, &header, &rows);
}

fn stalls(page: &mut String, report: &LabReport) {
    page.push_str("<h2>Stalls and what proves them</h2>\n");
    let rows: Vec<Vec<String>> = report
        .runs
        .iter()
        .map(|run| {
            let stalls = &run.stalls;
            let share = 100.0 * stalls.total() as f64 / run.transactions.max(1) as f64;
            let mut row = vec![run.filter.to_string()];
            row.extend([stalls.delayed_ack, stalls.filter_hold, stalls.retransmission].map(count));
            row.push(format!("{share:.0}"));
            row
        })
        .collect();
    let header = owned(&[
        "filter",
        "delayed ACK",
        "filter hold",
        "retransmission",
        "stalls per 100 transactions",
    ]);
    table(page, &header, &rows);
    for run in report.runs.iter().filter(|run| !run.evidence.is_empty()) {
        let _ = writeln!(page, "<ul class=\"evidence\">");
        for evidence in run.evidence.iter().take(EVIDENCE) {
            let _ = writeln!(
                page,
                "<li><b class=\"p-{filter}\">{filter}</b> at {at:.1} ms: {proof}</li>",
                filter = run.filter,
                at = evidence.at_ms,
                proof = escape(&evidence.proof)
            );
        }
        page.push_str("</ul>\n");
    }
}

/// Says where and how a report was made; `more` comes behind what all reports have.
pub(crate) fn measured_on(page: &mut String, host: &HostFacts, version: &str, more: Vec<(&str, String)>) {
    let processor = format!(
        "{}, {} cores, {} MiB",
        host.cpu,
        host.cores,
        count(host.memory_mib)
    );
    let rows: [(&str, String); 5] = [
        ("Command", host.command.clone()),
        ("Date", host.date.clone()),
        ("Enlight", version.to_owned()),
        ("Processor", processor),
        ("Kernel", format!("Linux {}", host.kernel)),
    ];
    page.push_str("<h2>Measured on</h2>\n<dl>\n");
    for (name, value) in rows.into_iter().chain(more) {
        let _ = writeln!(page, "<dt>{name}</dt><dd>{}</dd>", escape(&value));
    }
    page.push_str("</dl>\n");
}

fn facts(page: &mut String, report: &LabReport) {
    let mut rows = vec![("KVM", report.host.kvm.clone())];
    if !report.settings.sysctls.is_empty() {
        rows.push(("Set in both guests", report.settings.sysctls.join(", ")));
    }
    for guest in &report.guests_info {
        let mut text = guest.ip.clone();
        if let Some(system) = &guest.system {
            let _ = write!(text, ", {system}");
        }
        if let Some(ms) = guest.first_frame_ms {
            let _ = write!(text, ", first frame {ms:.0} ms after its process started");
        }
        if let (Some(kib), Some(memory)) = (guest.memory_overhead_kib, guest.memory_mib) {
            let _ = write!(
                text,
                ", its process takes {:.1} MiB beyond the guest's {memory} MiB",
                kib as f64 / 1024.0
            );
        }
        rows.push((
            if guest.name == "client" {
                "Client"
            } else {
                "Server"
            },
            text,
        ));
    }
    measured_on(page, &report.host, &report.version, rows);
}
