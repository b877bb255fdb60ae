//! Capture files as ports: one whose frames enter the switch, and one that keeps the frames it is given.
//!
//! Files are read and written by a thread of the port's own, so that no worker waits for a disk.

mod record;
mod replay;
#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;

pub use record::RecordPort;
pub use replay::ReplayPort;

use crate::pcap::PcapError;

/// Why a capture file cannot be a port: the file, the reason and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum PcapPortError {
    /// It cannot be opened.
    #[error("pcap-replay {}: {source}; name a capture that the switch may read", file.display())]
    Open {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no capture.
    #[error("pcap-replay {}: {source}", file.display())]
    Format {
        /// The file.
        file: PathBuf,
        /// Why.
        source: PcapError,
    },
    /// It cannot be made.
    #[error("pcap-record {}: {source}; name a file in a directory that the switch may write to", file.display())]
    Create {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The thread that reads or writes could not start.
    #[error("{}: no thread for it: {source}", file.display())]
    Thread {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
}
