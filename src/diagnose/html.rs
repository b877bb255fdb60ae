//! The report as one self-contained page with the time-lines drawn.

use std::collections::HashSet;
use std::fmt::Write as _;

use introspection::diagnosis::{Exhibit, Finding, FlowDiagnosis, Part, Tap};

use super::report::Report;
use super::text::{frames, many, seconds};
use crate::lab::html::STYLE;
use crate::lab::html::svg::{Anchor, Svg, escape};

/// Time-lines drawn.
const DRAWN: usize = 24;
const WIDTH: f64 = 860.0;
const LOCAL: f64 = 190.0;
const REMOTE: f64 = 670.0;
const MIDDLE: f64 = 430.0;
/// Half the width of the filter's lane.
const FILTER: f64 = 36.0;
const TOP: f64 = 58.0;
const STEP: f64 = 30.0;
const GAP: f64 = 84.0;

/// The report as a page.
pub fn render(report: &Report) -> String {
    let mut page = String::new();
    let names = report.captures.join(" and ");
    let _ = write!(
        page,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>Enlight diagnose: {name}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <header>\n<p class=\"brand\">Enlight diagnose</p>\n<h1>{headline}</h1>\n\
         <p class=\"sub\">{name}: {}, {} of TCP in {}</p>\n</header>\n",
        many(report.frames, "frame"),
        report.tcp_frames,
        many(report.connections, "connection"),
        name = escape(&names),
        headline = escape(&headline(report)),
    );
    for notice in &report.notices {
        let _ = writeln!(page, "<p class=\"note\">{}</p>", escape(notice));
    }
    causes(&mut page, report);
    filter(&mut page, report);
    time_lines(&mut page, report);
    page.push_str("</main>\n</body>\n</html>\n");
    page
}

fn headline(report: &Report) -> String {
    match report.causes.first() {
        None => "No connection stood still".to_owned(),
        Some(worst) => format!(
            "{}, most of the time {}",
            many(report.stalls(), "stall"),
            worst.cause
        ),
    }
}

fn causes(page: &mut String, report: &Report) {
    if report.causes.is_empty() {
        return;
    }
    page.push_str(
        "<h2>Causes</h2>\n<table>\n<tr><th>cause</th><th>stalls</th><th>time</th><th>connections</th><th>remedy</th></tr>\n",
    );
    for total in &report.causes {
        let _ = writeln!(
            page,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            total.cause,
            total.stalls,
            seconds(total.ms),
            total.flows,
            escape(total.remedy)
        );
    }
    page.push_str("</table>\n");
}

fn filter(page: &mut String, report: &Report) {
    let Some(cost) = &report.filter else { return };
    let _ = writeln!(
        page,
        "<h2>Without the filter</h2>\n<p>{} would have taken <b>{}</b> instead of <b>{}</b>; the filter caused \
         {}. This takes for granted:</p>\n<ul>",
        many(cost.flows, "connection"),
        seconds(cost.ms_without),
        seconds(cost.ms),
        many(cost.stalls, "stall")
    );
    for assumption in cost.assumptions {
        let _ = writeln!(page, "<li>{}</li>", escape(assumption));
    }
    page.push_str("</ul>\n");
}

/// One time-line for each connection and cause.
fn time_lines(page: &mut String, report: &Report) {
    let mut drawn = 0;
    for flow in &report.flows {
        let mut shown = HashSet::new();
        for finding in &flow.findings {
            if drawn >= DRAWN || !shown.insert(finding.cause) {
                continue;
            }
            drawn += 1;
            let alike = flow
                .findings
                .iter()
                .filter(|other| other.cause == finding.cause)
                .count();
            let _ = writeln!(
                page,
                "<h2>{}: {}</h2>\n<p>{} One of {alike}; {:.0} % sure; frames {}.</p>\n{}",
                escape(&flow.flow.to_string()),
                finding.cause,
                escape(&finding.explain()),
                finding.confidence * 100.0,
                frames(finding),
                draw(flow, finding)
            );
        }
    }
}

fn draw(flow: &FlowDiagnosis, finding: &Finding) -> String {
    let mut svg = Svg::new(WIDTH, &finding.explain());
    let mut y = TOP;
    let mut shaded = false;
    let mut rows: Vec<(&Exhibit, f64)> = Vec::new();
    for exhibit in &finding.evidence {
        if !rows.is_empty() {
            let ends = !shaded && exhibit.at >= finding.end();
            if ends {
                shade(&mut svg, finding, y);
                shaded = true;
            }
            y += if ends { GAP } else { STEP };
        }
        rows.push((exhibit, y));
    }
    if !shaded {
        y += GAP;
        shade(&mut svg, finding, y - GAP);
    }
    let bottom = y + 26.0;
    lanes(&mut svg, flow, bottom);
    for (exhibit, y) in rows {
        arrow(&mut svg, flow, finding, exhibit, y);
    }
    svg.finish(bottom + 6.0)
}

fn shade(svg: &mut Svg, finding: &Finding, y: f64) {
    svg.rect("gap", (LOCAL, y + 12.0), (REMOTE - LOCAL, GAP - 28.0), 4.0);
    let at = f64::midpoint(MIDDLE, REMOTE);
    let length = format!("{:.0} ms", finding.gap_ns as f64 / 1e6);
    svg.text("gapname", (at, y + 38.0), Anchor::Middle, &length);
    svg.text("gapnote", (at, y + 54.0), Anchor::Middle, finding.cause.name());
}

fn lanes(svg: &mut Svg, flow: &FlowDiagnosis, bottom: f64) {
    if flow.two_taps {
        svg.rect(
            "filterlane",
            (MIDDLE - FILTER, 26.0),
            (2.0 * FILTER, bottom - 26.0),
            0.0,
        );
        svg.text("lanename", (MIDDLE, 16.0), Anchor::Middle, "filter");
    } else {
        svg.line("lane thin", (MIDDLE, 26.0), (MIDDLE, bottom));
        svg.text("lanename", (MIDDLE, 16.0), Anchor::Middle, "tap");
    }
    for (x, name) in [(LOCAL, flow.flow.local), (REMOTE, flow.flow.remote)] {
        svg.line("lane", (x, 26.0), (x, bottom));
        svg.text("lanename", (x, 16.0), Anchor::Middle, &name.to_string());
    }
}

fn arrow(svg: &mut Svg, flow: &FlowDiagnosis, finding: &Finding, exhibit: &Exhibit, y: f64) {
    let from_local = exhibit.direction == introspection::Direction::Tx;
    let (from, to) = if from_local {
        (LOCAL, REMOTE)
    } else {
        (REMOTE, LOCAL)
    };
    let edge = |end: f64| {
        if end < MIDDLE {
            MIDDLE - FILTER
        } else {
            MIDDLE + FILTER
        }
    };
    let (start, end) = match exhibit.part {
        Part::Held if flow.two_taps => (from, edge(from)),
        Part::Released if flow.two_taps => (edge(to), to),
        _ => (from, to),
    };
    let class = if exhibit.len == 0 {
        "arrow pure"
    } else {
        "arrow data"
    };
    svg.arrow(class, (start, y), (end, y));
    let mark = if exhibit.tap == Tap::Second { "'" } else { "" };
    let what = if exhibit.len == 0 {
        format!("{}{mark}: ack {}", exhibit.frame, exhibit.ack)
    } else {
        format!("{}{mark}: seq {} len {}", exhibit.frame, exhibit.seq, exhibit.len)
    };
    let middle = f64::midpoint(start, end);
    svg.text("frame", (middle, y - 5.0), Anchor::Middle, &what);
    let ms = (exhibit.at.0 as f64 - finding.start.0 as f64) / 1e6;
    let time = format!("{ms:+.3} ms");
    svg.text("time", (LOCAL - 9.0, y + 4.0), Anchor::End, &time);
}
