//! `enlight switch`.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::say;
use crate::config::Config;
use crate::daemon::Daemon;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Run a switch until SIGTERM or Ctrl-C
    #[command(after_help = "Examples:
  enlight switch run
      A switch without ports; `enlight port add` adds them.
  enlight switch run --config switch.toml
      One with the ports that the file describes.")]
    Run(Args),
}

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A TOML file with workers and ports; see README.md
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Where to listen for commands
    #[arg(long, value_name = "SOCKET", env = "ENLIGHT_CONTROL", hide_env_values = true)]
    control: Option<PathBuf>,
}

pub(super) fn run(command: Command) -> Result<()> {
    let Command::Run(args) = command;
    let mut config = match &args.config {
        Some(file) => Config::load(file)?,
        None => Config::default(),
    };
    if args.control.is_some() {
        config.control = args.control;
    }
    // Before anything is there that a signal could leave behind.
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("watching for signals")?;
    let daemon = Daemon::start(config)?;
    let ports: Vec<String> = daemon
        .switch()
        .ports()
        .into_iter()
        .map(|port| port.name)
        .collect();
    let ports = if ports.is_empty() {
        "none yet".to_owned()
    } else {
        ports.join(", ")
    };
    say(&format!(
        "enlight: ready on {}, ports: {ports}",
        daemon.control().display()
    ))?;
    signals.forever().next();
    daemon.stop();
    Ok(())
}
