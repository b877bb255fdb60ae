//! Taking captures in.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use introspection::Instant;
use introspection::diagnosis::{DiagnosisOptions, Tap, Trace, TraceFrame};
use offload::{FrameMeta, TcpFlags};
use vswitch::pcap::{PcapError, Reader};

use super::fragments::Fragments;
use super::stations::Stations;

/// Why nothing of a capture can be used.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// It cannot be opened.
    #[error("opening {name}: {source}")]
    Open {
        /// The file.
        name: String,
        /// Why.
        source: std::io::Error,
    },
    /// Its beginning cannot be read.
    #[error(
        "{name}: {source}; diagnose reads pcap and pcapng files (`editcap` and `tcpdump -i IF` or `-i any` make them)"
    )]
    Format {
        /// The file.
        name: String,
        /// What is wrong with it.
        source: PcapError,
    },
}

/// What has been read.
#[derive(Debug)]
pub struct Capture {
    /// The connections.
    pub trace: Trace,
    /// The names of what was read.
    pub names: Vec<String>,
    /// Frames, those that were passed over included.
    pub frames: u64,
    /// What the reader has to know: what could not be read.
    pub notices: Vec<String>,
    /// Files, or one file's interfaces, read so far.
    taps: usize,
    options: DiagnosisOptions,
}

impl Capture {
    /// Nothing yet.
    pub fn new(options: DiagnosisOptions) -> Self {
        Self {
            trace: Trace::new(options),
            names: Vec::new(),
            frames: 0,
            notices: Vec::new(),
            taps: 0,
            options,
        }
    }

    /// How stalls are told.
    pub const fn options(&self) -> &DiagnosisOptions {
        &self.options
    }

    /// Reads a file: one tap, or one for each interface if `sides`.
    pub fn read_file(&mut self, path: &Path, sides: bool) -> Result<(), CaptureError> {
        let name = path.display().to_string();
        let file = File::open(path).map_err(|source| CaptureError::Open {
            name: name.clone(),
            source,
        })?;
        self.read(&name, BufReader::new(file), sides)
    }

    /// Reads a capture. What could be read before an error is used, and the error becomes a notice.
    pub fn read(&mut self, name: &str, input: impl Read, sides: bool) -> Result<(), CaptureError> {
        let mut reader = Reader::any_link(input).map_err(|source| CaptureError::Format {
            name: name.to_owned(),
            source,
        })?;
        let (mut count, mut odd, mut others, mut again) = (0_u64, 0_u64, 0_u64, 0_u64);
        let (mut stations, mut fragments) = (Stations::default(), Fragments::default());
        let ended = loop {
            let passed_over = reader.foreign();
            let record = match reader.next_record() {
                Ok(Some(record)) => record,
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            };
            count += 1;
            let tap = match (self.taps, record.interface) {
                (0, 0) => Tap::First,
                (0, 1) if sides => Tap::Second,
                (0, _) if sides => {
                    others += 1;
                    continue;
                }
                (0, _) => Tap::First,
                _ => Tap::Second,
            };
            let len = (record.len as usize).max(record.octets.len());
            let Ok(meta) = offload::parse(record.octets, len) else {
                odd += 1;
                continue;
            };
            let mss = announced_mss(record.octets, &meta);
            let Some(meta) = fragments.whole(tap, &record, meta) else {
                continue;
            };
            if let Some(station) = record.station
                && stations.knows_another(&meta, station)
            {
                again += 1;
                continue;
            }
            self.trace.add(&TraceFrame {
                number: count + passed_over,
                at: Instant(record.time_ns),
                tap,
                meta: &meta,
                mss,
            });
        };
        self.frames += count;
        self.taps += 1;
        self.names.push(name.to_owned());
        self.note(name, ended, [odd, others, again, reader.foreign()]);
        self.notices
            .extend(fragments.notice().map(|notice| format!("{name}: {notice}")));
        Ok(())
    }

    fn note(&mut self, name: &str, ended: Result<(), PcapError>, [odd, others, again, foreign]: [u64; 4]) {
        if let Err(error) = ended {
            self.notices.push(format!(
                "{name}: {error}; what came before is used, {} frames",
                self.frames
            ));
        }
        for (count, what) in [
            (odd, "are too short or say that they are shorter than they are"),
            (
                others,
                "are of a third interface or further ones, and are left out",
            ),
            (again, "were met on another interface before, and are left out"),
            (foreign, "are of a link that is not read, and are left out"),
        ] {
            if count > 0 {
                self.notices.push(format!("{name}: {count} frames {what}"));
            }
        }
    }
}

/// The maximum segment size that a SYN announces (RFC 9293, 3.2).
fn announced_mss(octets: &[u8], meta: &FrameMeta) -> Option<u16> {
    const END: u8 = 0;
    const NOTHING: u8 = 1;
    const MSS: u8 = 2;
    let tcp = meta.tcp().filter(|tcp| tcp.flags.any(TcpFlags::SYN))?;
    let ip = meta.ip().filter(|ip| !ip.fragment)?;
    let start = usize::from(ip.transport_offset) + 20;
    let mut options = octets.get(start..usize::from(tcp.payload_offset).min(octets.len()))?;
    loop {
        match options {
            [NOTHING, rest @ ..] => options = rest,
            [MSS, 4, high, low, ..] => return Some(u16::from_be_bytes([*high, *low])),
            [END, ..] | [] | [_] => return None,
            [_, len, ..] => options = options.get(usize::from(*len).max(2)..)?,
        }
    }
}
