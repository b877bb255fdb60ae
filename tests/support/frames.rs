//! Frames that test peers send: ARP (RFC 826), and UDP over IPv4.

use std::net::Ipv4Addr;

/// The echo service's port (RFC 862).
pub const ECHO_PORT: u16 = 7;

/// A MAC address.
pub type Mac = [u8; 6];

/// A host on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its MAC address.
    pub mac: Mac,
    /// Its IPv4 address.
    pub ip: Ipv4Addr,
}

const BROADCAST: Mac = [0xff; 6];

/// An Ethernet frame.
pub fn ethernet(dst: Mac, src: Mac, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&dst[..], &src, &ethertype.to_be_bytes(), payload].concat()
}

/// A broadcast question for the MAC address of `target`.
pub fn arp_request(from: Host, target: Ipv4Addr) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4, 0, 1];
    packet.extend(from.mac);
    packet.extend(from.ip.octets());
    packet.extend([0; 6]);
    packet.extend(target.octets());
    ethernet(BROADCAST, from.mac, 0x0806, &packet)
}

/// Who an ARP answer is from.
pub fn arp_answer(frame: &[u8]) -> Option<Host> {
    let packet = frame.get(14..42)?;
    let is_answer = frame[12..14] == [8, 6] && packet[6..8] == [0, 2];
    let mac = packet[8..14].try_into().ok()?;
    let ip: [u8; 4] = packet[14..18].try_into().ok()?;
    is_answer.then_some(Host { mac, ip: ip.into() })
}

/// A datagram without a UDP checksum, which IPv4 allows (RFC 768).
pub fn datagram(from: (Host, u16), to: (Host, u16), payload: &[u8]) -> Vec<u8> {
    let udp_len = 8 + payload.len() as u16;
    let mut packet = vec![0x45, 0];
    packet.extend((20 + udp_len).to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    packet.extend(from.0.ip.octets());
    packet.extend(to.0.ip.octets());
    let sum = internet_checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    for field in [from.1, to.1, udp_len, 0] {
        packet.extend(field.to_be_bytes());
    }
    packet.extend(payload);
    ethernet(to.0.mac, from.0.mac, 0x0800, &packet)
}

/// The payload of a datagram from the echo service to `port` of `mac`.
pub fn echoed(frame: &[u8], mac: Mac, port: u16) -> Option<&[u8]> {
    let udp = frame.get(34..42)?;
    let ours = frame[..6] == mac && frame[12..14] == [8, 0] && frame[14] == 0x45 && frame[23] == 17;
    let ports = udp[..2] == ECHO_PORT.to_be_bytes() && udp[2..4] == port.to_be_bytes();
    let len = usize::from(u16::from_be_bytes([udp[4], udp[5]]));
    frame.get(42..34 + len).filter(|_| ours && ports)
}

fn internet_checksum(header: &[u8]) -> u16 {
    let sum: u32 = header
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}

/// Pseudo-random numbers (xorshift64*) that are the same on every run.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Numbers that depend on `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 33) as usize % limit
    }

    /// Octets.
    pub fn octets(&mut self, len: usize) -> Vec<u8> {
        let mut octets: Vec<u8> = (0..len.div_ceil(8))
            .flat_map(|_| self.next().to_le_bytes())
            .collect();
        octets.truncate(len);
        octets
    }
}

/// A running hash (FNV-1a, 64 bits) of octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest(pub u64);

impl Default for Digest {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Digest {
    /// Takes more octets in.
    pub fn add(&mut self, octets: &[u8]) {
        let step = |hash: u64, octet: &u8| (hash ^ u64::from(*octet)).wrapping_mul(0x0100_0000_01b3);
        self.0 = octets.iter().fold(self.0, step);
    }
}
