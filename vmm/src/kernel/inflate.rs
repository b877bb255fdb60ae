//! Memory for what a compressed kernel unpacks to, and what can be wrong with it.

use unpack::{Compression, DECODER_MEMORY, UnpackError, unpack};

use super::fault::KernelFault;
use super::source::Scratch;

/// More than kernels shrink by.
const RATIO: u64 = 10;

/// Unpacks a stream that says that it unpacks to `said` octets.
pub(super) fn exactly(compression: Compression, packed: &[u8], said: u64) -> Result<Scratch, KernelFault> {
    let believable = said <= packed.len() as u64 * RATIO;
    let mut memory = if believable {
        Scratch::in_place(said)?
    } else {
        Scratch::new(said)?
    };
    match unpack(compression, packed, &mut memory) {
        Ok(found) if found as u64 == said => Ok(memory),
        Ok(found) => Err(KernelFault::ShorterThanSaid {
            said,
            found: found as u64,
        }),
        Err(UnpackError::NoRoom) => Err(KernelFault::LongerThanSaid(said)),
        Err(error) => Err(fault(error, compression, said)),
    }
}

/// Unpacks a stream of unknown size, to at most `limit` octets. Returns memory and how much of it is used.
pub(super) fn at_most(
    compression: Compression,
    packed: &[u8],
    limit: u64,
) -> Result<(Scratch, usize), KernelFault> {
    let mut memory = Scratch::new(limit)?;
    match unpack(compression, packed, &mut memory) {
        Ok(found) => Ok((memory, found)),
        Err(error) => Err(fault(error, compression, limit)),
    }
}

fn fault(error: UnpackError, compression: Compression, limit: u64) -> KernelFault {
    match error {
        UnpackError::Corrupt(reason) => KernelFault::Corrupt { compression, reason },
        UnpackError::CutOff => KernelFault::CutOff(compression),
        UnpackError::NoRoom => KernelFault::TooLarge(limit),
        UnpackError::Greedy => KernelFault::Greedy {
            compression,
            limit: DECODER_MEMORY,
        },
    }
}
