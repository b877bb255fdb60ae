//! The stream workload: pseudo-random octets in blocks, hashed at both ends.

use smoltcp::socket::tcp::{RecvError, SendError, Socket};

/// Octets in a block.
pub const BLOCK: u64 = 64 * 1024;
/// An odd number without a pattern: 2^64 divided by the golden ratio.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Fletcher's checksum (1982) over words of eight octets, little-endian: a sum of the words and a sum of those sums, so that
/// order counts, and hashing costs less than what is measured. A word that is wrong shows for good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fletcher {
    sum: u64,
    sum_of_sums: u64,
    /// Octets that do not fill a word yet, and how many they are.
    word: u64,
    len: u32,
}

impl Fletcher {
    /// Takes `octets` in.
    pub fn update(&mut self, octets: &[u8]) {
        let missing = if self.len == 0 { 0 } else { 8 - self.len as usize };
        let (begun, rest) = octets.split_at(missing.min(octets.len()));
        self.gather(begun);
        let mut words = rest.chunks_exact(8);
        for word in &mut words {
            self.add(word.try_into().map_or(0, u64::from_le_bytes));
        }
        self.gather(words.remainder());
    }

    /// The hash so far.
    pub fn value(mut self) -> u64 {
        if self.len > 0 {
            self.add(self.word | u64::from(self.len) << 56);
        }
        // Neither sum may cancel the other out.
        self.sum.wrapping_mul(GOLDEN).rotate_left(32) ^ self.sum_of_sums
    }

    const fn add(&mut self, word: u64) {
        self.sum = self.sum.wrapping_add(word);
        self.sum_of_sums = self.sum_of_sums.wrapping_add(self.sum);
    }

    /// Takes octets one by one.
    fn gather(&mut self, octets: &[u8]) {
        for octet in octets {
            self.word |= u64::from(*octet) << (8 * self.len);
            self.len += 1;
            if self.len == 8 {
                self.add(self.word);
                (self.word, self.len) = (0, 0);
            }
        }
    }
}

/// What a connection carried so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Position {
    /// Octets since the connection was made.
    pub octets: u64,
    /// Their hash.
    pub hash: Fletcher,
}

impl Position {
    fn advance(&mut self, octets: &[u8]) {
        self.hash.update(octets);
        self.octets += octets.len() as u64;
    }

    /// Octets up to the current block's end.
    pub fn left_in_block(self) -> usize {
        (BLOCK - self.octets % BLOCK) as usize
    }

    /// Whether a block ends here.
    pub fn at_boundary(self) -> bool {
        self.octets.is_multiple_of(BLOCK)
    }
}

/// The sending end.
#[derive(Debug)]
pub struct Writer {
    /// What was made so far.
    pub position: Position,
    random: u64,
}

impl Default for Writer {
    fn default() -> Self {
        Self {
            position: Position::default(),
            random: GOLDEN,
        }
    }
}

impl Writer {
    /// Makes the next octets of the current block, as many as `room` takes and the block has left; returns how many. The
    /// block's first octet tells whether a phase ends with it.
    pub fn make(&mut self, room: &mut [u8], last: bool) -> usize {
        let len = room.len().min(self.position.left_in_block());
        let Some(room) = room.get_mut(..len) else {
            return 0;
        };
        fill(room, &mut self.random);
        if self.position.at_boundary()
            && let Some(first) = room.first_mut()
        {
            *first = u8::from(last);
        }
        self.position.advance(room);
        len
    }

    /// Hands TCP what it takes of the current block. Returns how much.
    pub(super) fn write(&mut self, socket: &mut Socket<'_>, last: bool) -> Result<usize, SendError> {
        socket.send(|buffer| {
            let len = self.make(buffer, last);
            (len, len)
        })
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): eight octets a step, and no step waits for the one before.
fn fill(room: &mut [u8], state: &mut u64) {
    let mut next = || {
        *state = state.wrapping_add(GOLDEN);
        let mixed = (*state ^ *state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31).to_le_bytes()
    };
    let mut words = room.chunks_exact_mut(8);
    for word in &mut words {
        word.copy_from_slice(&next());
    }
    let rest = words.into_remainder();
    if !rest.is_empty() {
        rest.copy_from_slice(&next()[..rest.len()]);
    }
}

/// The receiving end.
#[derive(Debug, Default)]
pub struct Reader {
    /// What was taken so far.
    pub position: Position,
    last: bool,
}

impl Reader {
    /// Takes octets up to the block's end. Returns how many, and whether they ended a phase.
    pub fn take(&mut self, octets: &[u8]) -> (usize, bool) {
        let octets = octets.get(..self.position.left_in_block()).unwrap_or(octets);
        if self.position.at_boundary()
            && let Some(first) = octets.first()
        {
            self.last = *first == 1;
        }
        self.position.advance(octets);
        let ended = !octets.is_empty() && self.position.at_boundary() && self.last;
        (octets.len(), ended)
    }

    /// Reads up to the block's end. Returns how much was read, and whether that ended a phase.
    pub(super) fn read(&mut self, socket: &mut Socket<'_>) -> Result<(usize, bool), RecvError> {
        socket.recv(|buffer| {
            let (len, ended) = self.take(buffer);
            (len, (len, ended))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hash<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u64 {
        let mut sum = Fletcher::default();
        parts.into_iter().for_each(|part| sum.update(part));
        sum.value()
    }

    #[test]
    fn hashes_tell_streams_apart() {
        let different: &[&[u8]] = &[
            b"",
            b"\0",
            b"a",
            b"a\0",
            b"ab",
            b"ba",
            b"abcdefgh01234567",
            b"01234567abcdefgh",
            b"a\0\0\0\0\0\0\0",
            b"a\0\0\0\0\0\0\0\0",
        ];
        let hashes: std::collections::BTreeSet<u64> =
            different.iter().map(|octets| hash([*octets])).collect();
        assert_eq!(hashes.len(), different.len());
    }

    proptest! {
        #[test]
        fn how_octets_arrive_does_not_matter(octets in proptest::collection::vec(any::<u8>(), 0..100), cut in 1..20_usize) {
            prop_assert_eq!(hash(octets.chunks(cut)), hash([&octets[..]]));
        }

        #[test]
        fn a_wrong_octet_shows(octets in proptest::collection::vec(any::<u8>(), 1..100), at: prop::sample::Index, bit in 0_u8..8) {
            let mut wrong = octets.clone();
            wrong[at.index(octets.len())] ^= 1_u8 << bit;
            prop_assert_ne!(hash([&wrong[..]]), hash([&octets[..]]));
        }
    }

    #[test]
    fn random_octets_do_not_repeat_soon() {
        let (mut left, mut right, mut state) = ([0; 4096], [0; 4096], 1);
        fill(&mut left, &mut state);
        fill(&mut right, &mut state);
        assert_ne!(left, right);
        assert!(left.windows(8).filter(|window| *window == &left[..8]).count() == 1);
    }
}
