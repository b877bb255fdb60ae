//! What `enlight lab` takes on its command line.

use std::path::PathBuf;
use std::time::Duration;

use introspection::Profile;
use serde::{Deserialize, Serialize};

/// Longest ACK delay that the lab sets, in milliseconds: past it TCP's own retransmission timer (1 s) would
/// strike first, and the picture would show that instead.
pub(super) const MAX_ACK_DELAY_MS: u64 = 900;

const EXAMPLE: &str = "Examples:
  enlight lab
      Three profiles, one after the other, on two small KVM guests; the result as a table.
  enlight lab --filter off,inspect,serialize --workload wwr --ack-delay 200 --json
      The same, for a program to read.
  enlight lab --ack-delay 40 --out report
      Writes report/report.html, report/report.json and report/capture.pcapng too.";

/// Measure what each filter profile does to latency between two guests, and why.
///
/// Boots two small guests, joins them with the switch, lets the client ask and the server answer over one
/// TCP connection, and puts one filter profile after the other in front of the client while traffic flows.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// Filter profiles to measure, in this order: off, inspect, hold, serialize
    #[arg(
        long = "filter",
        value_name = "P,P,...",
        value_delimiter = ',',
        default_value = "off,inspect,serialize"
    )]
    pub filters: Vec<Profile>,

    /// What client and server do: rr (one small write each way), wwr (the request in two small writes),
    /// records (answers in an odd number of segments) or stream (bulk)
    #[arg(long, value_enum, default_value = "wwr")]
    pub workload: Workload,

    /// How long both guests may delay an ACK, in milliseconds; 0 sends each at once
    #[arg(long, value_name = "MS", default_value = "200", allow_negative_numbers = true,
          value_parser = clap::value_parser!(u64).range(0..=MAX_ACK_DELAY_MS))]
    pub ack_delay: u64,

    /// Leave Nagle's algorithm on in both guests
    #[arg(long)]
    pub nagle: bool,

    /// Seconds to measure for each profile, 0.2 to 600
    #[arg(long, value_name = "S", default_value = "8", allow_negative_numbers = true, value_parser = parse_duration)]
    pub duration: Duration,

    /// Octets of a request and of a response, 2 to 16384
    #[arg(long, value_name = "OCTETS", default_value = "64", allow_negative_numbers = true,
          value_parser = clap::value_parser!(u32).range(2..=16_384))]
    pub size: u32,

    /// Longest that a filter may hold a frame, in milliseconds, 1 to 60000; each profile has its own default
    #[arg(long, value_name = "MS", allow_negative_numbers = true, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub deadline: Option<u64>,

    /// What runs client and server: auto takes KVM where it is there, else endpoints inside the switch
    #[arg(long, value_enum, default_value = "auto")]
    pub guests: GuestChoice,

    /// Write report.html, report.json and capture.pcapng to this directory; it is made if it does not exist
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,

    /// Print the result as JSON, and nothing else
    #[arg(long)]
    pub json: bool,
}

/// What client and server do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Workload {
    /// One small write each way.
    Rr,
    /// The request in two small writes, then a read.
    Wwr,
    /// Answers in an odd number of segments, the next one after full acknowledgement.
    Records,
    /// Bulk, one way.
    Stream,
}

impl Workload {
    /// Its name on command lines, ours and the guest's.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rr => "rr",
            Self::Wwr => "wwr",
            Self::Records => "records",
            Self::Stream => "stream",
        }
    }
}

/// What is to run client and server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum GuestChoice {
    /// KVM where it is there, else endpoints.
    Auto,
    /// Two KVM guests, or an error.
    Kvm,
    /// Two endpoint ports of the switch.
    Endpoint,
}

/// Reads a number of seconds, whole or not, with or without an `s` behind it.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .strip_suffix('s')
        .unwrap_or(text)
        .parse()
        .map_err(|_| format!("\"{text}\" is no number of seconds; write 8 or 2.5"))?;
    if (0.2..=600.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(format!(
            "{seconds} s is out of range; a profile is measured for 0.2 to 600 s"
        ))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        lab: Args,
    }

    fn parse(words: &[&str]) -> Result<Args, String> {
        Cli::try_parse_from([&["lab"], words].concat())
            .map(|cli| cli.lab)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_are_the_documented_ones() {
        let args = parse(&[]).unwrap();
        assert_eq!(args.filters, [Profile::Off, Profile::Inspect, Profile::Serialize]);
        assert_eq!(args.workload, Workload::Wwr);
        assert_eq!(args.ack_delay, 200);
        assert!(!args.nagle && !args.json && args.out.is_none() && args.deadline.is_none());
        assert_eq!(args.duration, Duration::from_secs(8));
        assert_eq!(args.size, 64);
    }

    #[test]
    fn values_are_read() {
        let args = parse(&["--filter", "hold,off", "--duration", "2.5", "--ack-delay", "0"]).unwrap();
        assert_eq!(args.filters, [Profile::Hold, Profile::Off]);
        assert_eq!(args.duration, Duration::from_millis(2500));
        assert_eq!(args.ack_delay, 0);
        assert_eq!(
            parse(&["--duration", "3s"]).unwrap().duration,
            Duration::from_secs(3)
        );
    }

    #[test]
    fn bad_values_are_refused_with_what_would_do() {
        for (words, needle) in [
            (&["--filter", "off,nagle"][..], "no filter profile"),
            (&["--filter", ""], "no filter profile"),
            (&["--workload", "ping"], "wwr"),
            (&["--ack-delay", "901"], "0..=900"),
            (&["--ack-delay", "-1"], "--ack-delay"),
            (&["--duration", "0"], "0.2 to 600"),
            (&["--duration", "NaN"], "0.2 to 600"),
            (&["--duration", "soon"], "no number of seconds"),
            (&["--size", "1"], "2..=16384"),
            (&["--deadline", "0"], "1..=60000"),
            (&["--guests", "xen"], "endpoint"),
        ] {
            let message = parse(words).expect_err("refused");
            assert!(message.contains(needle), "{words:?}: {message}");
        }
    }
}
