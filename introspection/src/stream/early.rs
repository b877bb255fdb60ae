//! Octets of a stream that came before their turn.

use super::Budget;
use crate::seq::{before, distance};

/// Pieces of one stream at most.
const MAX_PIECES: usize = 256;
/// What a piece costs beside its octets: its descriptor and the allocator's rounding.
const OVERHEAD: usize = 64;

/// What became of a segment that came early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// All of it is remembered.
    All,
    /// A cap was met.
    Partly,
}

#[derive(Debug)]
struct Piece {
    seq: u32,
    octets: Vec<u8>,
}

impl Piece {
    fn end(&self) -> u32 {
        self.seq.wrapping_add(self.octets.len() as u32)
    }
}

/// Pieces in order, without overlap. The first copy of an octet stays. A piece that grows takes up to twice the memory that
/// it is charged for.
#[derive(Debug, Default)]
pub(super) struct Early {
    pieces: Vec<Piece>,
    octets: usize,
}

impl Early {
    pub(super) fn clear(&mut self, budget: &mut Budget) {
        budget.release(self.octets + self.pieces.len() * OVERHEAD);
        self.pieces = Vec::new();
        self.octets = 0;
    }

    /// Octets between `next` and the first piece.
    pub(super) fn gap(&self, next: u32) -> Option<usize> {
        let first = self.pieces.first()?;
        usize::try_from(distance(next, first.seq)).ok()
    }

    /// Takes the first piece out if it starts at `next`.
    pub(super) fn take(&mut self, next: u32, budget: &mut Budget) -> Option<Vec<u8>> {
        if self.pieces.first()?.seq != next {
            return None;
        }
        let piece = self.pieces.remove(0);
        self.octets -= piece.octets.len();
        budget.release(piece.octets.len() + OVERHEAD);
        Some(piece.octets)
    }

    /// Whether `octets` from `seq` on differ from what is kept for the same places.
    pub(super) fn contradicts(&self, seq: u32, octets: &[u8]) -> bool {
        let end = seq.wrapping_add(octets.len() as u32);
        self.pieces
            .iter()
            .filter(|piece| before(piece.seq, end) && before(seq, piece.end()))
            .any(|piece| {
                let skip_new = usize::try_from(distance(seq, piece.seq)).unwrap_or(0);
                let skip_old = usize::try_from(distance(piece.seq, seq)).unwrap_or(0);
                let new = octets.get(skip_new..).unwrap_or_default();
                let old = piece.octets.get(skip_old..).unwrap_or_default();
                new.iter().zip(old).any(|(new, old)| new != old)
            })
    }

    /// Remembers those of `octets`, which stand from `seq` on, that are not yet known. `next` is the stream's next octet.
    pub(super) fn keep(&mut self, next: u32, seq: u32, octets: &[u8], budget: &mut Budget) -> Kept {
        let reach = usize::try_from(distance(next, seq)).map_or(usize::MAX, |gap| gap + octets.len());
        if reach > budget.each {
            return Kept::Partly;
        }
        let mut at = seq;
        let mut rest = octets;
        let mut index = self.pieces.partition_point(|piece| !before(seq, piece.end()));
        while !rest.is_empty() {
            let (start, end) = match self.pieces.get(index) {
                Some(piece) => (octets_to(at, piece.seq), octets_to(at, piece.end())),
                None => (rest.len(), rest.len()),
            };
            let (missing, behind) = rest.split_at(rest.len().min(start));
            if !missing.is_empty() {
                match self.insert(index, at, missing, budget) {
                    None => return Kept::Partly,
                    Some(pieces) => index += pieces,
                }
            }
            let known = behind.len().min(end - start);
            at = at.wrapping_add((missing.len() + known) as u32);
            rest = behind.get(known..).unwrap_or_default();
            index += 1;
        }
        Kept::All
    }

    /// Puts `octets` before the piece at `index`, to the one before that if they adjoin. Returns how many pieces this
    /// made; `None` when a cap is met.
    fn insert(&mut self, index: usize, seq: u32, octets: &[u8], budget: &mut Budget) -> Option<usize> {
        if self.octets + octets.len() > budget.each {
            return None;
        }
        if let Some(piece) = index.checked_sub(1).and_then(|index| self.pieces.get_mut(index))
            && piece.end() == seq
        {
            if !budget.charge(octets.len()) {
                return None;
            }
            piece.octets.extend_from_slice(octets);
            self.octets += octets.len();
            return Some(0);
        }
        if self.pieces.len() >= MAX_PIECES || !budget.charge(octets.len() + OVERHEAD) {
            return None;
        }
        let piece = Piece {
            seq,
            octets: octets.to_vec(),
        };
        self.octets += octets.len();
        self.pieces.insert(index, piece);
        Some(1)
    }
}

/// Octets from `from` up to `to`; 0 when `to` lies before.
fn octets_to(from: u32, to: u32) -> usize {
    usize::try_from(distance(from, to)).unwrap_or(0)
}
