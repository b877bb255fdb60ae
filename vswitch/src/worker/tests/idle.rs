//! A worker with many lanes, most of which are idle.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{ALL, Bench, access, udp};
use crate::lane::LaneId;
use crate::port::PortId;
use crate::worker::Worker;
use crate::worker::handle::Rung;

/// More ports than are polled anyhow, all of them idle and known to the switch; and their worker.
fn idle() -> (Bench, Worker) {
    let mut bench = Bench::new(1, &[]);
    for _ in 0..20 {
        bench.add(&access(0).0, ALL, 0);
    }
    let mut worker = Worker::new(Arc::clone(&bench.shared), Arc::clone(&bench.shared.workers[0]));
    for guest in 0..20 {
        bench.send(guest, &udp(guest as u8, 99, b"hello"));
    }
    // Its ports woke it when they came: what is idle then is polled for a while yet.
    for _ in 0..700 {
        worker.round();
    }
    for guest in 0..20 {
        bench.got(guest);
    }
    assert!(worker.polled.is_empty(), "all are idle");
    (bench, worker)
}

fn ring(worker: &mut Worker, guest: u16) {
    let mut rung = Rung::default();
    rung.lanes.push(LaneId::home(PortId(guest)));
    worker.heed(&rung, crate::clock::now());
}

#[test]
fn idle_lanes_are_served_when_they_ring() {
    let (bench, mut worker) = idle();
    bench.send(3, &udp(3, 5, b"ring"));
    worker.round();
    assert!(bench.got(5).is_empty(), "nobody looked");
    ring(&mut worker, 3);
    assert_eq!(bench.got(5).len(), 1, "before any other lane");
    bench.send(3, &udp(3, 5, b"again"));
    worker.round();
    assert_eq!(bench.got(5).len(), 1, "it is polled now");
    assert_eq!(worker.polled.len(), 1, "and no other is");
}

#[test]
fn a_woken_worker_polls_all_its_lanes() {
    let (bench, mut worker) = idle();
    bench.send(7, &udp(7, 8, b"unheard"));
    worker.heed(
        &Rung {
            woken: true,
            ..Rung::default()
        },
        crate::clock::now(),
    );
    worker.round();
    assert_eq!(bench.got(8).len(), 1);
    assert_eq!(worker.polled.len(), 20);
}

#[test]
fn a_backlog_is_drained_although_its_port_was_idle() {
    let (bench, mut worker) = idle();
    bench.guests[5].room.store(0, Ordering::Relaxed);
    bench.send(3, &udp(3, 5, b"full"));
    ring(&mut worker, 3);
    for _ in 0..600 {
        worker.round();
    }
    assert!(bench.got(5).is_empty());
    bench.guests[5].room.store(9, Ordering::Relaxed);
    worker.round();
    assert_eq!(bench.got(5).len(), 1, "its lane was not left alone");
}

#[test]
fn lanes_that_had_nothing_since_the_last_sleep_are_left_alone_in_the_next() {
    let (bench, mut worker) = idle();
    worker.poll_all();
    worker.rounds_awake = 0;
    bench.send(3, &udp(3, 5, b"awake"));
    worker.round();
    worker.round();
    assert_eq!(worker.polled.len(), 20);
    worker.retire_before_sleep();
    let polled: Vec<_> = worker.polled.iter().map(|lane| lane.served.lane.id).collect();
    assert_eq!(polled, [LaneId::home(PortId(3))], "it is likely to go on");
}
