//! The last frames of a connection that still runs, to be judged as a trace is.

use std::collections::VecDeque;

use offload::TcpMeta;

use super::DiagnosisOptions;
use super::finding::Finding;
use super::judge;
use super::limits::{Before, Limits};
use super::pairing::pair;
use super::trace::{Connection, Seen, Tap};
use crate::flow::FlowKey;
use crate::{Direction, Instant};

/// Frames remembered, each twice where there is a filter: enough for a stall, what led to it and what came of it.
const FRAMES: usize = 256;

/// A connection's last frames on both sides of a filter.
#[derive(Debug, Default)]
pub(crate) struct Window {
    frames: VecDeque<Seen>,
    number: u64,
    /// What was told of a window that may be closed, by the direction of what it lets pass.
    doors: [Door; 2],
}

/// A receive window, as its sender is told of it.
#[derive(Clone, Copy, Debug, Default)]
struct Door {
    widest: u16,
    closed: Option<Instant>,
}

impl Window {
    /// Takes note of a frame.
    pub(crate) fn add(&mut self, at: Instant, tap: Tap, direction: Direction, tcp: &TcpMeta) {
        if self.frames.len() >= FRAMES {
            self.frames.pop_front();
        }
        self.number += 1;
        self.frames
            .push_back(Seen::of(self.number, at, tap, direction, tcp));
    }

    /// A frame with an acknowledgement comes to its receiver. Since when the window was closed that it opens, if it opens one.
    pub(crate) fn see_window(&mut self, at: Instant, direction: Direction, window: u16) -> Option<Instant> {
        let door = self.doors.get_mut(direction as usize)?;
        let was = if judge::is_closed(window, door.widest) {
            door.closed.get_or_insert(at);
            None
        } else {
            door.closed.take()
        };
        door.widest = door.widest.max(window);
        was
    }

    /// Forgets all: another connection begins.
    pub(crate) fn clear(&mut self) {
        self.frames.clear();
        self.doors = [Door::default(); 2];
    }

    /// Why the connection stood still lately.
    pub(crate) fn judge(&self, flow: FlowKey, options: &DiagnosisOptions) -> Vec<Finding> {
        let connection = Connection::of(self.frames.iter().copied().collect());
        let (crossings, two_taps) = pair(&connection);
        let [tx, rx] = self.doors.map(|door| door.widest);
        let mut limits = Limits::new(options, None, two_taps);
        // What the guest's peer acknowledges lets the guest's data pass.
        limits.before = Some(Before { widest: [rx, tx] });
        judge::judge(flow, &crossings, limits)
    }
}
