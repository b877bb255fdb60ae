//! Lanes whose descriptors are ready for as long as there is anything, such as those of taps: each look in vain is a system call.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::{ALL, Bench, access, udp};
use crate::lane::LaneId;
use crate::port::PortId;
use crate::worker::Worker;
use crate::worker::handle::Rung;

/// What such a guest knows of its queue, if it is one.
#[derive(Default)]
pub(super) struct Level {
    on: AtomicBool,
    drained: AtomicBool,
    looks: AtomicUsize,
}

impl Level {
    pub(super) fn looked(&self, found_none: bool) {
        self.looks.fetch_add(1, Ordering::Relaxed);
        self.drained.store(found_none, Ordering::Relaxed);
    }

    pub(super) fn is_drained(&self) -> bool {
        self.on.load(Ordering::Relaxed) && self.drained.load(Ordering::Relaxed)
    }
}

/// Two such guests that were looked at, and their worker.
fn taps() -> (Bench, Worker) {
    let mut bench = Bench::new(1, &[]);
    for guest in 0..2 {
        bench.add(&access(0).0, ALL, 0);
        bench.guests[guest].level.on.store(true, Ordering::Relaxed);
    }
    let mut worker = Worker::new(
        std::sync::Arc::clone(&bench.shared),
        std::sync::Arc::clone(&bench.shared.workers[0]),
    );
    for guest in 0..2 {
        bench.send(guest, &udp(guest as u8, 99, b"hello"));
    }
    (0..4).for_each(|_| {
        worker.round();
    });
    looks(&bench);
    for guest in 0..2 {
        bench.got(guest);
    }
    (bench, worker)
}

/// How often each was looked at since the last call.
fn looks(bench: &Bench) -> [usize; 2] {
    [0, 1].map(|guest: usize| bench.guests[guest].level.looks.swap(0, Ordering::Relaxed))
}

#[test]
fn one_look_that_finds_the_end_is_enough() {
    let (bench, mut worker) = taps();
    worker.polled.iter_mut().for_each(|lane| lane.passed_over = false);
    bench.send(0, &udp(0, 1, b"request"));
    let mut rung = Rung::default();
    rung.lanes.push(LaneId::home(PortId(0)));
    worker.heed(&rung, crate::clock::now());
    assert_eq!(bench.got(1).len(), 1);
    assert_eq!(looks(&bench), [1, 0]);
    assert!(!worker.round(), "it sleeps without another look");
    assert_eq!(looks(&bench), [0, 0]);
    assert!(!worker.worth_polling, "and at once");
}

#[test]
fn a_worker_that_goes_on_looks_every_second_round() {
    let (bench, mut worker) = taps();
    for _ in 0..10 {
        worker.round();
    }
    assert_eq!(looks(&bench), [5, 5]);
    bench.send(1, &udp(1, 0, b"unheard"));
    worker.round();
    worker.round();
    assert_eq!(bench.got(0).len(), 1, "in two rounds at the latest");
}

#[test]
fn other_lanes_are_worth_polling() {
    let (bench, mut worker) = taps();
    bench.guests[0].level.on.store(false, Ordering::Relaxed);
    bench.send(0, &udp(0, 1, b"request"));
    worker.round();
    assert_eq!(bench.got(1).len(), 1);
    assert!(worker.worth_polling);
    assert_eq!(looks(&bench)[0], 2, "memory tells of more for nothing");
}
