//! What `enlight lab` takes on its command line.

use std::path::PathBuf;
use std::time::Duration;

use introspection::Profile;
use serde::{Deserialize, Serialize};

/// Longest ACK delay that the lab sets, in milliseconds: past it TCP's own retransmission timer (1 s) would
/// strike first, and the picture would show that instead.
pub(super) const MAX_ACK_DELAY_MS: u64 = 900;

/// Windows' delayed ACK.
const DEFAULT_ACK_DELAY_MS: u64 = 200;
/// The longest that Linux delays an ACK (`TCP_DELACK_MAX`); the shortest is 40 ms (`TCP_DELACK_MIN`).
const LINUX_ACK_DELAY_MS: u64 = 200;

const EXAMPLE: &str = "Examples:
  enlight lab
      Three profiles, one after the other, on two small KVM guests; the result as a table.
  enlight lab --filter off,inspect,serialize --workload wwr --ack-delay 200 --json
      The same, for a program to read.
  enlight lab --ack-delay 40 --out report
      Writes report/report.html, report/report.json and report/capture.pcapng too.
  enlight lab --distro
      The same between two guests that run Debian's kernel, with Linux' own delayed ACK.";

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
    /// [default: 200]
    #[arg(long, value_name = "MS", allow_negative_numbers = true,
          value_parser = clap::value_parser!(u64).range(0..=MAX_ACK_DELAY_MS))]
    pub ack_delay: Option<u64>,

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

    /// Boot this Linux kernel (vmlinuz or vmlinux) in both guests instead of the small ones: their TCP is Linux' own
    #[arg(long, value_name = "FILE", conflicts_with_all = ["guests", "distro"])]
    pub kernel: Option<PathBuf>,

    /// The directory of the kernel's modules; /lib/modules/RELEASE if it is not named
    #[arg(long, value_name = "DIR", requires = "kernel")]
    pub modules: Option<PathBuf>,

    /// Boot Debian's cloud kernel in both guests; it is fetched with apt once, and kept in the user's cache
    #[arg(long, conflicts_with = "guests")]
    pub distro: bool,

    /// Set this in the Linux guests, such as net.ipv4.tcp_sack=0; may be repeated
    #[arg(long = "sysctl", value_name = "KEY=VALUE", value_parser = parse_setting)]
    pub sysctls: Vec<String>,

    /// Write report.html, report.json and capture.pcapng to this directory; it is made if it does not exist
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,

    /// Print the result as JSON, and nothing else
    #[arg(long)]
    pub json: bool,
}

impl Args {
    /// How long the small guests may delay an ACK, in milliseconds.
    pub fn ack_delay_ms(&self) -> u64 {
        self.ack_delay.unwrap_or(DEFAULT_ACK_DELAY_MS)
    }

    /// Whether the guests are to run Linux.
    pub fn wants_linux(&self) -> bool {
        self.distro || self.kernel.is_some()
    }

    /// How long a transaction that meets a delayed ACK may take, in milliseconds, for waiting long enough.
    pub(super) fn expected_ack_delay_ms(&self) -> u64 {
        if self.wants_linux() {
            LINUX_ACK_DELAY_MS
        } else {
            self.ack_delay_ms()
        }
    }
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

/// Reads a kernel setting: a name of letters, digits, dots, dashes and underscores, and a value on one line.
fn parse_setting(text: &str) -> Result<String, String> {
    let sound = |c: char| c.is_ascii_alphanumeric() || ".-_/".contains(c);
    match text.split_once('=') {
        Some((key, value))
            if !key.is_empty()
                && key.chars().all(sound)
                && !key.split(['.', '/']).any(str::is_empty)
                && !value.chars().any(char::is_control) =>
        {
            Ok(text.to_owned())
        }
        _ => Err(format!("\"{text}\" is no setting; write net.ipv4.tcp_sack=0")),
    }
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
        assert_eq!(args.ack_delay_ms(), 200);
        assert!(!args.wants_linux());
        assert!(!args.nagle && !args.json && args.out.is_none() && args.deadline.is_none());
        assert_eq!(args.duration, Duration::from_secs(8));
        assert_eq!(args.size, 64);
    }

    #[test]
    fn values_are_read() {
        let args = parse(&["--filter", "hold,off", "--duration", "2.5", "--ack-delay", "0"]).unwrap();
        assert_eq!(args.filters, [Profile::Hold, Profile::Off]);
        assert_eq!(args.duration, Duration::from_millis(2500));
        assert_eq!(args.ack_delay_ms(), 0);
        let args = parse(&[
            "--kernel",
            "k",
            "--modules",
            "m",
            "--sysctl",
            "net.ipv4.tcp_rmem=1 2 3",
        ])
        .unwrap();
        assert!(args.wants_linux() && args.modules.is_some());
        assert_eq!(args.sysctls, ["net.ipv4.tcp_rmem=1 2 3"]);
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
            (&["--guests", "kvm", "--distro"], "cannot be used with"),
            (&["--kernel", "k", "--distro"], "cannot be used with"),
            (&["--modules", "m"], "--kernel"),
            (&["--distro", "--sysctl", "net..x=1"], "no setting"),
            (&["--distro", "--sysctl", "tcp_sack"], "no setting"),
            (&["--distro", "--sysctl", "a=1\n2"], "no setting"),
        ] {
            let message = parse(words).expect_err("refused");
            assert!(message.contains(needle), "{words:?}: {message}");
        }
    }
}
