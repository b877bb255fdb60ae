//! The distribution of round-trip times: share of transactions over time, on a logarithmic axis.

use super::svg::{Anchor, Svg};
use crate::lab::format::micros;
use crate::lab::report::Run;

const WIDTH: f64 = 1080.0;
const HEIGHT: f64 = 330.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 1060.0;
const TOP: f64 = 16.0;
const BOTTOM: f64 = 286.0;

/// Draws one curve a run.
pub(super) fn draw(runs: &[Run]) -> String {
    let mut svg = Svg::new(
        WIDTH,
        "Cumulative distribution of round-trip times for each filter profile",
    );
    let axis = Axis::over(runs);
    grid(&mut svg, &axis);
    for run in runs {
        svg.path(&format!("curve p-{}", run.filter), &curve(run, &axis));
    }
    for (index, run) in runs.iter().enumerate() {
        label(&mut svg, run, index, runs.len(), &axis);
    }
    svg.finish(HEIGHT)
}

/// Powers of ten of nanoseconds at both ends of the axis.
struct Axis {
    low: i32,
    high: i32,
}

impl Axis {
    fn over(runs: &[Run]) -> Self {
        let ends = runs.iter().filter(|run| run.transactions > 0);
        let low = ends
            .clone()
            .map(|run| run.rtt_us.min * 1_000.0)
            .fold(f64::INFINITY, f64::min);
        let high = ends.map(|run| run.rtt_us.max * 1_000.0).fold(1.0, f64::max);
        let low = if low.is_finite() {
            low.max(1.0).log10().floor() as i32
        } else {
            3
        };
        Self {
            low,
            high: (high.log10().ceil() as i32).max(low + 1),
        }
    }

    fn x(&self, ns: f64) -> f64 {
        let decades = f64::from(self.high - self.low);
        let at = (ns.max(1.0).log10() - f64::from(self.low)) / decades;
        LEFT + at.clamp(0.0, 1.0) * (RIGHT - LEFT)
    }
}

fn y(share: f64) -> f64 {
    BOTTOM - share * (BOTTOM - TOP)
}

fn grid(svg: &mut Svg, axis: &Axis) {
    for quarter in 0..=4_u8 {
        let share = f64::from(quarter) / 4.0;
        svg.line("grid", (LEFT, y(share)), (RIGHT, y(share)));
        svg.text(
            "tick",
            (LEFT - 8.0, y(share) + 4.0),
            Anchor::End,
            &format!("{} %", quarter * 25),
        );
    }
    for power in axis.low..=axis.high {
        let decade = 10_f64.powi(power);
        svg.line("grid", (axis.x(decade), TOP), (axis.x(decade), BOTTOM));
        svg.text(
            "tick",
            (axis.x(decade), BOTTOM + 18.0),
            Anchor::Middle,
            &tick(decade),
        );
        if power < axis.high {
            for step in 2..10_u8 {
                let x = axis.x(decade * f64::from(step));
                svg.line("grid minor", (x, BOTTOM), (x, BOTTOM + 4.0));
            }
        }
    }
    let middle = f64::midpoint(LEFT, RIGHT);
    svg.text(
        "axis",
        (middle, BOTTOM + 38.0),
        Anchor::Middle,
        "round-trip time at the client (log scale)",
    );
}

/// A power of ten of nanoseconds as a round number.
fn tick(ns: f64) -> String {
    let (value, unit) = if ns >= 1e9 {
        (ns / 1e9, "s")
    } else if ns >= 1e6 {
        (ns / 1e6, "ms")
    } else if ns >= 1e3 {
        (ns / 1e3, "µs")
    } else {
        (ns, "ns")
    };
    format!("{value:.0} {unit}")
}

/// The curve as steps; buckets that hardly move it are skipped.
fn curve(run: &Run, axis: &Axis) -> Vec<(f64, f64)> {
    let total: u64 = run.histogram_ns.iter().map(|(_, count)| count).sum();
    let mut points = vec![(axis.x(run.rtt_us.min * 1_000.0), y(0.0))];
    let mut below = 0_u64;
    for (low, count) in &run.histogram_ns {
        let x = axis.x((*low as f64).max(run.rtt_us.min * 1_000.0));
        let before = y(below as f64 / total.max(1) as f64);
        below += count;
        let after = y(below as f64 / total.max(1) as f64);
        let far = points
            .last()
            .is_none_or(|(last_x, last_y)| x - last_x > 0.7 || last_y - after > 0.7);
        if far {
            points.push((x, before));
            points.push((x, after));
        }
    }
    points.push((axis.x(run.rtt_us.max * 1_000.0), y(1.0)));
    points.push((RIGHT, y(1.0)));
    points
}

/// Names a curve beside it; each at a height of its own, so that curves close together keep readable names.
fn label(svg: &mut Svg, run: &Run, index: usize, runs: usize, axis: &Axis) {
    if run.transactions == 0 {
        return;
    }
    let share = 0.82 - 0.64 * (index as f64 + 0.5) / runs as f64;
    let x = axis.x(value_at(run, share));
    let text = format!(
        "{}  p50 {}  p99 {}",
        run.filter,
        micros(run.rtt_us.p50),
        micros(run.rtt_us.p99)
    );
    let class = format!("name p-{}", run.filter);
    svg.circle(&format!("dot p-{}", run.filter), (x, y(share)), 3.5);
    // On the right half there is more room to the left of the curve.
    if x > f64::midpoint(LEFT, RIGHT) {
        svg.text(&class, (x - 10.0, y(share) + 4.0), Anchor::End, &text);
    } else {
        svg.text(&class, (x + 10.0, y(share) + 4.0), Anchor::Start, &text);
    }
}

/// The time in nanoseconds below which this share of transactions lies.
fn value_at(run: &Run, share: f64) -> f64 {
    let total: u64 = run.histogram_ns.iter().map(|(_, count)| count).sum();
    let mut below = 0_u64;
    for (low, count) in &run.histogram_ns {
        below += count;
        if below as f64 >= share * total as f64 {
            return (*low as f64).max(run.rtt_us.min * 1_000.0);
        }
    }
    run.rtt_us.max * 1_000.0
}
