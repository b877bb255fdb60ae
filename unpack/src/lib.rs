//! Undoing the compressions that kernels come in.
//!
//! A crate of its own because the decoders, some of them generic, are then optimised in every build. They write into memory of a given size and nothing else that grows with their input, so a stream that would
//! unpack to more ends there.

use std::fmt;
use std::io::{self, ErrorKind, Read};

use flate2::bufread::MultiGzDecoder;
use liblzma::stream::{Action, CONCATENATED, Error, Status, Stream};
use lz4_flex::block::DecompressError;
use lz4_flex::frame::FrameDecoder;

use serde::{Deserialize, Serialize};

/// Octets that a decoder may take beyond what it unpacks into: the dictionary of 128 MiB that Linux' xz streams ask
/// for at most, and some more.
pub const DECODER_MEMORY: u64 = 192 << 20;
/// The beginning of a sequence of LZ4 blocks without a frame's fields, as `lz4 -l` makes it.
const LZ4_LEGACY: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
/// Octets that a legacy block unpacks to, except the last.
const LZ4_LEGACY_BLOCK: usize = 8 << 20;
/// Error codes of zstd (lib/zstd_errors.h).
const ZSTD_MEMORY: usize = 64;
const ZSTD_OUTPUT_TOO_SMALL: usize = 70;
const ZSTD_INPUT_CUT_OFF: usize = 72;

/// A compression that this program undoes itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// RFC 1952.
    Gzip,
    /// The .xz file format, with its filter for x86 code.
    Xz,
    /// LZ4 in its legacy frames, which kernels use, or in today's.
    Lz4,
    /// RFC 8878.
    Zstd,
}

impl Compression {
    /// All that there are.
    pub const ALL: [Self; 4] = [Self::Gzip, Self::Xz, Self::Lz4, Self::Zstd];

    /// Tells a compressed stream by its first octets.
    pub fn of(start: &[u8]) -> Option<Self> {
        [
            (&b"\x1f\x8b"[..], Self::Gzip),
            (b"\xfd7zXZ\0", Self::Xz),
            (b"\x02\x21\x4c\x18", Self::Lz4),
            (b"\x04\x22\x4d\x18", Self::Lz4),
            (b"\x28\xb5\x2f\xfd", Self::Zstd),
        ]
        .into_iter()
        .find_map(|(magic, compression)| start.starts_with(magic).then_some(compression))
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        })
    }
}

/// Why a stream could not be unpacked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnpackError {
    /// It is damaged.
    #[error("the stream is corrupt: {0}")]
    Corrupt(String),
    /// It ends in its middle.
    #[error("the stream ends too early")]
    CutOff,
    /// It unpacks to more than there is room for.
    #[error("the stream unpacks to more than there is room for")]
    NoRoom,
    /// Its decoder would need more memory of its own than [`DECODER_MEMORY`].
    #[error("the stream needs more than {DECODER_MEMORY} octets to unpack it")]
    Greedy,
}

/// Unpacks the stream `packed`, or several in a row, into `memory`. Returns how many octets of it are used.
pub fn unpack(compression: Compression, packed: &[u8], memory: &mut [u8]) -> Result<usize, UnpackError> {
    match compression {
        Compression::Gzip => read(MultiGzDecoder::new(packed), memory),
        Compression::Xz => xz(packed, memory),
        Compression::Lz4 if packed.starts_with(&LZ4_LEGACY) => lz4_legacy(packed, memory),
        Compression::Lz4 => read(FrameDecoder::new(packed), memory),
        Compression::Zstd => zstd(packed, memory),
    }
}

/// Reads everything that `stream` yields.
fn read(mut stream: impl Read, memory: &mut [u8]) -> Result<usize, UnpackError> {
    let fault = |error: io::Error| match error.kind() {
        ErrorKind::UnexpectedEof => UnpackError::CutOff,
        _ => UnpackError::Corrupt(error.to_string()),
    };
    let mut filled = 0;
    while let Some(room) = memory.get_mut(filled..).filter(|room| !room.is_empty()) {
        match stream.read(room).map_err(fault)? {
            0 => return Ok(filled),
            more => filled += more,
        }
    }
    // Also makes the decoder check what stands behind the last octet.
    match stream.read(&mut [0]).map_err(fault)? {
        0 => Ok(filled),
        _ => Err(UnpackError::NoRoom),
    }
}

fn xz(packed: &[u8], memory: &mut [u8]) -> Result<usize, UnpackError> {
    let fault = |error| match error {
        Error::MemLimit | Error::Mem => UnpackError::Greedy,
        other => UnpackError::Corrupt(other.to_string()),
    };
    let mut stream = Stream::new_stream_decoder(DECODER_MEMORY, CONCATENATED).map_err(fault)?;
    loop {
        let (taken, made) = (stream.total_in() as usize, stream.total_out() as usize);
        let (rest, room) = (packed.get(taken..), memory.get_mut(made..));
        let (rest, room) = (rest.unwrap_or_default(), room.unwrap_or_default());
        let full = room.is_empty();
        match stream.process(rest, room, Action::Finish).map_err(fault)? {
            Status::StreamEnd => return Ok(stream.total_out() as usize),
            // No progress is possible.
            Status::MemNeeded if full => return Err(UnpackError::NoRoom),
            Status::MemNeeded => return Err(UnpackError::CutOff),
            Status::Ok | Status::GetCheck => {}
        }
    }
}

/// Blocks, each behind its length; the magic number may come again (lz4's `lz4_Frame_format.md`, "Legacy frame").
fn lz4_legacy(packed: &[u8], memory: &mut [u8]) -> Result<usize, UnpackError> {
    let (mut rest, mut filled) = (packed, 0);
    while let Some((length, behind)) = rest.split_first_chunk::<4>() {
        if *length == LZ4_LEGACY {
            rest = behind;
            continue;
        }
        let (block, behind) = behind
            .split_at_checked(u32::from_le_bytes(*length) as usize)
            .ok_or(UnpackError::CutOff)?;
        let room = memory.get_mut(filled..).unwrap_or_default();
        let scarce = room.len() < LZ4_LEGACY_BLOCK;
        let usable = room.len().min(LZ4_LEGACY_BLOCK);
        filled +=
            lz4_flex::block::decompress_into(block, &mut room[..usable]).map_err(|error| match error {
                DecompressError::OutputTooSmall { .. } if scarce => UnpackError::NoRoom,
                other => UnpackError::Corrupt(other.to_string()),
            })?;
        rest = behind;
    }
    if rest.is_empty() {
        Ok(filled)
    } else {
        Err(UnpackError::CutOff)
    }
}

fn zstd(packed: &[u8], memory: &mut [u8]) -> Result<usize, UnpackError> {
    zstd_safe::decompress(memory, packed).map_err(|code| match code.wrapping_neg() {
        ZSTD_OUTPUT_TOO_SMALL => UnpackError::NoRoom,
        ZSTD_INPUT_CUT_OFF => UnpackError::CutOff,
        ZSTD_MEMORY => UnpackError::Greedy,
        _ => UnpackError::Corrupt(zstd_safe::get_error_name(code).to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exact_fit_is_no_overflow() {
        let mut packed = LZ4_LEGACY.to_vec();
        packed.extend(7_u32.to_le_bytes());
        packed.extend(b"\x60kernel");
        for (room, outcome) in [
            (7, Ok(6)),
            (6, Ok(6)),
            (5, Err(UnpackError::NoRoom)),
            (0, Err(UnpackError::NoRoom)),
        ] {
            let mut memory = vec![0; room];
            assert_eq!(unpack(Compression::Lz4, &packed, &mut memory), outcome, "{room}");
        }
        let mut memory = [0; 6];
        assert_eq!(
            unpack(Compression::Lz4, &packed[..14], &mut memory),
            Err(UnpackError::CutOff)
        );
    }

    #[test]
    fn nothing_is_no_stream() {
        for compression in Compression::ALL {
            let outcome = unpack(compression, b"", &mut [0; 8]);
            assert!(
                matches!(outcome, Ok(0) | Err(UnpackError::CutOff)),
                "{compression}: {outcome:?}"
            );
        }
    }
}
