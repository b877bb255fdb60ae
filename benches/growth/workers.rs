//! What a second worker adds where it shares nothing with the first but the switch: two pairs of machines, each on a worker and
//! a processor of its own.
//!
//! Two processors leave no room for a generator, so each pair's runs on the processor of its worker and takes turns with it: it
//! fills the sender's ring, then lets the worker run. Its time is the same with one pair as with two; the worker's own time
//! for a frame is what a second worker could make longer.

use std::time::{Duration, Instant};

use crate::fleet::{Fleet, frame, mac};
use crate::load::VNET;
use crate::process::{Process, pin};
use crate::report::{Report, median};
use crate::support::peer::Peer;
use vswitch::ring::mock::Shape;

/// How long a slice counts.
const SLICE: Duration = Duration::from_millis(300);
/// Machines: those with an even number are on worker and processor 0, the others on 1.
const MACHINES: usize = 4;
/// Octets that a loop that shares nothing goes over: they fit the first-level cache.
const OCTETS: usize = 16 << 10;

/// What a pair of machines did in a slice.
#[derive(Clone, Copy)]
struct Done {
    /// Frames that arrived in a second.
    rate: f64,
    /// Nanoseconds of the worker for each.
    cost: f64,
}

pub(crate) fn measure(report: &mut Report, rounds: usize) {
    let mut fleet = Fleet::with_workers(&[0, 1], MACHINES);
    fleet.introduce(0, 2);
    fleet.introduce(1, 3);
    let (mut rates, mut costs, mut loops) = (Vec::new(), Vec::new(), Vec::new());
    let (mut alone, mut together) = (Vec::new(), Vec::new());
    for _ in 0..(rounds / 3).max(1) {
        let [one] = slice(&mut fleet, [0]);
        let both = slice(&mut fleet, [0, 1]);
        let [other] = slice(&mut fleet, [1]);
        let sum = |value: fn(&Done) -> f64| both.iter().map(value).sum::<f64>();
        rates.push(2.0 * sum(|done| done.rate) / (one.rate + other.rate));
        costs.push(sum(|done| 1.0 / done.cost) * (one.cost + other.cost) / 2.0);
        alone.extend([one.cost, other.cost]);
        together.extend(both.map(|done| done.cost));
        loops.push(2.0 * spin([0, 1]).iter().sum::<f64>() / (spin([0])[0] + spin([1])[0]));
    }
    report.note(
        "a worker's time for a frame, one worker busy",
        median(&alone),
        "ns",
    );
    report.note(
        "a worker's time for a frame, two workers busy",
        median(&together),
        "ns",
    );
    report.note(
        "two workers against one, by their own time",
        median(&costs),
        "times",
    );
    report.note(
        "two workers against one, with their generators",
        median(&rates),
        "times",
    );
    report.note(
        "two processors against one, a loop that shares nothing",
        median(&loops),
        "times",
    );
}

/// Has the pairs of these workers talk, each with its generator on the worker's processor.
fn slice<const N: usize>(fleet: &mut Fleet, workers: [usize; N]) -> [Done; N] {
    let process = fleet.process();
    let (low, high) = fleet.peers.split_at_mut(MACHINES / 2);
    let mut pairs: Vec<_> = low.iter_mut().zip(high).enumerate().collect();
    pairs.retain(|(worker, _)| workers.contains(worker));
    std::thread::scope(|scope| {
        let threads: Vec<_> = pairs
            .into_iter()
            .map(|(worker, (sender, receiver))| scope.spawn(move || talk(worker, process, sender, receiver)))
            .collect();
        let mut done = threads
            .into_iter()
            .map(|thread| thread.join().expect("a pair talks"));
        workers.map(|_| done.next().expect("a pair each"))
    })
}

/// Has machine `worker` send to the other one of its pair as fast as the worker goes.
fn talk(worker: usize, process: Process, sender: &mut Peer, receiver: &mut Peer) -> Done {
    pin(worker);
    let octets = [&[0; VNET][..], &frame(mac(worker + MACHINES / 2), mac(worker))].concat();
    let thread = format!("worker-{worker}");
    receiver.rx.driver.want_interrupts(false);
    sender.tx.driver.want_interrupts(false);
    let (begun, before) = (Instant::now(), process.cpu_of(&thread));
    let mut frames = 0_u64;
    while begun.elapsed() < SLICE {
        while sender.tx.driver.send(&octets, Shape::Chain(1)) {}
        if sender.tx.driver.must_kick() {
            sender.tx.ring();
        }
        std::thread::yield_now();
        while receiver.rx.driver.used().is_some() {
            frames += 1;
        }
        receiver.refill();
        while sender.tx.driver.used().is_some() {}
    }
    let (took, ran) = (begun.elapsed(), process.cpu_of(&thread) - before);
    Done {
        rate: frames as f64 / took.as_secs_f64(),
        cost: ran as f64 / frames.max(1) as f64,
    }
}

/// Rounds in a second over memory of their own, for each of these processors at the same time.
fn spin<const N: usize>(cpus: [usize; N]) -> [f64; N] {
    let spin = |cpu: usize| {
        pin(cpu);
        let mut octets = vec![1_u8; OCTETS];
        let begun = Instant::now();
        let mut rounds = 0_u32;
        while begun.elapsed() < SLICE / 3 {
            for octet in std::hint::black_box(&mut octets) {
                *octet = octet.wrapping_mul(3);
            }
            rounds += 1;
        }
        f64::from(rounds) / begun.elapsed().as_secs_f64()
    };
    std::thread::scope(|scope| {
        let threads = cpus.map(|cpu| scope.spawn(move || spin(cpu)));
        threads.map(|thread| thread.join().expect("a loop ends"))
    })
}
