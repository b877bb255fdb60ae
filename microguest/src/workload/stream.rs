//! The stream workload: pseudo-random octets in blocks, hashed at both ends.

use smoltcp::socket::tcp::{RecvError, SendError, Socket};

/// Octets in a block.
pub const BLOCK: u64 = 64 * 1024;

/// FNV-1a with 64 bits (Fowler, Noll, Vo; RFC 9923).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    /// Takes `octets` in.
    pub fn update(&mut self, octets: &[u8]) {
        self.0 = octets.iter().fold(self.0, |hash, octet| {
            (hash ^ u64::from(*octet)).wrapping_mul(0x100_0000_01b3)
        });
    }

    /// The hash so far.
    pub fn value(self) -> u64 {
        self.0
    }
}

/// What a connection carried so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Position {
    /// Octets since the connection was made.
    pub octets: u64,
    /// Their hash.
    pub hash: Fnv,
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
            random: 0x9e37_79b9_7f4a_7c15,
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

/// xorshift64 (Marsaglia 2003): eight octets a step.
fn fill(room: &mut [u8], state: &mut u64) {
    for chunk in room.chunks_mut(8) {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        for (octet, random) in chunk.iter_mut().zip(state.to_le_bytes()) {
            *octet = random;
        }
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
    use super::*;

    #[test]
    fn known_hashes() {
        let hash = |octets: &[u8]| {
            let mut fnv = Fnv::default();
            fnv.update(octets);
            fnv.value()
        };
        assert_eq!(hash(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(hash(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(hash(b"foobar"), 0x8594_4171_f739_67e8);
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
