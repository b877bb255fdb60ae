//! Lanes of one port with several workers, and lanes that move.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use introspection::Profile;

use super::{ALL, Bench, access, tcp, udp};
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
