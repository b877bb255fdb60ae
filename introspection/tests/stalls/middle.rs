//! What is between the taps: the real filters, and faults.

use std::collections::HashMap;

use introspection::{Action, Direction, Filter, FrameId, FrameRef, Instant};

use super::endpoint::{MSS, Packet};
use super::wire::meta;

pub(crate) enum Middle {
    Off,
    Real(Box<dyn Filter>),
    /// Pure acknowledgements of this sender are dropped (`None`) or delayed, in so many of a hundred cases.
    Thin {
        of: usize,
        percent: u64,
        delay: Option<u64>,
    },
    /// Adjacent full segments of this sender that come within so many nanoseconds become one frame.
    Merge {
        of: usize,
        window: u64,
        keeps_size: bool,
    },
    /// Segments are cut in two.
    Split,
}

/// Why a packet leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Through,
    Satisfied,
    Deadline,
}

#[derive(Default)]
pub(crate) struct Kept {
    next: u64,
    real: HashMap<FrameId, (Packet, u64)>,
    thinned: Vec<(u64, Packet)>,
    merging: Option<(u64, Packet)>,
}

impl Kept {
    /// Whether any of these octets of a sender is in here.
    pub(crate) fn has(&self, from: usize, seq: u64, end: u64) -> bool {
        let covers = |packet: &Packet| {
            packet.from == from && packet.len > 0 && packet.seq < end && seq < packet.seq + packet.len
        };
        self.real.values().any(|(packet, _)| covers(packet))
            || self.merging.iter().any(|(_, packet)| covers(packet))
    }

    /// Since when an acknowledgement up to here is in here.
    pub(crate) fn has_ack(&self, from: usize, ack: u64) -> Option<u64> {
        let kept = self.real.values().map(|(packet, _)| packet);
        let thinned = self.thinned.iter().map(|(_, packet)| packet);
        let acks = kept
            .chain(thinned)
            .filter(|packet| packet.from == from && packet.ack >= ack);
        acks.map(|packet| packet.how.filter_in).min()
    }

    /// When something is due.
    pub(crate) fn due(&self, middle: &Middle) -> Option<u64> {
        match middle {
            Middle::Real(filter) => filter.next_deadline().map(|at| at.0),
            Middle::Thin { .. } => self.thinned.iter().map(|(at, _)| *at).min(),
            Middle::Merge { .. } => self.merging.map(|(at, _)| at),
            Middle::Off | Middle::Split => None,
        }
    }

    /// Takes a packet in; what leaves, and why.
    pub(crate) fn pass(
        &mut self,
        middle: &mut Middle,
        now: u64,
        packet: Packet,
        chance: u64,
        out: &mut Vec<(Packet, Way)>,
    ) -> bool {
        match middle {
            Middle::Real(filter) => self.inspect(filter.as_mut(), now, packet, out),
            Middle::Thin { of, percent, delay }
                if packet.from == *of && packet.len == 0 && chance < *percent =>
            {
                match delay {
                    Some(delay) => self.thinned.push((now + *delay, packet)),
                    None => return false,
                }
            }
            Middle::Merge {
                of,
                window,
                keeps_size,
            } if packet.from == *of => {
                self.merge(now, packet, *window, *keeps_size, out);
            }
            Middle::Split if packet.len > MSS / 2 => {
                let half = packet.len / 2;
                out.push((
                    Packet {
                        len: half,
                        push: false,
                        ..packet
                    },
                    Way::Through,
                ));
                out.push((
                    Packet {
                        seq: packet.seq + half,
                        len: packet.len - half,
                        ..packet
                    },
                    Way::Through,
                ));
            }
            _ => out.push((packet, Way::Through)),
        }
        true
    }

    fn inspect(&mut self, filter: &mut dyn Filter, now: u64, packet: Packet, out: &mut Vec<(Packet, Way)>) {
        let id = FrameId(self.next);
        self.next += 1;
        let meta = meta(&packet);
        let direction = if packet.from == 0 {
            Direction::Tx
        } else {
            Direction::Rx
        };
        let frame = FrameRef {
            id,
            direction,
            meta: &meta,
            payload: &[],
            gso_size: 0,
        };
        self.real.insert(id, (packet, now));
        let mut actions = Vec::new();
        filter.inspect(Instant(now), &[frame], &mut actions);
        self.carry_out(actions, out);
    }

    fn merge(
        &mut self,
        now: u64,
        packet: Packet,
        window: u64,
        keeps_size: bool,
        out: &mut Vec<(Packet, Way)>,
    ) {
        if let Some((at, first)) = self.merging.take() {
            if packet.len > 0 && first.seq + first.len == packet.seq && first.len + packet.len <= 60_000 {
                let merged = Packet {
                    len: first.len + packet.len,
                    segments: first.segments + packet.segments,
                    gso: keeps_size,
                    seq: first.seq,
                    ..packet
                };
                if packet.len < MSS {
                    out.push((merged, Way::Through));
                } else {
                    self.merging = Some((at, merged));
                }
                return;
            }
            out.push((first, Way::Through));
        }
        if packet.len == MSS {
            self.merging = Some((now + window, packet));
        } else {
            out.push((packet, Way::Through));
        }
    }

    /// Lets go what is due.
    pub(crate) fn expire(&mut self, middle: &mut Middle, now: u64, out: &mut Vec<(Packet, Way)>) {
        match middle {
            Middle::Real(filter) => {
                let mut actions = Vec::new();
                filter.expire(Instant(now), &mut actions);
                self.carry_out(actions, out);
            }
            Middle::Thin { .. } => {
                let due = |held: &mut (u64, Packet)| held.0 <= now;
                out.extend(
                    self.thinned
                        .extract_if(.., due)
                        .map(|(_, packet)| (packet, Way::Deadline)),
                );
            }
            Middle::Merge { .. } => out.extend(
                self.merging
                    .take_if(|held| held.0 <= now)
                    .map(|(_, packet)| (packet, Way::Through)),
            ),
            Middle::Off | Middle::Split => {}
        }
    }

    fn carry_out(&mut self, actions: Vec<Action>, out: &mut Vec<(Packet, Way)>) {
        for action in actions {
            let (id, way) = match action {
                Action::Forward(id) => (id, Way::Through),
                Action::Release(id, introspection::ReleaseCause::Satisfied) => (id, Way::Satisfied),
                Action::Release(id, _) => (id, Way::Deadline),
                _ => continue,
            };
            if let Some((packet, _)) = self.real.remove(&id) {
                out.push((packet, way));
            }
        }
    }
}
