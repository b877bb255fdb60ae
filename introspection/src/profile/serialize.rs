//! `serialize`: one unacknowledged chunk for each flow and direction.
//!
//! A chunk is one frame with payload, a large send included. The next frame with payload waits until the receiver has
//! acknowledged the chunk that passed before it. This is what a guest agent does to TCP that completes a send only when the
//! one before it was acknowledged; it meets the receiver's delayed acknowledgement on every second small write.
//!
//! Order. Frames that bring new payload, and FIN, keep their order strictly. Two kinds of frames pass at once even
//! while payload of their own direction is held, and so may overtake it:
//! - pure acknowledgements: the other end's data may wait for them, here or in its own retransmission timer, and a
//!   receiver takes them in whatever order (RFC 9293, 3.10.7.4: any segment within its window);
//! - repetitions of payload that passed already: they come *before* the held data in the stream.
//!
//! An acknowledgement that rides on held payload counts when that is released, with one exception: when both directions
//! hold payload and each carries the acknowledgement that the other waits for, neither could ever go; then both count.

use offload::{TcpFlags, TcpMeta};

use super::FilterOptions;
use super::core::Core;
use super::held::Held;
use super::holding::Holding;
use crate::flow::Slot;
use crate::seq::{before, distance, later};
use crate::{Action, Direction, FrameRef, Profile, ReleaseCause};

const BOTH: [Direction; 2] = [Direction::Tx, Direction::Rx];

#[derive(Debug, Default)]
pub(super) struct State {
    /// The sequence number behind the newest payload that passed.
    sent: Option<u32>,
    /// The receiver has everything before this.
    acked: Option<u32>,
}

impl State {
    /// Whether a chunk that passed is unacknowledged.
    fn is_waiting(&self, chunk: u32) -> bool {
        match (self.sent, self.acked) {
            (Some(sent), Some(acked)) => u32::try_from(distance(acked, sent)).is_ok_and(|open| open >= chunk),
            (Some(_), None) => true,
            (None, _) => false,
        }
    }

    /// Whether payload up to `end` passed already.
    fn has_passed(&self, end: u32) -> bool {
        self.sent.is_some_and(|sent| !before(sent, end))
    }

    fn pass(&mut self, end: u32) {
        self.sent = Some(self.sent.map_or(end, |sent| later(sent, end)));
    }

    fn acknowledge(&mut self, ack: u32) {
        self.acked = Some(self.acked.map_or(ack, |acked| later(acked, ack)));
    }

    /// Whether `ack` would end the wait.
    fn would_do(&self, ack: Option<u32>) -> bool {
        match (self.sent, ack) {
            (Some(sent), Some(ack)) => !before(ack, sent),
            _ => false,
        }
    }
}

#[derive(Debug)]
pub(super) struct Serialize {
    core: Core<State>,
    /// Octets from which on unacknowledged payload makes the next wait.
    chunk: u32,
}

impl Serialize {
    pub(super) fn new(options: FilterOptions) -> Self {
        let deadline = Profile::Serialize.default_deadline().unwrap_or_default();
        Self {
            chunk: options.chunk.unwrap_or(1),
            core: Core::new(options, deadline),
        }
    }

    /// A SYN starts its direction anew; a RST ends both.
    fn begin_or_end(&mut self, slot: Slot, tcp: &TcpMeta, direction: Direction, actions: &mut Vec<Action>) {
        let ends = tcp.flags.any(TcpFlags::RST);
        for side in BOTH.into_iter().filter(|side| ends || *side == direction) {
            self.core
                .release_all(slot, side, ReleaseCause::Satisfied, actions);
            if let Some(flow) = self.core.table.get_mut(slot) {
                flow.side_mut(side).own = State::default();
            }
        }
    }

    /// Takes note of a frame that goes on: of its payload, up to `end`, and of its acknowledgement.
    fn passed(&mut self, slot: Slot, direction: Direction, end: Option<u32>, ack: Option<u32>) {
        let Some(flow) = self.core.table.get_mut(slot) else {
            return;
        };
        if let Some(end) = end {
            flow.side_mut(direction).own.pass(end);
        }
        if let Some(ack) = ack {
            flow.side_mut(opposite(direction)).own.acknowledge(ack);
        }
    }

    /// Releases what no longer has to wait.
    fn settle(&mut self, slot: Slot, actions: &mut Vec<Action>) {
        loop {
            let mut moved = false;
            for direction in BOTH {
                while self.may_go(slot, direction) {
                    self.release(slot, direction, ReleaseCause::Satisfied, actions);
                    moved = true;
                }
            }
            let untied = !moved && self.untie(slot) && BOTH.iter().any(|side| self.may_go(slot, *side));
            if !moved && !untied {
                return;
            }
        }
    }

    /// Whether the first held frame of a direction has nothing to wait for.
    fn may_go(&self, slot: Slot, direction: Direction) -> bool {
        let Some(flow) = self.core.table.get(slot) else {
            return false;
        };
        let side = flow.side(direction);
        self.core.held.front(side.queue).is_some_and(|front| {
            !front.payload || !side.own.is_waiting(self.chunk) || side.own.has_passed(front.end)
        })
    }

    fn release(&mut self, slot: Slot, direction: Direction, cause: ReleaseCause, actions: &mut Vec<Action>) {
        if let Some(Held {
            end, payload, ack, ..
        }) = self.core.release_first(slot, direction, cause, actions)
        {
            self.passed(slot, direction, payload.then_some(end), ack);
        }
    }

    /// Unties two directions that wait for each other; true when they did.
    fn untie(&mut self, slot: Slot) -> bool {
        let held = &self.core.held;
        let Some(flow) = self.core.table.get_mut(slot) else {
            return false;
        };
        let [tx, rx] = BOTH.map(|side| held.back(flow.side(side).queue).and_then(|back| back.ack));
        let tied = flow.side(Direction::Tx).own.would_do(rx) && flow.side(Direction::Rx).own.would_do(tx);
        if let (true, Some(tx), Some(rx)) = (tied, tx, rx) {
            flow.side_mut(Direction::Tx).own.acknowledge(rx);
            flow.side_mut(Direction::Rx).own.acknowledge(tx);
        }
        tied
    }
}

const fn opposite(direction: Direction) -> Direction {
    match direction {
        Direction::Tx => Direction::Rx,
        Direction::Rx => Direction::Tx,
    }
}

const fn payload_end(tcp: &TcpMeta) -> u32 {
    let syn = if tcp.flags.any(TcpFlags::SYN) { 1 } else { 0 };
    tcp.seq.wrapping_add(syn).wrapping_add(tcp.payload_len)
}

impl Holding for Serialize {
    type State = State;

    const PROFILE: Profile = Profile::Serialize;

    fn core(&self) -> &Core<State> {
        &self.core
    }

    fn core_mut(&mut self) -> &mut Core<State> {
        &mut self.core
    }

    fn place(&mut self, slot: Slot, tcp: &TcpMeta, frame: &FrameRef<'_>, actions: &mut Vec<Action>) {
        if tcp.flags.any(TcpFlags::SYN | TcpFlags::RST) {
            self.begin_or_end(slot, tcp, frame.direction, actions);
        }
        let Some(flow) = self.core.table.get(slot) else {
            actions.push(Action::Forward(frame.id));
            return;
        };
        let side = flow.side(frame.direction);
        let end = payload_end(tcp);
        let waits = if tcp.payload_len > 0 {
            !side.own.has_passed(end) && (side.own.is_waiting(self.chunk) || !side.queue.is_empty())
        } else {
            tcp.flags.any(TcpFlags::FIN) && !side.queue.is_empty()
        };
        if waits && self.core.hold(slot, frame, tcp, actions) {
            self.settle(slot, actions);
            return;
        }
        if !waits {
            actions.push(Action::Forward(frame.id));
        }
        let ack = tcp.flags.any(TcpFlags::ACK).then_some(tcp.ack);
        self.passed(slot, frame.direction, (tcp.payload_len > 0).then_some(end), ack);
        self.settle(slot, actions);
    }

    fn pass_by(&mut self, slot: Slot, tcp: &TcpMeta, frame: &FrameRef<'_>, actions: &mut Vec<Action>) {
        actions.push(Action::Forward(frame.id));
        if tcp.flags.any(TcpFlags::SYN | TcpFlags::RST) {
            self.begin_or_end(slot, tcp, frame.direction, actions);
        }
        let ack = tcp.flags.any(TcpFlags::ACK).then_some(tcp.ack);
        self.passed(slot, frame.direction, None, ack);
        self.settle(slot, actions);
    }

    fn overdue(&mut self, slot: Slot, direction: Direction, actions: &mut Vec<Action>) {
        self.release(slot, direction, ReleaseCause::Deadline, actions);
        self.settle(slot, actions);
    }
}

#[cfg(test)]
mod tests;
