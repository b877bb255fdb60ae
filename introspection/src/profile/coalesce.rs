//! `coalesce`: adjacent segments of a flow leave as one large frame.
//!
//! Segments that follow each other are held until they fill a chunk, one of them ends a message (PSH, or shorter than the
//! first) or the first is due. Then they go on together, and the owner makes one frame of those that a receiver could not tell from
//! such (see [`offload::coalesce`]). The receiver counts one segment where there were many, and answers with one acknowledgement.
//! Whatever else comes lets what is held go before it, so the order within a flow and direction is strictly kept.

use offload::{TcpFlags, TcpMeta};

use super::FilterOptions;
use super::core::Core;
use super::holding::Holding;
use crate::flow::Slot;
use crate::{Action, Direction, FrameRef, Profile, ReleaseCause};

/// Payload octets of a chunk unless told otherwise: 45 segments of 1,448 octets, as many as one IP packet holds.
const CHUNK: u32 = 65_160;

#[derive(Debug, Default)]
pub(super) struct State {
    /// The sequence number behind what is held.
    next: u32,
    /// Payload octets held.
    octets: u32,
    /// Payload octets of the first segment held.
    size: u32,
}

#[derive(Debug)]
pub(super) struct Coalesce {
    core: Core<State>,
    chunk: u32,
}

impl Coalesce {
    pub(super) fn new(options: FilterOptions) -> Self {
        let deadline = Profile::Coalesce.default_deadline().unwrap_or_default();
        Self {
            chunk: options.chunk.unwrap_or(CHUNK),
            core: Core::new(options, deadline),
        }
    }

    /// Holds a segment behind those that it follows; true when nothing is to be waited for behind it.
    fn append(&mut self, slot: Slot, tcp: &TcpMeta, frame: &FrameRef<'_>, actions: &mut Vec<Action>) -> bool {
        if !self.core.hold(slot, frame, tcp, actions) {
            return false;
        }
        let chunk = self.chunk;
        let Some(flow) = self.core.table.get_mut(slot) else {
            return false;
        };
        let own = &mut flow.side_mut(frame.direction).own;
        own.next = tcp.seq.wrapping_add(tcp.payload_len);
        own.octets += tcp.payload_len;
        own.size = own.size.max(tcp.payload_len);
        tcp.flags.any(TcpFlags::PSH) || tcp.payload_len < own.size || own.octets + own.size > chunk
    }

    fn flush(&mut self, slot: Slot, direction: Direction, cause: ReleaseCause, actions: &mut Vec<Action>) {
        self.core.join_all(slot, direction, cause, actions);
        if let Some(flow) = self.core.table.get_mut(slot) {
            flow.side_mut(direction).own = State::default();
        }
    }
}

/// Whether a segment may be one of several that are made one.
fn may_join(tcp: &TcpMeta, frame: &FrameRef<'_>) -> bool {
    let plain = TcpFlags::ACK | TcpFlags::PSH;
    tcp.payload_len > 0 && frame.gso_size == 0 && tcp.flags.any(TcpFlags::ACK) && !tcp.flags.any(!plain)
}

impl Holding for Coalesce {
    type State = State;

    const PROFILE: Profile = Profile::Coalesce;

    fn core(&self) -> &Core<State> {
        &self.core
    }

    fn core_mut(&mut self) -> &mut Core<State> {
        &mut self.core
    }

    fn place(&mut self, slot: Slot, tcp: &TcpMeta, frame: &FrameRef<'_>, actions: &mut Vec<Action>) {
        let joins = may_join(tcp, frame);
        let Some(flow) = self.core.table.get(slot) else {
            actions.push(Action::Forward(frame.id));
            return;
        };
        let side = flow.side(frame.direction);
        let follows = joins
            && side.own.next == tcp.seq
            && tcp.payload_len <= side.own.size
            && side.own.octets + tcp.payload_len <= self.chunk;
        let is_empty = side.queue.is_empty();
        if !is_empty && !follows {
            self.flush(slot, frame.direction, ReleaseCause::Satisfied, actions);
        }
        let alone = !joins || tcp.payload_len * 2 > self.chunk || (tcp.flags.any(TcpFlags::PSH) && !follows);
        if alone && (is_empty || !follows) {
            actions.push(Action::Forward(frame.id));
        } else if self.append(slot, tcp, frame, actions) {
            self.flush(slot, frame.direction, ReleaseCause::Satisfied, actions);
        }
    }

    fn overdue(&mut self, slot: Slot, direction: Direction, actions: &mut Vec<Action>) {
        self.flush(slot, direction, ReleaseCause::Deadline, actions);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Port, Segment};
    use crate::{FilterOptions, build};

    const TX: Direction = Direction::Tx;

    fn data(seq: u32, len: u32) -> Segment {
        Segment::tx().data(seq, len)
    }

    fn port(chunk: u32) -> Port {
        let options = FilterOptions {
            chunk: Some(chunk),
            ..FilterOptions::default()
        };
        Port::with(build(Profile::Coalesce, options))
    }

    #[test]
    fn a_chunk_leaves_as_one() {
        let mut port = port(4500);
        for n in 0..4 {
            port.carry(0, data(n * 1448, 1448));
        }
        assert_eq!(port.left(), [(TX, 0, 1448), (TX, 1448, 1448), (TX, 2896, 1448)]);
        assert_eq!(port.counters().joined, 2);
        port.wait(1_000);
        assert_eq!(port.left(), [(TX, 4344, 1448)]);
        assert_eq!(port.causes.last(), Some(&ReleaseCause::Deadline));
    }

    #[test]
    fn a_message_does_not_wait_at_its_end() {
        let push = TcpFlags::ACK | TcpFlags::PSH;
        for last in [data(1448, 1448).flags(push), data(1448, 7)] {
            let mut port = port(60_000);
            port.carry(0, data(0, 1448));
            assert_eq!(port.left(), []);
            port.carry(1, last);
            assert_eq!(port.left().len(), 2);
            assert_eq!(port.counters().joined, 1);
        }
        let mut port = port(60_000);
        port.carry(0, data(0, 100).flags(push));
        assert_eq!(port.left().len(), 1);
        assert_eq!(port.counters().held, 0);
    }

    #[test]
    fn what_does_not_follow_lets_the_others_go_first() {
        for next in [
            data(9000, 1448),
            data(1448, 0),
            data(1448, 9).flags(TcpFlags::ACK | TcpFlags::FIN),
        ] {
            let mut port = port(60_000);
            port.carry(0, data(0, 1448));
            port.carry(1, next);
            port.wait(1_001);
            assert_eq!(port.left().len(), 2);
            assert_eq!(port.counters().joined, 0);
        }
    }

    #[test]
    fn the_other_direction_can_be_left_alone() {
        let options = FilterOptions {
            direction: Some(Direction::Rx),
            ..FilterOptions::default()
        };
        let mut port = Port::with(build(Profile::Coalesce, options));
        port.carry(0, data(0, 1448));
        port.carry(0, Segment::rx().data(0, 1448));
        assert_eq!(port.left(), [(TX, 0, 1448)]);
    }
}
