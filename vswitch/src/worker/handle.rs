//! How others reach a worker: its doorbells, its mailbox flags and its counters.
//!
//! This module talks to epoll and the scheduler, which is why it may use `unsafe`.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::control::{WorkerConfig, WorkerStats};
use crate::lane::LaneId;

/// Doorbells seen per sleep; those left over are seen at the next.
const EVENTS: u8 = 64;
/// epoll's name for the worker's own eventfd.
const SELF: u64 = u64::MAX;

/// A worker, seen from other threads. What it counts in each round shares no cache line with another worker's.
#[repr(align(128))]
pub(crate) struct WorkerHandle {
    pub(crate) index: usize,
    pub(crate) config: WorkerConfig,
    /// The port table that the worker uses.
    pub(crate) generation: AtomicU64,
    pub(crate) epoll: Epoll,
    releases: AtomicBool,
    /// It sleeps or is about to; what it looks at before it sleeps, it looks at after this was set.
    drowsy: AtomicBool,
    rounds: AtomicU64,
    busy_rounds: AtomicU64,
    bursts: AtomicU64,
    frames: AtomicU64,
    sleeps: AtomicU64,
}

/// What rang.
#[derive(Debug, Default)]
pub(crate) struct Rung {
    /// Somebody woke the worker itself: anything may have changed.
    pub(crate) woken: bool,
    /// The lanes whose doorbells rang.
    pub(crate) lanes: arrayvec::ArrayVec<LaneId, { EVENTS as usize }>,
}

/// The descriptors that a worker sleeps on.
pub(crate) struct Epoll {
    epoll: OwnedFd,
    wake: EventFd,
}

impl WorkerHandle {
    pub(crate) fn new(index: usize, config: WorkerConfig) -> io::Result<Self> {
        Ok(Self {
            index,
            config,
            generation: AtomicU64::new(0),
            epoll: Epoll::new()?,
            releases: AtomicBool::new(false),
            drowsy: AtomicBool::new(false),
            rounds: AtomicU64::new(0),
            busy_rounds: AtomicU64::new(0),
            bursts: AtomicU64::new(0),
            frames: AtomicU64::new(0),
            sleeps: AtomicU64::new(0),
        })
    }

    /// Pins the calling thread to the configured CPU.
    pub(crate) fn pin(&self) -> io::Result<()> {
        let Some(cpu) = self.config.cpu else { return Ok(()) };
        if cpu >= libc::CPU_SETSIZE as usize {
            return Err(io::Error::other(format!("CPU {cpu} does not exist")));
        }
        // SAFETY: `cpu_set_t` is a plain bit array for which all zeroes is the empty set, and `cpu` was just checked
        // to be inside it. The call reads `set` for the length given and changes nothing but this thread's affinity.
        let result = unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(cpu, &mut set);
            libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
        };
        if result == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        Err(io::Error::other(format!(
            "cannot run on CPU {cpu}: {error}; `nproc` tells how many there are"
        )))
    }

    /// Ends a sleep.
    pub(crate) fn wake(&self) {
        self.epoll.wake();
    }

    /// Ends a sleep, if the worker sleeps. For news that it looks at before each sleep, told after they were made
    /// visible with sequential consistency.
    pub(crate) fn rouse(&self) {
        if self.drowsy.load(Ordering::SeqCst) {
            self.wake();
        }
    }

    /// Says whether the worker is about to sleep.
    pub(crate) fn set_drowsy(&self, drowsy: bool) {
        self.drowsy.store(drowsy, Ordering::SeqCst);
    }

    /// Whether [`WorkerHandle::wake`] was called since the last look or sleep.
    #[cfg(test)]
    pub(crate) fn was_woken(&self) -> bool {
        self.epoll.wake.read().is_ok()
    }

    /// Tells the worker that a filter let go of packets that it has to carry.
    pub(crate) fn releases(&self) {
        self.note_releases();
        self.wake();
    }

    /// The same from the worker itself, which need not be woken.
    pub(crate) fn note_releases(&self) {
        self.releases.store(true, Ordering::Release);
    }

    /// Whether [`WorkerHandle::take_releases`] would find something.
    pub(crate) fn has_releases(&self) -> bool {
        self.releases.load(Ordering::Relaxed)
    }

    /// Whether the worker was told of releases since the last look.
    pub(crate) fn take_releases(&self) -> bool {
        self.has_releases() && self.releases.swap(false, Ordering::AcqRel)
    }

    /// Sleeps until a doorbell rings or the time is over.
    pub(crate) fn sleep(&self, timeout: Option<Duration>) -> Rung {
        self.sleeps.fetch_add(1, Ordering::Relaxed);
        self.epoll.wait(timeout)
    }

    /// Which doorbells have rung, without sleeping.
    pub(crate) fn look(&self) -> Rung {
        self.epoll.wait(Some(Duration::ZERO))
    }

    pub(crate) fn count_round(&self, busy: bool) {
        self.rounds.fetch_add(1, Ordering::Relaxed);
        self.busy_rounds.fetch_add(u64::from(busy), Ordering::Relaxed);
    }

    pub(crate) fn count_burst(&self, frames: usize) {
        self.bursts.fetch_add(1, Ordering::Relaxed);
        self.frames.fetch_add(frames as u64, Ordering::Relaxed);
    }

    pub(crate) fn stats(&self) -> WorkerStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        WorkerStats {
            config: self.config,
            rounds: read(&self.rounds),
            busy_rounds: read(&self.busy_rounds),
            bursts: read(&self.bursts),
            frames: read(&self.frames),
            sleeps: read(&self.sleeps),
        }
    }
}

impl Epoll {
    fn new() -> io::Result<Self> {
        // SAFETY: takes no pointers; a non-negative result is a new descriptor that nothing else owns.
        let epoll = unsafe {
            let fd = libc::epoll_create1(libc::EPOLL_CLOEXEC);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        let this = Self {
            epoll,
            wake: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
        };
        this.control(libc::EPOLL_CTL_ADD, this.wake.as_raw_fd(), libc::EPOLLIN, SELF)?;
        Ok(this)
    }

    fn control(&self, operation: i32, fd: RawFd, events: i32, name: u64) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: events as u32,
            u64: name,
        };
        // SAFETY: `event` lives through the call, which reads it and keeps no pointer; a bad descriptor is an error.
        let result = unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), operation, fd, &raw mut event) };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// Watches a descriptor for something to read, and for room to write if asked to, by a lane's name.
    pub(crate) fn watch(&self, fd: RawFd, writable: bool, name: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, interest(writable), name)
    }

    /// Changes what a descriptor is watched for.
    pub(crate) fn rewatch(&self, fd: RawFd, writable: bool, name: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, interest(writable), name)
    }

    /// Watches a descriptor no more.
    pub(crate) fn forget(&self, fd: RawFd) {
        // It may be gone from the set already, with the last copy of its descriptor.
        let _ = self.control(libc::EPOLL_CTL_DEL, fd, 0, 0);
    }

    fn wake(&self) {
        // It fails only when the counter is full, and then the worker is about to wake anyway.
        let _ = self.wake.write(1);
    }

    fn wait(&self, timeout: Option<Duration>) -> Rung {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS as usize];
        let time = timeout.map(|time| libc::timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(time.subsec_nanos()),
        });
        let time = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: `events` has room for the number of entries given and `time` is null or points at a timespec that
        // lives through the call; the null mask leaves the signal mask alone.
        let count = unsafe {
            let epoll = self.epoll.as_raw_fd();
            libc::epoll_pwait2(epoll, events.as_mut_ptr(), EVENTS.into(), time, std::ptr::null())
        };
        // An interrupted wait is an early wake-up.
        let count = usize::try_from(count).unwrap_or(0);
        let woken = events.iter().take(count).any(|event| event.u64 == SELF);
        if woken {
            let _ = self.wake.read();
        }
        let names = events.into_iter().take(count).map(|event| event.u64);
        Rung {
            woken,
            lanes: names.filter_map(LaneId::from_bits).collect(),
        }
    }
}

const fn interest(writable: bool) -> i32 {
    if writable {
        libc::EPOLLIN | libc::EPOLLOUT
    } else {
        libc::EPOLLIN
    }
}
