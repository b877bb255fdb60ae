//! Any port talks to any other, whatever each has negotiated: every cell of a matrix passes TCP and UDP between real
//! kernels in both directions, and every frame is judged where it is received.
//!
//! `ENLIGHT_MATRIX=text` runs only the cells whose names contain the text; `ENLIGHT_MATRIX_DOC=1` writes the table into
//! docs/conformance.md, which otherwise has to be as it is there.
#![allow(missing_docs)]

mod bench;
mod cell;
mod congestion;
mod document;
mod headers;
mod judge;
mod relay;
mod station;
mod system;
mod table;
mod tagging;
mod traffic;
mod verify;

use std::collections::HashMap;
use std::time::Instant;

use bench::Bench;
use cell::{Cell, Family, Setting};
use table::Mark;
use verify::Seen;

/// A variable that selects cells.
const SELECT: &str = "ENLIGHT_MATRIX";

#[test]
fn any_port_talks_to_any_other() {
    if let Some(reason) = station::missing() {
        eprintln!("SKIPPED any_port_talks_to_any_other: {reason}");
        return;
    }
    let selected = std::env::var(SELECT).ok();
    let start = Instant::now();
    let bench = Bench::new();
    let mut marks = HashMap::new();
    let mut failures = Vec::new();
    let mut seen = Seen::default();
    for setting in Setting::all() {
        run(&bench, setting, selected.as_deref(), &mut |cell, outcome| {
            let mark = match outcome {
                Outcome::Blank(mark) => mark,
                Outcome::Ran(sight, wrong) => {
                    seen.add(sight);
                    failures.extend(wrong.iter().map(|what| format!("{cell}: {what}")));
                    if wrong.is_empty() {
                        Mark::Passed
                    } else {
                        Mark::Failed
                    }
                }
            };
            marks.insert(cell, mark);
        });
    }
    let ran = marks
        .values()
        .filter(|mark| !matches!(mark, Mark::Blank(_)))
        .count();
    println!("{ran} cells in {:.1?}; {seen:?}", start.elapsed());
    assert!(
        failures.is_empty(),
        "these cells failed:\n{}",
        failures.join("\n")
    );
    if selected.is_none() {
        assert!(seen.ecn > 0, "no large send told of congestion");
        document::publish("ports", &table::table(&marks)).unwrap_or_else(|error| panic!("{error}"));
    }
}

enum Outcome {
    Blank(Mark),
    Ran(Seen, Vec<String>),
}

/// Runs the cells of a setting.
fn run(bench: &Bench, setting: Setting, selected: Option<&str>, note: &mut impl FnMut(Cell, Outcome)) {
    let cells = Family::ALL.map(|family| Cell { setting, family });
    if let Some(reason) = setting.blank() {
        return cells
            .into_iter()
            .for_each(|cell| note(cell, Outcome::Blank(Mark::Blank(reason))));
    }
    let mut scene = None;
    for cell in cells {
        if selected.is_none_or(|text| cell.to_string().contains(text)) {
            let scene = scene.get_or_insert_with(|| bench.set(setting));
            let (seen, wrong) = scene.run(cell.family);
            note(cell, Outcome::Ran(seen, wrong));
        }
    }
}
