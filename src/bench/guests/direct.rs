//! The small guests' client and server in one thread, with nothing between their network stacks: an empty path.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use crossbeam_channel::{Receiver, Sender, unbounded};
use microguest::report::Line;
use microguest::station::{Link, Station};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};

use crate::lab::guests::{Event, Guests, Orders, Role};

/// Octets of a frame: an MTU of 1500 and the Ethernet header.
const FRAME: usize = 1514;
/// Longest sleep: how soon "go" is seen.
const LOOK: Duration = Duration::from_millis(1);
/// Shorter waits are spun: a sleep would be longer.
const SPIN: Duration = Duration::from_micros(100);

/// Both ends, run by one thread.
pub(super) struct DirectGuests {
    events: Receiver<(Role, Event)>,
    go: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl DirectGuests {
    pub(super) fn start(orders: &Orders) -> Result<Self> {
        let (sender, events) = unbounded();
        let go = Arc::new(AtomicBool::new(false));
        let stop = Arc::new(AtomicBool::new(false));
        let (orders, raised, stopped) = (*orders, Arc::clone(&go), Arc::clone(&stop));
        let thread = thread::Builder::new()
            .name("empty-path".to_owned())
            .spawn(move || run(&orders, &raised, &stopped, &sender))
            .context("starting a thread")?;
        Ok(Self {
            events,
            go,
            stop,
            thread: Some(thread),
        })
    }
}

impl Guests for DirectGuests {
    fn events(&self) -> &Receiver<(Role, Event)> {
        &self.events
    }

    fn go(&mut self) -> Result<()> {
        self.go.store(true, Ordering::Release);
        Ok(())
    }

    fn stop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // What it had to say it has said.
            let _ = thread.join();
        }
    }
}

fn run(orders: &Orders, go: &AtomicBool, stop: &AtomicBool, sender: &Sender<(Role, Event)>) {
    let epoch = Instant::now();
    let clock = || u64::try_from(epoch.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let wires = [RefCell::default(), RefCell::default()];
    let mut ends = [Role::Client, Role::Server].map(|role| {
        let index = usize::from(role == Role::Server);
        let mut cable = Cable {
            sent: &wires[index],
            arrived: &wires[1 - index],
        };
        let mac = [2, 0, 0, 0, 0, index as u8];
        let station = Station::new(&orders.of(role), &mut cable, mac, index as u64);
        (role, station, cable)
    });
    while !stop.load(Ordering::Relaxed) {
        let mut next = None;
        for (role, station, cable) in &mut ends {
            let mut sink = |line: &Line<'_>| {
                // Nobody listens any more when the measurement is over.
                let _ = sender.send((*role, Event::Line(line.to_string())));
            };
            if station.wants_go() && go.swap(false, Ordering::AcqRel) {
                station.go(clock(), &mut sink);
            }
            let wake = station.step(&clock, cable, &mut sink);
            next = next.into_iter().chain(wake).min();
            if station.is_over() {
                return;
            }
        }
        let idle = wires.iter().all(|wire| wire.borrow().is_empty());
        let wait = next.map_or(LOOK, |at| Duration::from_nanos(at.saturating_sub(clock())));
        if idle && wait > SPIN {
            thread::sleep(wait.min(LOOK).saturating_sub(SPIN / 2));
        }
    }
}

type Wire = RefCell<VecDeque<Vec<u8>>>;

/// One end of a cable that takes no time.
struct Cable<'a> {
    sent: &'a Wire,
    arrived: &'a Wire,
}

struct Arrived(Vec<u8>);
struct Sending<'a>(&'a Wire);

impl RxToken for Arrived {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.borrow_mut().push_back(frame);
        result
    }
}

impl Device for Cable<'_> {
    type RxToken<'a>
        = Arrived
    where
        Self: 'a;
    type TxToken<'a>
        = Sending<'a>
    where
        Self: 'a;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Arrived, Sending<'_>)> {
        let frame = self.arrived.borrow_mut().pop_front()?;
        Some((Arrived(frame), Sending(self.sent)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Sending<'_>> {
        Some(Sending(self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = FRAME;
        capabilities
    }
}

impl Link for Cable<'_> {}
