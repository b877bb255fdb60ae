//! Lanes that are left alone: with many ports most are idle, and to look at each in every round would cost the busy ones
//! more than their frames do.
//!
//! A lane that had nothing for a while, and whose guest rings when it has (see
//! [`Backend::rings_reliably`](crate::port::Backend::rings_reliably)), is armed as for a sleep and polled no more until it
//! rings. Doorbells are looked at between rounds. A worker that goes to sleep leaves all lanes alone that had nothing since the
//! last sleep, else it would tell each of a thousand at every wake-up that it need not ring, and at every sleep that it must.
//! What concerns a port as a whole, such as a backlog or a filter, wakes the worker, and then all lanes are polled for a
//! while. A worker with few lanes polls them all.

use std::sync::atomic::Ordering;
use std::time::Duration;

use introspection::Instant;

use crate::clock;

use super::handle::Rung;
use super::{Served, Worker};

/// Lanes that are polled whether or not they are idle.
const FEW: usize = 16;
/// Rounds in vain after which a lane is left alone.
const IDLE_ROUNDS: u32 = 256;
/// Time between two looks at doorbells while the worker is busy.
const LOOKS: Duration = Duration::from_micros(20);

/// A lane that is polled.
pub(super) struct Polled {
    pub(super) served: Served,
    /// Rounds since it last had anything.
    pub(super) idle_rounds: u32,
    /// It was left out of the last round.
    pub(super) passed_over: bool,
}

impl Polled {
    fn new(served: Served) -> Self {
        Self {
            served,
            idle_rounds: 0,
            passed_over: false,
        }
    }

    /// Leaves a lane out of a round that rings for what it has. Of the next one it is not: a worker that is busy with others does not
    /// hear it.
    pub(super) fn is_passed_over(&mut self) -> bool {
        self.passed_over = !self.passed_over && self.served.is_drained();
        self.passed_over
    }
}

impl Served {
    /// Has its guest ring, and says whether it may be left alone until it does.
    fn retire(&self) -> bool {
        let Self { port, lane } = self;
        let queue = lane.id.queue;
        let busy = self.is_vm_queue()
            || !port.backend.rings_reliably()
            || port.probe.is_active()
            || port.has_backlog.load(Ordering::Acquire)
            || port.backend.deadline(queue, clock::now()).is_some();
        if busy {
            return false;
        }
        if port.backend.arm(queue, false) || port.has_backlog.load(Ordering::Acquire) {
            port.backend.disarm(queue);
            return false;
        }
        true
    }
}

impl Worker {
    /// Polls all lanes from now on.
    pub(super) fn poll_all(&mut self) {
        self.polled.clear();
        self.polled.extend(self.mine.iter().cloned().map(Polled::new));
        self.disarm();
    }

    /// Whether some lanes are left alone.
    fn has_idle(&self) -> bool {
        self.polled.len() < self.mine.len()
    }

    /// Leaves idle lanes alone, and takes up those that rang. True when these had anything.
    pub(super) fn sort_out_idle(&mut self) -> bool {
        let backlog = self.carriage.take_backlog();
        if self.mine.len() <= FEW {
            return false;
        }
        if backlog && self.has_idle() {
            self.poll_all();
        }
        self.retire(IDLE_ROUNDS);
        if !self.has_idle() {
            return false;
        }
        let now = clock::now();
        if now < self.looked.after(LOOKS) {
            return false;
        }
        self.looked = now;
        let rung = self.handle.look();
        self.heed(&rung, now)
    }

    /// Leaves lanes alone that had nothing since the last sleep, before the next one.
    pub(super) fn retire_before_sleep(&mut self) {
        if self.mine.len() > FEW {
            self.retire(self.rounds_awake);
        }
    }

    /// Leaves lanes alone that had nothing for so many rounds.
    fn retire(&mut self, rounds: u32) {
        self.polled.retain_mut(|lane| {
            if lane.idle_rounds < rounds {
                return true;
            }
            lane.idle_rounds = 0;
            !lane.served.retire()
        });
    }

    /// Serves what rang at this time, before anything else, and polls it from now on. True when it had anything.
    pub(super) fn heed(&mut self, rung: &Rung, now: Instant) -> bool {
        let mut busy = false;
        for id in &rung.lanes {
            let (Some(port), Some(lane)) = (self.table.get(id.port), self.table.lane(*id)) else {
                continue;
            };
            lane.doorbell.store(now.0, Ordering::Relaxed);
            let served = Served {
                port: port.clone(),
                lane: lane.clone(),
            };
            // One that is just being handed over rings here a moment before it is this worker's; the next table has it.
            if lane.owner() != self.handle.index {
                port.backend.woken(id.queue);
                continue;
            }
            port.backend.disarm(id.queue);
            busy |= self.serve(&served);
            // Not before: the frames need not wait for two system calls. What rings meanwhile is found when the lane is armed.
            served.port.backend.woken(id.queue);
            let is_polled = |polled: &Polled| polled.served.lane.id == *id;
            if self.has_idle() && !self.polled.iter().any(is_polled) {
                self.polled.push(Polled::new(served));
            }
        }
        if rung.woken && self.has_idle() {
            self.poll_all();
        }
        busy
    }
}
