//! Frames that a capture of all interfaces met more than once.

use std::collections::HashMap;

use introspection::{Direction, FlowKey};
use offload::FrameMeta;
use vswitch::pcap::Station;

/// Directions of flows that are remembered.
const MAX: usize = 1 << 17;

/// Where each direction of a flow was met first. A machine that forwards a frame, between interfaces or into a bridge, a bond or a VLAN,
/// has it pass several; all but the first would look like repetitions.
#[derive(Debug, Default)]
pub(super) struct Stations {
    first: HashMap<(FlowKey, Direction), Station>,
}

impl Stations {
    /// Whether the frame's direction of its flow was met elsewhere before.
    pub(super) fn knows_another(&mut self, meta: &FrameMeta, station: Station) -> bool {
        let Some(way) = FlowKey::canonical(meta) else {
            return false;
        };
        if self.first.len() >= MAX && !self.first.contains_key(&way) {
            return false;
        }
        *self.first.entry(way).or_insert(station) != station
    }
}
