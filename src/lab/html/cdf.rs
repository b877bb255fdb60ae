//! The distribution of round-trip times: share of transactions over time, on a logarithmic axis.

use super::svg::{Anchor, Svg};
use crate::lab::format::micros;
use crate::lab::report::RttSummary;

const WIDTH: f64 = 1080.0;
const HEIGHT: f64 = 330.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 1060.0;
const TOP: f64 = 16.0;
const BOTTOM: f64 = 286.0;

/// One distribution.
pub(crate) struct Curve<'a> {
    /// Its name.
    pub(crate) name: String,
    /// The style sheet's class for its colour.
    pub(crate) class: String,
    /// The distribution in a few numbers.
    pub(crate) rtt: &'a RttSummary,
    /// Lower bounds in nanoseconds and counts.
    pub(crate) histogram_ns: &'a [(u64, u64)],
}

/// Draws the curves; `what` names the times.
pub(crate) fn draw(curves: &[Curve<'_>], what: &str) -> String {
    let mut svg = Svg::new(WIDTH, &format!("Cumulative distribution: {what}"));
    let axis = Axis::over(curves);
    grid(&mut svg, &axis, what);
    for curve in curves {
        svg.path(&format!("curve {}", curve.class), &steps(curve, &axis));
    }
    for (index, curve) in curves.iter().enumerate() {
        label(&mut svg, curve, index, curves.len(), &axis);
    }
    svg.finish(HEIGHT)
}

/// Powers of ten of nanoseconds at both ends of the axis.
struct Axis {
    low: i32,
    high: i32,
}

impl Axis {
    fn over(curves: &[Curve<'_>]) -> Self {
        let ends = curves.iter().filter(|curve| !curve.histogram_ns.is_empty());
        let low = ends
            .clone()
            .map(|curve| curve.rtt.min * 1_000.0)
            .fold(f64::INFINITY, f64::min);
        let high = ends.map(|curve| curve.rtt.max * 1_000.0).fold(1.0, f64::max);
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

fn grid(svg: &mut Svg, axis: &Axis, what: &str) {
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
        &format!("{what} (log scale)"),
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
fn steps(curve: &Curve<'_>, axis: &Axis) -> Vec<(f64, f64)> {
    let total: u64 = curve.histogram_ns.iter().map(|(_, count)| count).sum();
    let mut points = vec![(axis.x(curve.rtt.min * 1_000.0), y(0.0))];
    let mut below = 0_u64;
    for (low, count) in curve.histogram_ns {
        let x = axis.x((*low as f64).max(curve.rtt.min * 1_000.0));
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
    points.push((axis.x(curve.rtt.max * 1_000.0), y(1.0)));
    points.push((RIGHT, y(1.0)));
    points
}

/// Names a curve beside it; each at a height of its own, so that curves close together keep readable names.
fn label(svg: &mut Svg, curve: &Curve<'_>, index: usize, curves: usize, axis: &Axis) {
    if curve.histogram_ns.is_empty() {
        return;
    }
    let share = 0.82 - 0.64 * (index as f64 + 0.5) / curves as f64;
    let x = axis.x(value_at(curve, share));
    let text = format!(
        "{}  p50 {}  p99 {}",
        curve.name,
        micros(curve.rtt.p50),
        micros(curve.rtt.p99)
    );
    let class = format!("name {}", curve.class);
    svg.circle(&format!("dot {}", curve.class), (x, y(share)), 3.5);
    // On the right half there is more room to the left of the curve.
    if x > f64::midpoint(LEFT, RIGHT) {
        svg.text(&class, (x - 10.0, y(share) + 4.0), Anchor::End, &text);
    } else {
        svg.text(&class, (x + 10.0, y(share) + 4.0), Anchor::Start, &text);
    }
}

/// The time in nanoseconds below which this share of transactions lies.
fn value_at(curve: &Curve<'_>, share: f64) -> f64 {
    let total: u64 = curve.histogram_ns.iter().map(|(_, count)| count).sum();
    let mut below = 0_u64;
    for (low, count) in curve.histogram_ns {
        below += count;
        if below as f64 >= share * total as f64 {
            return (*low as f64).max(curve.rtt.min * 1_000.0);
        }
    }
    curve.rtt.max * 1_000.0
}
