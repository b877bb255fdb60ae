//! The name of a flow.

use core::fmt;
use core::net::{IpAddr, SocketAddr};

use offload::{FrameMeta, Transport, VlanTag};
use serde::{Deserialize, Serialize};

use crate::Direction;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// An address and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Endpoint {
    /// The address.
    pub addr: IpAddr,
    /// The TCP or UDP port.
    pub port: u16,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::new(self.addr, self.port).fmt(out)
    }
}

/// A TCP or UDP flow as one port sees it: the 5-tuple, with the guest's end first whichever way a frame goes.
///
/// Naming the ends by the side of the port that they are on, and not by their order, keeps a guest that sends
/// frames in its peer's name out of the flow that it forges: those frames belong to a flow of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FlowKey {
    /// The guest's end: source of what it sends, destination of what enters it.
    pub local: Endpoint,
    /// The other end.
    pub remote: Endpoint,
    /// The IP protocol number: 6 or 17.
    pub protocol: u8,
    /// The VLAN identifier of the outermost tag, 0 without one.
    pub vlan: u16,
}

impl FlowKey {
    /// The flow of a frame that goes `direction`; `None` when it is neither TCP nor UDP, or an IP fragment.
    pub fn of(meta: &FrameMeta, direction: Direction) -> Option<Self> {
        let ip = meta.ip().filter(|ip| !ip.fragment)?;
        let (protocol, src_port, dst_port) = match ip.transport {
            Transport::Tcp(tcp) => (TCP, tcp.src_port, tcp.dst_port),
            Transport::Udp(udp) => (UDP, udp.src_port, udp.dst_port),
            Transport::Icmp { .. } | Transport::Other => return None,
        };
        let src = Endpoint {
            addr: ip.src,
            port: src_port,
        };
        let dst = Endpoint {
            addr: ip.dst,
            port: dst_port,
        };
        let (local, remote) = match direction {
            Direction::Tx => (src, dst),
            Direction::Rx => (dst, src),
        };
        Some(Self {
            local,
            remote,
            protocol,
            vlan: meta.vlan.map_or(0, VlanTag::id),
        })
    }

    /// Whether a frame that goes `direction` is of this flow, as [`FlowKey::of`] would say: without making a name for it, most of
    /// which would be copied a few octets at a time and read again at once.
    pub fn is_of(&self, meta: &FrameMeta, direction: Direction) -> bool {
        let Some(ip) = meta.ip().filter(|ip| !ip.fragment) else {
            return false;
        };
        let (protocol, src_port, dst_port) = match &ip.transport {
            Transport::Tcp(tcp) => (TCP, tcp.src_port, tcp.dst_port),
            Transport::Udp(udp) => (UDP, udp.src_port, udp.dst_port),
            Transport::Icmp { .. } | Transport::Other => return false,
        };
        let (src, dst) = match direction {
            Direction::Tx => (&self.local, &self.remote),
            Direction::Rx => (&self.remote, &self.local),
        };
        self.protocol == protocol
            && (src.port, dst.port) == (src_port, dst_port)
            && self.vlan == meta.vlan.map_or(0, VlanTag::id)
            && src.addr == ip.src
            && dst.addr == ip.dst
    }

    /// A made-up TCP flow, one for each number, to measure and to test with.
    #[doc(hidden)]
    pub fn sample(number: u16) -> Self {
        let end = |last, port| Endpoint {
            addr: [192, 0, 2, last].into(),
            port,
        };
        Self {
            local: end(1, number),
            remote: end(2, 80),
            protocol: TCP,
            vlan: 0,
        }
    }

    /// The flow and direction of a frame of which it is not known who the guest is (a capture): the lesser
    /// end is taken for the guest's.
    pub fn canonical(meta: &FrameMeta) -> Option<(Self, Direction)> {
        let key = Self::of(meta, Direction::Tx)?;
        if key.local <= key.remote {
            return Some((key, Direction::Tx));
        }
        Self::of(meta, Direction::Rx).map(|key| (key, Direction::Rx))
    }

    /// The end that sends what goes `direction`.
    pub const fn sender(&self, direction: Direction) -> Endpoint {
        match direction {
            Direction::Tx => self.local,
            Direction::Rx => self.remote,
        }
    }
}

impl fmt::Display for FlowKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} - {}", self.local, self.remote)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Segment, udp};
    use offload::Network;

    #[test]
    fn both_directions_of_a_connection_are_one_flow() {
        let there = FlowKey::of(&Segment::tx().meta(), Direction::Tx).expect("TCP");
        let back = FlowKey::of(&Segment::rx().meta(), Direction::Rx).expect("TCP");
        assert_eq!(there, back);
        assert_eq!(there.to_string(), "192.0.2.1:4000 - 192.0.2.2:80");
        assert_eq!(there.sender(Direction::Rx).port, 80);
    }

    #[test]
    fn a_frame_is_of_the_flow_that_it_names() {
        let metas = [
            Segment::tx().meta(),
            Segment::rx().meta(),
            Segment::tx().port(9).meta(),
            udp(b"x"),
        ];
        let mut fragment = udp(b"x");
        if let Network::Ipv4(ip) = &mut fragment.network {
            ip.fragment = true;
        }
        let mut tagged = Segment::tx().meta();
        tagged.vlan = Some(VlanTag(7));
        let frames = || {
            let metas = metas.iter().chain([&fragment, &tagged]);
            metas.flat_map(|meta| [(meta, Direction::Tx), (meta, Direction::Rx)])
        };
        for key in frames().filter_map(|(meta, direction)| FlowKey::of(meta, direction)) {
            for (meta, direction) in frames() {
                let named = FlowKey::of(meta, direction) == Some(key);
                assert_eq!(key.is_of(meta, direction), named, "{key}: {meta:?} {direction:?}");
            }
        }
    }

    #[test]
    fn a_forged_direction_is_another_flow() {
        let meta = Segment::tx().meta();
        assert_ne!(
            FlowKey::of(&meta, Direction::Tx),
            FlowKey::of(&meta, Direction::Rx)
        );
    }

    #[test]
    fn a_capture_needs_no_guest() {
        let (there, tx) = FlowKey::canonical(&Segment::tx().meta()).expect("TCP");
        let (back, rx) = FlowKey::canonical(&Segment::rx().meta()).expect("TCP");
        assert_eq!((there, tx, rx), (back, Direction::Tx, Direction::Rx));
    }

    #[test]
    fn fragments_and_other_traffic_have_no_flow() {
        let mut meta = udp(b"x");
        assert!(FlowKey::of(&meta, Direction::Tx).is_some());
        if let Network::Ipv4(ip) = &mut meta.network {
            ip.fragment = true;
        }
        assert_eq!(FlowKey::of(&meta, Direction::Tx), None);
        meta.network = Network::Arp;
        assert_eq!(FlowKey::of(&meta, Direction::Tx), None);
    }
}
