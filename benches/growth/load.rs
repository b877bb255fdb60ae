//! What the first machine sends to the second.

use std::time::{Duration, Instant};

use crate::fleet::{Fleet, frame, mac, mac_of};
use crate::support::peer::{PATIENCE, Peer};
use vswitch::ring::mock::Shape;

/// Frames on their way at most: what the receiver has buffers for.
const WINDOW: u64 = 128;
/// Frames in one cost figure.
const FRAMES: u64 = 100_000;
/// Octets of a virtio-net header.
pub(crate) const VNET: usize = 12;
/// For so long the sender's processor is awake before a probe.
const AWAKE: Duration = Duration::from_millis(2);

/// Processor time of the daemon for each frame, in nanoseconds, at a window of frames that is kept full; frames go to `macs` addresses of
/// the second machine in turn.
pub(crate) fn cost(fleet: &mut Fleet, macs: usize) -> f64 {
    let process = fleet.process();
    let frames: Vec<Vec<u8>> = (0..macs)
        .map(|index| [&[0; VNET][..], &frame(mac_of(1, index), mac(0))].concat())
        .collect();
    let mut next = frames.iter().cycle();
    let (mut sent, mut got) = (0, 0);
    let cpu = process.cpu();
    let end = Instant::now() + 3 * PATIENCE;
    while got < FRAMES {
        let [sender, receiver] = talkers(fleet);
        while sender.tx.driver.used().is_some() {}
        while sent < FRAMES && sent - got < WINDOW {
            if !sender
                .tx
                .driver
                .send(next.next().expect("endless"), Shape::Chain(1))
            {
                break;
            }
            sent += 1;
        }
        if sender.tx.driver.must_kick() {
            sender.tx.ring();
        }
        let before = got;
        while receiver.rx.driver.used().is_some() {
            got += 1;
        }
        if got > before {
            receiver.refill();
        }
        assert!(Instant::now() < end, "{got} of {sent} frames came");
    }
    process.cpu().saturating_sub(cpu) as f64 / FRAMES as f64
}

/// Has machine `number` be heard by many addresses.
pub(crate) fn speak(fleet: &mut Fleet, number: usize, macs: usize) {
    for index in 0..macs {
        fleet.peers[number].send(&frame(mac(0), mac_of(number, index)));
        while fleet.peers[0].receive().is_some() {}
    }
    // Addresses of before may have had to make room.
    fleet.introduce(0, 1);
}

/// Rests for `gap`; this processor is awake at its end.
pub(crate) fn rest(gap: Duration) {
    let end = Instant::now() + gap;
    std::thread::sleep(gap.saturating_sub(AWAKE));
    while Instant::now() < end {
        std::hint::spin_loop();
    }
}

/// Microseconds from sending to arrival, after `gap` without a frame.
pub(crate) fn probe(fleet: &mut Fleet, gap: Duration) -> f64 {
    let octets = octets();
    rest(gap);
    let [sender, receiver] = talkers(fleet);
    let took = probe_once(sender, receiver, &octets).took;
    receiver.refill();
    took
}

/// The same with a worker that is awake: of frames that follow another one at once those that needed no doorbell.
pub(crate) fn probe_busy(fleet: &mut Fleet, probes: usize) -> Vec<f64> {
    let octets = octets();
    let mut awake = Vec::with_capacity(probes);
    for _ in 0..probes {
        let [sender, receiver] = talkers(fleet);
        probe_once(sender, receiver, &octets);
        let probe = probe_once(sender, receiver, &octets);
        if !probe.rung {
            awake.push(probe.took);
        }
        receiver.refill();
    }
    awake
}

fn octets() -> Vec<u8> {
    [&[0; VNET][..], &frame(mac(1), mac(0))].concat()
}

/// A frame that was sent and arrived.
struct Probe {
    /// Microseconds.
    took: f64,
    /// The worker slept, or was about to, and had to be rung.
    rung: bool,
}

fn probe_once(sender: &mut Peer, receiver: &mut Peer, octets: &[u8]) -> Probe {
    let sent = Instant::now();
    assert!(sender.tx.driver.send(octets, Shape::Chain(1)), "there is room");
    let rung = sender.tx.driver.must_kick();
    if rung {
        sender.tx.ring();
    }
    while receiver.rx.driver.used().is_none() {
        assert!(sent.elapsed() < PATIENCE, "the frame does not come");
    }
    let took = sent.elapsed().as_nanos() as f64 / 1000.0;
    while sender.tx.driver.used().is_some() {}
    Probe { took, rung }
}

/// The two that talk.
fn talkers(fleet: &mut Fleet) -> [&mut Peer; 2] {
    let [sender, receiver, ..] = fleet.peers.as_mut_slice() else {
        unreachable!("a fleet has two machines at least")
    };
    [sender, receiver]
}
