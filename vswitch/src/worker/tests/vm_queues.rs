//! What uplinks send, through the VM queues of the receivers.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use introspection::Profile;
use introspection::stage::Stage;
use proptest::prelude::*;

use offload::VnetHeader;

use super::{ALL, Bench, access, tcp, udp};
use crate::control::{Attribution, Why};
use crate::counters::DropReason;
use crate::port::Capabilities;
use crate::rebalance;
use crate::worker::Worker;

/// A switch with two guests behind an uplink, port 0, and its workers, which the test runs by hand.
fn uplink_and_guests(workers: usize) -> (Bench, Vec<Worker>) {
    let mut bench = Bench::new(workers, &[]);
    bench.add_uplink();
    bench.add(&access(0).0, ALL, 0);
    bench.add(&access(0).0, ALL, 0);
    let mut workers: Vec<Worker> = (0..workers).map(|index| worker(&bench, index)).collect();
    // The switch learns where they are.
    for guest in [1, 2] {
        bench.send(guest, &udp(guest as u8, 9, b"hello"));
    }
    settle(&mut workers);
    for port in 0..3 {
        bench.got(port);
    }
    (bench, workers)
}

fn worker(bench: &Bench, index: usize) -> Worker {
    Worker::new(
        Arc::clone(&bench.shared),
        Arc::clone(&bench.shared.workers[index]),
    )
}

/// Rounds until nothing moves, and no lane does.
fn settle(workers: &mut [Worker]) {
    let mut idle = 0;
    for _ in 0..200 {
        let busy = workers
            .iter_mut()
            .fold(false, |busy, worker| worker.round() | busy);
        idle = if busy { 0 } else { idle + 1 };
        if idle == 3 {
            return;
        }
    }
    panic!("the switch does not come to rest");
}

/// Has a worker serve a port's VM queue, or that of an uplink its only queue.
fn place(bench: &Bench, port: usize, worker: usize) {
    let port = bench.port(port);
    let lane = port.vm_lane().unwrap_or(&port.lanes[0]);
    lane.want(worker, Why::Assigned);
    bench.shared.renew();
}

fn numbered(from: u8, to: u8, number: u32) -> Vec<u8> {
    udp(from, to, &number.to_be_bytes())
}

fn numbers(frames: &[Vec<u8>]) -> Vec<u32> {
    let number = |frame: &Vec<u8>| u32::from_be_bytes(*frame.last_chunk().expect("four octets"));
    frames.iter().map(number).collect()
}

#[test]
fn a_worker_that_serves_both_lanes_delivers_at_once() {
    let (bench, mut workers) = uplink_and_guests(1);
    bench.send(0, &numbered(9, 1, 7));
    workers[0].round();
    assert_eq!(numbers(&bench.got(1)), [7]);
    let port = bench.port(1);
    let lane = port.vm_lane().expect("a guest has one");
    assert_eq!(
        lane.meter.frames.load(Ordering::Relaxed),
        1,
        "the work is the VM queue's"
    );
    assert!(lane.meter.busy.load(Ordering::Relaxed) > 0);
    assert!(bench.port(0).vm_lane().is_none(), "an uplink has none");
}

#[test]
fn another_worker_delivers_what_is_sorted_to_its_vm_queue() {
    let (bench, mut workers) = uplink_and_guests(2);
    bench.shared.set_attribution(Attribution::Full);
    place(&bench, 0, 0);
    place(&bench, 1, 1);
    place(&bench, 2, 0);
    settle(&mut workers);
    for (number, guest) in [(1, 1), (2, 2), (3, 1)] {
        bench.send(0, &numbered(9, guest, number));
    }
    workers[0].round();
    assert_eq!(numbers(&bench.got(2)), [2]);
    assert!(bench.got(1).is_empty(), "its worker has to do that");
    workers[1].round();
    assert_eq!(numbers(&bench.got(1)), [1, 3]);
    let stages = bench.port(0).stages.lock().summary();
    assert_eq!(
        stages.residence.count, 3,
        "frames are accounted to the port that they came by"
    );
    let sum: f64 = Stage::ALL
        .iter()
        .map(|stage| stages.stages.get(*stage).mean)
        .sum();
    assert!(
        (sum - stages.residence.mean).abs() < 0.01,
        "stages sum to residence, with the wait in the VM queue: {sum} {}",
        stages.residence.mean
    );
}

#[test]
fn a_sleeping_worker_is_woken_and_a_busy_one_is_not() {
    let (bench, mut workers) = uplink_and_guests(2);
    place(&bench, 0, 0);
    place(&bench, 1, 1);
    settle(&mut workers);
    let other = Arc::clone(&bench.shared.workers[1]);
    for (asleep, number) in [(false, 1), (true, 2)] {
        other.was_woken();
        other.set_drowsy(asleep);
        bench.send(0, &numbered(9, 1, number));
        workers[0].round();
        assert_eq!(other.was_woken(), asleep);
    }
}

#[test]
fn a_full_vm_queue_costs_its_own_vm_only() {
    let (bench, mut workers) = uplink_and_guests(2);
    place(&bench, 0, 0);
    place(&bench, 1, 1);
    place(&bench, 2, 0);
    settle(&mut workers);
    for number in 0..5000 {
        bench.send(0, &numbered(9, 1, number));
    }
    bench.send(0, &numbered(9, 2, 1));
    while workers[0].round() {}
    assert_eq!(numbers(&bench.got(2)), [1]);
    let dropped = bench.port(1).counters.snapshot().rx_dropped;
    assert_eq!(dropped.get(&DropReason::VmQueueFull), Some(&(5000 - 4096)));
    settle(&mut workers);
    assert_eq!(numbers(&bench.got(1)), (0..4096).collect::<Vec<_>>());
}

#[test]
fn a_filter_that_holds_keeps_order_through_a_vm_queue() {
    let (bench, mut workers) = uplink_and_guests(2);
    place(&bench, 0, 0);
    place(&bench, 1, 1);
    settle(&mut workers);
    bench.filter(1, Profile::Hold);
    let frames = [tcp(9, 1, 0, b"held"), tcp(9, 1, 4, b"too!")];
    bench.send(0, &frames[0]);
    settle(&mut workers);
    assert!(bench.got(1).is_empty(), "it is held");
    bench.filter(1, Profile::Off);
    for handle in &bench.shared.workers {
        handle.releases();
    }
    bench.send(0, &frames[1]);
    settle(&mut workers);
    assert_eq!(bench.got(1), frames);
}

#[test]
fn segments_from_an_uplink_are_merged_for_who_takes_large_sends() {
    let (bench, mut workers) = uplink_and_guests(1);
    let segment = |to, n: u32| tcp(9, to, 4 * n, &n.to_be_bytes());
    for n in 0..3 {
        bench.send(0, &segment(1, n));
    }
    bench.send(0, &numbered(9, 1, 7));
    settle(&mut workers);
    let got = bench.guests[1].got.lock().drain(..).collect::<Vec<_>>();
    let lens: Vec<usize> = got.iter().map(|(_, frame)| frame.len()).collect();
    assert_eq!(lens, [18 + 28, 14 + 40 + 12], "what is not merged need not wait");
    let (vnet, frame) = &got[1];
    assert_eq!((vnet.gso_type, vnet.gso_size), (VnetHeader::GSO_TCPV4, 4));
    assert_eq!(frame[54..], [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2]);
    assert_eq!(bench.port(1).counters.snapshot().coalesced, 2);
}

#[test]
fn segments_are_not_merged_for_others_or_from_others() {
    let mut bench = Bench::new(1, &[]);
    bench.add_uplink();
    bench.add(&access(0).0, Capabilities::default(), 0);
    bench.add(&access(0).0, ALL, 0);
    let mut workers = [worker(&bench, 0)];
    for guest in [1, 2] {
        bench.send(guest, &udp(guest as u8, 9, b"hello"));
    }
    settle(&mut workers);
    for (from, to) in [(0, 1), (1, 2)] {
        bench.got(to);
        let frames: Vec<_> = (0..3)
            .map(|n| tcp(from as u8 + 9, to as u8, 4 * n, b"four"))
            .collect();
        for frame in &frames {
            bench.send(from, frame);
        }
        settle(&mut workers);
        assert_eq!(bench.got(to), frames);
    }
}

#[test]
fn vm_queues_show_where_there_is_an_uplink() {
    let (bench, _) = uplink_and_guests(1);
    let shown = |bench: &Bench| -> Vec<String> {
        let stats = rebalance::queue_stats(&bench.shared.table());
        let name = |queue: &crate::control::QueueStats| format!("{}/{}", queue.port, queue.label());
        stats.iter().map(name).collect()
    };
    assert_eq!(shown(&bench), ["p0/0", "p1/0", "p1/vm", "p2/0", "p2/vm"]);
    assert_eq!(shown(&Bench::new(1, &[access(0)])), ["p0/0"]);
}

/// Something that happens while an uplink's frames flow.
#[derive(Clone, Copy, Debug)]
enum Step {
    Send { guest: u8, count: u32 },
    Round(usize),
    Place { port: usize, worker: usize },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1_u8..=3, 1_u32..80).prop_map(|(guest, count)| Step::Send { guest, count }),
        (0_usize..3).prop_map(Step::Round),
        (0_usize..3, 0_usize..3).prop_map(|(port, worker)| Step::Place { port, worker }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn frames_of_an_uplink_arrive_in_order_wherever_lanes_go(steps in proptest::collection::vec(step(), 1..60)) {
        let (bench, mut workers) = uplink_and_guests(3);
        let mut sent = [0_u32; 4];
        for step in steps {
            match step {
                // Guest 3 is not there: its frames are flooded to both of the others.
                Step::Send { guest, count } => for _ in 0..count {
                    let number = &mut sent[usize::from(guest)];
                    bench.send(0, &numbered(9, guest, *number));
                    *number += 1;
                },
                Step::Round(worker) => { workers[worker].round(); }
                Step::Place { port, worker } => place(&bench, port, worker),
            }
        }
        settle(&mut workers);
        for guest in [1_u8, 2] {
            let got = bench.got(guest.into());
            for to in [guest, 3] {
                let own: Vec<_> = got.iter().filter(|frame| frame[5] == to).cloned().collect();
                prop_assert_eq!(numbers(&own), (0..sent[usize::from(to)]).collect::<Vec<_>>());
            }
        }
    }
}
