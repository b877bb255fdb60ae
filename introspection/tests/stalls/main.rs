//! A simulator of TCP in virtual time, and how well the diagnosis names what it knows to be the causes.
//!
//! `ENLIGHT_FLOWS=10000 ENLIGHT_MATRIX=docs/stalls.md cargo test -p introspection --release --test stalls` writes the confusion
//! matrix into docs/stalls.md. `ENLIGHT_SEED=N` starts at another seed, `ENLIGHT_VERBOSE=1` tells every mistake.

#![allow(
    clippy::struct_excessive_bools,
    reason = "a simulated end has many independent properties"
)]

mod endpoint;
mod middle;
mod random;
mod scenario;
mod score;
mod wire;
mod world;

use std::path::Path;

use introspection::diagnosis::Cause;
use score::Matrix;

/// Seeds from here on were not looked at while the diagnosis was made, nor when it was changed: that was done with seeds below.
const FRESH: u64 = 20_000_000;
/// The same for the watcher.
const FRESH_LIVE: u64 = 8_000_000;
/// Where the matrix stands in the document.
const BEGIN: &str = "<!-- matrix -->";
const END: &str = "<!-- /matrix -->";
/// Precision and recall that are asked of a watcher that remembers little.
const LIVE: f64 = 0.92;
/// The same of what filters hold, which is what it is for.
const LIVE_HOLD: f64 = 0.97;
/// Flows in a usual run.
const FLOWS: u64 = 1_500;

fn number(variable: &str, usual: u64) -> u64 {
    std::env::var(variable)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(usual)
}

#[test]
fn causes_are_named_right() {
    let (first, flows) = (number("ENLIGHT_SEED", FRESH), number("ENLIGHT_FLOWS", FLOWS));
    let verbose = std::env::var_os("ENLIGHT_VERBOSE").is_some();
    let mut matrix = Matrix::default();
    for seed in first..first + flows {
        matrix.add(&scenario::run(seed), verbose.then_some(seed));
    }
    println!("{matrix}");
    if let Some(file) = std::env::var_os("ENLIGHT_MATRIX") {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
        let text = std::fs::read_to_string(&file).expect("the document");
        let (before, rest) = text.split_once(BEGIN).expect("a place for the matrix");
        let (_, after) = rest.split_once(END).expect("its end");
        std::fs::write(&file, format!("{before}{BEGIN}\n{matrix}\n{END}{after}"))
            .expect("the document is writable");
    }
    for (cause, precision, recall, truths) in matrix.scores() {
        assert!(truths > 0, "{cause}: no case among {flows} flows");
        assert!(precision >= 0.97, "{cause}: precision {precision:.3}");
        assert!(recall >= 0.97, "{cause}: recall {recall:.3}");
    }
}

/// The same by a watcher that sees each frame once and remembers a few. Stalls are compared by their number in each flow.
#[test]
fn causes_are_named_while_flows_run() {
    let verbose = std::env::var_os("ENLIGHT_VERBOSE").is_some();
    let mut counts = Cause::ALL.map(|cause| (cause, [0_u64; 3]));
    let first = number("ENLIGHT_SEED", FRESH_LIVE);
    for seed in first..first + number("ENLIGHT_FLOWS", FLOWS) {
        let outcome = scenario::run(seed);
        for (cause, [right, found, were]) in &mut counts {
            let truths = outcome
                .truths
                .iter()
                .filter(|truth| truth.cause == *cause)
                .count() as u64;
            let live = outcome.live.get(*cause).stalls;
            *right += truths.min(live);
            *found += live;
            *were += truths;
            if verbose && truths != live {
                println!("{}: {cause} {truths} times, told {live}", outcome.name);
            }
        }
    }
    let mut wrong = Vec::new();
    for (cause, [right, found, were]) in counts {
        let (precision, recall) = (
            right as f64 / found.max(1) as f64,
            right as f64 / were.max(1) as f64,
        );
        println!("{cause}: {were}, told {found}, precision {precision:.4}, recall {recall:.4}");
        let wanted = if cause == Cause::FilterHold {
            LIVE_HOLD
        } else {
            LIVE
        };
        if were == 0 || precision < wanted || recall < wanted {
            wrong.push(cause);
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// The replay without the filter against the same seeds simulated without it.
#[test]
fn what_the_filter_cost_is_told_right() {
    let (mut with, mut replayed, mut without) = (0.0, 0.0, 0.0);
    let (mut caused, mut really) = (0_u64, 0_u64);
    let (mut close, mut alone) = (0, 0);
    let mut flows = 0;
    for seed in FRESH..FRESH + number("ENLIGHT_FLOWS", FLOWS) / 2 {
        let outcome = scenario::run(seed);
        let Some(replay) = outcome.diagnosis.as_ref().and_then(|flow| flow.without_filter) else {
            continue;
        };
        let bare = scenario::simulate(seed, false);
        if !outcome.has_filter {
            continue;
        }
        flows += 1;
        let (took, told, real) = (
            outcome.duration as f64,
            replay.without_ns as f64,
            bare.duration as f64,
        );
        with += took;
        replayed += told;
        without += real;
        caused += replay.caused();
        really += outcome.truths.len() as u64;
        alone += bare.truths.len() as u64;
        close += u32::from((told - real).abs() <= 0.1 * real + 30e6);
    }
    println!(
        "{flows} flows took {with:.3e} ns; replayed without {replayed:.3e}, simulated without {without:.3e}; {close} close"
    );
    let really = really.saturating_sub(alone);
    println!("stalls caused: told {caused}, really {really}");
    assert!(flows > 100);
    assert!((replayed - without).abs() < 0.1 * (with - without).max(without));
    assert!(caused.abs_diff(really) * 100 <= really * 15);
}
