//! A simulator of TCP in virtual time, and how well the diagnosis names what it knows to be the causes.
//!
//! `ENLIGHT_FLOWS=10000 cargo test -p introspection --release --test stalls -- --nocapture` prints the confusion matrix of
//! docs/stalls.md. `ENLIGHT_SEED=N` starts at another seed.

mod endpoint;
mod middle;
mod random;
mod scenario;
mod score;
mod world;

use score::Matrix;

/// Seeds from here on were not looked at while the diagnosis was made.
const FRESH: u64 = 1_000_000;
/// Flows in a usual run.
const FLOWS: u64 = 1_500;

fn number(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
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
    for (cause, precision, recall, truths) in matrix.scores() {
        assert!(truths > 0, "{cause}: no case among {flows} flows");
        assert!(precision >= 0.97, "{cause}: precision {precision:.3}");
        assert!(recall >= 0.97, "{cause}: recall {recall:.3}");
    }
}
