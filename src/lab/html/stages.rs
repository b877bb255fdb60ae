//! Where a frame's time in the switch goes: one bar for each profile and direction.
//!
//! The switch's own work takes microseconds, a hold may take a fifth of a second. So the work is drawn to one
//! scale for all bars, and a hold that would burst it as a hatched block of fixed width with its figure.

use introspection::stage::Stage;

use super::svg::{Anchor, Svg};
use crate::lab::format::micros;
use crate::lab::report::DirectionStages;

const WIDTH: f64 = 1080.0;
const LEFT: f64 = 176.0;
const RIGHT: f64 = 1060.0;
const HOLD_WIDTH: f64 = 190.0;
const FIGURE_WIDTH: f64 = 90.0;
const BAR: f64 = 22.0;
const ROW: f64 = 32.0;
const LEGEND: f64 = 34.0;

/// One bar.
pub(crate) struct Bar<'a> {
    /// Its name.
    pub(crate) name: String,
    /// The style sheet's class for its colour.
    pub(crate) class: String,
    /// What it shows.
    pub(crate) direction: &'a DirectionStages,
}

/// Draws the bars.
pub(crate) fn draw(rows: &[Bar<'_>]) -> String {
    let widest = rows.iter().map(|bar| work(bar.direction)).fold(0.01, f64::max);
    let longest_hold = rows
        .iter()
        .map(|bar| bar.direction.stages_us.of(Stage::Hold))
        .fold(0.0, f64::max);
    let room = RIGHT - LEFT - FIGURE_WIDTH - if longest_hold > 0.0 { HOLD_WIDTH } else { 0.0 };
    let mut svg = Svg::new(WIDTH, "Mean time of a frame in each stage of the switch");
    legend(&mut svg, longest_hold > 0.0);
    for (index, bar) in rows.iter().enumerate() {
        row(&mut svg, LEGEND + index as f64 * ROW, bar, room / widest);
    }
    svg.finish(LEGEND + rows.len() as f64 * ROW + 4.0)
}

/// Everything but the hold, in microseconds.
fn work(direction: &DirectionStages) -> f64 {
    direction.stages_us.sum() - direction.stages_us.of(Stage::Hold)
}

fn legend(svg: &mut Svg, holds: bool) {
    let mut x = LEFT;
    for stage in Stage::ALL
        .into_iter()
        .filter(|&stage| holds || stage != Stage::Hold)
    {
        svg.rect(&class(stage), (x, 4.0), (12.0, 12.0), 2.0);
        svg.text("tick", (x + 17.0, 14.5), Anchor::Start, stage.label());
        x += 34.0 + 7.2 * stage.label().len() as f64;
    }
}

fn row(svg: &mut Svg, top: f64, bar: &Bar<'_>, scale: f64) {
    let direction = bar.direction;
    let middle = top + BAR / 2.0 + 4.0;
    svg.text(
        &format!("name {}", bar.class),
        (0.0, middle),
        Anchor::Start,
        &bar.name,
    );
    svg.text(
        "tick",
        (LEFT - 10.0, middle),
        Anchor::End,
        &format!("from {}", direction.from),
    );
    let mut x = LEFT;
    for stage in Stage::ALL {
        let mean = direction.stages_us.of(stage);
        let width = if stage == Stage::Hold {
            if mean > 0.0 { HOLD_WIDTH } else { 0.0 }
        } else {
            mean * scale
        };
        if width <= 0.0 {
            continue;
        }
        svg.rect(&class(stage), (x, top), (width, BAR), 0.0);
        if stage == Stage::Hold {
            let text = format!("held {} (not to scale)", micros(mean));
            svg.text("onbar", (x + width / 2.0, middle), Anchor::Middle, &text);
        }
        x += width;
    }
    svg.text(
        "figure",
        (x + 8.0, middle),
        Anchor::Start,
        &micros(direction.residence_us),
    );
}

fn class(stage: Stage) -> String {
    format!("stage s-{}", stage.label().replace(' ', "-"))
}
