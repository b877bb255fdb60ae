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
        action: RuleAction::Drop,
        ..Rule::default()
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
        // What is held with which deadline repeats after some rounds; only then nothing more is allocated.
        for _ in 0..1000 {
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

/// What judging payload costs with 1,000 patterns that are not there, in throughput of payload.
fn patterns(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("patterns");
    group
        .measurement_time(Duration::from_secs(1))
        .warm_up_time(Duration::from_millis(300))
        .sample_size(20);
    for (shortest, name) in [
        (24, "1000 patterns of 24 to 47 octets"),
        (8, "1000 patterns"),
        (4, "1000 patterns, half of them of 4 to 7 octets"),
    ] {
        let rules = thousand(shortest);
        for (text, len) in [
            ("random", 1448),
            ("random", 60_000),
            ("html", 1448),
            ("html", 60_000),
            ("zeros", 1448),
            ("near", 60_000),
            ("cut", 60_000),
        ] {
            let options = FilterOptions {
                rules: Some(Arc::clone(&rules)),
                ..FilterOptions::default()
            };
            let mut filter = build(Profile::Inspect, options).expect("not off");
            let mut traffic = Traffic::with(payload(text, len, shortest));
            group.throughput(Throughput::Bytes((FRAMES * 3 / 4 * len) as u64));
            group.bench_function(BenchmarkId::new(format!("{name}, {text}"), len), |bencher| {
                bencher.iter(|| traffic.round(filter.as_mut()));
            });
        }
    }
    for (name, expression) in [
        ("16 expressions with a beginning", "token[0-9]+=[a-f]{4}"),
        ("16 expressions without", "[0-9]+=[a-f]{4}token"),
    ] {
        let rule = |number: usize| Rule {
            name: format!("rule {number}"),
            regex: Some(format!("{expression}{number}")),
            protocol: RuleProtocol::Tcp,
            ..Rule::default()
        };
        let rules: Vec<Rule> = (0..16).map(rule).collect();
        let options = FilterOptions {
            rules: Some(Arc::new(RuleSet::compile(&rules).expect("good rules"))),
            ..FilterOptions::default()
        };
        let mut filter = build(Profile::Inspect, options).expect("not off");
        let len = 60_000;
        let mut traffic = Traffic::with(payload("html", len, 0));
        group.throughput(Throughput::Bytes((FRAMES * 3 / 4 * len) as u64));
        group.bench_function(BenchmarkId::new(format!("{name}, html"), len), |bencher| {
            bencher.iter(|| traffic.round(filter.as_mut()));
        });
    }
    group.finish();
}

/// Numbers without end; the same ones each time (Knuth's MMIX generator).
fn numbers(seed: u64) -> impl FnMut() -> usize {
    let mut state = seed;
    move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    }
}

/// 1,000 patterns of letters and digits; every second of `shortest` to `shortest + 3` octets.
fn words(shortest: usize) -> Vec<String> {
    let mut next = numbers(42);
    let word = |number: usize| {
        let len = if number.is_multiple_of(2) {
            shortest + next() % 4
        } else {
            shortest.max(8) + next() % 24
        };
        (0..len)
            .map(|_| char::from(b"etaoinshrdlu0123456789/-.=_ABCDEF"[next() % 33]))
            .collect()
    };
    (0..1000).map(word).collect()
}

fn thousand(shortest: usize) -> Arc<RuleSet> {
    let rule = |(number, pattern): (usize, String)| Rule {
        name: format!("rule {number}"),
        pattern,
        protocol: RuleProtocol::Tcp,
        action: RuleAction::Alert,
        ..Rule::default()
    };
    let rules: Vec<Rule> = words(shortest).into_iter().enumerate().map(rule).collect();
    Arc::new(RuleSet::compile(&rules).expect("good rules"))
}

/// `random` octets above those of patterns, a page's text, zeros, letters of patterns in any order, or patterns that lack their last
/// octet, which is the worst that a sender can do.
fn payload(kind: &str, len: usize, shortest: usize) -> Vec<u8> {
    let mut next = numbers(4711);
    let repeat = |text: &[u8]| text.iter().copied().cycle().take(len).collect();
    match kind {
        "random" => (0..len).map(|_| 128 | next() as u8).collect(),
        "html" => repeat(
            b"<div class=\"entry\"><p>The quick brown fox jumps over the lazy dog, 17 times.</p></div>\r\n",
        ),
        "zeros" => vec![0; len],
        "cut" => {
            let cut = words(shortest)
                .into_iter()
                .map(|word| word[..word.len() - 1].to_owned() + "!");
            repeat(cut.collect::<String>().as_bytes())
        }
        _ => (0..len)
            .map(|_| b"etaoinshrdlu0123456789/-.=_ABCDEF"[next() % 33])
            .collect(),
    }
}

criterion_group!(benches, filters, patterns, observers);
criterion_main!(benches);
