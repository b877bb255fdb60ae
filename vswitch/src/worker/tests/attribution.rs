//! Where frames' time went: stages of ports and of filters, and flows.

use std::num::NonZeroU32;
use std::time::Duration;

use introspection::flow::FlowKey;
use introspection::stage::{FilterStages, Stage, StageSummary};
use introspection::{Direction, Instant};
use proptest::prelude::*;

use super::{Bench, access, tcp, udp};
use crate::clock;
use crate::control::{Attribution, FilterConfig, FilterStage, FlowList};
use crate::switch::filter;

fn bench(mode: Attribution) -> Bench {
    let mut bench = Bench::new(1, &[access(0), access(0)]);
    bench.attribution(mode);
    bench
}

/// Puts profiles behind each other on a port.
fn set(bench: &Bench, port: usize, profiles: &[&str]) {
    let mut stages = profiles
        .iter()
        .map(|stage| stage.parse::<FilterStage>().expect("a profile"));
    let first = stages.next().expect("one at least");
    let config = FilterConfig {
        profile: first.profile,
        direction: first.direction,
        then: stages.collect(),
        deadline: Some(Duration::from_millis(5)),
        ..FilterConfig::default()
    };
    let made = filter::make("p", &config, None).expect("a filter without rules");
    bench.port(port).probe.set_filter(made, config);
}

fn stages(bench: &Bench, port: usize) -> StageSummary {
    bench.port(port).stages.lock().summary()
}

fn sum_of_parts(cost: &FilterStages) -> u64 {
    let parts = cost.parts.iter();
    parts.map(|part| part.filter.total_ns + part.hold.total_ns).sum()
}

/// Whether two sums differ by 1 % at most.
fn alike(one: u64, other: u64) -> bool {
    one.abs_diff(other) * 100 <= one.max(other)
}

/// Lets go of what is due at `at`, and carries it on.
fn release(bench: &mut Bench, at: u64) {
    clock::set(Some(Instant(at)));
    for port in 0..bench.guests.len() {
        let port = bench.port(port);
        if port.probe.deadline().is_some_and(|due| due.0 <= at) {
            bench.workers[0].poll_probe(&port, crate::lane::LaneId::home(port.id));
        }
    }
    while bench.round() {}
}

#[test]
fn a_chain_of_filters_has_a_stage_for_each_and_all_sum_to_the_residence() {
    let mut bench = bench(Attribution::Full);
    set(&bench, 0, &["inspect", "hold", "serialize"]);
    set(&bench, 1, &["hold:rx"]);
    for n in 0..40 {
        clock::set(Some(Instant(1_000_000 * (n + 1))));
        bench.send(0, &tcp(1, 2, n as u32 * 100, &[7; 100]));
        bench.run();
        release(&mut bench, 1_000_000 * (n + 1) + 100);
    }
    for ms in 0..400 {
        release(&mut bench, 50_000_000 + ms * 1_000_000);
    }
    clock::set(None);
    assert_eq!(bench.got(1).len(), 40);
    let summary = stages(&bench, 0);
    assert_eq!(summary.frames, 40);
    let total: u64 = Stage::ALL
        .map(|stage| summary.stages.get(stage).total_ns)
        .iter()
        .sum();
    assert_eq!(total, summary.residence.total_ns);

    let costs = [0, 1].map(|port| bench.port(port).probe.cost());
    let names = |cost: &FilterStages| {
        cost.parts
            .iter()
            .map(|part| part.part.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&costs[0]), ["inspect", "hold", "serialize"]);
    assert_eq!(names(&costs[1]), ["hold:rx"]);
    let [first, second] = &costs;
    assert_eq!((first.frames, second.frames), (40, 40));
    assert_eq!(sum_of_parts(first), first.added.total_ns);
    assert!(
        first.parts[0].held == 0 && first.parts[1].held > 0 && first.parts[2].held > 0,
        "{first:?}"
    );
    let filters = first.added.total_ns + second.added.total_ns;
    let in_stages = summary.stages.filter.total_ns + summary.stages.hold.total_ns;
    assert!(alike(filters, in_stages), "{filters} and {in_stages}");
    let others = [
        Stage::Doorbell,
        Stage::QueueWait,
        Stage::Parse,
        Stage::Copy,
        Stage::Notify,
    ];
    let others: u64 = others
        .map(|stage| summary.stages.get(stage).total_ns)
        .iter()
        .sum();
    assert!(
        alike(others + filters, summary.residence.total_ns),
        "{others} and {filters} of {:?}",
        summary.residence
    );
}

#[test]
fn in_real_time_filters_sum_to_their_stages_as_well() {
    let mut bench = bench(Attribution::Full);
    set(&bench, 0, &["inspect", "thin-acks"]);
    set(&bench, 1, &["inspect"]);
    for n in 0..200 {
        for flow in 0..n % 32 {
            bench.send(0, &tcp(1, 2, n * 1000 + flow, b"some octets"));
        }
        bench.run();
    }
    let summary = stages(&bench, 0);
    let costs = [0, 1].map(|port| bench.port(port).probe.cost());
    let filters: u64 = costs.iter().map(|cost| cost.added.total_ns).sum();
    let in_stages = summary.stages.filter.total_ns + summary.stages.hold.total_ns;
    assert!(alike(filters, in_stages), "{filters} and {in_stages}");
    for cost in &costs {
        assert_eq!(
            (cost.frames, sum_of_parts(cost)),
            (summary.frames, cost.added.total_ns)
        );
    }
    assert!(
        costs[0].parts.iter().all(|part| part.filter.total_ns > 0),
        "{:?}",
        costs[0]
    );
}

#[test]
fn what_is_drained_was_held_until_then_by_whom_had_it() {
    let mut bench = bench(Attribution::Full);
    set(&bench, 0, &["inspect", "hold"]);
    clock::set(Some(Instant(1_000_000)));
    bench.send(0, &tcp(1, 2, 0, b"half"));
    bench.run();
    clock::set(Some(Instant(4_000_000)));
    let port = bench.port(0);
    port.probe.set_filter(None, FilterConfig::default());
    bench.run();
    clock::set(None);
    let summary = stages(&bench, 0);
    assert_eq!((summary.frames, summary.stages.hold.total_ns), (1, 3_000_000));
}

#[test]
fn what_one_filter_held_is_not_counted_for_the_next() {
    let mut bench = bench(Attribution::Full);
    set(&bench, 0, &["inspect", "hold"]);
    bench.send(0, &tcp(1, 2, 0, b"half"));
    bench.run();
    set(&bench, 0, &["inspect"]);
    bench.send(0, &udp(1, 2, b"more"));
    bench.run();
    assert_eq!(bench.got(1).len(), 2);
    let cost = bench.port(0).probe.cost();
    assert_eq!((cost.frames, cost.parts.len()), (1, 1), "{cost:?}");
    assert_eq!(stages(&bench, 0).frames, 2);
}

#[test]
fn one_frame_of_so_many_is_recorded_everywhere() {
    let mut bench = bench(Attribution::OneOf(NonZeroU32::new(10).expect("not 0")));
    set(&bench, 0, &["inspect"]);
    for n in 0..95 {
        bench.send(0, &tcp(1, 2, n, b"x"));
    }
    bench.run();
    let summary = stages(&bench, 0);
    assert_eq!(summary.frames, 10);
    assert_eq!(bench.port(0).probe.cost().frames, 10);
    let flows = FlowList::of(bench.port(0).flows.lock().list(), 5);
    assert_eq!(flows.flows[0].cost.frames, 10);
    bench.attribution(Attribution::Off);
    bench.send(0, &tcp(1, 2, 95, b"x"));
    bench.run();
    assert_eq!(stages(&bench, 0).frames, 10);
    assert_eq!(bench.got(1).len(), 96);
}

#[test]
fn flows_are_listed_by_what_they_cost() {
    let mut bench = bench(Attribution::Full);
    set(&bench, 0, &["hold:tx"]);
    clock::set(Some(Instant(1_000)));
    bench.send(0, &udp(1, 2, b"not held"));
    bench.send(0, &tcp(1, 2, 0, b"held"));
    let mut answer = tcp(2, 1, 0, b"answer");
    answer[34..38].rotate_left(2);
    bench.send(1, &answer);
    bench.run();
    release(&mut bench, 5_001_000);
    clock::set(None);
    assert_eq!(bench.got(1).len(), 2);
    let key = |frame: &[u8], direction| {
        let meta = offload::parse(frame, frame.len()).expect("a frame");
        FlowKey::of(&meta, direction).expect("TCP or UDP")
    };
    let port = bench.port(0);
    let residence = FlowList::of(port.flows.lock().list(), 9);
    let [first, second] = residence.flows.as_slice() else {
        panic!("two flows: {residence:?}")
    };
    assert_eq!(first.flow, key(&tcp(1, 2, 0, b""), Direction::Tx));
    assert_eq!(
        (first.cost.frames, first.cost.hold_ns, first.cost.total_ns),
        (1, 5_000_000, 5_000_000)
    );
    assert_eq!((second.flow.protocol, second.cost.total_ns), (17, 0));
    let filter = FlowList::of(&port.probe.flows(), 9);
    assert_eq!(filter.flows[0].flow, first.flow);
    assert_eq!(filter.flows[0].cost.frames, 2, "both directions pass the filter");
    assert_eq!(filter.flows[0].cost.hold_ns, 5_000_000);
    assert_eq!(
        bench.port(1).flows.lock().list().len(),
        1,
        "what came back is the other port's"
    );
}

#[test]
fn a_flood_of_flows_takes_no_more_than_its_places() {
    let mut bench = bench(Attribution::Full);
    for n in 0..3_000_u32 {
        let mut frame = udp(1, 2, b"x");
        frame[34..36].copy_from_slice(&(n as u16).to_be_bytes());
        bench.send(0, &frame);
    }
    for _ in 0..10 {
        bench.send(
            0,
            &[&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 6][..], &[0; 46]].concat(),
        );
    }
    bench.run();
    let flows = FlowList::of(bench.port(0).flows.lock().list(), usize::MAX);
    assert!(flows.flows.len() <= crate::attribution::FLOWS);
    assert!(flows.replaced >= 3_000 - crate::attribution::FLOWS as u64);
    assert_eq!(flows.other.frames, 10, "ARP is no flow");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn stages_sum_however_frames_and_filters_come(
        steps in proptest::collection::vec((0usize..2, 0u64..3_000_000, 0u8..12), 1..80),
        one_of in 1u32..5,
    ) {
        let mut bench = bench(Attribution::OneOf(NonZeroU32::new(one_of).expect("not 0")));
        let chains: [&[&str]; 6] = [&["hold"], &["inspect", "serialize"], &["coalesce"], &["thin-acks:rx"],
            &["inspect", "hold", "coalesce"], &["serialize", "hold"]];
        let (mut now, mut seqs, mut sent) = (1_000, [0; 2], 0);
        for (from, pause, what) in steps {
            now += pause;
            clock::set(Some(Instant(now)));
            if let Some(chain) = chains.get(usize::from(what)) {
                set(&bench, from, chain);
            } else {
                let to = 2 - from as u8;
                bench.send(from, &tcp(from as u8 + 1, to, seqs[from], &[1; 50]));
                (seqs[from], sent) = (seqs[from] + 50, sent + 1);
            }
            release(&mut bench, now);
        }
        for ms in 0..60 {
            release(&mut bench, now + ms * 1_000_000);
        }
        clock::set(None);
        let mut recorded = 0;
        for port in 0..2 {
            let summary = stages(&bench, port);
            let total: u64 = Stage::ALL.map(|stage| summary.stages.get(stage).total_ns).iter().sum();
            prop_assert_eq!(total, summary.residence.total_ns);
            let cost = bench.port(port).probe.cost();
            prop_assert_eq!(sum_of_parts(&cost), cost.added.total_ns);
            let flows: u64 = FlowList::of(bench.port(port).flows.lock().list(), 9)
                .flows.iter().map(|flow| flow.cost.total_ns).sum();
            prop_assert_eq!(flows, summary.residence.total_ns);
            recorded += summary.frames;
        }
        // Merged frames count once.
        prop_assert!(recorded <= sent);
    }
}
