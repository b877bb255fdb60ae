//! Lanes of one port with several workers, and lanes that move.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use etherparse::PacketBuilder;
use introspection::Profile;

use super::{ALL, Bench, access, mac, tcp, udp};
use crate::control::{VlanMode, Why};
use crate::worker::Worker;

#[test]
fn a_backlog_wakes_each_worker_that_serves_a_queue_of_the_receiver() {
    let mut bench = Bench::new(3, &[access(0)]);
    bench.add(&VlanMode::Access(0), ALL, 1);
    bench.guests[1].room.store(0, Ordering::Relaxed);
    let workers = bench.shared.workers.clone();
    for worker in &workers {
        worker.was_woken();
    }
    bench.send(0, &udp(1, 2, b"no room"));
    bench.run();
    let woken: Vec<bool> = workers.iter().map(|worker| worker.was_woken()).collect();
    assert_eq!(
        woken,
        [false, true, true],
        "each asks for room in its own receive ring"
    );
}

#[test]
fn a_worker_carries_on_what_one_of_its_lanes_let_go_of_another() {
    let bench = Bench::new(1, &[access(0), access(0)]);
    bench.filter(1, Profile::Serialize);
    let mut worker = Worker::new(Arc::clone(&bench.shared), Arc::clone(&bench.shared.workers[0]));
    for seq in [0, 4] {
        bench.send(0, &tcp(1, 2, seq, b"abcd"));
    }
    worker.round();
    assert_eq!(
        bench.got(1).len(),
        1,
        "the second one waits for an acknowledgement"
    );
    let mut ack = Vec::new();
    PacketBuilder::ethernet2(mac(2), mac(1))
        .ipv4([192, 0, 2, 2], [192, 0, 2, 1], 64)
        .tcp(2000, 1000, 1, 8192)
        .ack(4)
        .write(&mut ack, &[])
        .expect("a frame");
    bench.shared.workers[0].was_woken();
    bench.send(1, &ack);
    worker.round();
    assert_eq!(bench.got(1).len(), 1, "it is let go, in the same round");
    assert!(
        !bench.shared.workers[0].was_woken(),
        "without waking the worker that is awake"
    );
}

#[test]
fn what_a_filter_let_go_while_its_lane_moved_is_carried_by_the_new_owner() {
    let mut bench = Bench::new(2, &[access(0), access(0)]);
    bench.filter(1, Profile::Hold);
    bench.send(0, &tcp(1, 2, 0, b"held"));
    bench.run();
    assert!(bench.got(1).is_empty(), "it is held");
    let worker = |index: usize| {
        Worker::new(
            Arc::clone(&bench.shared),
            Arc::clone(&bench.shared.workers[index]),
        )
    };
    let (mut old, mut new) = (worker(0), worker(1));
    old.round();
    new.round();
    bench.port(0).lanes[0].want(1, Why::Assigned);
    bench.shared.renew();
    bench.filter(1, Profile::Off);
    for handle in &bench.shared.workers {
        handle.releases();
    }
    // Each hears of it while the lane is not its own: the new owner still, the old one no more.
    new.round();
    old.round();
    assert!(bench.guests[1].got.lock().is_empty(), "nobody could carry it");
    new.round();
    assert_eq!(bench.got(1).len(), 1);
}

#[test]
fn what_is_counted_of_lanes_ports_and_workers_shares_no_cache_lines() {
    /// Octets that processors fetch at once: a line and the next.
    const LINES: usize = 128;
    fn lines<T>(counted: &Arc<T>) -> std::ops::RangeInclusive<usize> {
        let at = Arc::as_ptr(counted).addr();
        at / LINES..=(at + size_of::<T>() - 1) / LINES
    }
    let bench = Bench::new(2, &vec![access(0); 20]);
    let ports: Vec<_> = (0..20).map(|index| bench.port(index)).collect();
    let mut all: Vec<_> = ports.iter().map(lines).collect();
    all.extend(ports.iter().flat_map(|port| &port.lanes).map(lines));
    all.extend(bench.shared.workers.iter().map(lines));
    all.sort_by_key(|lines| *lines.start());
    assert!(all.is_sorted_by(|one, next| one.end() < next.start()));
}
