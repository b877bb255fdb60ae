//! The report as one self-contained page.

use std::fmt::Write as _;

use super::guests::empty_path;
use super::report::{Load, Metric, Part, Point, Report, Run};
use super::table::{guests, name};
use crate::lab::format::{count, micros};
use crate::lab::html::cdf::{self, Curve};
use crate::lab::html::stages::{self, Bar};
use crate::lab::html::svg::{Anchor, Svg, escape};
use crate::lab::html::{STYLE, measured_on, owned, section, table};

const WIDTH: f64 = 1080.0;
const HEIGHT: f64 = 330.0;
const LEFT: f64 = 76.0;
const RIGHT: f64 = 900.0;
const TOP: f64 = 16.0;
const BOTTOM: f64 = 286.0;

/// The whole page.
pub(super) fn render(report: &Report) -> String {
    let mut page = String::new();
    head(&mut page, report);
    let open = report
        .points
        .iter()
        .filter(|point| matches!(point.load, Load::Open { .. }));
    if open.clone().count() > 1 {
        let points: Vec<&Point> = open.collect();
        let drawing = rate_curve(&points);
        let note = "Solid: 99th percentile; dashed: median. Requests are sent on a schedule, and latency counts from when each was \
                    due.";
        section(&mut page, "Latency over rate", &drawing, note);
    }
    for point in &report.points {
        of_point(&mut page, point);
    }
    changes(&mut page, report);
    facts(&mut page, report);
    page.push_str("</main>\n</body>\n</html>\n");
    page
}

fn head(page: &mut String, report: &Report) {
    let settings = &report.settings;
    let path = guests(settings);
    let headline = report
        .points
        .iter()
        .flat_map(|point| &point.sentences)
        .next_back()
        .map_or("Nothing was measured", String::as_str);
    let _ = write!(
        page,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>Enlight bench latency: {filters}</title>\n<style>\n{STYLE}svg .p-again {{ stroke-dasharray: 6 3; }}\n\
         svg .curve.median {{ stroke-dasharray: 3 4; stroke-width: 1.6; }}\n</style>\n</head>\n<body>\n<main>\n\
         <header>\n<p class=\"brand\">Enlight bench latency</p>\n<h1>{headline}</h1>\n\
         <p class=\"sub\">Through {path}. {repeats} repeats of {slice} s each, in random order (seed {seed}), {rules} rules.</p>\n\
         </header>\n",
        filters = escape(&settings.filters.join(", ")),
        headline = escape(headline),
        path = escape(&path),
        repeats = settings.repeats,
        slice = settings.slice_s,
        seed = settings.seed,
        rules = count(settings.rules as u64),
    );
    if report.interrupted {
        page.push_str("<p class=\"note\">Stopped by a signal: this is what was measured so far.</p>\n");
    }
}

/// The style sheet's class for a contender.
fn class(run: &Run) -> String {
    let profile = run.filter.split(':').next().unwrap_or_default();
    match run.part {
        Part::Again => format!("p-{profile} p-again"),
        Part::Empty => "p-empty".to_owned(),
        Part::A | Part::B => format!("p-{profile}"),
    }
}

fn of_point(page: &mut String, point: &Point) {
    let title = point.load.to_string();
    let curves: Vec<Curve<'_>> = point
        .runs
        .iter()
        .filter_map(|run| {
            Some(Curve {
                name: name(run),
                class: class(run),
                rtt: run.latency_us.as_ref()?,
                histogram_ns: &run.histogram_ns,
            })
        })
        .collect();
    if curves.is_empty() {
        let _ = writeln!(page, "<h2>{}</h2>", escape(&title));
    } else {
        section(page, &escape(&title), &cdf::draw(&curves, "latency"), "");
    }
    for sentence in &point.sentences {
        let _ = writeln!(page, "<p><b>{}</b></p>", escape(sentence));
    }
    effects(page, point);
    runs(page, point);
    let bars: Vec<Bar<'_>> = point
        .runs
        .iter()
        .flat_map(|run| {
            run.directions.iter().map(move |direction| Bar {
                name: name(run),
                class: class(run),
                direction,
            })
        })
        .collect();
    if !bars.is_empty() {
        let note = "Mean of all frames. Each stage ends where the next one starts, so they sum to the residence time.";
        section(
            page,
            "Where a frame's time in the switch goes",
            &stages::draw(&bars),
            note,
        );
    }
}

fn effects(page: &mut String, point: &Point) {
    let header = owned(&[
        "cost of",
        "by",
        "difference",
        "95 %",
        "A/A",
        "bias",
        "refused because",
    ]);
    let rows: Vec<Vec<String>> = point
        .effects
        .iter()
        .map(|effect| {
            let judgement = &effect.judgement;
            let reasons: Vec<String> = judgement.refused.iter().map(ToString::to_string).collect();
            vec![
                effect.filter.clone(),
                effect.metric.name().to_owned(),
                if reasons.is_empty() {
                    format!("{:+.2} µs", judgement.difference_us)
                } else {
                    "refused".to_owned()
                },
                format!(
                    "{:+.2} to {:+.2}",
                    judgement.interval_us.low, judgement.interval_us.high
                ),
                format!("{:+.2}", judgement.aa_us),
                format!("{:.2}", judgement.bias_us),
                reasons.join("; "),
            ]
        })
        .collect();
    table(page, &header, &rows);
}

fn runs(page: &mut String, point: &Point) {
    let header = owned(&[
        "filter",
        "p50",
        "p90",
        "p99",
        "p99.9",
        "max",
        "transactions",
        "written late",
        "25 ms or longer",
        "stalls",
    ]);
    let dash = || "-".to_owned();
    let rows: Vec<Vec<String>> = point
        .runs
        .iter()
        .map(|run| {
            let mut row = vec![name(run)];
            let times = run
                .latency_us
                .map(|rtt| [rtt.p50, rtt.p90, rtt.p99, rtt.p999, rtt.max].map(micros));
            row.extend(times.unwrap_or_else(|| ["-"; 5].map(str::to_owned)));
            row.extend([
                count(run.transactions),
                run.send_late_us.map_or_else(dash, micros),
                count(run.slow),
                run.stalls.map_or_else(dash, |stalls| count(stalls.total())),
            ]);
            row
        })
        .collect();
    table(page, &header, &rows);
}

/// A contender over all rates.
struct Series<'a> {
    run: &'a Run,
    /// Rate, median and 99th percentile.
    values: Vec<(f64, f64, f64)>,
}

/// One series for each contender.
fn series<'a>(points: &[&'a Point]) -> Vec<Series<'a>> {
    let mut all: Vec<Series<'a>> = Vec::new();
    for point in points {
        let Load::Open { rate, .. } = point.load else {
            continue;
        };
        for run in &point.runs {
            let Some(latency) = run.latency_us else { continue };
            let value = (f64::from(rate), latency.p50, latency.p99);
            let known =
                |series: &&mut Series<'_>| series.run.part == run.part && series.run.filter == run.filter;
            match all.iter_mut().find(known) {
                Some(series) => series.values.push(value),
                None => all.push(Series {
                    run,
                    values: vec![value],
                }),
            }
        }
    }
    all
}

/// Latency over rate: both axes logarithmic.
fn rate_curve(points: &[&Point]) -> String {
    let mut svg = Svg::new(WIDTH, "Latency over rate for each filter");
    let series = series(points);
    let all = series.iter().flat_map(|series| &series.values);
    let rates = Axis::over(all.clone().map(|value| value.0), (LEFT, RIGHT));
    let times = Axis::over(all.flat_map(|value| [value.1, value.2]), (BOTTOM, TOP));
    grid(&mut svg, &rates, &times);
    for Series { run, values } in &series {
        let at = |pick: fn(&(f64, f64, f64)) -> f64| -> Vec<(f64, f64)> {
            values
                .iter()
                .map(|value| (rates.at(value.0), times.at(pick(value))))
                .collect()
        };
        let (class, medians, tails) = (class(run), at(|value| value.1), at(|value| value.2));
        svg.path(&format!("curve median {class}"), &medians);
        svg.path(&format!("curve {class}"), &tails);
        for place in &tails {
            svg.circle(&format!("dot {class}"), *place, 3.5);
        }
        if let Some((x, y)) = tails.last() {
            svg.text(
                &format!("name {class}"),
                (x + 10.0, y + 4.0),
                Anchor::Start,
                &name(run),
            );
        }
    }
    svg.finish(HEIGHT)
}

/// A logarithmic axis between two places.
struct Axis {
    low: f64,
    high: f64,
    ends: (f64, f64),
}

impl Axis {
    fn over(values: impl Iterator<Item = f64>, ends: (f64, f64)) -> Self {
        let (low, high) = values
            .map(|value| value.max(0.001))
            .fold((f64::INFINITY, 0.001_f64), |(low, high), value| {
                (low.min(value), high.max(value))
            });
        Self {
            low: if low.is_finite() { low / 1.2 } else { 1.0 },
            high: high * 1.2,
            ends,
        }
    }

    fn at(&self, value: f64) -> f64 {
        let share = (value.max(0.001) / self.low).ln() / (self.high / self.low).ln().max(1e-9);
        self.ends.0 + share.clamp(0.0, 1.0) * (self.ends.1 - self.ends.0)
    }

    /// Round values on it: 1, 2 and 5 of each decade.
    fn ticks(&self) -> Vec<f64> {
        let (first, last) = (self.low.log10().floor() as i32, self.high.log10().ceil() as i32);
        (first..=last)
            .flat_map(|power| [1.0, 2.0, 5.0].map(|step| step * 10_f64.powi(power)))
            .filter(|tick| (self.low..=self.high).contains(tick))
            .collect()
    }
}

fn grid(svg: &mut Svg, rates: &Axis, times: &Axis) {
    for tick in times.ticks() {
        let y = times.at(tick);
        svg.line("grid", (LEFT, y), (RIGHT, y));
        svg.text("tick", (LEFT - 8.0, y + 4.0), Anchor::End, &micros(tick));
    }
    for tick in rates.ticks() {
        let x = rates.at(tick);
        svg.line("grid", (x, TOP), (x, BOTTOM));
        svg.text(
            "tick",
            (x, BOTTOM + 18.0),
            Anchor::Middle,
            &count(tick.round() as u64),
        );
    }
    let middle = f64::midpoint(LEFT, RIGHT);
    svg.text(
        "axis",
        (middle, BOTTOM + 38.0),
        Anchor::Middle,
        "transactions a second",
    );
}

fn changes(page: &mut String, report: &Report) {
    let Some(comparison) = &report.comparison else {
        return;
    };
    let _ = writeln!(page, "<h2>Since {}</h2>", escape(&comparison.old_date));
    for differs in &comparison.differs {
        let _ = writeln!(page, "<p class=\"note\">Not compared: {}</p>", escape(differs));
    }
    let header = owned(&[
        "load",
        "filter",
        "by",
        "then",
        "now",
        "95 %",
        "not reported because",
    ]);
    let rows: Vec<Vec<String>> = comparison
        .changes
        .iter()
        .map(|change| {
            vec![
                change.load.to_string(),
                change.filter.clone(),
                change.metric.name().to_owned(),
                micros(change.old_us),
                micros(change.new_us),
                format!(
                    "{:+.2} to {:+.2}",
                    change.interval_us.low, change.interval_us.high
                ),
                change.refused.clone().unwrap_or_default(),
            ]
        })
        .collect();
    if !rows.is_empty() {
        table(page, &header, &rows);
    }
}

fn facts(page: &mut String, report: &Report) {
    let empty = |metric| {
        let runs = report.points.iter().filter_map(|point| point.run(Part::Empty));
        let figures = runs.filter_map(|run| run.slices.get(&metric)).flatten().copied();
        let figures: Vec<f64> = figures.collect();
        micros(super::stats::median(&figures))
    };
    let mut rows = vec![("Two readings of the clock", format!("{:.0} ns", report.stamps_ns))];
    if let Some(kind) = report.settings.guests {
        let text = format!(
            "{}: p50 {}, p99 {}; in both A and B, so that it cancels",
            empty_path(kind),
            empty(Metric::P50),
            empty(Metric::P99)
        );
        rows.push(("Empty path", text));
    }
    if let Some(capacity) = report.capacity {
        rows.push((
            "The path can do",
            format!("{} transactions a second", count(capacity as u64)),
        ));
    }
    measured_on(page, &report.host, &report.version, rows);
}
