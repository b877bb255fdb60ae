//! All ways, one after the other.

use std::fmt;

use vswitch::control::UplinkMode;

use crate::counting;
use crate::scene::{CASES, Scene};
use crate::station;
use crate::wire::{self, Wire};

/// Rounds before anything is counted: all buffers and tables have the size that they need.
const WARM_UP: u64 = 200;
/// Rounds that are counted.
const ROUNDS: u64 = 500;
/// How often they are counted, until none of them allocates: pools grow to the largest burst that ever waited, which a busy
/// machine may show late. What allocates for each frame or burst never has such rounds.
const TRIES: usize = 8;

/// What one way was seen to allocate.
pub(crate) struct Way {
    pub(crate) name: String,
    pub(crate) frames: u64,
    pub(crate) allocations: u64,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<34} {:>8} frames, {:>6} allocations",
            self.name, self.frames, self.allocations
        )
    }
}

/// Measures each way and tells.
pub(crate) fn measure(tell: &mut dyn FnMut(Way)) {
    for case in &CASES {
        let mut scene = Scene::new(case);
        tell(count(case.name, case.frames(), || scene.round()));
    }
    if let Some(reason) = station::missing() {
        eprintln!("SKIPPED steady_state_allocates_nothing: an uplink's VM queue: {reason}");
        return;
    }
    for mode in [UplinkMode::AfPacket, UplinkMode::AfXdp] {
        let mut wire = Wire::new(mode);
        let name = format!("uplink ({}), VM queue", mode.name());
        tell(count(&name, wire::FRAMES, || wire.round()));
    }
}

fn count(name: &str, frames: u64, mut round: impl FnMut()) -> Way {
    (0..WARM_UP).for_each(|_| round());
    let mut tries = (0..TRIES).map(|_| counting::by_workers(|| (0..ROUNDS).for_each(|_| round())));
    let mut allocations = u64::MAX;
    while allocations > 0
        && let Some(seen) = tries.next()
    {
        allocations = seen;
    }
    Way {
        name: name.to_owned(),
        frames: ROUNDS * frames,
        allocations,
    }
}
