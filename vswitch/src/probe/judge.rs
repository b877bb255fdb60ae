//! Showing packets to a filter, and what is done when it fails.

use introspection::{Action, Direction, Filter, FrameId, FrameRef, Instant, Needs, ReleaseCause};
use offload::{Network, Transport};

use super::guarded::Failure;
use super::{Carrier, Inner, Passed, exit};
use crate::clock;
use crate::frame::BURST;
use crate::packet::{Arena, Packet};

impl Inner {
    /// Shows packets to the filter and does what it says.
    pub(super) fn judge(
        &mut self,
        now: Instant,
        direction: Direction,
        packets: &mut Vec<Packet>,
        passed: &mut Passed,
        carrier: &mut Carrier<'_>,
    ) -> bool {
        let first = self.next_id;
        let mut actions = std::mem::take(&mut self.actions);
        let failure = self.show(now, direction, packets, carrier.arena, &mut actions);
        let spent = self.filter.as_ref().map_or(0, |filter| filter.ended().since(now));
        for packet in packets.iter_mut() {
            packet.times.filter += spent;
        }
        let usable = self.filter.as_ref().filter(|_| !is_panic(failure.as_ref()));
        let parts = usable.and_then(|filter| filter.get().parts());
        self.account.judged(spent, parts.map_or(&[], |work| &work.judged));
        let others = if all_pass(first, packets.len(), &actions) {
            actions.clear();
            self.pass_all(now, direction, packets, passed, carrier.arena);
            false
        } else {
            fail_open(first, packets.len(), &mut actions);
            let batch = Batch {
                first,
                direction,
                packets,
            };
            self.carry_out(now, &mut actions, Some(&batch), passed, Some(carrier))
        };
        self.account.settle();
        packets.clear();
        self.actions = actions;
        self.take_out(now, failure) || others
    }

    /// Lets a whole batch go on, which is what becomes of most, without asking for each packet what the filter said.
    fn pass_all(
        &mut self,
        now: Instant,
        direction: Direction,
        packets: &mut Vec<Packet>,
        passed: &mut Passed,
        arena: &Arena,
    ) {
        for packet in packets.iter() {
            let octets = arena.head(packet.octets);
            self.account.forwarded(now, packet, octets, direction);
        }
        self.observe(now, exit(direction), direction, packets, arena);
        let out = passed.side(direction);
        if out.is_empty() {
            std::mem::swap(out, packets);
        } else {
            out.append(packets);
        }
    }

    /// Shows packets to the filter.
    fn show(
        &mut self,
        now: Instant,
        direction: Direction,
        packets: &mut [Packet],
        arena: &mut Arena,
        actions: &mut Vec<Action>,
    ) -> Option<Failure> {
        let first = self.next_id;
        self.next_id += packets.len() as u64;
        let payload = self
            .filter
            .as_ref()
            .is_some_and(|filter| filter.get().needs() == Needs::Payload);
        if payload {
            make_private(packets, arena);
        }
        let frames: arrayvec::ArrayVec<FrameRef<'_>, BURST> = packets
            .iter()
            .zip(first..)
            .take(BURST)
            .map(|(packet, id)| FrameRef {
                id: FrameId(id),
                direction,
                meta: &packet.meta,
                payload: if payload { payload_of(packet, arena) } else { &[] },
                gso_size: packet.gso_size(),
            })
            .collect();
        let stamped = packets.iter().any(|packet| packet.times.is_stamped());
        self.attempt(actions, |filter, actions| {
            filter.measure(stamped.then_some(clock::now));
            filter.inspect(now, &frames, actions);
        })
    }

    /// Has the filter do something. If it panics, what it said is forgotten, and all that is held is let go instead.
    pub(super) fn attempt(
        &mut self,
        actions: &mut Vec<Action>,
        work: impl FnOnce(&mut dyn Filter, &mut Vec<Action>),
    ) -> Option<Failure> {
        let failure = self
            .filter
            .as_mut()?
            .attempt(|filter| work(filter, actions))
            .err();
        if is_panic(failure.as_ref()) {
            actions.clear();
            let mut held: Vec<FrameId> = self.held.keys().copied().collect();
            held.sort_unstable();
            actions.extend(
                held.into_iter()
                    .map(|id| Action::Release(id, ReleaseCause::Drained)),
            );
        } else {
            self.credit_holds();
        }
        failure
    }

    /// Takes a filter that failed out of the path. True when there was one: other lanes may have to look into their outboxes.
    pub(super) fn take_out(&mut self, now: Instant, failure: Option<Failure>) -> bool {
        let reason = match failure {
            None => return false,
            Some(Failure::Panicked(reason)) => reason,
            Some(Failure::Slow(reason)) => {
                self.drain(now);
                reason
            }
        };
        tracing::error!(
            "port {}: the filter \"{}\" is out of the path: it {reason}",
            self.name,
            self.config.profile
        );
        self.failure = Some(reason);
        if let Some(filter) = self.filter.take() {
            filter.end();
        }
        true
    }
}

const fn is_panic(failure: Option<&Failure>) -> bool {
    matches!(failure, Some(Failure::Panicked(_)))
}

/// Packets shown to a filter together, and the name of the first.
pub(super) struct Batch<'a> {
    pub(super) first: u64,
    pub(super) direction: Direction,
    pub(super) packets: &'a [Packet],
}

impl Batch<'_> {
    /// The packet of this name, if it is one of these.
    pub(super) fn find(&self, id: FrameId) -> Option<(Packet, Direction)> {
        let index = usize::try_from(id.0.checked_sub(self.first)?).ok()?;
        self.packets.get(index).map(|packet| (*packet, self.direction))
    }
}

/// Whether a filter let all packets of a batch pass, in their order, and said nothing else.
fn all_pass(first: u64, packets: usize, actions: &[Action]) -> bool {
    actions.len() == packets
        && actions
            .iter()
            .zip(first..)
            .all(|(action, id)| *action == Action::Forward(FrameId(id)))
}

/// Forwards the frames of a batch, at most [`BURST`] from `first` on, that a filter has said nothing of.
fn fail_open(first: u64, frames: usize, actions: &mut Vec<Action>) {
    let mut judged = 0_u64;
    for action in actions.iter() {
        if let Action::Forward(id) | Action::Hold(id) | Action::Drop(id, _) = action {
            judged |=
                id.0.checked_sub(first)
                    .and_then(|at| 1_u64.checked_shl(u32::try_from(at).ok()?))
                    .unwrap_or(0);
        }
    }
    for at in 0..frames.min(BURST) as u64 {
        if judged & 1 << at == 0 {
            actions.push(Action::Forward(FrameId(first + at)));
        }
    }
}

/// Copies packets out of their sender's reach. While one is copied, the next one's octets are fetched.
fn make_private(packets: &mut [Packet], arena: &mut Arena) {
    let mut packets = packets.iter_mut().peekable();
    while let Some(packet) = packets.next() {
        if let Some(next) = packets.peek() {
            arena.prefetch(next.octets);
        }
        arena.make_private(packet);
        read_on(packet, arena);
    }
}

/// Reads the headers of a private packet to their end: IPv6 extension headers may go on behind what every frame is judged by, and what
/// stands behind them shall be seen.
fn read_on(packet: &mut Packet, arena: &Arena) {
    let meta = &mut packet.meta;
    if let Network::Ipv6(ip) = meta.network
        && ip.transport == Transport::Other
        && let Ok(whole) = offload::parse(arena.head(packet.octets), meta.frame_len as usize)
    {
        meta.network = whole.network;
    }
}

/// The transport payload of a private packet; of a fragment, the packet.
fn payload_of<'a>(packet: &Packet, arena: &'a Arena) -> &'a [u8] {
    let Some(ip) = packet.meta.ip() else { return &[] };
    let range = if ip.fragment {
        Some(usize::from(packet.meta.network_offset)..ip.end as usize)
    } else {
        ip.transport.payload()
    };
    range
        .and_then(|range| arena.head(packet.octets).get(range))
        .unwrap_or(&[])
}
