//! A plain reading of Ethernet, IP, TCP and UDP headers (IEEE 802.1Q, RFC 791, 8200, 9293, 768).

use std::net::IpAddr;

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;

/// Where everything is; offsets are from the frame's start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Headers {
    pub(crate) vlan: Option<u16>,
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) network: usize,
    pub(crate) transport: usize,
    pub(crate) payload: usize,
    pub(crate) end: usize,
    pub(crate) protocol: u8,
    pub(crate) fragment: Option<Fragment>,
    /// Source and destination.
    pub(crate) ports: (u16, u16),
}

/// A part of a packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fragment {
    pub(crate) id: u32,
    /// In octets.
    pub(crate) offset: u32,
    pub(crate) more: bool,
}

/// Reads a frame's headers; `None` if it is no IP packet.
pub(crate) fn read(frame: &[u8]) -> Result<Option<Headers>, String> {
    let mut ethertype = half(frame, 12)?;
    let mut network = 14;
    let mut vlan = None;
    if ethertype == 0x8100 {
        vlan = Some(half(frame, 14)? & 0x0fff);
        ethertype = half(frame, 16)?;
        network = 18;
    }
    let mut headers = match ethertype {
        0x0800 => read_v4(frame, network)?,
        0x86dd => read_v6(frame, network)?,
        _ => return Ok(None),
    };
    headers.vlan = vlan;
    let first = headers.fragment.is_none_or(|fragment| fragment.offset == 0);
    let header_len = match headers.protocol {
        TCP if first => usize::from(octet(frame, headers.transport + 12)? >> 4) * 4,
        UDP if first => 8,
        _ => 0,
    };
    headers.payload += header_len;
    if headers.payload > headers.end || headers.end > frame.len() {
        return Err("headers beyond the packet's end".to_owned());
    }
    if header_len > 0 {
        headers.ports = (
            half(frame, headers.transport)?,
            half(frame, headers.transport + 2)?,
        );
    }
    let is_whole_udp = headers.protocol == UDP && headers.fragment.is_none();
    if is_whole_udp && usize::from(half(frame, headers.transport + 4)?) != headers.end - headers.transport {
        return Err("a UDP length that is not the packet's".to_owned());
    }
    Ok(Some(headers))
}

fn read_v4(frame: &[u8], network: usize) -> Result<Headers, String> {
    let header_len = usize::from(octet(frame, network)? & 0x0f) * 4;
    let place = half(frame, network + 6)?;
    let fragment = Fragment {
        id: half(frame, network + 4)?.into(),
        offset: u32::from(place & 0x1fff) * 8,
        more: place & 0x2000 != 0,
    };
    let address = |at: usize| -> Result<IpAddr, String> { Ok(array::<4>(frame, at)?.into()) };
    let transport = network + header_len;
    Ok(Headers {
        vlan: None,
        src: address(network + 12)?,
        dst: address(network + 16)?,
        network,
        transport,
        payload: transport,
        end: network + usize::from(half(frame, network + 2)?),
        protocol: octet(frame, network + 9)?,
        fragment: (place & 0x3fff != 0).then_some(fragment),
        ports: (0, 0),
    })
}

fn read_v6(frame: &[u8], network: usize) -> Result<Headers, String> {
    let address = |at: usize| -> Result<IpAddr, String> { Ok(array::<16>(frame, at)?.into()) };
    let mut protocol = octet(frame, network + 6)?;
    let mut transport = network + 40;
    let mut fragment = None;
    // Hop-by-hop options, routing, destination options; and the fragment header.
    while matches!(protocol, 0 | 43 | 60 | 44) {
        let next = octet(frame, transport)?;
        if protocol == 44 {
            let place = half(frame, transport + 2)?;
            fragment = Some(Fragment {
                id: u32::from_be_bytes(array(frame, transport + 4)?),
                offset: u32::from(place & 0xfff8),
                more: place & 1 != 0,
            });
            transport += 8;
        } else {
            transport += 8 + 8 * usize::from(octet(frame, transport + 1)?);
        }
        protocol = next;
    }
    Ok(Headers {
        vlan: None,
        src: address(network + 8)?,
        dst: address(network + 24)?,
        network,
        transport,
        payload: transport,
        end: network + 40 + usize::from(half(frame, network + 4)?),
        protocol,
        fragment,
        ports: (0, 0),
    })
}

impl Headers {
    pub(crate) fn is_v6(&self) -> bool {
        self.src.is_ipv6()
    }

    /// Where the transport's checksum is in its header.
    pub(crate) fn checksum_field(&self) -> Option<usize> {
        match self.protocol {
            TCP => Some(16),
            UDP => Some(6),
            ICMP | ICMPV6 => Some(2),
            _ => None,
        }
    }

    /// A TCP header's sequence number and flags.
    pub(crate) fn tcp(&self, frame: &[u8]) -> (u32, u8) {
        let header = &frame[self.transport..];
        (
            u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
            header[13],
        )
    }

    /// Whether it tells of an error: nothing that is sent here gives cause for one.
    pub(crate) fn is_error(&self, frame: &[u8]) -> bool {
        let kind = frame[self.transport];
        match self.protocol {
            ICMP => kind == 3,
            ICMPV6 => kind < 128,
            _ => true,
        }
    }

    /// The sum over the pseudo-header.
    pub(crate) fn pseudo_header(&self) -> u64 {
        if self.protocol == ICMP {
            return 0;
        }
        let mut words = match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => [src.octets(), dst.octets()].concat(),
            (IpAddr::V6(src), IpAddr::V6(dst)) => [src.octets(), dst.octets()].concat(),
            _ => Vec::new(),
        };
        words.extend(((self.end - self.transport) as u32).to_be_bytes());
        words.extend([0, self.protocol]);
        ones_complement(&words, 0).into()
    }
}

/// The ones' complement sum of octets (RFC 1071), added to `start`.
pub(crate) fn ones_complement(octets: &[u8], start: u64) -> u16 {
    let words = octets.chunks_exact(2);
    let odd = words
        .remainder()
        .first()
        .map_or(0, |octet| u64::from(*octet) << 8);
    let mut sum = start + odd;
    for word in words {
        sum += u64::from(u16::from_be_bytes([word[0], word[1]]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn array<const N: usize>(frame: &[u8], at: usize) -> Result<[u8; N], String> {
    let octets = frame.get(at..).and_then(|rest| rest.first_chunk());
    octets
        .copied()
        .ok_or_else(|| "a frame that ends in its headers".to_owned())
}

fn octet(frame: &[u8], at: usize) -> Result<u8, String> {
    array::<1>(frame, at).map(|[octet]| octet)
}

fn half(frame: &[u8], at: usize) -> Result<u16, String> {
    array(frame, at).map(u16::from_be_bytes)
}
