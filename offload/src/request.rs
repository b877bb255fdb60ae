//! What a sender left to be done to a frame, and the virtio-net header that carries it.

/// `struct virtio_net_hdr_v1` (virtio 1.2, 5.1.6), fields in host order; `tap` devices use the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct VnetHeader {
    /// `VIRTIO_NET_HDR_F_*`.
    pub flags: u8,
    /// `VIRTIO_NET_HDR_GSO_*`.
    pub gso_type: u8,
    /// Octets of all headers, a hint.
    pub hdr_len: u16,
    /// Payload octets of each segment.
    pub gso_size: u16,
    /// Where the checksum starts.
    pub csum_start: u16,
    /// Where the checksum goes, from `csum_start`.
    pub csum_offset: u16,
    /// Receive buffers that the frame fills.
    pub num_buffers: u16,
}

impl VnetHeader {
    /// Octets on the ring, with `num_buffers`.
    pub const LEN: usize = 12;
    /// The checksum at `csum_start + csum_offset` is partial.
    pub const NEEDS_CSUM: u8 = 1;
    /// The checksum was validated.
    pub const DATA_VALID: u8 = 2;
    /// No segmentation.
    pub const GSO_NONE: u8 = 0;
    /// TCP over IPv4.
    pub const GSO_TCPV4: u8 = 1;
    /// TCP over IPv6.
    pub const GSO_TCPV6: u8 = 4;
    /// UDP segmentation (USO).
    pub const GSO_UDP_L4: u8 = 5;
    /// ECN bit of a TCP kind.
    pub const GSO_ECN: u8 = 0x80;

    /// Reads the header's little-endian octets.
    pub const fn from_bytes(b: &[u8; Self::LEN]) -> Self {
        Self {
            flags: b[0],
            gso_type: b[1],
            hdr_len: u16::from_le_bytes([b[2], b[3]]),
            gso_size: u16::from_le_bytes([b[4], b[5]]),
            csum_start: u16::from_le_bytes([b[6], b[7]]),
            csum_offset: u16::from_le_bytes([b[8], b[9]]),
            num_buffers: u16::from_le_bytes([b[10], b[11]]),
        }
    }

    /// The header in two words, the first octet the lowest of the first.
    #[inline]
    pub const fn from_words(low: u64, high: u32) -> Self {
        Self {
            flags: low as u8,
            gso_type: (low >> 8) as u8,
            hdr_len: (low >> 16) as u16,
            gso_size: (low >> 32) as u16,
            csum_start: (low >> 48) as u16,
            csum_offset: high as u16,
            num_buffers: (high >> 16) as u16,
        }
    }

    /// The header as [`Self::from_words`] reads it.
    #[inline]
    pub const fn to_words(self) -> (u64, u32) {
        let low = self.flags as u64
            | (self.gso_type as u64) << 8
            | (self.hdr_len as u64) << 16
            | (self.gso_size as u64) << 32
            | (self.csum_start as u64) << 48;
        (low, self.csum_offset as u32 | (self.num_buffers as u32) << 16)
    }

    /// The header's little-endian octets.
    pub const fn to_bytes(self) -> [u8; Self::LEN] {
        let [h0, h1] = self.hdr_len.to_le_bytes();
        let [g0, g1] = self.gso_size.to_le_bytes();
        let [s0, s1] = self.csum_start.to_le_bytes();
        let [o0, o1] = self.csum_offset.to_le_bytes();
        let [n0, n1] = self.num_buffers.to_le_bytes();
        [self.flags, self.gso_type, h0, h1, g0, g1, s0, s1, o0, o1, n0, n1]
    }
}

/// State of a frame's transport checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Checksum {
    /// In the frame, as the sender computed it; nobody vouches for it.
    #[default]
    Complete,
    /// Known to be right, or never at risk (it did not leave memory).
    Valid,
    /// The sum from `start` to the frame's end is still to be stored at `start + offset`, where the
    /// pseudo-header's sum already stands.
    Partial {
        /// Where the summed range starts, from the frame's first octet.
        start: u16,
        /// Where the checksum goes, from `start`.
        offset: u16,
    },
}

/// What large frames are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GsoKind {
    /// TCP over IPv4 (TSO4).
    Tcp4,
    /// TCP over IPv6 (TSO6).
    Tcp6,
    /// UDP datagrams of one flow over either IP version (USO).
    Udp,
}

/// Segmentation that the sender left to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gso {
    /// What to cut.
    pub kind: GsoKind,
    /// Payload octets of each segment, at least 1.
    pub size: u16,
    /// Whether CWR is to be set in the first segment only (RFC 3168).
    pub ecn: bool,
}

/// What is still to be done to a frame before a plain Ethernet receiver can take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Offloads {
    /// The transport checksum's state.
    pub checksum: Checksum,
    /// Segmentation, if any. It implies a partial checksum.
    pub gso: Option<Gso>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_octets_are_the_same_header() {
        let octets = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
        let header = VnetHeader::from_bytes(&octets);
        let (low, high) = header.to_words();
        assert_eq!([&low.to_le_bytes()[..], &high.to_le_bytes()].concat(), octets);
        assert_eq!(VnetHeader::from_words(low, high), header);
    }
}
