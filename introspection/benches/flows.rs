//! A million flows at once through `inspect` with a rule, and then a second million: time for a frame and memory for a flow.
//!
//! `cargo bench -p introspection --bench flows`

#[path = "../tests/common/counting.rs"]
mod counting;
#[path = "../tests/common/crowd.rs"]
mod crowd;

use std::time::Instant;

use counting::Counting;
use crowd::Crowd;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const FLOWS: u32 = 1_000_000;
const PAYLOAD: &[u8] = &[b'.'; 100];

fn main() {
    let mut crowd = Crowd::new(FLOWS as usize, 64 << 20);
    println!("flows  step                      ns/frame  flows in table    evicted  unjudged     MiB");
    for (name, first, offset) in [
        ("opened", 0, 0),
        ("second segment of each", 0, 100),
        ("as many others, opened", FLOWS, 0),
        ("the first ones, again", 0, 200),
    ] {
        let begun = Instant::now();
        for flow in first..first + FLOWS {
            assert!(crowd.exchange(flow, offset, PAYLOAD), "traffic is unharmed");
        }
        let each = begun.elapsed().as_nanos() as f64 / f64::from(2 * FLOWS);
        let counters = crowd.filter.counters();
        println!(
            "{FLOWS:>7}  {name:<24} {each:>7.0} {:>15} {:>10} {:>9} {:>7}",
            counters.flows,
            counters.flows_evicted,
            counters.failed_open,
            crowd.octets() >> 20
        );
    }
}
