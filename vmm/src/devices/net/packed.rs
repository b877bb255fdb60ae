//! What this process keeps of packed rings, whose positions are not in guest memory: only their device knows them.

use std::collections::BTreeMap;
use std::fs::File;

use vhost::vhost_user::message::VhostUserInflight;

/// Slot 0 in the first round, whose wrap counter is 1 (Virtio 1.2, 2.8.1).
const START: u16 = 1 << 15;

/// Where packed rings stand.
#[derive(Default)]
pub(super) struct Positions {
    /// The memory in which the back end notes chains in hand, and thereby where rings stand that run.
    pub(super) log: Option<(VhostUserInflight, File)>,
    stopped: BTreeMap<u16, u16>,
}

impl Positions {
    /// Where a ring goes on that was stopped, or starts. Of one that ran when the back end vanished, the log knows better.
    pub(super) fn of(&self, ring: u16) -> u16 {
        self.stopped.get(&ring).copied().unwrap_or(START)
    }

    /// The back end said where a ring stopped: in the lower half where the next available chain is, which is where the
    /// next used one goes.
    pub(super) fn stopped(&mut self, ring: u16, base: u32) {
        self.stopped.insert(ring, base as u16);
    }

    /// All that stopped.
    pub(super) fn all(&self) -> &BTreeMap<u16, u16> {
        &self.stopped
    }
}
