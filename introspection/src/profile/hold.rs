//! `hold`: store-and-forward inspection.
//!
//! Segments of a flow and direction are held until the message that they belong to seems complete: the sender pushed
//! (PSH), closed (FIN), sent a segment shorter than its longest so far, or repeated itself because it got no answer. A
//! message that does not end is let go when its first frame is due. Whatever comes behind held data waits with it, pure
//! acknowledgements included, so the order within a flow and direction is strictly kept. RST and SYN let everything before
//! them go.
//!
//! Rules judge a frame when it comes, since that is when its payload can be seen; their verdict on it stands at once.

use offload::{TcpFlags, TcpMeta};

use super::FilterOptions;
use super::core::Core;
use super::holding::Holding;
use crate::flow::Slot;
use crate::seq::{before, later};
use crate::{Action, Direction, FrameRef, Profile, ReleaseCause};

#[derive(Debug, Default)]
pub(super) struct State {
    /// Payload octets of the longest segment so far.
    longest: u32,
    /// The sequence number behind the newest payload.
    sent: Option<u32>,
}

#[derive(Debug)]
pub(super) struct Hold {
    core: Core<State>,
}

impl Hold {
    pub(super) fn new(options: FilterOptions) -> Self {
        let deadline = Profile::Hold.default_deadline().unwrap_or_default();
        Self {
            core: Core::new(options, deadline),
        }
    }
}

impl State {
    /// Takes note of a segment, and says whether nothing is to be waited for behind it.
    fn completes(&mut self, tcp: &TcpMeta, gso_size: u16) -> bool {
        let control = tcp.flags.any(TcpFlags::SYN | TcpFlags::FIN | TcpFlags::RST);
        if tcp.payload_len == 0 {
            return control;
        }
        let end = tcp.seq.wrapping_add(tcp.payload_len);
        let repeated = self.sent.is_some_and(|sent| !before(sent, end));
        self.sent = Some(self.sent.map_or(end, |sent| later(sent, end)));
        // A large send that is still to be cut counts as the segments that it will be.
        let size = match u32::from(gso_size) {
            0 => tcp.payload_len,
            size => size.min(tcp.payload_len),
        };
        self.longest = self.longest.max(size);
        let short = !tcp.payload_len.is_multiple_of(size) || size < self.longest;
        control || repeated || short || tcp.flags.any(TcpFlags::PSH)
    }
}

impl Holding for Hold {
    type State = State;

    const PROFILE: Profile = Profile::Hold;

    fn core(&self) -> &Core<State> {
        &self.core
    }

    fn core_mut(&mut self) -> &mut Core<State> {
        &mut self.core
    }

    fn place(&mut self, slot: Slot, tcp: &TcpMeta, frame: &FrameRef<'_>, actions: &mut Vec<Action>) {
        let Some(flow) = self.core.table.get_mut(slot) else {
            actions.push(Action::Forward(frame.id));
            return;
        };
        let side = flow.side_mut(frame.direction);
        let idle = side.queue.is_empty();
        if tcp.flags.any(TcpFlags::SYN) {
            side.own = State::default();
        }
        let complete = side.own.completes(tcp, frame.gso_size);
        if complete {
            self.core
                .release_all(slot, frame.direction, ReleaseCause::Satisfied, actions);
            actions.push(Action::Forward(frame.id));
        } else if idle && tcp.payload_len == 0 {
            actions.push(Action::Forward(frame.id));
        } else {
            self.core.hold(slot, frame, tcp, actions);
        }
    }

    /// The whole message so far goes: what stands behind its first frame has nothing else to wait for.
    fn overdue(&mut self, slot: Slot, direction: Direction, actions: &mut Vec<Action>) {
        self.core
            .release_all(slot, direction, ReleaseCause::Deadline, actions);
    }
}

#[cfg(test)]
mod tests;
