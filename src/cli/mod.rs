//! The command line. What talks to a switch does so through the control socket and in no other way.

mod bench;
mod capture;
mod diagnose;
mod filter;
mod port;
mod rules;
mod stats;
mod switch;
pub(crate) mod table;
mod vm;

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use serde::Serialize;

use crate::control::{Client, default_path};
use crate::{agent, lab};

/// A hypervisor and virtual switch that explain what packet introspection costs.
#[derive(Debug, Parser)]
#[command(
    name = "enlight",
    version,
    after_help = "Start with `enlight lab`; see README.md for more."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure what each filter profile does to latency between two guests, and why
    Lab(lab::Args),
    /// Run a switch
    #[command(subcommand)]
    Switch(switch::Command),
    /// Add, remove and list a switch's ports
    #[command(subcommand)]
    Port(port::Command),
    /// Set and show the filters of ports
    #[command(subcommand)]
    Filter(filter::Command),
    /// Check rules for filters, and take over others'
    #[command(subcommand)]
    Rules(rules::Command),
    /// Show a switch's counters
    Stats(stats::Args),
    /// Write a port's frames to a pcapng file
    Capture(capture::Args),
    /// Say why connections in a capture, or on a port, stood still
    Diagnose(diagnose::Args),
    /// Measure what filters cost, and refuse to say what cannot be known
    #[command(subcommand)]
    Bench(bench::Command),
    /// Run virtual machines, and look after those that run
    #[command(subcommand)]
    Vm(vm::Command),
}

/// Runs the program.
pub fn main() -> ExitCode {
    if agent::is_asked_for() {
        agent::run();
    }
    let cli = Cli::parse();
    log();
    match perform(cli.command) {
        Ok(code) => code,
        // Whoever read the output has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("enlight: {}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}

fn perform(command: Command) -> Result<ExitCode> {
    match command {
        Command::Lab(args) => lab::run(args)?,
        Command::Switch(command) => switch::run(command)?,
        Command::Port(command) => port::run(command)?,
        Command::Filter(command) => filter::run(command)?,
        Command::Rules(command) => rules::run(command)?,
        Command::Stats(args) => stats::run(&args)?,
        Command::Capture(args) => capture::run(&args)?,
        Command::Diagnose(args) => diagnose::run(&args)?,
        Command::Bench(command) => return bench::run(command),
        Command::Vm(command) => return vm::run(command),
    }
    Ok(ExitCode::SUCCESS)
}

/// Warnings and worse go to standard error; `ENLIGHT_LOG=debug` shows more.
fn log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("ENLIGHT_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .finish();
    // Not `init`: by a feature that any other crate can switch on it would also print what libraries log of each thing that
    // a guest does wrong, without a limit. Only the first one in a process is taken.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// What every client of a switch takes.
#[derive(Clone, Debug, clap::Args)]
struct Common {
    /// The switch's control socket
    #[arg(long, value_name = "SOCKET", env = "ENLIGHT_CONTROL", hide_env_values = true)]
    control: Option<PathBuf>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Common {
    fn client(&self) -> Client {
        client(self.control.as_ref())
    }

    /// Prints an answer as JSON if asked to, else as `text` puts it.
    fn print<T: Serialize>(&self, answer: &T, text: impl FnOnce(&T) -> String) -> Result<()> {
        let text = if self.json { to_json(answer)? } else { text(answer) };
        say(&text)
    }
}

fn client(control: Option<&PathBuf>) -> Client {
    Client::new(control.cloned().unwrap_or_else(default_path))
}

fn to_json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string_pretty(value).context("writing JSON")
}

/// Prints a text and a line end.
fn say(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", text.trim_end())?;
    Ok(out.flush()?)
}

/// The target of a port's resource; refuses a name that no port can have.
fn port_target(name: &str, rest: &str) -> Result<String> {
    if !vswitch::control::is_port_name(name) {
        return Err(vswitch::control::ControlError::BadName(name.to_owned()).into());
    }
    Ok(format!("/v1/ports/{name}{rest}"))
}

/// An error and its causes in one line. Errors of this project's own crates tell their cause themselves; it is not told
/// twice.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if line.contains(&cause) {
            continue;
        }
        if !line.is_empty() {
            line.push_str(": ");
        }
        line.push_str(&cause);
    }
    line
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_an_example() {
        fn check(command: &clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            let mut leaves = 0;
            for below in command.get_subcommands() {
                check(below, &path);
                leaves += 1;
            }
            let help = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(leaves > 0 || help.contains("enlight "), "{path} shows no example");
        }
        check(&Cli::command(), "");
    }

    #[test]
    fn names_are_checked_before_they_become_paths() {
        assert_eq!(port_target("v0", "/filter").unwrap(), "/v1/ports/v0/filter");
        for name in ["", "a/b", "a b", "a\r\nX: y"] {
            assert!(port_target(name, "").is_err(), "{name:?}");
        }
    }
}
