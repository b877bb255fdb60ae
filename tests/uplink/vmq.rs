//! What comes by an uplink, sorted into the receivers' VM queues.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use vswitch::Switch;
use vswitch::control::{PortConfig, PortKind, QueueStats, SwitchConfig, Uplink, Why, WorkerConfig};
use vswitch::counters::CounterSnapshot;

use crate::scene::{A_LINK, B_LINK, Scene, WIRE, missing};
use crate::transfer::{exchange, v4, v6};

const SIZE: usize = 2 << 20;

/// A switch of the test's own with the scene's uplink and tap.
fn switch(scene: &Scene, workers: usize) -> Arc<Switch> {
    let number = scene.b.number();
    let switch = scene.switch.run(move || {
        let switch = Switch::start(&SwitchConfig {
            workers: vec![WorkerConfig::default(); workers],
        })
        .expect("the switch starts");
        for (name, kind) in [
            ("wire", PortKind::Uplink(Uplink::new(WIRE))),
            ("tap", PortKind::Tap(B_LINK.into())),
        ] {
            let made = switch.add_port(PortConfig::new(name, kind));
            made.expect("the port opens");
        }
        switch
    });
    scene.switch.host(format!("ip link set {B_LINK} netns {number}"));
    scene.b.host(format!("ip link set {B_LINK} up"));
    scene.address(A_LINK, B_LINK);
    scene.ping();
    Arc::new(switch)
}

fn queue(switch: &Switch, label: &str) -> QueueStats {
    let queues = switch.stats().queues;
    let named = |queue: &&QueueStats| format!("{}/{}", queue.port, queue.label()) == label;
    queues.iter().find(named).cloned().expect("the queue")
}

/// Has one processor send numbered datagrams from host A to host B, until it is told to stop; the numbers that arrive, in
/// order.
///
/// One processor, because a veth pair has a queue for each: nobody puts in order what different ones send.
fn numbered(scene: &Scene, stop: &Arc<AtomicBool>) -> (JoinHandle<()>, JoinHandle<Vec<u32>>) {
    let sender = scene.a.run({
        let stop = Arc::clone(stop);
        move || {
            std::thread::spawn(move || {
                let mut one = rustix::thread::CpuSet::new();
                one.set(0);
                rustix::thread::sched_setaffinity(None, &one).expect("there is a first processor");
                let socket = UdpSocket::bind("192.0.2.1:0").expect("an own address");
                for number in 0_u32.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let mut payload = number.to_be_bytes().to_vec();
                    payload.resize(1 << (2 + number % 8), 0);
                    socket.send_to(&payload, "192.0.2.2:7000").expect("it is sent");
                    if number.is_multiple_of(32) {
                        std::thread::sleep(Duration::from_micros(200));
                    }
                }
            })
        }
    });
    let receiver = scene.b.run(|| {
        let socket = UdpSocket::bind("192.0.2.2:7000").expect("an own address");
        std::thread::spawn(move || {
            socket
                .set_read_timeout(Some(Duration::from_secs(2)))
                .expect("a timeout");
            let mut numbers = Vec::new();
            let mut payload = [0; 2048];
            while socket.recv(&mut payload).is_ok() {
                numbers.push(u32::from_be_bytes(*payload.first_chunk().expect("four octets")));
            }
            numbers
        })
    });
    (sender, receiver)
}

#[test]
fn vm_queues_move_under_traffic_and_flows_stay_in_order() {
    if missing("vm_queues_move_under_traffic_and_flows_stay_in_order") {
        return;
    }
    let scene = Scene::new("", 1500, "");
    let switch = switch(&scene, 2);
    let done = Arc::new(AtomicBool::new(false));
    let mover = std::thread::spawn({
        let (switch, done) = (Arc::clone(&switch), Arc::clone(&done));
        move || {
            // The tap has one queue of its own, number 0, and its VM queue.
            for step in 0.. {
                if done.load(Ordering::Relaxed) {
                    return;
                }
                let (port, queue) = [("tap", 1), ("wire", 0), ("tap", 0)][step % 3];
                switch.assign(port, queue, step / 3 % 2).expect("they exist");
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    });
    let (sender, receiver) = numbered(&scene, &done);
    exchange(&scene, v4(), SIZE / 4, 2);
    exchange(&scene, v6(), SIZE / 4, 2);
    done.store(true, Ordering::Relaxed);
    sender.join().expect("the sender ends");
    mover.join().expect("the mover ends");
    let numbers = receiver.join().expect("the receiver ends");
    assert!(numbers.len() > 500, "{} datagrams", numbers.len());
    let turned = numbers.windows(2).find(|pair| pair[0] >= pair[1]);
    assert_eq!(turned, None, "out of order, or twice");
    let vm = queue(&switch, "tap/vm");
    assert!(vm.vm && vm.moves > 20 && vm.frames > 100, "{vm:?}");
    // The balancer may have had the last word: what is assigned moves again when load shifts.
    assert!(matches!(vm.why, Why::Assigned | Why::Balanced { .. }), "{vm:?}");
    for port in switch.stats().ports {
        assert!(port.counters.tx_dropped.is_empty(), "{port:?}");
        assert!(port.counters.rx_dropped.is_empty(), "{port:?}");
    }
}

/// The counters of wire and tap, once every frame that came by the wire has left by the tap or was merged into another.
fn at_rest(switch: &Switch) -> (CounterSnapshot, CounterSnapshot) {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let stats = switch.stats();
        let counters = |name: &str| {
            let port = stats.ports.iter().find(|port| port.name == name);
            port.map(|port| port.counters.clone()).expect("the port")
        };
        let (wire, tap) = (counters("wire"), counters("tap"));
        let dropped: u64 = wire.tx_dropped.values().chain(tap.rx_dropped.values()).sum();
        if tap.rx_frames + tap.coalesced + dropped == wire.tx_frames {
            return (wire, tap);
        }
        assert!(Instant::now() < end, "some are missing: {wire:?} {tap:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn segments_from_the_wire_are_merged() {
    if missing("segments_from_the_wire_are_merged") {
        return;
    }
    for workers in [1, 2] {
        let scene = Scene::new("", 1500, "");
        // Host A sends what a wire carries: segments, with their checksums.
        scene
            .a
            .host(format!("ethtool -K {A_LINK} tso off gso off tx off"));
        let switch = switch(&scene, workers);
        if workers == 2 {
            switch.assign("tap", 1, 1).expect("they exist");
            switch.assign("wire", 0, 0).expect("they exist");
        }
        exchange(&scene, v4(), SIZE, 2);
        exchange(&scene, v6(), SIZE, 2);
        let (wire, tap) = at_rest(&switch);
        let sent = (4 * SIZE / 1448) as u64;
        assert!(wire.tx_frames >= sent, "{workers}: {wire:?}");
        assert!(tap.coalesced > sent / 4, "{workers}: {tap:?}");
        assert_eq!(wire.coalesced, 0, "a wire takes segments");
    }
}
