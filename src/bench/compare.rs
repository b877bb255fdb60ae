//! What changed since another run. The other run's file is not trusted: it is read with bounds, and what it says is shown only
//! without what would upset a terminal.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::report::{Change, Comparison, Load, Metric, Part, Point, Report, Run};
use super::stats::{MIN_REPEATS, bootstrap_difference, median};

/// Longest file that is read, in octets.
const MAX_FILE: u64 = 64 << 20;
/// Loads, contenders of one, and slices of one that a report has at most.
const MAX_POINTS: usize = 1_000;
const MAX_RUNS: usize = 64;
const MAX_SLICES: usize = 1_000;
/// Share of an open loop's requests that have to be answered within their slice.
const PACE: f64 = 0.98;
/// Characters of a text from the file that are shown.
const SHOWN: usize = 80;

/// Why an older result cannot be used. Each is one line.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// It cannot be read.
    #[error("reading {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is too long.
    #[error("{} has more than {} MiB; a result of enlight bench latency --json is wanted", .0.display(), MAX_FILE >> 20)]
    TooLong(PathBuf),
    /// It is no result.
    #[error("{}: {source}; a result of enlight bench latency --json is wanted", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ContentError,
    },
}

/// What is wrong with an older result.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// It is not the JSON that was expected.
    #[error("{}", plain(&.0.to_string()))]
    Json(#[from] serde_json::Error),
    /// It has more than any run has.
    #[error("it has more {0} than any run")]
    TooMany(&'static str),
}

/// Reads an older result.
pub fn read(path: &Path) -> Result<Report, CompareError> {
    let failed = |source| CompareError::Read {
        path: path.to_owned(),
        source,
    };
    let mut text = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(MAX_FILE + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_FILE {
        return Err(CompareError::TooLong(path.to_owned()));
    }
    parse(&text).map_err(|source| CompareError::Content {
        path: path.to_owned(),
        source,
    })
}

/// Takes an older result from what its file holds.
pub fn parse(text: &[u8]) -> Result<Report, ContentError> {
    let report: Report = serde_json::from_slice(text)?;
    let points = &report.points;
    let mut runs = points.iter().flat_map(|point| &point.runs);
    if points.len() > MAX_POINTS {
        return Err(ContentError::TooMany("loads"));
    }
    if points.iter().any(|point| point.runs.len() > MAX_RUNS) {
        return Err(ContentError::TooMany("contenders"));
    }
    if runs.any(|run| run.slices.values().any(|slices| slices.len() > MAX_SLICES)) {
        return Err(ContentError::TooMany("slices"));
    }
    Ok(report)
}

/// Compares two runs of the same set-up, load by load.
pub fn compare(old: &Report, new: &Report) -> Comparison {
    let differs = differences(old, new);
    let mut changes = Vec::new();
    if differs.is_empty() {
        for now in &new.points {
            let same = |point: &&Point| close(point.load, now.load);
            if let Some(then) = old.points.iter().find(same) {
                changes.extend(of_point(then, now, new.settings.seed));
            }
        }
    }
    Comparison {
        old_date: plain(&old.host.date),
        differs,
        changes,
    }
}

/// Loads that were derived from a measured capacity may differ by a little.
fn close(old: Load, new: Load) -> bool {
    match (old, new) {
        (
            Load::Open { rate, size },
            Load::Open {
                rate: now,
                size: then,
            },
        ) => {
            let (rate, now) = (f64::from(rate), f64::from(now));
            size == then && (rate - now).abs() <= 0.02 * rate.max(now)
        }
        (old, new) => old == new,
    }
}

/// What of the set-ups would make a difference by itself.
fn differences(old: &Report, new: &Report) -> Vec<String> {
    let facts = |report: &Report| {
        let (host, settings) = (&report.host, &report.settings);
        [
            ("processor", host.cpu.clone()),
            ("cores", host.cores.to_string()),
            ("kernel", host.kernel.clone()),
            (
                "guests",
                settings.guests.map_or_else(
                    || format!("ports {}", settings.attached.join(" and ")),
                    |kind| format!("{kind:?}").to_lowercase(),
                ),
            ),
            ("guests' Linux", settings.linux.clone().unwrap_or_default()),
            ("A", settings.filters.first().cloned().unwrap_or_default()),
            (
                "rules",
                format!(
                    "{}{}",
                    settings.rules,
                    if settings.patterns { " made up" } else { "" }
                ),
            ),
            ("deadline", format!("{:?}", settings.deadline_ms)),
            ("workload", format!("{:?}", settings.workload).to_lowercase()),
            ("spacing", format!("{:?}", settings.spacing).to_lowercase()),
            ("Nagle", settings.nagle.to_string()),
            ("ACK delay", format!("{:?}", settings.ack_delay_ms)),
            ("watch", settings.watch.to_string()),
            ("slice", format!("{} s", settings.slice_s)),
        ]
    };
    let pairs = facts(old).into_iter().zip(facts(new));
    pairs
        .filter(|(old, new)| old.1 != new.1)
        .map(|((name, old), (_, new))| format!("{name}: {} then, {} now", plain(&old), plain(&new)))
        .collect()
}

fn of_point(old: &Point, new: &Point, seed: u64) -> Vec<Change> {
    let mut changes = Vec::new();
    for now in new
        .runs
        .iter()
        .filter(|run| matches!(run.part, Part::A | Part::B))
    {
        let same = |run: &&Run| run.part == now.part && run.filter == now.filter;
        let Some(then) = old.runs.iter().find(same) else {
            continue;
        };
        for (metric, figures) in &now.slices {
            let Some(before) = then.slices.get(metric) else {
                continue;
            };
            let mut change = Change {
                load: new.load,
                filter: now.filter.clone(),
                metric: *metric,
                old_us: median(before),
                new_us: median(figures),
                interval_us: bootstrap_difference(before, figures, seed),
                refused: None,
            };
            change.refused = refusal(&change, (old, then), (new, now), before.len().min(figures.len()));
            changes.push(change);
        }
    }
    changes
}

fn refusal(
    change: &Change,
    (old, then): (&Point, &Run),
    (new, now): (&Point, &Run),
    repeats: usize,
) -> Option<String> {
    let effect = (change.new_us - change.old_us).abs();
    let aa = noise(old, change.metric).max(noise(new, change.metric));
    let generator = (empty(new, change.metric) - empty(old, change.metric)).abs();
    if repeats < MIN_REPEATS {
        Some(format!("{repeats} repeats are fewer than {MIN_REPEATS}"))
    } else if !in_pace(then) || !in_pace(now) {
        Some("the rate was not achieved in one of the runs".to_owned())
    } else if change.interval_us.contains(0.0) {
        Some("the interval holds 0".to_owned())
    } else if aa >= effect {
        Some(format!("A differed from itself by {aa:.2} µs in one of the runs"))
    } else if generator >= effect {
        Some(format!("the generator alone changed by {generator:.2} µs"))
    } else {
        None
    }
}

/// What A differed from itself by.
fn noise(point: &Point, metric: Metric) -> f64 {
    let effect = point.effects.iter().find(|effect| effect.metric == metric);
    effect.map_or(0.0, |effect| effect.judgement.aa_us.abs())
}

fn empty(point: &Point, metric: Metric) -> f64 {
    let figures = point.run(Part::Empty).and_then(|run| run.slices.get(&metric));
    figures.map_or(0.0, |figures| median(figures))
}

fn in_pace(run: &Run) -> bool {
    match (run.due, run.in_time) {
        (Some(due), Some(in_time)) => in_time as f64 >= PACE * due as f64,
        _ => true,
    }
}

/// Text from a file, fit for a terminal.
fn plain(text: &str) -> String {
    text.chars()
        .take(SHOWN)
        .map(|c| if c.is_control() { '.' } else { c })
        .collect()
}
