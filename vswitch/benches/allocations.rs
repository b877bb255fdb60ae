//! How often workers allocate on each of a frame's usual ways through the switch, once it is under way. The test of the same
//! name sees to it that they do not.
//!
//! `cargo bench -p vswitch --bench allocations`

#[path = "../tests/vhost_user_common/mod.rs"]
mod common;
#[path = "../tests/allocations/counting.rs"]
mod counting;
#[path = "../tests/allocations/frames.rs"]
mod frames;
#[path = "../tests/allocations/scene.rs"]
mod scene;
#[path = "../tests/matrix/station.rs"]
mod station;
#[path = "../tests/allocations/ways.rs"]
mod ways;
#[path = "../tests/allocations/wire.rs"]
mod wire;

use counting::Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() {
    ways::measure(&mut |way| println!("{way}"));
}
