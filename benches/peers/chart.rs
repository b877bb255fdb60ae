//! The ratios as a picture: a bar from the smallest to the largest, its median, and the goals.

use std::error::Error;
use std::path::Path;

use plotters::prelude::*;

use crate::report::RowResult;

/// Pixels.
const WIDTH: u32 = 900;
const ROW: u32 = 44;
const MARGIN: u32 = 70;

pub(crate) fn draw(path: &Path, rows: &[RowResult]) -> Result<(), Box<dyn Error>> {
    let rows: Vec<_> = rows.iter().filter_map(|row| Some((row, row.ratios()?))).collect();
    let most = rows.iter().fold(1.0, |most: f64, (row, ratios)| {
        let goal = row.figure.goal;
        most.max(ratios.most).max(goal.aim).max(goal.required)
    });
    let height = MARGIN + ROW * rows.len() as u32;
    let root = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .margin(10)
        .margin_left(400)
        .x_label_area_size(40)
        .build_cartesian_2d(0.0..most * 1.05, 0.0..rows.len() as f64)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .x_desc("Enlight's figure as a multiple of the peer's (line: the goal, dashes: the aim)")
        .draw()?;
    for (index, (row, ratios)) in rows.iter().enumerate() {
        let top = (rows.len() - index) as f64;
        let (low, high, middle) = (top - 0.75, top - 0.25, top - 0.5);
        let goal = row.figure.goal;
        let colour = if goal.is_reached(ratios.median) {
            GREEN
        } else {
            RED
        };
        chart.draw_series([Rectangle::new(
            [(ratios.least, low), (ratios.most, high)],
            colour.mix(0.4).filled(),
        )])?;
        chart.draw_series([PathElement::new(
            [(ratios.median, low), (ratios.median, high)],
            BLACK.stroke_width(3),
        )])?;
        chart.draw_series([PathElement::new(
            [(goal.required, low - 0.1), (goal.required, high + 0.1)],
            BLUE.stroke_width(2),
        )])?;
        let aim = [
            (goal.aim, low - 0.1),
            (goal.aim, low + 0.1),
            (goal.aim, high - 0.1),
            (goal.aim, high + 0.1),
        ];
        for dash in aim.chunks(2) {
            chart.draw_series([PathElement::new(dash.to_vec(), BLUE.stroke_width(2))])?;
        }
        let (name, better) = (row.figure.name, goal.better());
        let label = format!("{name} / {}: {:.2} ({better} is better)", row.peer, ratios.median);
        let (x, y) = chart.backend_coord(&(0.0, middle));
        root.draw(&Text::new(label, (x - 390, y - 8), ("sans-serif", 15)))?;
    }
    root.present()?;
    Ok(())
}
