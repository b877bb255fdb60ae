//! Lanes: what workers serve. Each queue of a port is one, and each port's [VM queue](crate::vmq).
//!
//! One worker at a time serves a lane, its *owner*. A lane that is wanted elsewhere is handed over by its owner between
//! two rounds, when none of its frames are in the owner's hands: so frames of one lane are carried in the order in which
//! they came, whoever carries them.

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::control::Why;
use crate::port::{PortId, Waker};
use crate::vmq::VmQueue;
use crate::worker::WorkerHandle;

/// A lane's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LaneId {
    /// The port that its frames come from.
    pub(crate) port: PortId,
    /// The port's queue; the number after the last is its VM queue.
    pub(crate) queue: u16,
}

/// A lane. What its owner counts shares no cache line with another lane's, nor with the next line that is fetched along.
#[repr(align(128))]
pub(crate) struct Lane {
    pub(crate) id: LaneId,
    /// When its doorbell last woke the worker; 0 when that was used up.
    pub(crate) doorbell: AtomicU64,
    pub(crate) meter: Meter,
    /// What it serves instead of one of its port's own queues.
    pub(crate) vm_queue: Option<VmQueue>,
    owner: AtomicUsize,
    why: Mutex<Why>,
    wanted: AtomicUsize,
    watched: Mutex<Vec<Watched>>,
}

/// What was measured of a lane.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    /// Nanoseconds that its owners spent on it.
    pub(crate) busy: AtomicU64,
    /// What of that went into attribution.
    pub(crate) attribution: AtomicU64,
    /// Frames carried.
    pub(crate) frames: AtomicU64,
    /// Times that it was handed over.
    pub(crate) moves: AtomicU64,
    /// What of its owner's time it took lately, in thousandths.
    pub(crate) load: AtomicU32,
}

/// A descriptor that the owner sleeps on.
struct Watched {
    fd: RawFd,
    writable: bool,
}

impl LaneId {
    /// The lane that stands for its port where the port as a whole is meant.
    pub(crate) const fn home(port: PortId) -> Self {
        Self { port, queue: 0 }
    }

    /// Whether it is the lane that stands for its port.
    pub(crate) fn is_home(self) -> bool {
        self == Self::home(self.port)
    }

    /// As epoll carries it.
    pub(crate) const fn to_bits(self) -> u64 {
        (self.port.0 as u64) << 16 | self.queue as u64
    }

    /// Undoes [`LaneId::to_bits`]; `None` for what it never makes.
    pub(crate) fn from_bits(bits: u64) -> Option<Self> {
        Some(Self {
            port: PortId(u16::try_from(bits >> 16).ok()?),
            queue: bits as u16,
        })
    }
}

impl Meter {
    /// Counts frames that took this many nanoseconds.
    pub(crate) fn add(&self, frames: u64, busy: u64) {
        self.frames.fetch_add(frames, Ordering::Relaxed);
        self.busy.fetch_add(busy, Ordering::Relaxed);
    }
}

impl Lane {
    pub(crate) fn new(id: LaneId, owner: usize) -> Self {
        Self {
            id,
            doorbell: AtomicU64::new(0),
            meter: Meter::default(),
            vm_queue: None,
            owner: AtomicUsize::new(owner),
            why: Mutex::new(Why::Dealt),
            wanted: AtomicUsize::new(owner),
            watched: Mutex::default(),
        }
    }

    /// The lane of a VM queue.
    pub(crate) fn of_vm(id: LaneId, owner: usize) -> Self {
        Self {
            vm_queue: Some(VmQueue::default()),
            ..Self::new(id, owner)
        }
    }

    /// The worker that serves it.
    pub(crate) fn owner(&self) -> usize {
        self.owner.load(Ordering::SeqCst)
    }

    /// The worker that is to serve it.
    pub(crate) fn wanted(&self) -> usize {
        self.wanted.load(Ordering::Acquire)
    }

    /// Why it is with its worker, or soon will be.
    pub(crate) fn why(&self) -> Why {
        *self.why.lock()
    }

    /// Asks the owner to hand it over. It does so when it next adopts a port table.
    pub(crate) fn want(&self, worker: usize, why: Why) {
        *self.why.lock() = why;
        self.wanted.store(worker, Ordering::Release);
    }

    /// Hands the lane over to the worker that is to serve it, with what it sleeps on; called by the owner. True when
    /// there was anything to hand over.
    pub(crate) fn hand_over(&self, workers: &[Arc<WorkerHandle>]) -> bool {
        let (from, to) = (self.owner(), self.wanted());
        let (Some(old), Some(new)) = (workers.get(from), workers.get(to)) else {
            return false;
        };
        if from == to {
            return false;
        }
        let mut watched = self.watched.lock();
        watched.retain(|watched| {
            old.epoll.forget(watched.fd);
            // One that cannot be watched any more was closed: its port will say so.
            new.epoll
                .watch(watched.fd, watched.writable, self.id.to_bits())
                .is_ok()
        });
        self.owner.store(to, Ordering::SeqCst);
        self.meter.moves.fetch_add(1, Ordering::Relaxed);
        new.wake();
        true
    }
}

/// A port's way to the workers that serve its lanes.
pub(crate) struct LaneWaker {
    lanes: Vec<Arc<Lane>>,
    workers: Vec<Arc<WorkerHandle>>,
}

impl LaneWaker {
    pub(crate) fn new(lanes: Vec<Arc<Lane>>, workers: Vec<Arc<WorkerHandle>>) -> Self {
        Self { lanes, workers }
    }

    /// The lane of a queue. There is one for each queue that a backend says it has.
    fn lane(&self, queue: u16) -> io::Result<&Lane> {
        let lane = self.lanes.get(usize::from(queue));
        lane.map(AsRef::as_ref)
            .ok_or_else(|| io::Error::other(format!("the port has no queue {queue}")))
    }

    fn owner(&self, lane: &Lane) -> io::Result<&WorkerHandle> {
        let owner = self.workers.get(lane.owner());
        owner
            .map(AsRef::as_ref)
            .ok_or_else(|| io::Error::other("the queue has no worker"))
    }
}

impl Waker for LaneWaker {
    fn watch(&self, queue: u16, fd: RawFd) -> io::Result<()> {
        let lane = self.lane(queue)?;
        // Under the lock, so that the lane is not handed over meanwhile.
        let mut watched = lane.watched.lock();
        self.owner(lane)?.epoll.watch(fd, false, lane.id.to_bits())?;
        watched.push(Watched { fd, writable: false });
        Ok(())
    }

    fn watch_writable(&self, queue: u16, fd: RawFd, on: bool) -> io::Result<()> {
        let lane = self.lane(queue)?;
        let mut watched = lane.watched.lock();
        self.owner(lane)?.epoll.rewatch(fd, on, lane.id.to_bits())?;
        if let Some(watched) = watched.iter_mut().find(|watched| watched.fd == fd) {
            watched.writable = on;
        }
        Ok(())
    }

    fn unwatch(&self, queue: u16, fd: RawFd) {
        let Ok(lane) = self.lane(queue) else { return };
        let mut watched = lane.watched.lock();
        if let Ok(owner) = self.owner(lane) {
            owner.epoll.forget(fd);
        }
        watched.retain(|watched| watched.fd != fd);
    }

    fn wake(&self, queue: u16) {
        if let Ok(lane) = self.lane(queue)
            && let Ok(owner) = self.owner(lane)
        {
            owner.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use vmm_sys_util::eventfd::EventFd;

    use super::*;
    use crate::control::WorkerConfig;

    #[test]
    fn names_survive_epoll() {
        for id in [
            LaneId::home(PortId(0)),
            LaneId {
                port: PortId(u16::MAX),
                queue: u16::MAX,
            },
        ] {
            assert_eq!(LaneId::from_bits(id.to_bits()), Some(id));
        }
        assert_eq!(LaneId::from_bits(u64::MAX), None);
    }

    #[test]
    fn a_lane_takes_its_doorbells_along() {
        let workers: Vec<_> = (0..2)
            .map(|index| Arc::new(WorkerHandle::new(index, WorkerConfig::default()).unwrap()))
            .collect();
        let lane = Arc::new(Lane::new(LaneId::home(PortId(3)), 0));
        let waker = LaneWaker::new(vec![Arc::clone(&lane)], workers.clone());
        let bell = EventFd::new(0).unwrap();
        waker.watch(0, bell.as_raw_fd()).unwrap();
        assert!(waker.watch(1, bell.as_raw_fd()).is_err(), "no such queue");
        bell.write(1).unwrap();
        let rung = |worker: usize| -> Vec<LaneId> { workers[worker].look().lanes.to_vec() };
        assert_eq!((rung(0), rung(1)), (vec![lane.id], vec![]));
        assert!(!lane.hand_over(&workers), "nobody wants it");
        lane.want(1, Why::Assigned);
        assert!(lane.hand_over(&workers));
        assert_eq!((rung(0), rung(1)), (vec![], vec![lane.id]));
        waker.unwatch(0, bell.as_raw_fd());
        assert_eq!(rung(1), []);
    }
}
