//! The switch in virtual time: hosts with smoltcp's stack behind real rings, links that lose, reorder and stall, filters that
//! come and go, queues that move; all by a seed, and the same each time for the same seed.
//!
//! `ENLIGHT_SIM_SEEDS=1000` runs so many seeds, `ENLIGHT_SIM_SEED=7` that one alone.

#[path = "../../tests/matrix/headers.rs"]
#[allow(dead_code, reason = "the matrix uses all of it")]
mod headers;
mod host;
#[path = "../../tests/matrix/judge.rs"]
mod judge;
mod link;
mod nic;
mod program;
mod random;
mod wire;
mod world;

use world::{Outcome, World};

const SEEDS: &str = "ENLIGHT_SIM_SEEDS";
const SEED: &str = "ENLIGHT_SIM_SEED";

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs a seed; says which one when it fails.
fn run(seed: u64) -> Outcome {
    let result = std::panic::catch_unwind(|| World::new(seed).run());
    result.unwrap_or_else(|_| panic!("seed {seed} failed; {SEED}={seed} runs it alone"))
}

#[test]
fn transfers_end_well_in_any_order_of_events() {
    let seeds = match variable(SEED) {
        Some(seed) => seed..seed + 1,
        None => 0..variable(SEEDS).unwrap_or(60),
    };
    let outcomes: Vec<Outcome> = seeds.map(run).collect();
    let delivered: u64 = outcomes.iter().map(|outcome| outcome.delivered).sum();
    let segmented: u64 = outcomes.iter().map(|outcome| outcome.segmented).sum();
    let seconds: u64 = outcomes
        .iter()
        .map(|outcome| outcome.nanoseconds / 1_000_000)
        .sum::<u64>()
        / 1000;
    println!(
        "{} seeds: {delivered} frames, {segmented} large ones cut, {seconds} s",
        outcomes.len()
    );
}

#[test]
fn the_same_seed_makes_the_same_trace() {
    for seed in 0..5 {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
    assert_ne!(run(0).trace, run(1).trace);
}
