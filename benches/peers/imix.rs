//! A mix of frames, in capture files that testpmd sends again and again.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Flows each way.
const FLOWS: u32 = 1000;
/// Addresses on each side.
const ADDRESSES: u32 = 64;
/// Octets of frames, in a row that repeats: seven small ones, four middle ones, a large one.
const LENGTHS: [usize; 12] = [64, 594, 64, 64, 594, 64, 1518, 64, 594, 64, 594, 64];

/// Two files, for the two sides.
pub(crate) struct Files {
    paths: [PathBuf; 2],
    _directory: tempfile::TempDir,
}

impl Files {
    pub(crate) fn write() -> io::Result<Self> {
        let directory = tempfile::tempdir()?;
        let paths = ["a.pcap", "b.pcap"].map(|name| directory.path().join(name));
        for (side, path) in paths.iter().enumerate() {
            write(path, side as u8)?;
        }
        Ok(Self {
            paths,
            _directory: directory,
        })
    }

    pub(crate) fn paths(&self) -> &[PathBuf; 2] {
        &self.paths
    }
}

/// Writes a capture file (pcap, link type Ethernet) of what a side sends.
fn write(path: &Path, side: u8) -> io::Result<()> {
    let mut file = io::BufWriter::new(std::fs::File::create(path)?);
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65535, 1] {
        file.write_all(&word.to_le_bytes())?;
    }
    // A multiple of both, so that each flow has frames of each size.
    for number in 0..FLOWS * 3 {
        let frame = frame(side, number % FLOWS, LENGTHS[number as usize % LENGTHS.len()]);
        for word in [0, 0, frame.len() as u32, frame.len() as u32] {
            file.write_all(&word.to_le_bytes())?;
        }
        file.write_all(&frame)?;
    }
    file.flush()
}

/// A UDP datagram of a flow; `len` counts the frame check sequence, which a file has not.
fn frame(side: u8, flow: u32, len: usize) -> Vec<u8> {
    let len = len - 4;
    let (from, to) = (side, 1 - side);
    let [.., host] = (flow % ADDRESSES).to_be_bytes();
    let ip_len = (len - 14) as u16;
    let mut frame = vec![0; len];
    frame[..6].copy_from_slice(&[2, 0, 0, 0, 1 + to, host]);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 1 + from, host]);
    frame[12..14].copy_from_slice(&[8, 0]);
    let header = &mut frame[14..34];
    header[..2].copy_from_slice(&[0x45, 0]);
    header[2..4].copy_from_slice(&ip_len.to_be_bytes());
    header[8..10].copy_from_slice(&[64, 17]);
    header[12..16].copy_from_slice(&[192, 0, 2 + from, host]);
    header[16..20].copy_from_slice(&[192, 0, 2 + to, host]);
    let sum = offload::checksum::internet(header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    frame[34..36].copy_from_slice(&(1024 + flow as u16).to_be_bytes());
    frame[36..38].copy_from_slice(&2000_u16.to_be_bytes());
    frame[38..40].copy_from_slice(&(ip_len - 20).to_be_bytes());
    frame
}
