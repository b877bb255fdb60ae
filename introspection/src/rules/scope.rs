//! Where a rule looks: addresses, ports, VLAN, direction, transport.

use core::fmt;
use core::net::{IpAddr, Ipv6Addr};
use core::str::FromStr;

use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Rule, RuleProtocol};
use crate::Direction;
use crate::flow::{Endpoint, FlowKey};

pub(super) const UDP: u8 = 17;

/// Addresses with a common beginning, written as `192.0.2.0/24`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefix {
    addr: IpAddr,
    len: u8,
}

/// A text that is no prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no address or prefix; write it like 192.0.2.0/24, 2001:db8::/32 or 192.0.2.1")]
pub struct ParsePrefixError(String);

impl Prefix {
    /// Whether an address is one of these.
    pub fn contains(&self, addr: IpAddr) -> bool {
        let (own, len) = (bits(self.addr), self.width());
        self.addr.is_ipv4() == addr.is_ipv4() && (own ^ bits(addr)).checked_shr(len).unwrap_or(0) == 0
    }

    /// Bits that may differ.
    fn width(&self) -> u32 {
        let all = if self.addr.is_ipv4() { 32 } else { 128 };
        all - u32::from(self.len)
    }
}

/// An address as a number; of IPv4 the low 32 bits.
fn bits(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(addr) => u32::from(addr).into(),
        IpAddr::V6(addr) => <u128 as From<Ipv6Addr>>::from(addr),
    }
}

impl FromStr for Prefix {
    type Err = ParsePrefixError;

    fn from_str(text: &str) -> Result<Self, ParsePrefixError> {
        let refused = || ParsePrefixError(text.chars().take(64).collect());
        let (addr, len) = text
            .split_once('/')
            .map_or((text, None), |(addr, len)| (addr, Some(len)));
        let addr: IpAddr = addr.parse().map_err(|_| refused())?;
        let most = if addr.is_ipv4() { 32 } else { 128 };
        let len = match len {
            None => most,
            Some(len) => len.parse().ok().filter(|len| *len <= most).ok_or_else(refused)?,
        };
        Ok(Self { addr, len })
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.addr, self.len)
    }
}

impl Serialize for Prefix {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Prefix {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}

/// Ports: a number, or a text of numbers and ranges such as `"80,443,8000-8100"`, or a list of those.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ports(Vec<(u16, u16)>);

impl Ports {
    /// Ranges in a list at most.
    pub const MAX: usize = 64;

    /// Whether a port is one of these.
    pub fn contains(&self, port: u16) -> bool {
        self.0
            .iter()
            .any(|(first, last)| (*first..=*last).contains(&port))
    }

    /// Whether these can be ports of a flow at all.
    pub(super) fn is_right(&self) -> bool {
        !self.0.is_empty() && self.0.iter().all(|(first, _)| *first > 0)
    }
}

impl From<u16> for Ports {
    fn from(port: u16) -> Self {
        Self(vec![(port, port)])
    }
}

/// A text that is no list of ports.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no list of ports; write numbers and ranges like 80,443,8000-8100, at most {max} of them", max = Ports::MAX)]
pub struct ParsePortsError(String);

impl FromStr for Ports {
    type Err = ParsePortsError;

    fn from_str(text: &str) -> Result<Self, ParsePortsError> {
        let range = |word: &str| {
            let (first, last) = word.split_once('-').unwrap_or((word, word));
            let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
            (first <= last).then_some((first, last))
        };
        let ranges: Option<Vec<_>> = text.split(',').take(Self::MAX + 1).map(range).collect();
        ranges
            .filter(|ranges| ranges.len() <= Self::MAX)
            .map(Self)
            .ok_or_else(|| ParsePortsError(text.chars().take(64).collect()))
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (first, last)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            if first == last {
                write!(out, "{comma}{first}")?;
            } else {
                write!(out, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

impl Serialize for Ports {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [(first, last)] if first == last => to.serialize_u16(*first),
            _ => to.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Ports {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(PortsVisitor)
    }
}

struct PortsVisitor;

impl<'de> Visitor<'de> for PortsVisitor {
    type Value = Ports;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a port from 1 to 65535, a text like \"80,8000-8100\" or a list of these")
    }

    fn visit_u64<E: de::Error>(self, port: u64) -> Result<Ports, E> {
        let known = u16::try_from(port).map(Ports::from);
        known.map_err(|_| E::invalid_value(de::Unexpected::Unsigned(port), &self))
    }

    fn visit_i64<E: de::Error>(self, port: i64) -> Result<Ports, E> {
        let known = u16::try_from(port).map(Ports::from);
        known.map_err(|_| E::invalid_value(de::Unexpected::Signed(port), &self))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Ports, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Ports, A::Error> {
        let mut all = Ports::default();
        while let Some(Ports(some)) = list.next_element()? {
            all.0.extend(some);
            if all.0.len() > Ports::MAX {
                return Err(de::Error::invalid_length(all.0.len(), &self));
            }
        }
        Ok(all)
    }
}

/// Who of a connection receives the octets that a rule looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Towards {
    /// Who was called.
    Server,
    /// Who opened the connection.
    Client,
}

/// Whose octets they are: a flow, a direction, and who opened the flow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) flow: &'a FlowKey,
    pub(crate) direction: Direction,
    /// The way of the client's octets.
    pub(crate) client: Direction,
}

/// A rule's scope, compiled.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Scope {
    protocol: RuleProtocol,
    either: Side,
    from: Side,
    to: Side,
    vlan: Option<u16>,
    direction: Option<Direction>,
    towards: Option<Towards>,
}

/// What one end has to be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Side {
    addr: Option<Prefix>,
    port: Option<Ports>,
}

impl Side {
    fn of(addr: Option<Prefix>, port: Option<&Ports>) -> Self {
        Self {
            addr,
            port: port.cloned(),
        }
    }

    fn has(&self, end: Endpoint) -> bool {
        self.addr.is_none_or(|addr| addr.contains(end.addr))
            && self.port.as_ref().is_none_or(|port| port.contains(end.port))
    }

    /// For the two ends in any order; address and port may be those of different ends.
    fn has_either(&self, ends: [Endpoint; 2]) -> bool {
        self.addr
            .is_none_or(|addr| ends.iter().any(|end| addr.contains(end.addr)))
            && self
                .port
                .as_ref()
                .is_none_or(|port| ends.iter().any(|end| port.contains(end.port)))
    }
}

impl From<&Rule> for Scope {
    fn from(rule: &Rule) -> Self {
        Self {
            protocol: rule.protocol,
            either: Side::of(rule.address, rule.port.as_ref()),
            from: Side::of(rule.from, rule.from_port.as_ref()),
            to: Side::of(rule.to, rule.to_port.as_ref()),
            vlan: rule.vlan,
            direction: rule.direction,
            towards: rule.towards,
        }
    }
}

impl Scope {
    /// Whether the rule looks at what goes this way.
    pub(super) fn includes(&self, place: Place<'_>) -> bool {
        let Place {
            flow,
            direction,
            client,
        } = place;
        let transport = match self.protocol {
            RuleProtocol::Any => true,
            RuleProtocol::Tcp => flow.protocol != UDP,
            RuleProtocol::Udp => flow.protocol == UDP,
        };
        let (from, to) = match direction {
            Direction::Tx => (flow.local, flow.remote),
            Direction::Rx => (flow.remote, flow.local),
        };
        let towards = if direction == client {
            Towards::Server
        } else {
            Towards::Client
        };
        transport
            && self.direction.is_none_or(|wanted| wanted == direction)
            && self.vlan.is_none_or(|vlan| vlan == flow.vlan)
            && self.towards.is_none_or(|wanted| wanted == towards)
            && self.either.has_either([from, to])
            && self.from.has(from)
            && self.to.has(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes() {
        let prefix = |text: &str| text.parse::<Prefix>();
        let has = |text: &str, addr: &str| {
            prefix(text)
                .expect("a prefix")
                .contains(addr.parse().expect("an address"))
        };
        assert!(has("192.0.2.0/24", "192.0.2.255") && !has("192.0.2.0/24", "192.0.3.0"));
        assert!(has("192.0.2.7", "192.0.2.7") && !has("192.0.2.7", "192.0.2.6"));
        assert!(has("0.0.0.0/0", "203.0.113.9") && !has("0.0.0.0/0", "::1"));
        assert!(has("2001:db8::/32", "2001:db8:ffff::1") && !has("2001:db8::/32", "2001:db9::"));
        assert!(has("::/0", "2001:db8::"));
        for wrong in ["", "192.0.2.0/33", "192.0.2/24", "::/129", "x/8", "192.0.2.0/-1"] {
            assert!(prefix(wrong).is_err(), "{wrong}");
        }
        assert_eq!(prefix("192.0.2.7").expect("a prefix").to_string(), "192.0.2.7/32");
    }

    #[test]
    fn ports() {
        let read = |text: &str| {
            toml::from_str::<std::collections::BTreeMap<String, Ports>>(text).map(|map| map["p"].clone())
        };
        assert_eq!(read("p = 80"), Ok(80.into()));
        let mixed = read("p = [22, '80,8000-8100']").expect("ports");
        assert!([22, 80, 8000, 8100].iter().all(|port| mixed.contains(*port)) && !mixed.contains(8101));
        assert_eq!(mixed.to_string(), "22,80,8000-8100");
        for wrong in [
            "p = 65536",
            "p = -1",
            "p = '9-8'",
            "p = 'x'",
            "p = ''",
            "p = true",
            "p = '1,'",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        assert!(!read("p = 0").expect("a number").is_right() && !Ports::default().is_right());
    }
}
