//! Slices put together: the runs of a load, and what each B costs.

use std::collections::BTreeMap;

use introspection::stage::Stage;

use super::report::{Effect, Load, Metric, Part, Point, Run};
use super::stats::{Distribution, Pace, Samples, judge};
use crate::lab::findings;
use crate::lab::phase::PhaseLines;
use crate::lab::report::{DirectionStages, RttSummary, StageMeans, Stalls};

/// A transaction that takes so long, in nanoseconds, has met a stall: what the switch's watcher and `enlight diagnose` call one.
const SLOW_NS: u64 = 25_000_000;

/// What the switch counted during a slice.
#[derive(Clone, Debug, Default)]
pub(super) struct Counted {
    pub(super) directions: Vec<DirectionStages>,
    /// `None` where nobody watched.
    pub(super) stalls: Option<Stalls>,
}

/// One contender's slices.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    pub(super) part: Part,
    pub(super) filter: String,
    /// Slices of a guest's, or of somebody else's load.
    slices: Vec<Slice>,
}

/// One slice.
#[derive(Clone, Debug)]
pub(super) enum Slice {
    /// Transactions of a client.
    Client(PhaseLines, Counted),
    /// Frames of somebody else's load in so many seconds.
    Foreign(f64, Counted),
}

impl Slice {
    const fn counted(&self) -> &Counted {
        match self {
            Self::Client(_, counted) | Self::Foreign(_, counted) => counted,
        }
    }

    const fn lines(&self) -> Option<&PhaseLines> {
        match self {
            Self::Client(lines, _) => Some(lines),
            Self::Foreign(..) => None,
        }
    }

    fn seconds(&self) -> f64 {
        match self {
            Self::Client(lines, _) => lines.us as f64 / 1e6,
            Self::Foreign(seconds, _) => *seconds,
        }
    }

    fn transactions(&self) -> u64 {
        self.lines().map_or_else(
            || self.counted().directions.iter().map(|one| one.frames).sum(),
            |lines| lines.transactions.unwrap_or(0),
        )
    }

    fn figures(&self) -> Vec<(Metric, f64)> {
        match self {
            Self::Client(lines, _) => {
                let all = Distribution::from_buckets(&lines.histogram());
                vec![
                    (Metric::Mean, lines.summary().mean),
                    (Metric::P50, all.quantile_us(0.5)),
                    (Metric::P99, all.quantile_us(0.99)),
                ]
            }
            Self::Foreign(_, counted) => {
                vec![(Metric::Residence, findings::together(&counted.directions).1)]
            }
        }
    }
}

impl Tally {
    pub(super) fn new(part: Part, filter: impl Into<String>) -> Self {
        Self {
            part,
            filter: filter.into(),
            slices: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, slice: Slice) {
        self.slices.push(slice);
    }

    pub(super) fn len(&self) -> usize {
        self.slices.len()
    }

    pub(super) fn truncate(&mut self, len: usize) {
        self.slices.truncate(len);
    }

    /// Sums a number that clients tell.
    fn sum(&self, of: impl Fn(&PhaseLines) -> Option<u64>) -> Option<u64> {
        let parts: Vec<u64> = self
            .slices
            .iter()
            .filter_map(|slice| of(slice.lines()?))
            .collect();
        (!parts.is_empty()).then(|| parts.iter().sum())
    }

    fn histogram(&self) -> Vec<(u64, u64)> {
        let mut all: BTreeMap<u64, u64> = BTreeMap::new();
        for (low, count) in self
            .slices
            .iter()
            .filter_map(Slice::lines)
            .flat_map(PhaseLines::histogram)
        {
            *all.entry(low).or_default() += count;
        }
        all.into_iter().collect()
    }

    fn latency(&self, all: &Distribution) -> Option<RttSummary> {
        let counted = |slice: &&Slice| slice.transactions() > 0;
        let slices = self.slices.iter().filter(counted);
        let (mut total, mut count) = (0.0, 0.0);
        let (mut min, mut max) = (f64::INFINITY, 0.0_f64);
        for slice in slices {
            let (summary, weight) = (slice.lines()?.summary(), slice.transactions() as f64);
            (total, count) = (total + summary.mean * weight, count + weight);
            (min, max) = (min.min(summary.min), max.max(summary.max));
        }
        (count > 0.0).then(|| RttSummary {
            min,
            mean: total / count,
            p50: all.quantile_us(0.5).min(max),
            p90: all.quantile_us(0.9).min(max),
            p99: all.quantile_us(0.99).min(max),
            p999: all.quantile_us(0.999).min(max),
            max,
        })
    }

    fn stalls(&self) -> Option<Stalls> {
        self.slices.iter().try_fold(Stalls::default(), |sum, slice| {
            let more = slice.counted().stalls?;
            Some(Stalls {
                delayed_ack: sum.delayed_ack + more.delayed_ack,
                filter_hold: sum.filter_hold + more.filter_hold,
                retransmission: sum.retransmission + more.retransmission,
            })
        })
    }

    fn directions(&self) -> Vec<DirectionStages> {
        let mut by_port: BTreeMap<&str, Vec<DirectionStages>> = BTreeMap::new();
        for one in self.slices.iter().flat_map(|slice| &slice.counted().directions) {
            by_port.entry(&one.from).or_default().push(one.clone());
        }
        let merged = by_port.into_iter().map(|(port, parts)| {
            let (stages_us, residence_us) = findings::together(&parts);
            DirectionStages {
                from: port.to_owned(),
                frames: parts.iter().map(|part| part.frames).sum(),
                stages_us,
                residence_us,
            }
        });
        merged.collect()
    }

    /// The run that these slices make.
    pub(super) fn run(&self, load: Load) -> Run {
        let histogram_ns = self.histogram();
        let all = Distribution::from_buckets(&histogram_ns);
        let due = self.sum(|lines| lines.load.map(|(due, ..)| due));
        let late_ns = self.sum(|lines| lines.load.map(|(.., late)| late));
        let directions = self.directions();
        let mut slices: BTreeMap<Metric, Vec<f64>> = BTreeMap::new();
        for (metric, figure) in self.slices.iter().flat_map(Slice::figures) {
            slices.entry(metric).or_default().push(figure);
        }
        let corrected_p99_us = match load {
            Load::Wwr { gap_ms, .. } if all.count() > 0 => {
                let interval = u64::from(gap_ms) * 1_000_000 + (all.quantile_us(0.5) * 1_000.0) as u64;
                Some(all.corrected(interval.max(1)).quantile_us(0.99))
            }
            _ => None,
        };
        Run {
            part: self.part,
            filter: self.filter.clone(),
            transactions: self.slices.iter().map(Slice::transactions).sum(),
            seconds: self.slices.iter().map(Slice::seconds).sum(),
            due,
            in_time: self.sum(|lines| lines.load.map(|(_, in_time, _)| in_time)),
            send_late_us: late_ns.map(|ns| ns as f64 / 1_000.0 / due.unwrap_or(0).max(1) as f64),
            latency_us: self.latency(&all),
            corrected_p99_us,
            slices,
            slow: all.count_from(SLOW_NS),
            stalls: self.stalls(),
            stages_us: has_frames(&directions).then(|| findings::together(&directions).0),
            directions,
            histogram_ns,
        }
    }
}

fn has_frames(directions: &[DirectionStages]) -> bool {
    directions.iter().any(|direction| direction.frames > 0)
}

/// A load's point: its runs, what each B costs, and that in sentences.
pub(super) fn point(load: Load, tallies: &[Tally], stamps_ns: f64, seed: u64) -> Point {
    let runs: Vec<Run> = tallies.iter().map(|tally| tally.run(load)).collect();
    let effects = effects(load, &runs, stamps_ns / 1_000.0, seed);
    let others = runs.iter().filter(|run| run.part == Part::B);
    let sentences = others.map(|run| sentence(run, &effects)).collect();
    Point {
        load,
        runs,
        effects,
        sentences,
    }
}

fn effects(load: Load, runs: &[Run], stamps_us: f64, seed: u64) -> Vec<Effect> {
    let run = |part: Part| runs.iter().find(|run| run.part == part);
    let (Some(first), Some(second)) = (run(Part::A), run(Part::Again)) else {
        return Vec::new();
    };
    let mut effects = Vec::new();
    for other in runs.iter().filter(|run| run.part == Part::B) {
        for (metric, figures) in &other.slices {
            let of = |run: Option<&Run>| -> Vec<f64> {
                run.and_then(|run| run.slices.get(metric))
                    .cloned()
                    .unwrap_or_default()
            };
            let (first_figures, second_figures, empty) =
                (of(Some(first)), of(Some(second)), of(run(Part::Empty)));
            let samples = Samples {
                first: &first_figures,
                second: &second_figures,
                other: figures,
                empty: &empty,
            };
            effects.push(Effect {
                filter: other.filter.clone(),
                metric: *metric,
                judgement: judge(&samples, pace(load, first, second, other), stamps_us, seed),
            });
        }
    }
    effects
}

fn pace(load: Load, first: &Run, second: &Run, other: &Run) -> Pace {
    let count = |run: &Run| (run.due.unwrap_or(0), run.in_time.unwrap_or(0));
    match load {
        Load::Open { .. } => {
            let ((due, in_time), (more_due, more_in_time)) = (count(first), count(second));
            Pace::Open {
                a: (due + more_due, in_time + more_in_time),
                b: count(other),
            }
        }
        Load::Wwr { .. } => Pace::Closed,
        Load::Foreign => {
            let rate =
                |runs: &[&Run], of: fn(&Run) -> f64| -> f64 { runs.iter().map(|&run| of(run)).sum::<f64>() };
            let per_second = |runs: &[&Run]| {
                rate(runs, |run| run.transactions as f64) / rate(runs, |run| run.seconds).max(1e-9)
            };
            Pace::Foreign {
                a: per_second(&[first, second]),
                b: per_second(&[other]),
            }
        }
    }
}

/// What a B costs, in the words that are asked for: "inspect: p99 +3.00 µs (95 %: +2.20 to +3.90 µs), 0 stalls".
fn sentence(run: &Run, effects: &[Effect]) -> String {
    let metric = [Metric::P99, Metric::Residence]
        .into_iter()
        .find(|metric| run.slices.contains_key(metric));
    let effect = effects
        .iter()
        .find(|effect| effect.filter == run.filter && Some(effect.metric) == metric);
    let cost = effect.map_or_else(
        || "nothing was measured".to_owned(),
        |effect| {
            let judgement = &effect.judgement;
            let interval = judgement.interval_us;
            let range = format!("95 %: {:+.2} to {:+.2} µs", interval.low, interval.high);
            match judgement.refused.first() {
                None => format!(
                    "{} {:+.2} µs ({range})",
                    effect.metric.name(),
                    judgement.difference_us
                ),
                Some(why) => format!(
                    "{} no difference is reported, {why} ({range})",
                    effect.metric.name()
                ),
            }
        },
    );
    let unit = if run.slices.contains_key(&Metric::Residence) {
        "frames"
    } else {
        "transactions"
    };
    let stalls = run.stalls.map_or_else(
        || "stalls not watched".to_owned(),
        |stalls| match stalls.total() {
            0 => format!("0 stalls in {} {unit}", run.transactions),
            total => format!(
                "{total} stalls in {} {unit}, {:.1} per million ({} delayed ACK, {} filter hold, {} retransmission)",
                run.transactions,
                total as f64 * 1e6 / run.transactions.max(1) as f64,
                stalls.delayed_ack,
                stalls.filter_hold,
                stalls.retransmission
            ),
        },
    );
    format!("{}: {cost}, {stalls}", run.filter)
}

/// What was counted between two readings of somebody else's ports: frames and total time in nanoseconds, by port.
pub(super) fn between(
    before: &vswitch::control::SwitchStats,
    after: &vswitch::control::SwitchStats,
    ports: &[String],
) -> Vec<DirectionStages> {
    let of = |stats: &vswitch::control::SwitchStats, port: &str| {
        let found = stats.ports.iter().find(|stats| stats.name == *port);
        found.map(|stats| stats.stages).unwrap_or_default()
    };
    let direction = |port: &String| {
        let (old, new) = (of(before, port), of(after, port));
        let frames = new.frames.saturating_sub(old.frames);
        let mean = |new: u64, old: u64| new.saturating_sub(old) as f64 / 1_000.0 / frames.max(1) as f64;
        DirectionStages {
            from: port.clone(),
            frames,
            stages_us: StageMeans::from_fn(|stage: Stage| {
                mean(new.stages.get(stage).total_ns, old.stages.get(stage).total_ns)
            }),
            residence_us: mean(new.residence.total_ns, old.residence.total_ns),
        }
    };
    ports.iter().map(direction).collect()
}
