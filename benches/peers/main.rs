//! Enlight's switch beside others, in turn on the same machine: frames per second, traffic between virtual machines, and
//! inspection between hosts.
//!
//!     cargo xtask bench-peers [-- OPTIONS]
//!     cargo bench --bench peers -- --rows split-64,stream --pairs 7 --seconds 3
//!
//! A row is a load. For each row and each pair of slices our switch is started, loaded and stopped, then the peer is. What is
//! compared is the ratio of two slices that follow each other; the row's figure is the median of those ratios. See
//! docs/measuring.md for the set-up and its biases.

mod chart;
mod generator;
mod goal;
mod guests;
mod hosts;
mod imix;
mod inline;
mod inspectors;
mod loads;
mod machines;
mod patterns;
mod report;
mod rows;
#[path = "../../tests/support/mod.rs"]
mod support;
mod switches;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};

use loads::Load;
use report::{Report, RowResult, Slice};
use switches::Peer;

/// What the command line asks for.
struct Plan {
    loads: Vec<Load>,
    peers: Vec<Peer>,
    pairs: usize,
    seconds: u64,
    /// Somebody wants it to end.
    interrupted: Arc<AtomicBool>,
}

const USAGE: &str = "Enlight's switch beside others, in turn on the same machine.

Usage: cargo xtask bench-peers -- [--rows NAME,NAME] [--peers ovs,bridge,suricata,wire] [--pairs N] [--seconds N]

  --rows     rows to measure instead of all of them (list: --rows help)
  --peers    whom to compare with, where a row is about them (default: ovs,bridge,suricata)
  --pairs    pairs of slices, ours and the peer's in turn (default: 7)
  --seconds  length of a slice (default: 3)

Example: cargo xtask bench-peers -- --rows stream,rr --pairs 3";

/// What a slice takes beside its measured time, in seconds: starting, warming up, stopping.
const AROUND: u64 = 3;

fn plan() -> Result<Plan, String> {
    let mut plan = Plan {
        loads: loads::all(),
        peers: vec![Peer::Ovs, Peer::Bridge, Peer::Suricata],
        pairs: 7,
        seconds: 3,
        interrupted: Arc::default(),
    };
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    while let Some(word) = words.next() {
        let value = words
            .next()
            .ok_or_else(|| format!("{word} needs a value\n\n{USAGE}"))?;
        let number = || match value.parse() {
            Ok(number @ 1..=100_000) => Ok(number),
            _ => Err(format!("{word} {value}: not a number from 1 to 100000")),
        };
        match word.as_str() {
            "--rows" => plan.loads = value.split(',').map(loads::named).collect::<Result<_, _>>()?,
            "--peers" => plan.peers = value.split(',').map(Peer::named).collect::<Result<_, _>>()?,
            "--pairs" => plan.pairs = number()?,
            "--seconds" => plan.seconds = number()? as u64,
            _ => return Err(format!("{word} is not known\n\n{USAGE}")),
        }
    }
    Ok(plan)
}

fn main() -> ExitCode {
    if std::env::args().any(|word| word == "--help" || word == "-h") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let plan = match plan() {
        Ok(plan) => plan,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    for signal in [SIGINT, SIGTERM] {
        // Without a handler an interrupt would leave files behind, but measures as well.
        let _ = signal_hook::flag::register(signal, Arc::clone(&plan.interrupted));
    }
    let report = run(&plan);
    if plan.is_interrupted() {
        eprintln!("interrupted: nothing was written");
        return ExitCode::from(130);
    }
    if report.rows.is_empty() {
        return ExitCode::SUCCESS;
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

impl Plan {
    fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// Takes a slice, unless nobody wants it any more; an error tells whose it was.
    fn slice<T>(&self, whose: &str, take: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
        if self.is_interrupted() {
            return Err("interrupted".to_owned());
        }
        take().map_err(|error| format!("{whose}: {error}"))
    }

    /// How long all rows take, roughly.
    fn minutes(&self) -> u64 {
        let peers: usize = self.loads.iter().map(|load| load.peers(&self.peers).len()).sum();
        (peers * self.pairs * 2) as u64 * (self.seconds + AROUND) / 60 + 1
    }
}

/// All rows that can be measured here.
fn run(plan: &Plan) -> Report {
    let mut report = Report::new(plan.seconds);
    println!("about {} minutes; who begins a pair alternates", plan.minutes());
    for load in &plan.loads {
        let peers = load.peers(&plan.peers);
        if let Some(reason) = load.missing(&peers) {
            println!("SKIPPED {}: {reason}", load.name());
            continue;
        }
        println!("{}: {}", load.name(), load.what());
        for peer in peers {
            for result in measure(load, peer, plan) {
                println!("  {result}");
                report.rows.push(result);
            }
        }
    }
    report
}

/// All pairs of a row against a peer.
fn measure(load: &Load, peer: Peer, plan: &Plan) -> Vec<RowResult> {
    let mut results = load.results(peer);
    for pair in 0..plan.pairs {
        let ours = || plan.slice("enlight", || load.ours(peer, plan.seconds));
        let theirs = || plan.slice(&peer.to_string(), || load.theirs(peer, plan.seconds));
        // Who begins alternates, so that a machine that slows down or warms up favours nobody.
        let both = if pair % 2 == 0 {
            let ours = ours();
            (ours, theirs())
        } else {
            let theirs = theirs();
            (ours(), theirs)
        };
        match both {
            (Ok(ours), Ok(theirs)) => {
                for (result, slices) in results.iter_mut().zip(ours.into_iter().zip(theirs)) {
                    println!("  {:>2}: {}", pair + 1, line(result, slices));
                    result.pairs.push(slices);
                }
            }
            (Err(error), _) | (_, Err(error)) => println!("  {:>2}: left out: {error}", pair + 1),
        }
    }
    results
}

/// One pair of a figure, to be read while it goes on.
fn line(result: &RowResult, (ours, theirs): (Slice, Slice)) -> String {
    let side = |name: &str, slice: Slice| {
        let ceiling = slice.ceiling.map(|most| format!(" (ceiling {most:.1})"));
        format!("{name} {:.2}{}", slice.value, ceiling.unwrap_or_default())
    };
    let (ours, theirs) = (side("enlight", ours), side(&result.peer, theirs));
    format!(
        "{} in {}: {ours}  {theirs}",
        result.figure.name, result.figure.unit
    )
}
