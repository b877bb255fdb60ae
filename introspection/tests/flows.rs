//! More flows than the table takes: memory as configured, the oldest idle flow goes, traffic is unharmed.

#[path = "common/counting.rs"]
mod counting;
#[path = "common/crowd.rs"]
mod crowd;

use counting::Counting;
use crowd::Crowd;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Octets that a judged flow costs beside those of its streams, at most.
const EACH: u64 = 1000;

#[test]
fn a_crowd_costs_what_is_configured_and_the_oldest_idle_flow_goes() {
    let (flows, octets) = (20_000_u32, 1 << 20);
    let mut crowd = Crowd::new(flows as usize, octets);
    for flow in 0..2 * flows {
        assert!(crowd.exchange(flow, 0, b"a harmless beginning"));
        let known = u64::from(flow + 1).min(flows.into());
        assert_eq!(crowd.filter.counters().flows, known);
    }
    let counters = crowd.filter.counters();
    assert_eq!(counters.flows_evicted, u64::from(flows));
    let most = u64::from(flows) * EACH + octets as u64;
    assert!(
        crowd.octets() < most,
        "{} octets, more than {most}",
        crowd.octets()
    );
    // The young half is known still: half a needle is remembered. The old half is not.
    for (flow, passes) in [(2 * flows - 1, false), (0, true)] {
        if !passes {
            assert!(crowd.exchange(flow, 20, b"need"));
        }
        assert_eq!(crowd.exchange(flow, 24, b"le"), passes, "flow {flow}");
    }
}
