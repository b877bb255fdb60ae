//! The test suite, fuzz targets and benchmarks.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::run::{cargo, has_program, root, run, say, target_dir};
use crate::setup;

/// How a test says that it does not run on this machine.
const SKIPPED: &str = "SKIPPED ";

/// Sets up, runs every test, compiles what no test compiles, and says what was left out.
pub(crate) fn test() -> Result<()> {
    setup::try_setup();
    run(cargo().args(["build", "--release", "--bin", "enlight"]))?;
    let report = run_tests()?;
    if report.failed {
        bail!("tests failed; see above");
    }
    run(cargo().args(["check", "--workspace", "--benches"]))?;
    run(cargo().args(["check", "--manifest-path", "fuzz/Cargo.toml"]))?;
    if report.skipped.is_empty() {
        eprintln!("xtask test: {} tests passed, none was left out", report.passed);
        return Ok(());
    }
    eprintln!(
        "xtask test: {} tests passed; of these, on this machine, only in part or not at all:",
        report.passed
    );
    for line in &report.skipped {
        eprintln!("  {line}");
    }
    Ok(())
}

#[derive(Default)]
struct Report {
    passed: u64,
    failed: bool,
    skipped: BTreeSet<String>,
}

/// Runs the tests with the output of those that pass, because that is where a test says that it was left out.
fn run_tests() -> Result<Report> {
    let mut command = cargo();
    command.args(["test", "--workspace", "--no-fail-fast", "--", "--show-output"]);
    // Software CPUs run the optimised program.
    command.env("ENLIGHT_TEST_RELEASE", target_dir().join("release/enlight"));
    let text = say(&command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting `{text}`"))?;
    let output = child.stdout.take().context("the tests' output")?;
    let mut report = Report::default();
    let mut hidden = false;
    for line in BufReader::new(output).split(b'\n') {
        let line = line.context("reading the tests' output")?;
        let line = String::from_utf8_lossy(&line);
        if report.note(&line, &mut hidden) {
            println!("{line}");
        }
    }
    report.failed = !child.wait().context("waiting for the tests")?.success();
    Ok(report)
}

impl Report {
    /// Takes a line; whether it is to be shown, which the output of tests that passed is not.
    fn note(&mut self, line: &str, hidden: &mut bool) -> bool {
        match line {
            "successes:" => *hidden = true,
            "failures:" => *hidden = false,
            _ if line.starts_with("test result:") => {
                *hidden = false;
                self.passed += passed(line);
            }
            _ => {}
        }
        if let Some(what) = line.strip_prefix(SKIPPED) {
            self.skipped.insert(what.to_owned());
        }
        !*hidden
    }
}

/// The number of tests that passed, of a line such as `test result: ok. 3 passed; 0 failed; ...`.
fn passed(line: &str) -> u64 {
    let words: Vec<&str> = line.split_whitespace().collect();
    words
        .windows(2)
        .find(|pair| pair[1] == "passed;")
        .and_then(|pair| pair[0].parse().ok())
        .unwrap_or(0)
}

/// Runs a fuzz target.
pub(crate) fn fuzz(target: &str, seconds: u64) -> Result<()> {
    if !root().join(format!("fuzz/fuzz_targets/{target}.rs")).is_file() {
        bail!("there is no fuzz target \"{target}\"; see fuzz/fuzz_targets");
    }
    if !has_program("cargo-fuzz") {
        bail!("cargo-fuzz is not installed; run: cargo install cargo-fuzz --locked");
    }
    // cargo-fuzz asks for flags that the stable compiler has but hides.
    let mut command = Command::new("cargo");
    command
        .current_dir(root())
        .env("RUSTC_BOOTSTRAP", "1")
        .args(["fuzz", "run", target, "--"]);
    run(command.arg(format!("-max_total_time={seconds}")))
}

/// Runs the benchmarks, or one.
pub(crate) fn bench(name: Option<&str>, args: &[String]) -> Result<()> {
    let mut command = cargo();
    command.args(["bench", "--workspace"]);
    match name {
        Some(name) => command.args(["--bench", name]),
        None => command.arg("--benches"),
    };
    if !args.is_empty() {
        command.arg("--").args(args);
    }
    run(&mut command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipped_tests_are_named_once_and_passing_output_is_hidden() {
        let mut report = Report::default();
        let mut hidden = false;
        let lines = [
            "test a ... ok",
            "successes:",
            "---- a stdout ----",
            "SKIPPED a: no tshark",
            "SKIPPED a: no tshark",
            "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "test result: ok. 4 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        ];
        let mut was_hidden = Vec::new();
        for line in lines {
            was_hidden.push(!report.note(line, &mut hidden));
        }
        assert_eq!(report.skipped.into_iter().collect::<Vec<_>>(), ["a: no tshark"]);
        assert_eq!(report.passed, 7);
        assert_eq!(was_hidden, [false, true, true, true, true, false, false]);
    }
}
