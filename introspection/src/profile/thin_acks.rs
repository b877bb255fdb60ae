//! `thin-acks`: of several pure acknowledgements one goes on, as with a filter or a link that compresses them.
//!
//! Of the acknowledgements that advance a flow, every `ratio`-th passes at once. Each of the others is held: a later one, or data
//! that acknowledges as much, takes its place and it is dropped; else it goes on when it is due. What senders read
//! as a signal is never touched, and lets what is held go before it: repeated acknowledgements, window updates, selective
//! acknowledgements, ECN echoes, SYN, FIN and RST. A selective acknowledgement is known by its options: they take more than time
//! stamps, or more than those of the direction's other segments, for one block and no time stamps are as long as time stamps.

use std::num::NonZeroU16;

use offload::{TcpFlags, TcpMeta};

use super::FilterOptions;
use super::core::Core;
use super::holding::Holding;
use crate::flow::Slot;
use crate::seq::before;
use crate::{Action, Direction, DropCause, FrameRef, Profile, ReleaseCause};

/// One acknowledgement of so many passes at once, unless told otherwise.
const RATIO: u16 = 4;
/// A TCP header with time stamps (RFC 7323, 3.2) and nothing else.
const HEADER_WITH_TIMES: u16 = 32;

#[derive(Debug, Default)]
pub(super) struct State {
    /// The newest acknowledgement seen.
    acked: Option<u32>,
    /// Acknowledgements since the last one that passed at once.
    since: u16,
    /// The shortest TCP header seen, but for those of SYN and RST.
    header: Option<NonZeroU16>,
}

impl State {
    /// Whether a segment is an acknowledgement and nothing more, and takes note of its header's length.
    fn is_pure(&mut self, tcp: &TcpMeta, frame: &FrameRef<'_>) -> bool {
        let header = frame.meta.ip().map_or(u16::MAX, |ip| {
            tcp.payload_offset.saturating_sub(ip.transport_offset)
        });
        if !tcp.flags.any(TcpFlags::SYN | TcpFlags::RST) {
            let seen = self.header.map_or(HEADER_WITH_TIMES, NonZeroU16::get);
            self.header = NonZeroU16::new(seen.min(header));
        }
        let plain = self.header.map_or(HEADER_WITH_TIMES, NonZeroU16::get);
        tcp.payload_len == 0 && tcp.flags.0 == TcpFlags::ACK && header <= plain
    }
}

#[derive(Debug)]
pub(super) struct ThinAcks {
    core: Core<State>,
    ratio: u16,
}

impl ThinAcks {
    pub(super) fn new(options: FilterOptions) -> Self {
        let deadline = Profile::ThinAcks.default_deadline().unwrap_or_default();
        Self {
            ratio: options.ratio.unwrap_or(RATIO).max(1),
            core: Core::new(options, deadline),
        }
    }

    /// What is held goes: for good if `ack` says as much, else onwards.
    fn make_way(&mut self, slot: Slot, direction: Direction, ack: Option<u32>, actions: &mut Vec<Action>) {
        let Some(flow) = self.core.table.get(slot) else {
            return;
        };
        let held = self
            .core
            .held
            .front(flow.side(direction).queue)
            .and_then(|held| held.ack);
        if let (Some(held), Some(ack)) = (held, ack)
            && !before(ack, held)
        {
            self.core.drop_first(slot, direction, DropCause::Thinned, actions);
        } else {
            self.core
                .release_all(slot, direction, ReleaseCause::Satisfied, actions);
        }
    }
}

impl Holding for ThinAcks {
    type State = State;

    const PROFILE: Profile = Profile::ThinAcks;

    fn core(&self) -> &Core<State> {
        &self.core
    }

    fn core_mut(&mut self) -> &mut Core<State> {
        &mut self.core
    }

    fn place(&mut self, slot: Slot, tcp: &TcpMeta, frame: &FrameRef<'_>, actions: &mut Vec<Action>) {
        let direction = frame.direction;
        let has_ack = tcp.flags.any(TcpFlags::ACK);
        let ratio = self.ratio;
        let (mut advances, mut passes) = (false, true);
        if let Some(flow) = self.core.table.get_mut(slot) {
            let own = &mut flow.side_mut(direction).own;
            if tcp.flags.any(TcpFlags::SYN) {
                *own = State::default();
            }
            let pure = own.is_pure(tcp, frame);
            advances = has_ack && own.acked.is_none_or(|acked| before(acked, tcp.ack));
            if advances {
                passes = !pure || own.acked.is_none() || own.since + 1 >= ratio;
                own.since = if passes { 0 } else { own.since + 1 };
                own.acked = Some(tcp.ack);
            }
        }
        // A signal must not replace what it is compared with: its sender's peer counts both.
        let replaces =
            has_ack && (advances || tcp.payload_len > 0) && !tcp.flags.any(TcpFlags::SYN | TcpFlags::RST);
        self.make_way(slot, direction, replaces.then_some(tcp.ack), actions);
        if passes {
            actions.push(Action::Forward(frame.id));
        } else {
            self.core.hold(slot, frame, tcp, actions);
        }
    }

    fn overdue(&mut self, slot: Slot, direction: Direction, actions: &mut Vec<Action>) {
        self.core
            .release_all(slot, direction, ReleaseCause::Deadline, actions);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Port, Segment};
    use crate::{FilterOptions, build};

    const RX: Direction = Direction::Rx;

    fn port(ratio: u16) -> Port {
        let options = FilterOptions {
            ratio: Some(ratio),
            ..FilterOptions::default()
        };
        Port::with(build(Profile::ThinAcks, options))
    }

    /// Acknowledgement numbers that left.
    fn acks(port: &mut Port) -> Vec<u32> {
        let passed = port.passed.drain(..);
        passed.filter_map(|(_, _, meta)| Some(meta.tcp()?.ack)).collect()
    }

    #[test]
    fn one_of_so_many_passes_and_the_last_one_at_its_deadline() {
        let mut port = port(3);
        for n in 1..=9 {
            port.carry(n, Segment::rx().ack(n as u32 * 1000));
        }
        assert_eq!(acks(&mut port), [1000, 4000, 7000]);
        port.wait(10_009);
        assert_eq!(acks(&mut port), [9000]);
        let counters = port.counters();
        assert_eq!((counters.thinned, counters.deadline_released), (5, 1));
    }

    #[test]
    fn signals_pass_in_order() {
        let mut port = port(100);
        port.carry(0, Segment::rx().ack(1));
        port.carry(1, Segment::rx().ack(100));
        for n in 2..5 {
            port.carry(n, Segment::rx().ack(100));
        }
        assert_eq!(acks(&mut port), [1, 100, 100, 100, 100]);
        port.carry(6, Segment::rx().ack(200));
        port.carry(7, Segment::rx().ack(200).flags(TcpFlags::ACK | 0x40));
        assert_eq!(acks(&mut port), [200, 200]);
        assert_eq!(port.counters().thinned, 0);
    }

    /// With time stamps on all segments of the connection, and with none. One block is as long as time stamps.
    #[test]
    fn selective_acknowledgements_are_never_left_out() {
        for (plain, selective) in [(12, 24), (12, 40), (0, 12), (0, 20)] {
            let mut port = port(100);
            let plain = |ack| Segment::rx().ack(ack).options(plain);
            let selective = |ack| Segment::rx().ack(ack).options(selective);
            port.carry(0, Segment::rx().flags(TcpFlags::SYN | TcpFlags::ACK).options(20));
            port.carry(1, plain(100));
            port.carry(2, plain(200));
            assert_eq!(acks(&mut port), [0], "the newest is held, the other left out");
            // They advance, so that their number alone would not keep them; what they replace goes, and they stay.
            for n in 3..20 {
                port.carry(n, selective(n as u32 * 100));
                assert_eq!(acks(&mut port), [n as u32 * 100]);
                // Again, and in answer to something that was sent twice.
                port.carry(n, selective(n as u32 * 100));
                assert_eq!(acks(&mut port), [n as u32 * 100]);
            }
            assert_eq!(port.counters().thinned, 2);
            port.carry(20, plain(2000));
            port.carry(21, plain(2100));
            port.carry(22, selective(2100));
            assert_eq!(acks(&mut port), [2100, 2100], "what is repeated goes before it");
            assert_eq!(port.counters().thinned, 3);
        }
    }

    #[test]
    fn data_carries_what_was_held() {
        let mut port = port(100);
        port.carry(0, Segment::rx().ack(1));
        port.carry(1, Segment::rx().ack(100));
        port.carry(2, Segment::rx().data(1, 10).ack(100));
        assert_eq!(port.left(), [(RX, 0, 0), (RX, 1, 10)]);
        port.carry(3, Segment::rx().ack(300));
        port.carry(4, Segment::rx().data(11, 10).ack(200));
        assert_eq!(acks(&mut port), [300, 200]);
        assert_eq!(port.counters().thinned, 1);
    }
}
