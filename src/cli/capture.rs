//! `enlight capture`.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use vswitch::capture::CapturePoints;

use super::{Common, port_target, say, to_json};
use crate::capture::SNAP_LEN;
use crate::control::Stream;
use crate::daemon::api::CaptureRequest;
use vswitch::pcapng::{self, Block};

/// Write a port's frames to a pcapng file
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  enlight capture v0 -w v0.pcapng
      Until Ctrl-C.
  enlight capture v0 -w v0.pcapng --both-sides --seconds 10
      Each frame as it is on the guest's side of the filter and on the switch's: two interfaces in one file.
  enlight capture v0 -w - --count 100 | tshark -r -
      The next 100 frames, read at once.")]
pub(super) struct Args {
    /// The port
    port: String,

    /// The file to write; `-` for standard output
    #[arg(short = 'w', long = "write", value_name = "FILE")]
    write: PathBuf,

    /// Stop after this many frames
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,

    /// Stop after this many seconds
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=604_800))]
    seconds: Option<u64>,

    /// Capture on both sides of the port's filter
    #[arg(long)]
    both_sides: bool,

    /// Keep this many octets of each frame
    #[arg(long, value_name = "OCTETS", default_value_t = SNAP_LEN,
          value_parser = clap::value_parser!(u32).range(14..=i64::from(SNAP_LEN)))]
    snap: u32,

    #[command(flatten)]
    common: Common,
}

/// What was captured.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Summary {
    file: String,
    frames: u64,
    lost: u64,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let request = CaptureRequest {
        points: if args.both_sides {
            CapturePoints::Both
        } else {
            CapturePoints::Near
        },
        snap_len: args.snap,
        count: args.count,
        seconds: args.seconds,
    };
    let target = port_target(&args.port, &format!("/capture?{}", request.query()))?;
    // First, so that no file is made for a port that does not exist.
    let stream = args.common.client().stream(&target)?;
    let stopped = stop_on_signal(&stream)?;
    let to_stdout = args.write == Path::new("-");
    let out: Box<dyn Write> = if to_stdout {
        Box::new(io::stdout().lock())
    } else {
        Box::new(File::create(&args.write).with_context(|| format!("making {}", args.write.display()))?)
    };
    let mut summary = copy(stream, BufWriter::new(out), &stopped, request.points)?;
    summary.file = args.write.display().to_string();
    report(&summary, args.common.json, to_stdout)
}

/// Makes Ctrl-C end the stream; the flag tells that it did.
fn stop_on_signal(stream: &Stream) -> Result<Arc<AtomicBool>> {
    let stop = stream.stopper().context("preparing to stop")?;
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("watching for signals")?;
    let stopped = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stopped);
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            if signals.forever().next().is_some() {
                flag.store(true, Ordering::Relaxed);
                stop();
            }
        })
        .context("starting a thread")?;
    Ok(stopped)
}

/// Copies whole blocks, so that the file ends well wherever the stream does.
fn copy(
    stream: impl io::Read,
    mut out: impl Write,
    stopped: &AtomicBool,
    points: CapturePoints,
) -> Result<Summary> {
    let mut stream = BufReader::new(stream);
    let mut summary = Summary::default();
    let mut seen = [0_u64; 2];
    let mut complete = false;
    let ended = loop {
        match Block::read(&mut stream) {
            Ok(None) => break Ok(()),
            Ok(Some(block)) => {
                if let Some((interface, lost)) = block.as_packet() {
                    summary.frames += 1;
                    summary.lost += lost;
                    if let Some(seen) = seen.get_mut(interface as usize) {
                        *seen += 1;
                    }
                }
                complete |= block.is_statistics();
                out.write_all(block.bytes())?;
            }
            Err(_) if stopped.load(Ordering::Relaxed) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    if !complete {
        let sides = if points == CapturePoints::Both { 2 } else { 1 };
        out.write_all(&farewell(seen.get(..sides).unwrap_or_default(), summary.lost))?;
    }
    out.flush()?;
    ended
        .context("the capture broke off; what came is in the file")
        .map(|()| summary)
}

/// What the switch would have written at the end.
fn farewell(seen: &[u64], lost: u64) -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
    let mut out = Vec::new();
    for (interface, frames) in (0..).zip(seen) {
        let lost = if interface == 0 { lost } else { 0 };
        pcapng::statistics(&mut out, interface, now, frames + lost, lost);
    }
    out
}

fn report(summary: &Summary, json: bool, to_stdout: bool) -> Result<()> {
    match (json, to_stdout) {
        (true, false) => say(&to_json(summary)?),
        (true, true) => {
            eprintln!("{}", to_json(summary)?);
            Ok(())
        }
        (false, _) => {
            eprintln!(
                "{}: {} frames, {} lost",
                summary.file, summary.frames, summary.lost
            );
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vswitch::pcapng::{Packet, Way};

    fn stream() -> Vec<u8> {
        let mut out = Vec::new();
        pcapng::section(&mut out, "test");
        pcapng::interface(&mut out, "v0", "", 64);
        for lost in [0, 2] {
            let packet = Packet {
                interface: 0,
                time_ns: 1,
                bytes: &[1; 20],
                len: 20,
                way: Way::Inbound,
                lost,
                comment: None,
            };
            pcapng::packet(&mut out, &packet);
        }
        out
    }

    #[test]
    fn a_stream_that_is_stopped_inside_a_block_leaves_a_whole_file() {
        let whole = stream();
        let cut = &whole[..whole.len() - 5];
        let mut out = Vec::new();
        let summary = copy(cut, &mut out, &AtomicBool::new(true), CapturePoints::Near).unwrap();
        assert_eq!((summary.frames, summary.lost), (1, 0));
        let mut rest = &out[..];
        let mut last = None;
        while let Some(block) = Block::read(&mut rest).unwrap() {
            last = Some(block);
        }
        assert!(last.unwrap().is_statistics());
    }

    #[test]
    fn a_stream_that_breaks_off_is_an_error_and_what_came_is_kept() {
        let whole = stream();
        let mut out = Vec::new();
        let error = copy(
            &whole[..whole.len() - 5],
            &mut out,
            &AtomicBool::new(false),
            CapturePoints::Near,
        );
        assert!(error.is_err());
        assert!(out.len() > 100);
    }

    #[test]
    fn a_complete_stream_is_copied_as_it_is() {
        let mut whole = stream();
        pcapng::statistics(&mut whole, 0, 1, 4, 2);
        let mut out = Vec::new();
        let summary = copy(&whole[..], &mut out, &AtomicBool::new(false), CapturePoints::Near).unwrap();
        assert_eq!((summary.frames, summary.lost), (2, 2));
        assert_eq!(out, whole);
    }
}
