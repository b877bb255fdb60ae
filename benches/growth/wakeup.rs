//! What a wake-up costs on this machine when nothing else is done: the least that a sleeping worker can take.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::load;
use crate::process::pin;

/// What a sleeper counts as its last wake-up.
const STOP: u64 = u64::MAX;

/// A thread that sleeps on an eventfd, as a worker does, and counts how often it was woken.
pub(crate) struct Sleeper {
    bell: Arc<EventFd>,
    woken: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Sleeper {
    /// One on this processor.
    pub(crate) fn new(cpu: usize) -> Self {
        let bell = Arc::new(EventFd::new(EFD_NONBLOCK).expect("an eventfd"));
        let woken = Arc::new(AtomicU64::new(0));
        let (own, count) = (Arc::clone(&bell), Arc::clone(&woken));
        let thread = std::thread::spawn(move || {
            pin(cpu);
            let epoll = Epoll::new().expect("an epoll descriptor");
            let interest = EpollEvent::new(EventSet::IN, 0);
            epoll
                .ctl(ControlOperation::Add, own.as_raw_fd(), interest)
                .expect("an eventfd can be watched");
            while count.load(Ordering::Acquire) != STOP {
                if epoll.wait(-1, &mut [EpollEvent::default()]).is_ok() {
                    // The last value stays.
                    let _ = count.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| {
                        (n != STOP).then_some(n + 1)
                    });
                    let _ = own.read();
                }
            }
        });
        Self {
            bell,
            woken,
            thread: Some(thread),
        }
    }

    /// Microseconds from ringing to the moment at which this thread sees that the sleeper runs, after `gap` of rest.
    pub(crate) fn probe(&self, gap: Duration) -> f64 {
        load::rest(gap);
        let before = self.woken.load(Ordering::Acquire);
        let rung = Instant::now();
        self.ring();
        while self.woken.load(Ordering::Acquire) == before {
            std::hint::spin_loop();
        }
        rung.elapsed().as_nanos() as f64 / 1000.0
    }

    fn ring(&self) {
        self.bell.write(1).expect("an eventfd takes a number");
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.woken.store(STOP, Ordering::Release);
        self.ring();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
