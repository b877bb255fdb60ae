//! The project's own build, test and check commands: `cargo xtask --help`.

mod image;
mod kernels;
mod lab;
mod peers;
mod prepush;
mod run;
mod setup;
mod sizes;
mod suite;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "The project's own build, test and check commands"
)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install the programs that tests use, fetch the kernels of their Linux guests, and make the disk that they boot from
    Setup,
    /// Set up, run the whole test suite, and compile fuzz targets and benchmarks
    Test,
    /// What has to pass before a push: format, clippy, sizes, documentation, fast tests
    Prepush,
    /// Run a command in a laboratory: a complete KVM in QEMU's software CPU, on Debian's kernel, as root
    #[command(name = "kvm-lab")]
    KvmLab(lab::Args),
    /// Make a small Debian to boot from: a disk image, a kernel and an initial RAM disk
    Image(image::Args),
    /// Check that no file is longer than 600 lines and no function longer than 60
    Sizes,
    /// Run a fuzz target for a while (needs cargo-fuzz)
    Fuzz {
        /// One of those in fuzz/fuzz_targets
        target: String,
        /// How long
        #[arg(default_value = "180")]
        seconds: u64,
    },
    /// Run the benchmarks, or one of them
    Bench {
        /// The benchmark's name
        name: Option<String>,
        /// Passed on to it
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Compare the switch with Open vSwitch with DPDK, and our machines with QEMU's on it and on a bridge
    BenchPeers(peers::Args),
}

fn main() -> ExitCode {
    match perform(Cli::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(task: Task) -> Result<ExitCode> {
    match task {
        Task::Setup => setup::setup()?,
        Task::Test => suite::test()?,
        Task::Prepush => prepush::prepush()?,
        Task::KvmLab(args) => return lab::run(args),
        Task::Image(args) => image::image(&args)?,
        Task::Sizes => sizes::check()?,
        Task::Fuzz { target, seconds } => suite::fuzz(&target, seconds)?,
        Task::BenchPeers(args) => return peers::bench(&args),
        Task::Bench { name, args } => suite::bench(name.as_deref(), &args)?,
    }
    Ok(ExitCode::SUCCESS)
}
