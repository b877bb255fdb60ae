//! Real packets of the guest's, whole and in fragments.

/// TCP and UDP.
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
/// IPv6 destination options, and the fragment header.
pub(crate) const OPTIONS: u8 = 60;
const FRAGMENT: u8 = 44;

/// What a fragment says of itself, and its octets.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) v6: bool,
    pub(crate) id: u16,
    pub(crate) protocol: u8,
    /// In octets; a multiple of eight.
    pub(crate) start: usize,
    pub(crate) more: bool,
    pub(crate) octets: Vec<u8>,
    pub(crate) vlan: Option<u16>,
}

/// A TCP segment from port 4000 to port 80, with ACK.
pub(crate) fn tcp(seq: u32, payload: &[u8]) -> Vec<u8> {
    let mut segment = vec![0x0f, 0xa0, 0, 80];
    segment.extend(seq.to_be_bytes());
    segment.extend([0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(payload);
    segment
}

/// A UDP datagram from port 4000 to port 80.
pub(crate) fn udp(payload: &[u8]) -> Vec<u8> {
    let mut datagram = vec![0x0f, 0xa0, 0, 80];
    datagram.extend((payload.len() as u16 + 8).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    datagram
}

/// The header of a UDP datagram that leaves its length to the packet.
pub(crate) const UDP_HEADER: [u8; 8] = [0x0f, 0xa0, 0, 80, 0xff, 0xff, 0, 0];

/// A receiver of one datagram after the other that keeps the first copy of an octet, or the last. It may be shown fewer fragments than
/// pass.
#[derive(Debug, Default)]
pub(crate) struct Receiver {
    last: bool,
    octets: Vec<Option<u8>>,
    end: Option<usize>,
    since: Option<u64>,
}

impl Receiver {
    /// Receivers forget a datagram so many seconds after its first fragment.
    const PATIENCE: u64 = 60;

    /// One that keeps the last copy, or the first.
    pub(crate) fn new(last: bool) -> Self {
        Self {
            last,
            ..Self::default()
        }
    }

    /// Takes a fragment at so many seconds; the datagram, if this makes it whole.
    pub(crate) fn take(&mut self, now: u64, piece: &Piece) -> Option<Vec<u8>> {
        if self.since.is_some_and(|since| now - since > Self::PATIENCE) {
            self.forget();
        }
        self.since.get_or_insert(now);
        let end = piece.start + piece.octets.len();
        self.octets.resize(self.octets.len().max(end), None);
        for (place, octet) in self.octets[piece.start..].iter_mut().zip(&piece.octets) {
            if self.last || place.is_none() {
                *place = Some(*octet);
            }
        }
        if !piece.more {
            self.end = Some(end);
        }
        let whole: Option<Vec<u8>> = self.octets.get(..self.end?)?.iter().copied().collect();
        if whole.is_some() {
            self.forget();
        }
        whole
    }

    fn forget(&mut self) {
        *self = Self::new(self.last);
    }
}

impl Piece {
    /// All of a datagram, as one "fragment".
    pub(crate) fn whole(v6: bool, protocol: u8, octets: &[u8]) -> Self {
        Self {
            v6,
            id: 7,
            protocol,
            start: 0,
            more: false,
            octets: octets.to_vec(),
            vlan: None,
        }
    }

    /// The part of it from `start` on, of `len` octets at most.
    pub(crate) fn part(&self, start: usize, len: usize) -> Self {
        let end = (start + len).min(self.octets.len());
        Self {
            start,
            more: end < self.octets.len(),
            octets: self.octets[start..end].to_vec(),
            ..self.clone()
        }
    }

    /// Cut at these places.
    pub(crate) fn cut(&self, cuts: &[usize]) -> Vec<Self> {
        let mut ends: Vec<usize> = cuts
            .iter()
            .copied()
            .filter(|cut| *cut < self.octets.len())
            .collect();
        ends.extend([0, self.octets.len()]);
        ends.sort_unstable();
        ends.dedup();
        ends.windows(2)
            .map(|ends| self.part(ends[0], ends[1] - ends[0]))
            .collect()
    }

    /// Its frame.
    pub(crate) fn frame(&self) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
        if let Some(vlan) = self.vlan {
            frame.extend([0x81, 0]);
            frame.extend(vlan.to_be_bytes());
        }
        let place = self.start as u16;
        if self.v6 {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend((self.octets.len() as u16 + 8).to_be_bytes());
            frame.extend([FRAGMENT, 64]);
            for host in [1, 2] {
                frame.extend([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host]);
            }
            frame.extend([self.protocol, 0]);
            frame.extend((place | u16::from(self.more)).to_be_bytes());
            frame.extend([0, 0]);
            frame.extend(self.id.to_be_bytes());
        } else {
            frame.extend([8, 0, 0x45, 0]);
            frame.extend((self.octets.len() as u16 + 20).to_be_bytes());
            frame.extend(self.id.to_be_bytes());
            frame.extend(((place / 8) | (u16::from(self.more) << 13)).to_be_bytes());
            frame.extend([64, self.protocol, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
        }
        frame.extend(&self.octets);
        frame
    }
}
