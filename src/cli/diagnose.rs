//! `enlight diagnose`.

use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use introspection::diagnosis::DiagnosisOptions;
use vswitch::capture::CapturePoints;

use super::{Common, port_target, say, to_json};
use crate::daemon::api::CaptureRequest;
use crate::diagnose::{Capture, Report, to_html, to_text};

/// Octets of a live frame that are looked at: all headers, with every option.
const HEADERS: u32 = 256;

/// Say why connections stood still: whose policy it was, with the frames that prove it
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  enlight diagnose trace.pcapng
      A capture of tcpdump (-i any, too), Wireshark or `enlight capture --both-sides` (its two interfaces are the filter's two sides).
  enlight diagnose before.pcap after.pcap --html report.html
      Two files, from both sides of a filter; the time-lines are drawn.
  enlight diagnose --live v0 --seconds 30
      A port of a running switch, on both sides of its filter.")]
pub(super) struct Args {
    /// One capture, or two from both sides of a filter
    #[arg(value_name = "FILE", num_args = 0..=2, conflicts_with = "live")]
    files: Vec<PathBuf>,

    /// Watch this port of a running switch instead
    #[arg(long, value_name = "PORT")]
    live: Option<String>,

    /// For so many seconds
    #[arg(long, value_name = "S", default_value_t = 10, requires = "live",
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,

    /// Shorter gaps are no stalls, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 25, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    threshold: u64,

    /// Write a page with the time-lines drawn
    #[arg(long, value_name = "OUT")]
    html: Option<PathBuf>,

    #[command(flatten)]
    common: Common,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let mut capture = Capture::new(DiagnosisOptions {
        threshold: Duration::from_millis(args.threshold),
        ..DiagnosisOptions::default()
    });
    match (&args.live, args.files.as_slice()) {
        (Some(port), _) => capture.read(port, live(args, port)?, true)?,
        (None, []) => bail!("name a capture file, or a port of a running switch with --live"),
        (None, [file]) => capture.read_file(file, true)?,
        (None, files) => {
            for file in files {
                capture.read_file(file, false)?;
            }
        }
    }
    let report = Report::of(capture);
    if let Some(out) = &args.html {
        std::fs::write(out, to_html(&report)).with_context(|| format!("writing {}", out.display()))?;
    }
    say(&if args.common.json {
        to_json(&report)?
    } else {
        to_text(&report)
    })
}

/// The frames of a port on both sides of its filter.
fn live(args: &Args, port: &str) -> Result<impl Read> {
    let request = CaptureRequest {
        points: CapturePoints::Both,
        snap_len: HEADERS,
        count: None,
        seconds: Some(args.seconds),
    };
    let target = port_target(port, &format!("/capture?{}", request.query()))?;
    Ok(args.common.client().stream(&target)?)
}
