//! The profiles: named behaviours of a filter.

mod coalesce;
mod core;
mod held;
mod hold;
mod holding;
mod inspect;
mod judge;
mod serialize;
mod thin_acks;

use std::sync::Arc;
use std::time::Duration;

use crate::rules::RuleSet;
use crate::{ChainError, Direction, Filter, FilterChain, Profile};

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
    /// Datagrams in IP fragments that are remembered, whether they are whole or not. Fewer than the 65,536 identifications of IPv4, and
    /// than an honest sender uses before it uses one again.
    pub fragmented: usize,
    /// Octets of all of these.
    pub fragment_octets: usize,
}

impl Default for Caps {
    fn default() -> Self {
        Self {
            flows: 65_536,
            held_frames: 8192,
            held_octets: 64 << 20,
            stream_octets: 256 << 10,
            total_stream_octets: 64 << 20,
            fragmented: 4096,
            fragment_octets: 16 << 20,
        }
    }
}

/// How a filter is to be made.
#[derive(Clone, Debug, Default)]
pub struct FilterOptions {
    /// The longest that a frame is held; `None` for [`Profile::default_deadline`].
    pub deadline: Option<Duration>,
    /// The only direction in which frames are held, merged or left out; `None` for both.
    pub direction: Option<Direction>,
    /// `thin-acks`: one acknowledgement of so many passes at once.
    pub ratio: Option<u16>,
    /// `coalesce`: payload octets of a merged frame at most. `serialize`: octets that may be unacknowledged before the next frame
    /// waits; one frame if `None`.
    pub chunk: Option<u32>,
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
        Profile::Coalesce => Some(Box::new(coalesce::Coalesce::new(options))),
        Profile::ThinAcks => Some(Box::new(thin_acks::ThinAcks::new(options))),
    }
}

/// Makes a filter of several profiles behind each other, which see a frame in this order; `None` when all of them are
/// [`Profile::Off`]. Rules are applied by the first `inspect` among them, else by the first.
pub fn compose(
    stages: &[(Profile, Option<Direction>)],
    options: &FilterOptions,
) -> Result<Option<Box<dyn Filter>>, ChainError> {
    let on: Vec<_> = stages
        .iter()
        .filter(|(profile, _)| *profile != Profile::Off)
        .collect();
    let judge = on
        .iter()
        .position(|(profile, _)| *profile == Profile::Inspect)
        .unwrap_or(0);
    let mut members: Vec<Box<dyn Filter>> = Vec::new();
    for (index, (profile, direction)) in on.into_iter().enumerate() {
        let own = FilterOptions {
            direction: *direction,
            rules: options.rules.clone().filter(|_| index == judge),
            ..options.clone()
        };
        members.extend(build(*profile, own));
    }
    if members.len() > 1 {
        return FilterChain::new(members).map(|chain| Some(Box::new(chain) as Box<dyn Filter>));
    }
    Ok(members.pop())
}
