//! What a frame costs a worker by how many are stamped: off, auto, one of 1,000 and full; and what the switch says that
//! it costs.
//!
//! Two guests with mock drivers are on a real switch whose worker sleeps until 64 frames wait, so that bursts are full. Slices of
//! the modes take turns. `cargo bench -p vswitch --bench attribution`

#[path = "../tests/vhost_user_common/mod.rs"]
mod common;

use std::time::{Duration, Instant};

use common::{Guest, MODERN};
use etherparse::PacketBuilder;
use offload::VnetHeader;
use vswitch::Switch;
use vswitch::control::{Attribution, PortConfig, PortKind, SwitchConfig};
use vswitch::ring::mock::Shape;

const FRAMES: usize = 64;
const ROUNDS: usize = 300;
const SLICES: usize = 21;
const PATIENCE: Duration = Duration::from_secs(20);

/// What was measured of one mode.
#[derive(Clone, Copy)]
struct Slice {
    /// Nanoseconds of the worker's busy time for each frame.
    per_frame: f64,
    /// What the switch says that attribution took, in per cent of the busy time and of all time.
    of_busy: f64,
    of_all: f64,
}

struct Scene {
    switch: Switch,
    guests: [Guest; 2],
    _directory: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let switch = Switch::start(&SwitchConfig::default()).expect("the switch starts");
        let guests = ["sender", "receiver"].map(|name| {
            let path = directory.path().join(name);
            switch
                .add_port(PortConfig::new(name, PortKind::VhostUser(path.clone())))
                .expect("the port is added");
            Guest::attach(&path, 1, MODERN)
        });
        let mut scene = Self {
            switch,
            guests,
            _directory: directory,
        };
        scene.guests.iter_mut().for_each(|guest| guest.post(0, FRAMES));
        // Both are heard, so that nothing is flooded.
        for (from, to) in [(0, 1), (1, 0)] {
            scene.send(from, &[frame(from as u8 + 1, to as u8 + 1, 4000, 64)]);
            scene.receive(to, 1);
        }
        scene
    }

    /// Sends frames that the switch hears of all at once.
    fn send(&mut self, from: usize, frames: &[Vec<u8>]) {
        let ring = &mut self.guests[from].tx[0];
        let end = Instant::now() + PATIENCE;
        while ring.driver.used().is_some() {}
        for frame in frames {
            let octets = [&VnetHeader::default().to_bytes()[..], frame].concat();
            while !ring.driver.send(&octets, Shape::Chain(1)) {
                while ring.driver.used().is_some() {}
                assert!(Instant::now() < end, "the switch takes nothing");
            }
        }
        if ring.driver.must_kick() {
            ring.kick.write(1).expect("an eventfd takes a number");
        }
    }

    fn receive(&mut self, at: usize, frames: usize) {
        let end = Instant::now() + PATIENCE;
        let ring = &mut self.guests[at].rx[0];
        let mut got = 0;
        while got < frames {
            match ring.driver.used() {
                Some(_) => got += 1,
                None => std::thread::yield_now(),
            }
            assert!(Instant::now() < end, "{got} of {frames} frames came");
        }
        self.guests[at].post(0, frames);
    }

    fn slice(&mut self, mode: Attribution, frames: &[Vec<u8>]) -> Slice {
        self.switch.set_attribution(mode);
        let before = self.switch.stats().attribution;
        let begun = Instant::now();
        for _ in 0..ROUNDS {
            // It sleeps by then, and looks at nothing before it is rung.
            let pause = Instant::now() + Duration::from_micros(5);
            while Instant::now() < pause {
                std::hint::spin_loop();
            }
            self.send(0, frames);
            self.receive(1, frames.len());
        }
        let elapsed = begun.elapsed();
        std::thread::sleep(Duration::from_micros(200));
        let mut stats = self.switch.stats().attribution;
        stats.busy_ns -= before.busy_ns;
        stats.spent_ns -= before.spent_ns;
        Slice {
            per_frame: stats.busy_ns as f64 / (ROUNDS * frames.len()) as f64,
            of_busy: stats.share() * 100.0,
            of_all: stats.spent_ns as f64 / elapsed.as_nanos() as f64 * 100.0,
        }
    }
}

/// A TCP segment of so many octets between two hosts.
fn frame(from: u8, to: u8, port: u16, len: usize) -> Vec<u8> {
    let mac = |host| [2, 0, 0, 0, 0, host];
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(mac(from), mac(to))
        .ipv4([192, 0, 2, from], [192, 0, 2, to], 64)
        .tcp(port, 80, 1, 1000)
        .write(&mut frame, &vec![b'.'; len - 54])
        .expect("a frame");
    frame
}

fn main() {
    let modes = ["off", "auto", "1000", "full"].map(|mode| mode.parse::<Attribution>().expect("a mode"));
    let mut scene = Scene::new();
    println!(
        "load                  mode   ns/frame  against off   by its own measure: % of busy time  % of all time"
    );
    for (load, len, flows) in [
        ("64 B, 1 flow", 64, 1),
        ("64 B, 64 flows", 64, FRAMES),
        ("1500 B, 1 flow", 1500, 1),
    ] {
        let frames: Vec<Vec<u8>> = (0..FRAMES)
            .map(|number| frame(1, 2, (number % flows) as u16 + 1, len))
            .collect();
        let mut seen = modes.map(|_| Vec::new());
        for _ in 0..SLICES {
            for (seen, mode) in seen.iter_mut().zip(modes) {
                seen.push(scene.slice(mode, &frames));
            }
        }
        let median = |mut values: Vec<f64>| {
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        for (slices, mode) in seen.iter().zip(modes) {
            let of = |value: fn(&Slice) -> f64| median(slices.iter().map(value).collect());
            let against_off = slices
                .iter()
                .zip(&seen[0])
                .map(|(slice, off)| slice.per_frame / off.per_frame);
            println!(
                "{load:<20}  {:<5}  {:>8.1}  {:>11.3}   {:>34.2}  {:>13.2}",
                mode.to_string(),
                of(|slice| slice.per_frame),
                median(against_off.collect()),
                of(|slice| slice.of_busy),
                of(|slice| slice.of_all)
            );
        }
    }
}
