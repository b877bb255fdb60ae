//! `enlight bench`.

use std::process::ExitCode;

use anyhow::Result;

use crate::bench;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Measure what a filter costs in latency, and refuse to say what cannot be known
    Latency(Box<bench::Args>),
}

pub(super) fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Latency(args) => bench::run(&args),
    }
}
