//! The fragments of one datagram.

use std::collections::BTreeMap;

use super::view::Fragment;

/// What keeping a datagram costs beside its octets, and a piece of it.
const DATAGRAM: usize = 256;
const PIECE: usize = 96;

/// What a fragment was to its datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// Part of it; others are missing.
    Part,
    /// The last one that was missing.
    Whole,
    /// Known already.
    Known,
    /// It contradicts what is known; nothing was taken of it.
    Conflict,
}

/// Pieces of a datagram by their places, without overlap. The first copy of an octet stays.
#[derive(Debug, Default)]
pub(super) struct Datagram {
    pieces: BTreeMap<u32, Box<[u8]>>,
    /// In all pieces.
    octets: u32,
    /// Where the datagram ends.
    end: Option<u32>,
    /// What the first fragment says that it is.
    protocol: Option<u8>,
    fragments: u32,
}

impl Datagram {
    /// Fragments taken.
    pub(super) const fn fragments(&self) -> u32 {
        self.fragments
    }

    /// The number of what is in it, once it is whole.
    pub(super) fn protocol(&self) -> u8 {
        self.protocol.unwrap_or(offload::view::protocol::NO_NEXT_HEADER)
    }

    /// Octets known.
    pub(super) const fn octets(&self) -> u32 {
        self.octets
    }

    /// What is known, in order.
    pub(super) fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        self.pieces.values().map(AsRef::as_ref)
    }

    /// What it is charged.
    pub(super) fn charge(&self) -> usize {
        DATAGRAM + self.octets as usize + self.pieces.len() * PIECE
    }

    /// Takes a fragment in.
    pub(super) fn take(&mut self, fragment: &Fragment<'_>) -> Taken {
        if self.contradicts(fragment) {
            return Taken::Conflict;
        }
        let was_whole = self.is_whole();
        self.fragments += 1;
        if !fragment.more {
            self.end = Some(fragment.end());
        }
        if fragment.start == 0 {
            self.protocol = Some(fragment.protocol);
        }
        self.fill(fragment);
        match (was_whole, self.is_whole()) {
            (true, _) => Taken::Known,
            (false, true) => Taken::Whole,
            (false, false) => Taken::Part,
        }
    }

    /// No piece lies behind the end, so the octets tell.
    fn is_whole(&self) -> bool {
        self.end == Some(self.octets)
    }

    fn contradicts(&self, fragment: &Fragment<'_>) -> bool {
        let ends_elsewhere = match self.end {
            Some(end) if fragment.more => fragment.end() >= end,
            Some(end) => fragment.end() != end,
            None => !fragment.more && self.reach() > fragment.end(),
        };
        let is_another = fragment.start == 0
            && self
                .protocol
                .is_some_and(|protocol| protocol != fragment.protocol);
        ends_elsewhere || is_another || self.differs(fragment)
    }

    /// Behind the last octet known.
    fn reach(&self) -> u32 {
        self.pieces
            .last_key_value()
            .map_or(0, |(start, piece)| start + piece.len() as u32)
    }

    /// Whether some octet is another than is known for its place.
    fn differs(&self, fragment: &Fragment<'_>) -> bool {
        let before = self.pieces.range(..fragment.start).next_back();
        let within = self.pieces.range(fragment.start..fragment.end());
        before.into_iter().chain(within).any(|(start, piece)| {
            let skip_old = fragment.start.saturating_sub(*start) as usize;
            let skip_new = start.saturating_sub(fragment.start) as usize;
            let old = piece.get(skip_old..).unwrap_or_default();
            let new = fragment.octets.get(skip_new..).unwrap_or_default();
            old.iter().zip(new).any(|(old, new)| old != new)
        })
    }

    /// Keeps what is new.
    fn fill(&mut self, fragment: &Fragment<'_>) {
        let mut at = fragment.start;
        while at < fragment.end() {
            let before = self.pieces.range(..=at).next_back();
            let known = before.map_or(0, |(start, piece)| start + piece.len() as u32);
            if known > at {
                at = known;
                continue;
            }
            let next = self.pieces.range(at..fragment.end()).next();
            let until = next.map_or(fragment.end(), |(start, _)| *start);
            let range = (at - fragment.start) as usize..(until - fragment.start) as usize;
            let new = fragment.octets.get(range).unwrap_or_default();
            self.octets += new.len() as u32;
            self.pieces.insert(at, new.into());
            at = until;
        }
    }
}
