//! Models of how driver and device tell each other of news, in every order that memory allows: nobody sleeps through any.
//!
//! Publisher and sleeper do what both sides of both formats do, in the same order and with the same memory orders: the
//! publisher writes an entry, fences, and reads the other's wish; the sleeper writes its wish, fences, and looks for
//! entries. Where wishes are positions, the arithmetic is the rings' own.

use loom::sync::atomic::{AtomicU16, AtomicU32, Ordering, fence};
use loom::sync::{Arc, Notify};
use loom::thread;

use crate::ring::packed::position::{self, WRAP};
use crate::ring::passed;

/// News in one model.
const NEWS: u32 = 2;

/// How one format publishes and asks.
trait Format: Send + Sync + 'static {
    /// The position of the first entry.
    fn start(&self) -> u16;
    fn after(&self, at: u16) -> u16;
    fn publish(&self, at: u16);
    fn is_there(&self, at: u16) -> bool;
    /// Asks to be told of the entry at `at`.
    fn ask(&self, at: u16);
    /// Whether the sleeper asked for one of the entries from `old` on, which ends before `new`.
    fn is_wanted(&self, old: u16, new: u16) -> bool;
    /// Asks to be told of nothing.
    fn suppress(&self);
}

/// A split ring with an event index: a free-running index, and an index to be told of.
struct Split {
    index: AtomicU16,
    event: AtomicU16,
    start: u16,
}

impl Split {
    fn new(start: u16) -> Self {
        Self {
            index: AtomicU16::new(start),
            // From long ago.
            event: AtomicU16::new(start.wrapping_sub(1)),
            start,
        }
    }
}

impl Format for Split {
    fn start(&self) -> u16 {
        self.start
    }

    fn after(&self, at: u16) -> u16 {
        at.wrapping_add(1)
    }

    fn publish(&self, at: u16) {
        self.index.store(at.wrapping_add(1), Ordering::Release);
    }

    fn is_there(&self, at: u16) -> bool {
        self.index.load(Ordering::Acquire) != at
    }

    fn ask(&self, at: u16) {
        self.event.store(at, Ordering::Relaxed);
    }

    fn is_wanted(&self, old: u16, new: u16) -> bool {
        passed(self.event.load(Ordering::Relaxed), new, old)
    }

    fn suppress(&self) {}
}

/// A packed ring with event suppression: each slot says in which round it was written; the wish is a position with flags
/// above it.
struct Packed {
    slots: Vec<AtomicU16>,
    event: AtomicU32,
    start: u16,
}

const DISABLE: u32 = 1 << 16;
const AT_DESCRIPTOR: u32 = 2 << 16;
/// What a slot says that was never written.
const NEVER: u16 = 2;

impl Packed {
    fn new(size: u16, start: u16) -> Self {
        Self {
            slots: (0..size).map(|_| AtomicU16::new(NEVER)).collect(),
            event: AtomicU32::new(DISABLE),
            start,
        }
    }

    fn size(&self) -> u16 {
        self.slots.len() as u16
    }

    fn slot(&self, at: u16) -> &AtomicU16 {
        &self.slots[usize::from(position::slot(at))]
    }
}

impl Format for Packed {
    fn start(&self) -> u16 {
        self.start
    }

    fn after(&self, at: u16) -> u16 {
        position::after(at, 1, self.size())
    }

    fn publish(&self, at: u16) {
        self.slot(at).store(position::wrap(at).into(), Ordering::Release);
    }

    fn is_there(&self, at: u16) -> bool {
        self.slot(at).load(Ordering::Acquire) == u16::from(position::wrap(at))
    }

    fn ask(&self, at: u16) {
        self.event.store(AT_DESCRIPTOR | u32::from(at), Ordering::Relaxed);
    }

    fn is_wanted(&self, old: u16, new: u16) -> bool {
        let event = self.event.load(Ordering::Relaxed);
        let slots = position::distance(old, new, self.size());
        event & AT_DESCRIPTOR != 0
            && (1..=slots).contains(&position::distance(event as u16, new, self.size()))
    }

    fn suppress(&self) {
        self.event.store(DISABLE, Ordering::Relaxed);
    }
}

/// A ring, and the bell of its sleeper.
struct Line<F> {
    format: F,
    bell: Notify,
}

/// Publishes all news, `batch` at a time.
fn publish<F: Format>(line: &Line<F>, batch: u32) {
    let mut at = line.format.start();
    for _ in 0..NEWS / batch {
        let old = at;
        for _ in 0..batch {
            line.format.publish(at);
            at = line.format.after(at);
        }
        fence(Ordering::SeqCst);
        if line.format.is_wanted(old, at) {
            line.bell.notify();
        }
    }
}

/// Takes all news, and sleeps whenever there is none. A sleep that nobody ends is a deadlock, which the model reports.
fn take<F: Format>(line: &Line<F>) {
    let mut at = line.format.start();
    let mut taken = 0;
    loop {
        while taken < NEWS && line.format.is_there(at) {
            at = line.format.after(at);
            taken += 1;
        }
        if taken == NEWS {
            return;
        }
        line.format.ask(at);
        fence(Ordering::SeqCst);
        if !line.format.is_there(at) {
            line.bell.wait();
        }
        line.format.suppress();
    }
}

fn check<F: Format>(make: impl Fn() -> F + Send + Sync + 'static, batch: u32) {
    loom::model(move || {
        let line = Arc::new(Line {
            format: make(),
            bell: Notify::new(),
        });
        let publisher = thread::spawn({
            let line = Arc::clone(&line);
            move || publish(&line, batch)
        });
        take(&line);
        publisher.join().expect("it ends");
    });
}

#[test]
fn nobody_sleeps_through_news_in_a_split_ring() {
    for start in [0, 65_535] {
        for batch in [1, NEWS] {
            check(move || Split::new(start), batch);
        }
    }
}

#[test]
fn nobody_sleeps_through_news_in_a_packed_ring() {
    for start in [WRAP, WRAP | 1] {
        for batch in [1, NEWS] {
            check(move || Packed::new(2, start), batch);
        }
    }
}
