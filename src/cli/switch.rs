//! `enlight switch`.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use vswitch::control::{Attribution, AttributionStats};

use super::{Common, say};
use crate::config::Config;
use crate::daemon::Daemon;
use crate::daemon::api::AttributionBody;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Run a switch until SIGTERM or Ctrl-C
    #[command(after_help = "Examples:
  enlight switch run
      A switch without ports; `enlight port add` adds them.
  enlight switch run --config switch.toml
      One with the ports that the file describes.")]
    Run(Args),
    /// Say which frames are stamped on their way, and what that costs; or change it
    #[command(after_help = "Examples:
  enlight switch attribution
      What is stamped now, and what that takes of the workers' time.
  enlight switch attribution full
      Every frame; stages and flows start anew.
  enlight switch attribution 1000
      One frame of a thousand.")]
    Attribution(AttributionArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct AttributionArgs {
    /// off, auto (as many as cost next to nothing), full, or N for one frame of N
    mode: Option<Attribution>,
    #[command(flatten)]
    common: Common,
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
    match command {
        Command::Run(args) => serve(args),
        Command::Attribution(args) => attribution(&args),
    }
}

fn attribution(args: &AttributionArgs) -> Result<()> {
    let client = args.common.client();
    let stats: AttributionStats = match args.mode {
        None => client.get("/v1/attribution")?,
        Some(attribution) => client.send("PUT", "/v1/attribution", &AttributionBody { attribution })?,
    };
    args.common.print(&stats, describe)
}

/// Which frames are stamped, and what that costs.
pub(super) fn describe(stats: &AttributionStats) -> String {
    let which = match stats.mode {
        Attribution::Off => "no frame is stamped",
        Attribution::Auto => "frames are stamped as long as that takes at most a 400th of the time",
        Attribution::Full => "every frame is stamped",
        Attribution::OneOf(_) => "one frame of so many is stamped",
    };
    format!(
        "attribution {}: {which}; it took {:.2} % of the workers' busy time (a stamp takes {:.0} ns, a burst's record {:.0} ns, a \
         flow's {:.0} ns)\n",
        stats.mode,
        stats.share() * 100.0,
        stats.stamp_ns,
        stats.record_ns,
        stats.flow_ns
    )
}

/// Lets the process open as many files as it may: the usual soft limit of 1,024 (getrlimit(2)) is one for programs that use
/// `select`, and too low for a hundred ports.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(
            "the limit of open files stays as it is, {:?}: {error}",
            limit.current
        );
    }
}

fn serve(args: Args) -> Result<()> {
    let mut config = match &args.config {
        Some(file) => Config::load(file)?,
        None => Config::default(),
    };
    if args.control.is_some() {
        config.control = args.control;
    }
    raise_open_files();
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
