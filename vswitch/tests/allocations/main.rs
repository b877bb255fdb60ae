//! Carrying frames allocates nothing once it is under way, on any of a frame's usual ways through the switch.
//!
//! `cargo bench -p vswitch --bench allocations` prints how much each way allocates.
#![allow(missing_docs)]

#[path = "../vhost_user_common/mod.rs"]
mod common;
mod counting;
mod frames;
mod scene;
#[path = "../matrix/station.rs"]
mod station;
mod ways;
mod wire;

use counting::Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// One test: others at the same time would count here, too.
#[test]
fn steady_state_allocates_nothing() {
    let mut wrong = Vec::new();
    ways::measure(&mut |way| {
        if way.allocations > 0 {
            wrong.push(way.to_string());
        }
    });
    assert!(wrong.is_empty(), "allocations:\n{}", wrong.join("\n"));
}
