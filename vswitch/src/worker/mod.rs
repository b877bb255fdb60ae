//! The worker: the thread that carries frames.
//!
//! Newcomers, start here. A worker serves the lanes (queues of ports) that are its own, one after the other, in one
//! rhythm:
//!
//! 1. **poll**: take up to 32 frames off a lane ([`Backend::take`](crate::port::Backend::take)); headers are copied once;
//! 2. **parse**: judge the copies; learn source addresses; drop what breaks the rules;
//! 3. **filter**: show what is left to the port's filter, if it has one;
//! 4. **look up** destinations and **group** the burst by them;
//! 5. **deliver** each group: past the destination's filter, then one copy into the receiver's pages;
//! 6. **complete**: hand the sender its buffers back;
//! 7. **notify** each receiver, once per burst.
//!
//! Between rounds it releases what filters held, retries receivers that were full, hands over lanes that are wanted
//! elsewhere, and, after an idle spell, asks all its lanes to ring and sleeps until one does, which it serves first.

mod burst;
mod handle;
mod idle;
mod judge;
mod recent;
mod rsc;
mod spell;
mod stamps;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use introspection::Instant;

use crate::clock;
use crate::control::WorkerMode;
use crate::egress;
use crate::lane::{Lane, LaneId};
use crate::switch::{Port, PortTable, Shared};
use crate::vmq::VmQueue;

use burst::Carriage;
pub(crate) use handle::WorkerHandle;
use idle::Polled;
use spell::Spell;

/// How long a worker polls memory in vain before it sleeps. Short, because on a small machine the time that a worker spins is
/// time that its guests do not run: with 20 us it took half again as much CPU per octet between two busy guests, and
/// gained nothing. A machine with a core to spare has `mode = "poll"`.
const IDLE_SPELL: Duration = Duration::from_micros(2);
/// Idle rounds of a worker that never sleeps after which it tells its ports again that it needs no doorbells.
const ROUNDS_BETWEEN_REMINDERS: u32 = 1024;
/// Bursts taken off one lane before the next lane has its turn.
const BURSTS_PER_TURN: usize = 4;

/// Seconds of the switch's clock, for the forwarding table; never 0.
pub(crate) fn seconds(now: Instant) -> u32 {
    (now.0 / 1_000_000_000) as u32 + 1
}

/// Starts a worker.
pub(crate) fn spawn(shared: Arc<Shared>, handle: Arc<WorkerHandle>) -> std::io::Result<JoinHandle<()>> {
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    let thread = std::thread::Builder::new()
        .name(format!("worker-{}", handle.index))
        .spawn(move || {
            let pinned = handle.pin();
            let ready = pinned.is_ok();
            let _ = tell.send(pinned);
            if ready {
                Worker::new(shared, handle).run();
            }
        })?;
    match told.recv() {
        Ok(Ok(())) => Ok(thread),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(std::io::Error::other("the thread ended at once")),
    }
}

/// A lane that this worker serves.
#[derive(Clone)]
struct Served {
    port: Arc<Port>,
    lane: Arc<Lane>,
}

impl Served {
    /// Whether it is a VM queue, of which the port's backend knows nothing.
    fn is_vm_queue(&self) -> bool {
        self.lane.vm_queue.is_some()
    }

    /// Whether it rings for what comes next, as the last look at it found nothing.
    fn is_drained(&self) -> bool {
        !self.is_vm_queue() && self.port.backend.is_drained(self.lane.id.queue)
    }
}

pub(crate) struct Worker {
    shared: Arc<Shared>,
    handle: Arc<WorkerHandle>,
    generation: u64,
    table: Arc<PortTable>,
    /// All lanes that are this worker's.
    mine: Vec<Served>,
    /// Those of them that are polled; see [`idle`].
    polled: Vec<Polled>,
    /// When doorbells were last looked at.
    looked: Instant,
    /// Rounds since the last sleep.
    rounds_awake: u32,
    /// Something came since then of which a look at memory tells whether there is more.
    worth_polling: bool,
    /// Nanoseconds of carrying since there was last nothing to do.
    busy: u64,
    spell: Spell,
    carriage: Carriage,
    idle_since: Option<Instant>,
    idle_rounds: u32,
}

impl Worker {
    pub(crate) fn new(shared: Arc<Shared>, handle: Arc<WorkerHandle>) -> Self {
        let carriage = Carriage::new(Arc::clone(&shared), handle.index);
        let table = shared.table();
        // A generation that no table has, so that the first round takes the table in force.
        Self {
            shared,
            handle,
            generation: u64::MAX,
            table,
            mine: Vec::new(),
            polled: Vec::new(),
            looked: Instant(0),
            rounds_awake: 0,
            worth_polling: false,
            busy: 0,
            spell: Spell::default(),
            carriage,
            idle_since: None,
            idle_rounds: 0,
        }
    }

    fn run(mut self) {
        while !self.shared.stop.load(Ordering::Acquire) {
            let busy = self.round();
            self.handle.count_round(busy);
            if busy {
                if self.idle_since.take().is_some() {
                    self.spell.found();
                }
            } else {
                self.rest();
            }
        }
    }

    /// One round over all lanes. True when there was anything to do.
    pub(crate) fn round(&mut self) -> bool {
        self.adopt_table();
        let mut polled = std::mem::take(&mut self.polled);
        let mut busy = false;
        for lane in &mut polled {
            let carried = !lane.is_passed_over() && self.serve(&lane.served);
            lane.idle_rounds = if carried {
                0
            } else {
                lane.idle_rounds.saturating_add(1)
            };
            busy |= carried;
            let port = &lane.served.port;
            if port.has_backlog.load(Ordering::Acquire) && egress::drain(port) {
                port.backend.notify();
                busy = true;
            }
        }
        busy |= self.release(&polled);
        self.polled = polled;
        self.rounds_awake = self.rounds_awake.saturating_add(1);
        busy | self.sort_out_idle()
    }

    /// Takes the port table in force, if it is a new one.
    fn adopt_table(&mut self) {
        let generation = self.shared.generation.load(Ordering::Acquire);
        if generation == self.generation {
            return;
        }
        self.table = self.shared.table();
        self.generation = generation;
        self.mine.clear();
        let mut moved = false;
        let uplinks = self.table.ports().any(|port| port.is_uplink);
        let is_used = |lane: &Lane| {
            lane.vm_queue
                .as_ref()
                .is_none_or(|queue| uplinks || queue.is_mirrored() || !queue.is_empty())
        };
        for port in self.table.ports() {
            for lane in port.lanes.iter().filter(|lane| lane.owner() == self.handle.index) {
                if lane.wanted() != self.handle.index && lane.hand_over(&self.shared.workers) {
                    moved = true;
                } else if is_used(lane) {
                    self.mine.push(Served {
                        port: Arc::clone(port),
                        lane: Arc::clone(lane),
                    });
                }
            }
        }
        self.poll_all();
        if moved {
            self.shared.renew();
        }
        // What filters let go of a lane meanwhile may have been told to its last owner, or before the lane was this worker's.
        self.handle.note_releases();
        self.carriage.use_table(Arc::clone(&self.table));
        self.handle.generation.store(generation, Ordering::Release);
    }

    /// Carries a few bursts of one lane.
    fn serve(&mut self, served: &Served) -> bool {
        if served.lane.vm_queue.as_ref().is_some_and(VmQueue::is_empty) {
            return false;
        }
        let begun = clock::now();
        let rung = served.lane.doorbell.swap(0, Ordering::Relaxed);
        let start = if rung == 0 {
            begun
        } else {
            Instant(rung).min(begun)
        };
        let mut taken = begun;
        let mut carried = 0;
        let mut drained = false;
        self.carriage.take_elsewhere();
        for _ in 0..BURSTS_PER_TURN {
            let Served { port, lane } = served;
            let frames = match &lane.vm_queue {
                Some(queue) => self.carriage.carry_sorted(port, lane.id, queue),
                None => self.carriage.carry(port, lane.id, start, begun, taken),
            };
            drained = served.is_drained();
            if frames == 0 {
                break;
            }
            self.handle.count_burst(frames);
            carried += frames as u64;
            taken = clock::now();
            if drained {
                break;
            }
        }
        if carried > 0 {
            self.worth_polling |= !drained;
            let own = taken.since(begun).saturating_sub(self.carriage.take_elsewhere());
            self.busy += own;
            served.lane.meter.add(carried, own);
            let attribution = self.carriage.sampler.take_spent();
            if attribution > 0 {
                let spent = &served.lane.meter.attribution;
                spent.fetch_add(attribution, Ordering::Relaxed);
            }
        }
        carried > 0
    }

    /// Carries on what filters held and now let go.
    fn release(&mut self, polled: &[Polled]) -> bool {
        let mut busy = false;
        if self.handle.take_releases() {
            let table = Arc::clone(&self.table);
            for port in table.ports().filter(|port| port.probe.is_active()) {
                for lane in port.probe.outboxes() {
                    busy |= self.carries_for(port, lane) && self.carriage.poll_probe(port, lane);
                }
            }
        }
        let now = clock::now();
        // A lane whose port has an active probe is always polled.
        let homes = polled
            .iter()
            .map(|lane| &lane.served)
            .filter(|served| served.lane.id.is_home());
        for Served { port, lane } in homes.filter(|served| served.port.probe.is_active()) {
            if port.probe.deadline().is_some_and(|at| at <= now) {
                busy |= self.carriage.poll_probe(port, lane.id);
            }
        }
        busy
    }

    /// Whether this worker carries on what `port`'s filter held of a lane: its owner does, and that of the filter's
    /// own port when the lane went with its port.
    fn carries_for(&self, port: &Port, lane: LaneId) -> bool {
        let owner = self
            .table
            .lane(lane)
            .map_or_else(|| port.home(), |lane| lane.owner());
        owner == self.handle.index
    }

    /// Tells guests now and then, for rings come and go, that this worker polls and needs no doorbells.
    fn keep_quiet(&mut self) {
        if self.idle_rounds.is_multiple_of(ROUNDS_BETWEEN_REMINDERS) {
            self.disarm();
        }
        self.idle_rounds = self.idle_rounds.wrapping_add(1);
        std::hint::spin_loop();
    }

    fn disarm(&self) {
        let own = self.polled.iter().map(|lane| &lane.served);
        for Served { port, lane } in own.filter(|served| !served.is_vm_queue()) {
            port.backend.disarm(lane.id.queue);
        }
    }

    /// Nothing to do: polls on, or sleeps.
    fn rest(&mut self) {
        if self.handle.config.mode == WorkerMode::Poll {
            self.keep_quiet();
            return;
        }
        let now = clock::now();
        let since = *self.idle_since.get_or_insert_with(|| {
            self.spell.begin(std::mem::take(&mut self.busy));
            now
        });
        let spell = if self.worth_polling {
            IDLE_SPELL
        } else {
            self.spell.length()
        };
        if now < since.after(spell) {
            std::hint::spin_loop();
            return;
        }
        self.handle.set_drowsy(true);
        self.retire_before_sleep();
        let mut pending = self.handle.has_releases();
        for Served { port, lane } in self.polled.iter().map(|lane| &lane.served) {
            pending |= match &lane.vm_queue {
                Some(queue) => !queue.is_empty(),
                None => port
                    .backend
                    .arm(lane.id.queue, port.has_backlog.load(Ordering::Acquire)),
            };
        }
        if !pending && self.generation == self.shared.generation.load(Ordering::Acquire) {
            self.sleep(now);
        }
        self.handle.set_drowsy(false);
        self.disarm();
    }

    fn sleep(&mut self, now: Instant) {
        if !std::mem::take(&mut self.worth_polling) {
            self.spell.in_vain(now);
        }
        self.polled.iter_mut().for_each(|lane| lane.passed_over = false);
        let deadline = self
            .polled
            .iter()
            .map(|lane| &lane.served)
            .filter(|served| !served.is_vm_queue())
            .filter_map(|Served { port, lane }| {
                let held = if lane.id.is_home() && port.probe.is_active() {
                    port.probe.deadline()
                } else {
                    None
                };
                held.into_iter()
                    .chain(port.backend.deadline(lane.id.queue, now))
                    .min()
            })
            .min();
        let rung = self
            .handle
            .sleep(deadline.map(|at| Duration::from_nanos(at.since(clock::now()))));
        let woken = clock::now();
        if self.heed(&rung, woken) {
            self.handle.count_round(true);
            if !self.worth_polling {
                self.spell.slept(now, woken);
            }
        }
        self.rounds_awake = 0;
        self.idle_since = None;
    }
}
