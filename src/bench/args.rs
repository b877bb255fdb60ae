//! What `enlight bench latency` takes on its command line.

use std::path::PathBuf;
use std::time::Duration;

use microguest::cmdline::{MAX_RATE, Spacing};
use serde::{Deserialize, Serialize};
use vswitch::control::FilterStage;

const EXAMPLES: &str = "Examples:
  enlight bench latency
      What inspect costs beside off, at 10, 50 and 90 % of what the path can do.
  enlight bench latency --filter off,inspect --patterns 1000 --load 50 --duration 5 --report report.html
      The price of 1,000 patterns at half load, with a page.
  enlight bench latency --workload wwr --filter off,serialize --sizes 64,1448 --gaps 0,5
      Two small writes and a read: delayed acknowledgements.
  enlight bench latency --guests linux --filter off,inspect --patterns 1000
      The same between two guests that run Debian's kernel.
  enlight bench latency --attach v0,v1 --filter off,inspect --rules rules.toml
      Your own guests and their own traffic, on two ports of a running switch.
  enlight bench latency --rates 5000 --json >new.json; enlight bench latency --rates 5000 --compare new.json
      Today against yesterday.

Exit status: 0, every difference is reported; 3, at least one is refused; 130, stopped before the end; 1, an error.";

/// Measure what a filter costs in latency, and refuse to say what cannot be known
///
/// Client and server exchange requests through the switch, with the first filter of --filter (A), with the same again, and with
/// each other one (B), in turn and in random order. A difference is reported with an interval, and only if it is larger than what
/// A differs from itself, larger than what the generator itself is uncertain by, and the rate asked for was achieved.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Filter profiles: A, and then one B or more; PROFILE:tx and PROFILE:rx act on one direction only
    #[arg(
        long = "filter",
        value_name = "A,B,...",
        value_delimiter = ',',
        default_value = "off,inspect"
    )]
    pub filters: Vec<FilterStage>,

    /// A TOML file of rules for the profiles that look at payload
    #[arg(long, value_name = "FILE", conflicts_with = "patterns")]
    pub rules: Option<PathBuf>,

    /// Make up so many patterns that never match, 1 to 100000
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub patterns: Option<u32>,

    /// Longest that a filter may hold a frame, in milliseconds, 1 to 60000
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub deadline: Option<u64>,

    /// open: requests on a schedule, at a ladder of rates; wwr: write, write, read, one after the other
    #[arg(long, value_enum, default_value = "open")]
    pub workload: Workload,

    /// open: requests a second
    #[arg(long, value_name = "R,R,...", value_delimiter = ',', conflicts_with = "load",
          value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_RATE)))]
    pub rates: Vec<u32>,

    /// open: the same in percent of what the path with A can do, which is measured first
    #[arg(long, value_name = "P,P,...", value_delimiter = ',', default_value = "10,50,90",
          value_parser = clap::value_parser!(u32).range(1..=150))]
    pub load: Vec<u32>,

    /// open: how requests are spaced
    #[arg(long, value_enum, default_value = "poisson")]
    pub spacing: SpacingChoice,

    /// Octets of a request and of a response, 2 to 16384; wwr sweeps over several
    #[arg(long, value_name = "N,N,...", value_delimiter = ',', default_value = "64",
          value_parser = clap::value_parser!(u32).range(2..=16_384))]
    pub sizes: Vec<u32>,

    /// wwr: pauses between transactions, in milliseconds, 0 to 150, which is below TCP's retransmission timer
    #[arg(long, value_name = "MS,MS,...", value_delimiter = ',', default_value = "0,5,50",
          value_parser = clap::value_parser!(u32).range(0..=150))]
    pub gaps: Vec<u32>,

    /// Leave Nagle's algorithm on at both ends
    #[arg(long)]
    pub nagle: bool,

    /// endpoint, micro: how long both ends may delay an ACK, in milliseconds; the kernel's TCP has its own rules
    #[arg(long, value_name = "MS", default_value = "40", value_parser = clap::value_parser!(u32).range(0..=900))]
    pub ack_delay: u32,

    /// How often each of A, A again and every B is measured, 1 to 1000; fewer than 5 report nothing
    #[arg(long, value_name = "N", default_value = "10", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub repeats: u32,

    /// Seconds of each of these slices, 0.1 to 60
    #[arg(long, value_name = "S", default_value = "1", value_parser = parse_duration)]
    pub duration: Duration,

    /// What decides order, spacing and resampling
    #[arg(long, value_name = "N", default_value = "1")]
    pub seed: u64,

    /// What runs client and server
    #[arg(long, value_enum, default_value = "auto")]
    pub guests: GuestChoice,

    /// linux: the kernel to boot (vmlinuz or vmlinux); without, Debian's cloud kernel, which is fetched with apt once
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,

    /// linux: the directory of the kernel's modules; /lib/modules/RELEASE if it is not named
    #[arg(long, value_name = "DIR", requires = "kernel")]
    pub modules: Option<PathBuf>,

    /// Count stalls with filter off, too; costs A what the watcher costs
    #[arg(long)]
    pub watch: bool,

    /// Set the filter on the first of these ports of a running switch, and watch the load that is on both; nothing is sent
    #[arg(long, value_name = "PORT,PORT", value_delimiter = ',', num_args = 1,
          conflicts_with_all = ["guests", "workload", "rates", "load", "sizes", "gaps", "nagle", "ack_delay", "watch", "kernel"])]
    pub attach: Vec<String>,

    /// The switch's control socket, for --attach
    #[arg(long, value_name = "SOCKET", env = "ENLIGHT_CONTROL", hide_env_values = true)]
    pub control: Option<PathBuf>,

    /// Write a page with distributions, curves and stages drawn
    #[arg(long, value_name = "OUT")]
    pub report: Option<PathBuf>,

    /// Say what changed since this result, which --json printed
    #[arg(long, value_name = "OLD.json")]
    pub compare: Option<PathBuf>,

    /// Print the result as JSON, and nothing else
    #[arg(long)]
    pub json: bool,
}

/// What client and server do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Workload {
    /// Requests on a schedule.
    Open,
    /// The request in two writes, then a read; the next one a pause later.
    Wwr,
}

/// How an open loop's requests are spaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum SpacingChoice {
    /// As independent users would send them.
    Poisson,
    /// At equal distances.
    Even,
}

impl From<SpacingChoice> for Spacing {
    fn from(choice: SpacingChoice) -> Self {
        match choice {
            SpacingChoice::Poisson => Self::Poisson,
            SpacingChoice::Even => Self::Even,
        }
    }
}

/// What is to run client and server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum GuestChoice {
    /// Taps where they can be had (root), else endpoints.
    Auto,
    /// Threads of this process over the kernel's TCP, through taps in two network namespaces.
    Taps,
    /// Two endpoints inside the switch.
    Endpoint,
    /// Two KVM virtual machines with the micro-guest.
    Micro,
    /// Two KVM virtual machines with Linux.
    Linux,
}

/// Reads a number of seconds, whole or not.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .strip_suffix('s')
        .unwrap_or(text)
        .parse()
        .map_err(|_| format!("\"{text}\" is no number of seconds; write 1 or 2.5"))?;
    if (0.1..=60.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(format!("{seconds} s is out of range; a slice takes 0.1 to 60 s"))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        bench: Args,
    }

    fn parse(words: &[&str]) -> Result<Args, String> {
        Cli::try_parse_from([&["latency"], words].concat())
            .map(|cli| cli.bench)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_are_the_documented_ones() {
        let args = parse(&[]).unwrap();
        let filters: Vec<String> = args.filters.iter().map(ToString::to_string).collect();
        assert_eq!(filters, ["off", "inspect"]);
        assert_eq!((args.repeats, args.duration), (10, Duration::from_secs(1)));
        assert_eq!((args.load, args.sizes), (vec![10, 50, 90], vec![64]));
        assert!(args.rates.is_empty() && args.attach.is_empty());
    }

    #[test]
    fn bad_values_are_refused_with_what_would_do() {
        for (words, needle) in [
            (&["--filter", "off,nagle"][..], "no filter profile"),
            (&["--rates", "0"], "1..=1000000"),
            (&["--rates", "5", "--load", "50"], "cannot be used with"),
            (&["--duration", "0.05"], "0.1 to 60"),
            (&["--duration", "NaN"], "0.1 to 60"),
            (&["--gaps", "200"], "0..=150"),
            (&["--attach", "v0,v1", "--rates", "5"], "cannot be used with"),
            (&["--patterns", "0"], "1..=100000"),
            (&["--guests", "xen"], "endpoint"),
            (&["--repeats", "0"], "1..=1000"),
        ] {
            let message = parse(words).expect_err("refused");
            assert!(message.contains(needle), "{words:?}: {message}");
        }
        let args = parse(&["--attach", "v0,v1"]).unwrap();
        assert_eq!(args.attach, ["v0", "v1"]);
    }
}
