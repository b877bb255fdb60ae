//! Frames with any numbers that pass both sides of a filter at any times: what the stall watcher says of them, and what is
//! listed of their flows.
#![no_main]

use introspection::flow::{Cost as _, FlowCost, TopFlows};
use introspection::stall::{Point, StallOptions, StallWatcher};
use introspection::{Direction, FlowKey, Instant};
use libfuzzer_sys::fuzz_target;

/// A TCP frame made of a few octets.
fn frame(seed: &[u8; 10]) -> Vec<u8> {
    let [port, flags, window, len, seq, ack, ..] = *seed;
    let total = 40 + u16::from(len);
    let mut bytes = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0];
    bytes.extend(total.to_be_bytes());
    bytes.extend([0, 0, 0, 0, 64, 6, 0, 0, 192, 0, 2, 1, 192, 0, 2, 1]);
    let (from, to) = (port & 7, port >> 4 & 7);
    bytes.extend([0, from, 0, to, 0xff, 0xff, 0xff, seq, 0xff, 0xff, 0xff, ack, 0x50, flags, window, 0, 0, 0, 0, 0]);
    bytes.resize(usize::from(total) + 14, 0);
    bytes
}

fuzz_target!(|data: &[u8]| {
    let options = StallOptions {
        flows: 8,
        recent: 16,
        ..StallOptions::default()
    };
    let mut watcher = StallWatcher::new(options);
    let mut flows = TopFlows::new(8);
    let mut all = FlowCost::default();
    let mut now = Instant(0);
    for seed in data.as_chunks::<10>().0 {
        let [.., point, wait, way, _] = *seed;
        now = Instant(now.0.saturating_add(u64::from(wait) * 1_000_000));
        let bytes = frame(seed);
        let Ok(meta) = offload::parse(&bytes, bytes.len()) else {
            continue;
        };
        let direction = if way & 1 == 0 { Direction::Tx } else { Direction::Rx };
        match point % 3 {
            0 => watcher.observe_both(now, direction, &meta),
            1 => watcher.observe(now, Point::entry(direction), direction, &meta),
            _ => watcher.observe(now, Point::exit(direction), direction, &meta),
        }
        let cost = FlowCost {
            frames: 1,
            total_ns: u64::from(wait),
            ..FlowCost::default()
        };
        flows.note(FlowKey::of(&meta, direction), &cost);
        all.add(&cost);
    }
    watcher.settle(Instant(now.0.saturating_add(1_000_000_000)), usize::MAX);
    let summary = watcher.summary();
    let listed: u64 = watcher.stalled_flows().top(usize::MAX).iter().map(|one| one.cost.causes.total().stalls).sum();
    assert!(listed <= summary.causes.total().stalls);
    assert!(watcher.recent().count() <= 16 && watcher.flows() <= 8);
    let mut seen = *flows.other();
    flows.top(8).iter().for_each(|one| seen.add(&one.cost));
    assert!(seen.total_ns <= all.total_ns && flows.len() <= 8);
    assert!(flows.replaced() > 0 || seen.frames == all.frames);
});
