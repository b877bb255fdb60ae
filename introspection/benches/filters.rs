//! What a frame costs in each profile, in the stall watcher and in the stage histograms. Steady state: one flow that sends and
//! is acknowledged. A time stands for 32 frames.
//!
//! `cargo bench -p introspection --bench filters`

use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use introspection::stage::StageHistograms;
use introspection::stall::StallWatcher;
use introspection::{FilterOptions, Profile, Rule, RuleAction, RuleProtocol, RuleSet, build};

#[path = "../tests/common/counting.rs"]
mod counting;
#[path = "../tests/common/traffic.rs"]
mod traffic;

use counting::{Counting, allocations};
use traffic::{FRAMES, Traffic};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn rules(count: usize) -> Arc<RuleSet> {
    let rule = |number: usize| Rule {
        name: format!("rule {number}"),
        pattern: format!("pattern number {number} that never comes"),
        protocol: RuleProtocol::Tcp,
        port: None,
        action: RuleAction::Drop,
    };
    let rules: Vec<Rule> = (0..count).map(rule).collect();
    Arc::new(RuleSet::compile(&rules).expect("good rules"))
}

fn filters(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("filters");
    group
        .measurement_time(Duration::from_secs(1))
        .warm_up_time(Duration::from_millis(300))
        .sample_size(20)
        .throughput(Throughput::Elements(FRAMES as u64));
    for (profile, len, rules) in [
        (Profile::Inspect, 1448, None),
        (Profile::Hold, 1448, None),
        (Profile::Serialize, 1448, None),
        (Profile::Inspect, 64, Some(rules(20))),
        (Profile::Inspect, 1448, Some(rules(20))),
        (Profile::Inspect, 64, Some(rules(1000))),
        (Profile::Inspect, 1448, Some(rules(1000))),
    ] {
        let name = match &rules {
            Some(rules) => format!("{profile}, {} rules", rules.len()),
            None => profile.to_string(),
        };
        let options = FilterOptions {
            rules,
            ..FilterOptions::default()
        };
        let mut filter = build(profile, options).expect("not off");
        let mut traffic = Traffic::new(len);
        group.bench_function(BenchmarkId::new(name, len), |bencher| {
            bencher.iter(|| traffic.round(filter.as_mut()));
        });
        for _ in 0..8 {
            traffic.round(filter.as_mut());
        }
        let more = allocations(|| {
            traffic.round(filter.as_mut());
        });
        assert_eq!(more, 0, "{profile} allocates");
    }
    group.finish();
}

fn observers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("observers");
    group
        .measurement_time(Duration::from_secs(1))
        .warm_up_time(Duration::from_millis(300))
        .sample_size(20);
    let mut filter = build(Profile::Inspect, FilterOptions::default()).expect("not off");
    let mut traffic = Traffic::new(1448);
    let mut watcher = StallWatcher::default();
    let mut histograms = StageHistograms::new();
    group.throughput(Throughput::Elements(FRAMES as u64));
    group.bench_function("stall watcher, with inspect", |bencher| {
        bencher.iter(|| {
            traffic.round(filter.as_mut());
            traffic.watch(&mut watcher);
        });
    });
    group.throughput(Throughput::Elements(1));
    group.bench_function("stage histograms, a burst", |bencher| {
        bencher.iter(|| traffic.record(&mut histograms));
    });
    group.finish();
}

criterion_group!(benches, filters, observers);
criterion_main!(benches);
