//! A switch with two guests, and what passes between them.

use std::time::{Duration, Instant};

use introspection::{Profile, Rule, RuleAction};
use offload::VnetHeader;
use vswitch::Switch;
use vswitch::control::{Attribution, FilterConfig, PortConfig, PortKind, SwitchConfig, WorkerConfig};
use vswitch::ring::feature;
use vswitch::ring::mock::Shape;

use crate::common::{Guest, MODERN};
use crate::frames;

const PACKED: u64 = MODERN | feature::RING_PACKED;
/// Partial checksums and large TCP sends over IPv4, in both directions (virtio 1.2, 5.1.3).
const LARGE: u64 = MODERN | 1 | 1 << 1 | 1 << 7 | 1 << 11;
/// Receive buffers of the guests; one of a large frame has to do, and all segments of one.
const BUFFERS: usize = 64;
const LARGE_PAYLOAD: usize = 62_000;
/// Frames of a round where they are small.
const FRAMES: u64 = 16;
const PATIENCE: Duration = Duration::from_secs(20);

/// What is carried.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Load {
    /// Segments with so much payload, complete, and an acknowledgement of each round's.
    Segments(usize),
    /// The same with checksums left to the NIC.
    Partial(usize),
    /// One large send a round.
    Large,
}

/// One way of a frame through the switch.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// Features of the sender and of the receiver.
    features: [u64; 2],
    load: Load,
    /// The receiving port's filter.
    filter: Profile,
    /// Rules of the filter.
    rules: usize,
    workers: usize,
}

impl Case {
    const fn new(name: &'static str, features: [u64; 2], load: Load) -> Self {
        Self {
            name,
            features,
            load,
            filter: Profile::Off,
            rules: 0,
            workers: 1,
        }
    }

    const fn inspected(name: &'static str, rules: usize) -> Self {
        Self {
            filter: Profile::Inspect,
            rules,
            ..Self::new(name, [MODERN; 2], Load::Segments(1448))
        }
    }

    /// Frames that its receivers get in a round.
    pub(crate) fn frames(&self) -> u64 {
        match self.load {
            Load::Segments(_) => FRAMES + 1,
            Load::Partial(_) => FRAMES,
            Load::Large if self.features[1] == LARGE => 1,
            Load::Large => frames::cut_into(LARGE_PAYLOAD) as u64,
        }
    }
}

/// Every way that has to do without allocations.
pub(crate) const CASES: [Case; 9] = [
    Case::new("split to split", [MODERN; 2], Load::Segments(1448)),
    Case::new("packed to packed", [PACKED; 2], Load::Segments(1448)),
    Case::new("packed to split, 10 octets", [PACKED, MODERN], Load::Segments(10)),
    Case {
        workers: 2,
        ..Case::new("split to split, two workers", [MODERN; 2], Load::Segments(1448))
    },
    Case::new("large sends, whole", [LARGE; 2], Load::Large),
    Case::new("large sends, cut in software", [LARGE, MODERN], Load::Large),
    Case::new(
        "partial checksums, in software",
        [LARGE, MODERN],
        Load::Partial(1400),
    ),
    Case::inspected("inspect", 0),
    Case::inspected("inspect, 100 rules", 100),
];

/// A case's switch and guests.
pub(crate) struct Scene {
    case: &'static Case,
    guests: [Guest; 2],
    seq: u32,
    _switch: Switch,
    _directory: tempfile::TempDir,
}

impl Scene {
    pub(crate) fn new(case: &'static Case) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let switch = Switch::start(&SwitchConfig {
            workers: vec![WorkerConfig::default(); case.workers],
        })
        .expect("the switch starts");
        // The most that a frame can take.
        switch.set_attribution(Attribution::Full);
        let guests = ["sender", "receiver"].map(|name| {
            let path = directory.path().join(name);
            let mut port = PortConfig::new(name, PortKind::VhostUser(path));
            if name == "receiver" {
                port.filter = filter(case);
            }
            switch.add_port(port).expect("the port is added");
            directory.path().join(name)
        });
        let [sender, receiver] = guests;
        let guests = [
            Guest::attach(&sender, 1, case.features[0]),
            Guest::attach(&receiver, 1, case.features[1]),
        ];
        let mut scene = Self {
            case,
            guests,
            seq: 1,
            _switch: switch,
            _directory: directory,
        };
        for guest in 0..2 {
            post(&mut scene.guests[guest], BUFFERS);
        }
        scene.introduce();
        scene
    }

    /// Both are heard, so that nothing is flooded from here on.
    fn introduce(&mut self) {
        for (from, to) in [(1, 2), (2, 1), (1, 2)] {
            let hello = frames::acknowledgement(from, to, 1);
            send(
                &mut self.guests[usize::from(from) - 1],
                VnetHeader::default(),
                &hello,
            );
            receive(&mut self.guests[usize::from(to) - 1], 1);
        }
    }

    /// Carries one round; returns when all of it arrived.
    pub(crate) fn round(&mut self) {
        let [sender, receiver] = &mut self.guests;
        let mut next = |payload: usize| {
            let seq = self.seq;
            self.seq = seq.wrapping_add(payload as u32);
            seq
        };
        match self.case.load {
            Load::Segments(payload) => {
                for _ in 0..FRAMES {
                    let frame = frames::tcp(1, 2, next(payload), payload);
                    send(sender, VnetHeader::default(), &frame);
                }
            }
            Load::Partial(payload) => {
                for _ in 0..FRAMES {
                    let (vnet, frame) = frames::unfinished(1, 2, next(payload), payload);
                    send(sender, vnet, &frame);
                }
            }
            Load::Large => {
                let (vnet, frame) = frames::unfinished(1, 2, next(LARGE_PAYLOAD), LARGE_PAYLOAD);
                send(sender, vnet, &frame);
            }
        }
        if let Load::Segments(_) = self.case.load {
            receive(receiver, self.case.frames() - 1);
            let answer = frames::acknowledgement(2, 1, self.seq);
            send(receiver, VnetHeader::default(), &answer);
            receive(sender, 1);
        } else {
            receive(receiver, self.case.frames());
        }
    }
}

fn filter(case: &Case) -> FilterConfig {
    let rule = |number: usize| Rule {
        name: format!("rule {number}"),
        pattern: format!("pattern number {number} that never comes"),
        action: RuleAction::Drop,
        ..Rule::default()
    };
    FilterConfig {
        profile: case.filter,
        rules: (0..case.rules).map(rule).collect(),
        ..FilterConfig::default()
    }
}

/// Posts receive buffers, and rings if the port wants to hear of them.
pub(crate) fn post(guest: &mut Guest, buffers: usize) {
    guest.post(0, buffers);
    if guest.rx[0].driver.must_kick() {
        guest.rx[0].kick.write(1).expect("an eventfd takes a number");
    }
}

/// Sends a frame; waits for room in the ring if it has to.
pub(crate) fn send(guest: &mut Guest, vnet: VnetHeader, frame: &[u8]) {
    let ring = &mut guest.tx[0];
    let octets = [&vnet.to_bytes()[..], frame].concat();
    let end = Instant::now() + PATIENCE;
    while !ring.driver.send(&octets, Shape::Chain(2)) {
        assert!(Instant::now() < end, "the switch takes nothing");
        while ring.driver.used().is_some() {}
    }
    if ring.driver.must_kick() {
        ring.kick.write(1).expect("an eventfd takes a number");
    }
}

/// Waits for so many frames, and posts their buffers again.
pub(crate) fn receive(guest: &mut Guest, frames: u64) {
    let end = Instant::now() + PATIENCE;
    let mut got = 0;
    while got < frames {
        let free = guest.rx[0].driver.free();
        let mut came = 0;
        while guest.rx[0].driver.receive(VnetHeader::LEN).is_some() {
            came += 1;
        }
        let returned = guest.rx[0].driver.free() - free;
        if returned > 0 {
            post(guest, returned);
        } else {
            std::thread::yield_now();
        }
        got += came;
        assert!(Instant::now() < end, "{got} of {frames} frames came");
    }
    assert_eq!(got, frames, "no more than expected");
}
