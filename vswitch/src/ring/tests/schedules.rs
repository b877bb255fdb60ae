//! Every order in which a driver and a device can take their steps, for a few frames: whoever has gone to sleep is woken for what
//! came meanwhile. Steps are calls of either side's interface; what happens inside of one is for the models in
//! [`wakeups`](super::wakeups).

use offload::VnetHeader;

use super::{MODERN, Side, framed};
use crate::frame::{Burst, Outgoing};
use crate::ring::feature;
use crate::ring::mock::Shape;

const SIZE: u16 = 4;
/// Steps of a schedule: each is one of two actors.
const STEPS: u32 = 9;
const BUFFER: u32 = 128;

/// Where a sleeper is on its way to sleep and back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mind {
    Awake,
    /// It found nothing and will ask to be rung.
    Tired,
    Asleep,
}

/// Features and start positions whose schedules are walked: both formats, with and without event indices, around the places where
/// indices and rounds wrap.
fn scenes() -> impl Iterator<Item = (u64, u16)> {
    let features = [0, feature::EVENT_IDX].map(|events| MODERN | events);
    let split = features
        .into_iter()
        .flat_map(|features| [0, 1, 32_766, 65_532, 65_533, 65_534, 65_535].map(|start| (features, start)));
    let packed = features.into_iter().flat_map(|features| {
        [0, 1, 2, 3, 1 << 15, 1 << 15 | 3].map(|start| (features | feature::RING_PACKED, start))
    });
    split.chain(packed)
}

/// Plays every schedule in every scene; `true` is the device's turn.
fn every_schedule(mut play: impl FnMut(u64, u16, &mut dyn Iterator<Item = bool>)) {
    for (features, start) in scenes() {
        for schedule in 0..1_u32 << STEPS {
            play(
                features,
                start,
                &mut (0..STEPS).map(|step| schedule >> step & 1 != 0),
            );
        }
    }
}

/// A driver that sends, and a device that takes and sleeps.
struct Transmit {
    side: Side,
    mind: Mind,
    kicks: u32,
    /// The driver has offered a frame and not looked yet whether it has to ring.
    owes_look: bool,
    sent: u32,
    taken: u32,
}

impl Transmit {
    fn driver(&mut self) {
        if std::mem::take(&mut self.owes_look) {
            self.kicks += u32::from(self.side.driver.must_kick());
            return;
        }
        while self.side.driver.used().is_some() {}
        let octets = framed(12, VnetHeader::default(), 60, self.sent as u8);
        if self.side.driver.send(&octets, Shape::Chain(1)) {
            self.sent += 1;
            self.owes_look = true;
        }
    }

    /// True when it did something: asleep and not rung, it cannot.
    fn device(&mut self) -> bool {
        self.mind = match self.mind {
            Mind::Awake => {
                let mut burst = Burst::default();
                let frames = self.side.ring.take(0, &mut burst);
                self.side.ring.complete();
                self.taken += frames as u32;
                if frames > 0 { Mind::Awake } else { Mind::Tired }
            }
            Mind::Tired if self.side.ring.enable_notifications() => Mind::Awake,
            Mind::Tired => Mind::Asleep,
            Mind::Asleep if std::mem::take(&mut self.kicks) == 0 => return false,
            Mind::Asleep => {
                self.side.ring.disable_notifications();
                Mind::Awake
            }
        };
        true
    }
}

#[test]
fn a_device_that_sleeps_is_rung_for_whatever_was_sent() {
    every_schedule(|features, start, schedule| {
        let mut run = Transmit {
            side: Side::new(SIZE, BUFFER.into(), features, start),
            mind: Mind::Awake,
            kicks: 0,
            owes_look: false,
            sent: 0,
            taken: 0,
        };
        let turns: Vec<bool> = schedule.collect();
        for device in &turns {
            if *device {
                run.device();
            } else {
                run.driver();
            }
        }
        if run.owes_look {
            run.driver();
        }
        while run.device() {}
        assert_eq!(run.taken, run.sent, "{features:#x}, {start}, {turns:?}");
        assert_eq!(run.side.ring.fault(), None);
    });
}

/// A device that delivers, and a driver that takes and sleeps.
struct Receive {
    side: Side,
    mind: Mind,
    interrupts: u32,
    /// The device has delivered and not asked yet whether the driver wants to know.
    owes_look: bool,
    delivered: u32,
    received: u32,
}

impl Receive {
    fn device(&mut self) {
        if std::mem::take(&mut self.owes_look) {
            self.interrupts += u32::from(self.side.ring.needs_notification());
            return;
        }
        let frame = Outgoing {
            vnet: VnetHeader::default(),
            len: 60,
            flow_hash: 0,
            hash_report: offload::rss::HashReport::None,
            head: &[1; 60],
            tail: &[],
        };
        if self.side.receive(&frame).is_ok() {
            self.delivered += 1;
            self.owes_look = true;
        }
    }

    /// Takes what is there; awake if there was anything.
    fn collect(&mut self) -> Option<Mind> {
        let before = self.received;
        while self.side.driver.used().is_some() {
            self.received += 1;
            assert!(self.side.driver.post(BUFFER, Shape::Chain(1)));
        }
        (self.received > before).then_some(Mind::Awake)
    }

    /// True when it did something: asleep and not interrupted, it cannot.
    fn driver(&mut self) -> bool {
        self.mind = match self.mind {
            Mind::Awake => self.collect().unwrap_or(Mind::Tired),
            Mind::Tired => {
                self.side.driver.want_interrupts(true);
                self.collect().unwrap_or(Mind::Asleep)
            }
            Mind::Asleep if std::mem::take(&mut self.interrupts) == 0 => return false,
            Mind::Asleep => {
                self.side.driver.want_interrupts(false);
                Mind::Awake
            }
        };
        true
    }
}

#[test]
fn a_driver_that_sleeps_is_interrupted_for_whatever_was_delivered() {
    every_schedule(|features, start, schedule| {
        let mut side = Side::new(SIZE, BUFFER.into(), features, start);
        (0..SIZE).for_each(|_| assert!(side.driver.post(BUFFER, Shape::Chain(1))));
        let mut run = Receive {
            side,
            mind: Mind::Awake,
            interrupts: 0,
            owes_look: false,
            delivered: 0,
            received: 0,
        };
        let turns: Vec<bool> = schedule.collect();
        for device in &turns {
            if *device {
                run.device();
            } else {
                run.driver();
            }
        }
        if run.owes_look {
            run.device();
        }
        while run.driver() {}
        assert_eq!(run.received, run.delivered, "{features:#x}, {start}, {turns:?}");
        assert_eq!(run.side.ring.fault(), None);
    });
}
