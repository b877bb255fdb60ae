//! The profiles: named behaviours of a filter.

mod core;
mod held;
mod hold;
mod holding;
mod inspect;
mod judge;
mod serialize;

use std::sync::Arc;
use std::time::Duration;

use crate::rules::RuleSet;
use crate::{Filter, Profile};

/// Limits of a filter's memory. Past them it fails open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// Flows tracked.
    pub flows: usize,
    /// Frames held, of all flows.
    pub held_frames: usize,
    /// Octets of all held frames.
    pub held_octets: u64,
    /// Octets kept for one direction of one flow to compare retransmissions with, and as many for what came early.
    pub stream_octets: usize,
    /// The same of all flows.
    pub total_stream_octets: usize,
}

impl Default for Caps {
    fn default() -> Self {
        Self {
            flows: 65_536,
            held_frames: 8192,
            held_octets: 64 << 20,
            stream_octets: 256 << 10,
            total_stream_octets: 64 << 20,
        }
    }
}

/// How a filter is to be made.
#[derive(Clone, Debug, Default)]
pub struct FilterOptions {
    /// The longest that a frame is held; `None` for [`Profile::default_deadline`].
    pub deadline: Option<Duration>,
    /// Rules to apply.
    pub rules: Option<Arc<RuleSet>>,
    /// Memory limits.
    pub caps: Caps,
}

/// Makes a filter; `None` for [`Profile::Off`].
pub fn build(profile: Profile, options: FilterOptions) -> Option<Box<dyn Filter>> {
    match profile {
        Profile::Off => None,
        Profile::Inspect => Some(Box::new(inspect::Inspect::new(options))),
        Profile::Hold => Some(Box::new(hold::Hold::new(options))),
        Profile::Serialize => Some(Box::new(serialize::Serialize::new(options))),
    }
}
