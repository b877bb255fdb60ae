//! Frames per second of Enlight's switch beside those of other switches, in turn on the same machine.
//!
//!     cargo xtask bench-peers [-- OPTIONS]
//!     cargo bench --bench peers -- --rows split-64,imix --pairs 7 --seconds 3
//!
//! A row is a load: frames of a size over rings of a format. For each row and each pair of slices our switch is started,
//! loaded and stopped, then each peer is. What is compared is the ratio of two slices that follow each other; the row's figure is
//! the median of those ratios. See docs/measuring.md for the set-up and its biases.

mod chart;
mod generator;
mod imix;
mod report;
mod rows;
#[path = "../../tests/support/mod.rs"]
mod support;
mod switches;

use std::process::ExitCode;

use generator::Slice;
use report::{Report, RowResult};
use rows::Row;
use switches::Peer;

/// What the command line asks for.
struct Plan {
    rows: Vec<Row>,
    peers: Vec<Peer>,
    pairs: usize,
    seconds: u64,
}

const USAGE: &str =
    "cargo bench --bench peers -- [--rows NAME,NAME] [--peers ovs,wire] [--pairs N] [--seconds N]";

fn plan() -> Result<Plan, String> {
    let mut plan = Plan {
        rows: rows::all(),
        peers: vec![Peer::Ovs],
        pairs: 7,
        seconds: 3,
    };
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    while let Some(word) = words.next() {
        let value = words
            .next()
            .ok_or_else(|| format!("{word} needs a value; usage: {USAGE}"))?;
        let number = || value.parse().map_err(|_| format!("{word} {value}: not a number"));
        match word.as_str() {
            "--rows" => plan.rows = value.split(',').map(rows::named).collect::<Result<_, _>>()?,
            "--peers" => plan.peers = value.split(',').map(Peer::named).collect::<Result<_, _>>()?,
            "--pairs" => plan.pairs = number()?,
            "--seconds" => plan.seconds = number()? as u64,
            _ => return Err(format!("{word} is not known; usage: {USAGE}")),
        }
    }
    Ok(plan)
}

fn main() -> ExitCode {
    let plan = match plan() {
        Ok(plan) => plan,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    if let Some(reason) = switches::missing(&plan.peers) {
        println!("SKIPPED peers: {reason}");
        return ExitCode::SUCCESS;
    }
    let mut report = Report::new(plan.seconds);
    for row in &plan.rows {
        println!("{}: {}", row.name, row.what);
        for result in measure(row, &plan) {
            println!("  {result}");
            report.rows.push(result);
        }
    }
    match report.write() {
        Ok(paths) => println!("{}\nwritten: {}", report.table(), paths.join(", ")),
        Err(error) => {
            eprintln!("the results cannot be written: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// All pairs of a row, against each peer.
fn measure(row: &Row, plan: &Plan) -> Vec<RowResult> {
    let mut results: Vec<RowResult> = plan.peers.iter().map(|peer| RowResult::new(row, *peer)).collect();
    for pair in 0..plan.pairs {
        for result in &mut results {
            // Who begins alternates, so that a machine that slows down or warms up favours nobody.
            let both = if pair % 2 == 0 {
                let ours = slice(Peer::Enlight, row, plan.seconds);
                (ours, slice(result.peer, row, plan.seconds))
            } else {
                let theirs = slice(result.peer, row, plan.seconds);
                (slice(Peer::Enlight, row, plan.seconds), theirs)
            };
            match both {
                (Ok(ours), Ok(theirs)) => {
                    println!(
                        "  {:>2}: enlight {:6.2} Mpps (ceiling {:4.1})  {} {:6.2} Mpps ({:4.1})",
                        pair + 1,
                        ours.mpps,
                        ours.ceiling,
                        result.peer,
                        theirs.mpps,
                        theirs.ceiling
                    );
                    result.pairs.push((ours, theirs));
                }
                (Err(error), _) | (_, Err(error)) => println!("  {:>2}: left out: {error}", pair + 1),
            }
        }
    }
    results
}

/// One switch under one load.
fn slice(peer: Peer, row: &Row, seconds: u64) -> Result<Slice, String> {
    let running = peer.start(row)?;
    generator::run(running.sockets(), row, seconds)
}
