//! Which flow an IP fragment belongs to, and what the datagram is that it makes whole.
//!
//! Only the first fragment has the ports; the others have its identification (RFC 791, 3.2; RFC 8200, 4.5). Places and lengths are
//! taken from headers alone, so fragments may be cut by a capture. Nothing is judged here: a receiver that is told different things
//! by overlapping fragments makes up its own mind. Memory is bounded, and the oldest datagram goes first.

use core::hash::Hash;
use core::net::IpAddr;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use offload::view::{Ipv4View, Ipv6View};
use offload::{FrameMeta, Network, TcpMeta, Transport, VlanTag};
use serde::Serialize;
use smallvec::SmallVec;

use crate::Instant;

/// No receiver in use waits longer for the rest of a datagram (RFC 8200, 4.5).
const PATIENCE: Duration = Duration::from_mins(1);
/// Octets of the longest datagram.
const LONGEST: u32 = u16::MAX as u32;
/// Stretches of a datagram that are known, with gaps between them; fragments that come in order make one.
const STRETCHES: usize = 64;

/// Fragments, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DatagramCounts {
    /// IP fragments.
    pub fragments: u64,
    /// TCP segments that they made up.
    pub tcp: u64,
    /// UDP datagrams that they made up.
    pub udp: u64,
    /// Datagrams of other protocols that they made up.
    pub other: u64,
    /// Datagrams of which a part did not come within a minute, or before there were too many others.
    pub incomplete: u64,
}

/// What fragments of one datagram have in common, and where they were seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key<P> {
    place: P,
    vlan: u16,
    src: IpAddr,
    dst: IpAddr,
    /// Of IPv4; that of an IPv6 datagram is what its first fragment says.
    protocol: u8,
    id: u32,
}

/// A fragment's place in its datagram.
#[derive(Clone, Copy, Debug)]
struct Part {
    /// Where in the frame it begins.
    at: u32,
    start: u32,
    end: u32,
    more: bool,
}

#[derive(Debug)]
struct Entry {
    since: Instant,
    turn: u64,
    /// The first fragment's headers, and where its part of the datagram begins in its frame.
    first: Option<(FrameMeta, u32)>,
    end: Option<u32>,
    known: SmallVec<[(u32, u32); 2]>,
}

/// Datagrams that come in fragments. `P` is where they are seen: each place has its own.
#[derive(Debug)]
pub struct Datagrams<P> {
    most: usize,
    entries: HashMap<Key<P>, Entry>,
    /// By age.
    order: BTreeMap<u64, Key<P>>,
    turns: u64,
    counts: DatagramCounts,
}

impl<P: Copy + Eq + Hash> Datagrams<P> {
    /// Remembers so many datagrams at most that are not whole.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            entries: HashMap::new(),
            order: BTreeMap::new(),
            turns: 0,
            counts: DatagramCounts::default(),
        }
    }

    /// Takes in a fragment, of which `octets` are the frame's first ones and `meta` its headers. If it makes its datagram whole: the
    /// headers that a frame with all of it would have.
    pub fn take(&mut self, place: P, now: Instant, octets: &[u8], meta: &FrameMeta) -> Option<FrameMeta> {
        let key = self.add(place, now, octets, meta)?;
        let len = self.entries.get(&key)?.whole()?;
        let (first, at) = self.remove(&key)?.first?;
        let whole = uncut(&first, at, len);
        let transport = whole.ip().map(|ip| ip.transport);
        match transport {
            Some(Transport::Tcp(_)) => self.counts.tcp += 1,
            Some(Transport::Udp(_)) => self.counts.udp += 1,
            _ => self.counts.other += 1,
        }
        Some(whole)
    }

    /// Takes in a fragment likewise. If the first one of its datagram is known: the headers that a frame with as much of the datagram
    /// would have as is known to be there.
    pub fn headers(&mut self, place: P, now: Instant, octets: &[u8], meta: &FrameMeta) -> Option<FrameMeta> {
        let key = self.add(place, now, octets, meta)?;
        let entry = self.entries.get(&key)?;
        let whole = entry.whole();
        let reach = entry.known.iter().map(|(_, end)| *end).max()?;
        let (first, at) = entry.first?;
        if whole.is_some() {
            self.remove(&key);
        }
        Some(uncut(&first, at, reach))
    }

    /// What was counted; a datagram that is not whole yet counts as incomplete.
    pub fn counts(&self) -> DatagramCounts {
        DatagramCounts {
            incomplete: self.counts.incomplete + self.entries.len() as u64,
            ..self.counts
        }
    }

    fn add(&mut self, place: P, now: Instant, octets: &[u8], meta: &FrameMeta) -> Option<Key<P>> {
        self.counts.fragments += 1;
        let (key, part) = read(place, octets, meta)?;
        self.make_room(now, !self.entries.contains_key(&key));
        if self
            .entries
            .get(&key)
            .is_some_and(|entry| entry.is_another(meta, part))
        {
            // The sender came round to this identification again.
            self.remove(&key);
            self.counts.incomplete += 1;
        }
        self.turns += 1;
        let turn = self.turns;
        let entry = self.entries.entry(key).or_insert_with(|| {
            self.order.insert(turn, key);
            Entry::new(now, turn)
        });
        entry.take(meta, part);
        Some(key)
    }

    /// Forgets what is too old, and the oldest if another one comes for which there is no room.
    fn make_room(&mut self, now: Instant, another: bool) {
        while let Some((_, key)) = self.order.first_key_value()
            && let Some(entry) = self.entries.get(key)
            && (entry.since.after(PATIENCE) < now || another && self.entries.len() >= self.most.max(1))
        {
            let key = *key;
            self.remove(&key);
            self.counts.incomplete += 1;
        }
    }

    fn remove(&mut self, key: &Key<P>) -> Option<Entry> {
        let entry = self.entries.remove(key)?;
        self.order.remove(&entry.turn);
        Some(entry)
    }
}

impl Entry {
    fn new(since: Instant, turn: u64) -> Self {
        Self {
            since,
            turn,
            first: None,
            end: None,
            known: SmallVec::new(),
        }
    }

    /// Whether a fragment of the same name cannot be of this datagram.
    fn is_another(&self, meta: &FrameMeta, part: Part) -> bool {
        let reach = self.known.iter().map(|(_, end)| *end).max().unwrap_or(0);
        let ends_elsewhere = match self.end {
            Some(end) if part.more => part.end > end,
            Some(end) => part.end != end,
            None => !part.more && reach > part.end,
        };
        let starts_otherwise = part.start == 0
            && self
                .first
                .is_some_and(|(first, _)| opening(&first) != opening(meta));
        ends_elsewhere || starts_otherwise || self.known.len() >= STRETCHES
    }

    fn take(&mut self, meta: &FrameMeta, part: Part) {
        if part.start == 0 && self.first.is_none() {
            self.first = Some((*meta, part.at));
        }
        if !part.more {
            self.end = Some(part.end);
        }
        let mut whole = (part.start, part.end);
        self.known.retain(|(start, end)| {
            let apart = *end < whole.0 || whole.1 < *start;
            if !apart {
                whole = (whole.0.min(*start), whole.1.max(*end));
            }
            apart
        });
        self.known.push(whole);
    }

    /// Its length, once all of it was seen.
    fn whole(&self) -> Option<u32> {
        let end = self.end?;
        (self.known.as_slice() == [(0, end)]).then_some(end)
    }
}

/// What tells a datagram's beginning from another one's.
fn opening(meta: &FrameMeta) -> Option<(u16, u16, u32, u32)> {
    match meta.ip()?.transport {
        Transport::Tcp(TcpMeta {
            src_port,
            dst_port,
            seq,
            ack,
            ..
        }) => Some((src_port, dst_port, seq, ack)),
        Transport::Udp(udp) => Some((udp.src_port, udp.dst_port, 0, 0)),
        Transport::Icmp { .. } | Transport::Other => None,
    }
}

/// The headers of a first fragment whose part of the datagram begins at `at`, as if `len` octets of that were in its frame.
fn uncut(first: &FrameMeta, at: u32, len: u32) -> FrameMeta {
    let mut meta = *first;
    let end = at + len;
    meta.frame_len = end;
    if let Network::Ipv4(ip) | Network::Ipv6(ip) = &mut meta.network {
        ip.fragment = false;
        ip.end = end;
        match &mut ip.transport {
            Transport::Tcp(tcp) => tcp.payload_len = end.saturating_sub(tcp.payload_offset.into()),
            Transport::Udp(udp) => udp.payload_len = end.saturating_sub(udp.payload_offset.into()),
            Transport::Icmp { .. } | Transport::Other => {}
        }
    }
    meta
}

/// `None` for what no datagram can be made of.
fn read<P>(place: P, octets: &[u8], meta: &FrameMeta) -> Option<(Key<P>, Part)> {
    let ip = meta.ip().filter(|ip| ip.fragment)?;
    let from = usize::from(meta.network_offset);
    let packet = octets.get(from..octets.len().min(ip.end as usize))?;
    let (protocol, id, (start, more), header) = match meta.network {
        Network::Ipv4(_) => {
            let view = Ipv4View::new(packet).ok()?;
            let part = (view.fragment_offset(), view.more_fragments());
            (view.protocol(), view.id().into(), part, view.header_len())
        }
        _ => Ipv6View::new(packet).ok()?.extensions().find_map(|header| {
            let part = header.fragment().filter(|(start, more)| *more || *start != 0)?;
            let behind = packet.len() - header.payload().len();
            Some((0, header.fragment_id()?, part, behind))
        })?,
    };
    let at = (from + header) as u32;
    let len = ip.end.checked_sub(at).filter(|len| *len > 0)?;
    let part = Part {
        at,
        start,
        end: start.checked_add(len)?,
        more,
    };
    let key = Key {
        place,
        vlan: meta.vlan.map_or(0, VlanTag::id),
        src: ip.src,
        dst: ip.dst,
        protocol,
        id,
    };
    (part.end <= LONGEST && (!more || len.is_multiple_of(8))).then_some((key, part))
}

#[cfg(test)]
mod tests;
