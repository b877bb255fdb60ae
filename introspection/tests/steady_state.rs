//! Steady state allocates nothing.

#[path = "common/counting.rs"]
mod counting;
#[path = "common/traffic.rs"]
mod traffic;

use std::sync::Arc;

use counting::{Counting, allocations};
use introspection::stage::StageHistograms;
use introspection::stall::StallWatcher;
use introspection::{FilterOptions, Profile, Rule, RuleAction, RuleSet, build};
use traffic::{FRAMES, Traffic};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn rules() -> Arc<RuleSet> {
    let rule = Rule {
        name: "absent".to_owned(),
        pattern: "never there".to_owned(),
        action: RuleAction::Drop,
        ..Rule::default()
    };
    Arc::new(RuleSet::compile(&[rule]).expect("good"))
}

// One test: others at the same time would count here, too.
#[test]
fn steady_state_allocates_nothing() {
    assert!(allocations(|| drop(vec![1])) > 0, "the counter counts");
    // What is in flight at the larger size is more than what a connection keeps between messages.
    for (profile, rules, len) in [
        (Profile::Inspect, None, 64),
        (Profile::Hold, None, 64),
        (Profile::Serialize, None, 64),
        (Profile::Inspect, Some(rules()), 64),
        (Profile::Inspect, Some(rules()), 1448),
    ] {
        let options = FilterOptions {
            rules,
            ..FilterOptions::default()
        };
        let mut filter = build(profile, options).expect("not off");
        let mut watcher = StallWatcher::default();
        let mut histograms = StageHistograms::new();
        let mut traffic = Traffic::new(len);
        let mut play = |rounds| {
            for _ in 0..rounds {
                assert!(traffic.round(filter.as_mut()) >= FRAMES);
                traffic.watch(&mut watcher);
                traffic.record(&mut histograms);
            }
        };
        play(64);
        assert_eq!(allocations(|| play(1000)), 0, "{profile}");
        assert_eq!(filter.counters().frames, 1064 * FRAMES as u64);
        if profile.holds() {
            assert!(filter.counters().held > 10_000);
        }
        assert_eq!(histograms.frames(), 1064 * FRAMES as u64);
    }
}
