//! Where everything that a guest prints goes: the caller's output, those who look on, and a short memory of it.
//!
//! The caller's output may be a pipe that nobody reads or a terminal that stands still. Only a thread of its own waits for
//! that. Until it has written, what the guest prints gathers; the processor that printed too much waits, before it enters
//! the guest again and without holding anything, so that the machine can be looked into, paused and stopped all the while.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::Builder;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

/// Octets of past output that a new onlooker is shown.
const REMEMBERED: usize = 16 << 10;
/// Onlookers at a time.
pub(crate) const MAX_ONLOOKERS: usize = 4;
/// Octets that may wait for the caller's output before a processor waits for it, too.
const ROOM: usize = 256 << 10;
/// Octets that may wait for it at all, for one exit can print much; the guest loses what is beyond.
const CAPACITY: usize = 16 << 20;
/// Octets that are written at a time.
const PIECE: usize = 64 << 10;
/// Stack of the thread that writes.
const STACK: usize = 128 << 10;
/// How often a processor that waits for room looks whether the machine wants something else of it.
const LOOK: Duration = Duration::from_millis(10);

/// Where a guest's consoles are connected to.
pub struct Console {
    /// Takes what the guest prints, in pieces that mostly are lines.
    pub output: Box<dyn Write + Send>,
    /// Gives what the guest reads. A terminal is set to raw mode while the machine runs; Ctrl-A x then stops it.
    pub input: Option<OwnedFd>,
}

/// The one output of all of a machine's consoles.
#[derive(Clone)]
pub(crate) struct Output(Arc<Handle>);

/// What ends the thread when the last output is gone.
struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.sinks.lock().ended = true;
        self.0.filled.notify_all();
    }
}

struct Shared {
    made: Instant,
    /// Microseconds until the guest first printed something, plus one; 0 before that.
    first: AtomicU64,
    sinks: Mutex<Sinks>,
    /// Something waits to be written, or nothing will any more.
    filled: Condvar,
    /// Something was written.
    drained: Condvar,
    /// Octets that wait to be written, those that are being written included.
    waiting: AtomicUsize,
    lost: AtomicU64,
    /// The caller's output until the thread has it.
    main: Mutex<Option<Box<dyn Write + Send>>>,
}

#[derive(Default)]
struct Sinks {
    queue: VecDeque<u8>,
    /// The caller's output took no more.
    closed: bool,
    ended: bool,
    recent: VecDeque<u8>,
    onlookers: Vec<UnixStream>,
}

impl Output {
    /// What is printed gathers until [`Output::begin`].
    pub(crate) fn new(main: Box<dyn Write + Send>) -> Self {
        Self(Arc::new(Handle(Arc::new(Shared {
            made: Instant::now(),
            first: AtomicU64::new(0),
            sinks: Mutex::default(),
            filled: Condvar::new(),
            drained: Condvar::new(),
            waiting: AtomicUsize::new(0),
            lost: AtomicU64::new(0),
            main: Mutex::new(Some(main)),
        }))))
    }

    /// Starts the thread that writes to the caller's output and first of all calls `prologue`, if it is not there yet.
    pub(crate) fn begin(&self, prologue: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let Some(main) = self.shared().main.lock().take() else {
            return Ok(());
        };
        let writer = Arc::clone(&self.0.0);
        let run = move || {
            prologue();
            writer.write_to(main);
        };
        let thread = Builder::new().name("console".to_owned()).stack_size(STACK);
        thread.spawn(run).map(drop)
    }

    /// Octets that were gathered and that the caller's output did not take.
    pub(crate) fn lost(&self) -> u64 {
        self.shared().lost.load(Ordering::Relaxed)
    }

    /// Waits while too much waits to be written, unless `wanted` says that there is something else to do.
    pub(crate) fn wait_for_room(&self, wanted: impl Fn() -> bool) {
        let shared = self.shared();
        if shared.waiting.load(Ordering::Relaxed) <= ROOM {
            return;
        }
        let mut sinks = shared.sinks.lock();
        while shared.waiting.load(Ordering::Relaxed) > ROOM && !sinks.closed && !wanted() {
            shared.drained.wait_for(&mut sinks, LOOK);
        }
    }

    /// Waits until all is written, as long as something is within each `patience`.
    pub(crate) fn drain(&self, patience: Duration) {
        let shared = self.shared();
        let mut sinks = shared.sinks.lock();
        while shared.waiting.load(Ordering::Relaxed) > 0 {
            if shared.drained.wait_for(&mut sinks, patience).timed_out() {
                return;
            }
        }
    }

    fn shared(&self) -> &Shared {
        &self.0.0
    }

    /// When the guest first printed something since the last [`Output::forget_first`].
    pub(crate) fn first(&self) -> Option<Instant> {
        let us = self.shared().first.load(Ordering::Relaxed).checked_sub(1)?;
        self.shared().made.checked_add(Duration::from_micros(us))
    }

    /// The guest starts anew.
    pub(crate) fn forget_first(&self) {
        self.shared().first.store(0, Ordering::Relaxed);
    }

    /// Shows `stream` the greeting, the recent output and, from now on, all that comes; one that does not keep up is let
    /// go.
    pub(crate) fn show(&self, mut stream: UnixStream, greeting: &str) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        let mut sinks = self.shared().sinks.lock();
        sinks.onlookers.retain(|onlooker| !has_left(onlooker));
        if sinks.onlookers.len() == MAX_ONLOOKERS {
            return Err(io::Error::other(format!(
                "{MAX_ONLOOKERS} consoles are attached already"
            )));
        }
        let (older, newer) = sinks.recent.as_slices();
        stream.write_all(greeting.as_bytes())?;
        stream.write_all(older)?;
        stream.write_all(newer)?;
        sinks.onlookers.push(stream);
        Ok(())
    }
}

impl Write for Output {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let shared = self.shared();
        if shared.first.load(Ordering::Relaxed) == 0 && !octets.is_empty() {
            let us = shared.made.elapsed().as_micros() as u64;
            shared.first.store(us + 1, Ordering::Relaxed);
        }
        let mut sinks = shared.sinks.lock();
        sinks.remember(octets);
        sinks.onlookers.retain_mut(|onlooker| {
            let kept = onlooker.write_all(octets).is_ok();
            if !kept {
                // Fails only when the other end was faster.
                let _ = onlooker.shutdown(Shutdown::Both);
            }
            kept
        });
        if sinks.closed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if sinks.queue.len() + octets.len() > CAPACITY {
            return Err(io::ErrorKind::StorageFull.into());
        }
        sinks.queue.extend(octets);
        shared.waiting.fetch_add(octets.len(), Ordering::Relaxed);
        shared.filled.notify_one();
        Ok(octets.len())
    }

    /// Does nothing: the thread writes as soon as there is something.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    /// Writes until there is nothing left and nobody who might print.
    fn write_to(&self, mut main: Box<dyn Write + Send>) {
        let mut piece = Vec::new();
        let mut sinks = self.sinks.lock();
        loop {
            let len = sinks.queue.len().min(PIECE);
            if len > 0 {
                piece.extend(sinks.queue.drain(..len));
                parking_lot::MutexGuard::unlocked(&mut sinks, || {
                    if main.write_all(&piece).and_then(|()| main.flush()).is_err() {
                        self.sinks.lock().closed = true;
                    }
                });
                self.written(&mut sinks, piece.len());
                piece.clear();
            } else if sinks.ended {
                return;
            } else {
                self.filled.wait(&mut sinks);
            }
        }
    }

    /// `len` octets were written, or all is lost.
    fn written(&self, sinks: &mut Sinks, len: usize) {
        let mut done = len;
        if sinks.closed {
            done += sinks.queue.len();
            sinks.queue = VecDeque::new();
            self.lost.fetch_add(done as u64, Ordering::Relaxed);
        }
        self.waiting.fetch_sub(done, Ordering::Relaxed);
        self.drained.notify_all();
    }
}

impl Sinks {
    fn remember(&mut self, octets: &[u8]) {
        let octets = octets
            .get(octets.len().saturating_sub(REMEMBERED)..)
            .unwrap_or_default();
        let excess = (self.recent.len() + octets.len()).saturating_sub(REMEMBERED);
        self.recent.drain(..excess);
        self.recent.extend(octets);
    }
}

/// Whether the other end has closed the stream, which writing would tell too late when the guest is silent.
fn has_left(stream: &UnixStream) -> bool {
    let mut ended = [EpollEvent::default()];
    let count = Epoll::new().and_then(|epoll| {
        let event = EpollEvent::new(EventSet::READ_HANG_UP, 0);
        epoll.ctl(ControlOperation::Add, stream.as_raw_fd(), event)?;
        epoll.wait(0, &mut ended)
    });
    count.is_ok_and(|count| count > 0)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::testing::Screen;

    fn started(main: Box<dyn Write + Send>) -> Output {
        let output = Output::new(main);
        output.begin(|| {}).expect("a thread");
        output
    }

    #[test]
    fn an_onlooker_sees_what_was_and_what_comes() {
        let screen = Screen::default();
        let mut output = started(Box::new(screen.clone()));
        assert!(output.first().is_none());
        output.write_all(b"before ").expect("taken");
        assert!(output.first().is_some());
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        output.show(ours, "hi! ").expect("room for one");
        output.write_all(b"after").expect("taken");
        let mut seen = [0; 16];
        theirs.read_exact(&mut seen).expect("shown");
        output.drain(Duration::from_secs(10));
        assert_eq!(
            (&seen, screen.text().as_str()),
            (b"hi! before after", "before after")
        );
    }

    #[test]
    fn memory_is_bounded_and_keeps_the_newest() {
        let mut output = started(Box::new(io::sink()));
        for line in 0..5000 {
            writeln!(output, "line {line}").expect("taken");
        }
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        output.show(ours, "").expect("room");
        drop(output);
        let mut seen = Vec::new();
        theirs.read_to_end(&mut seen).expect("shown");
        assert_eq!(seen.len(), REMEMBERED);
        assert!(seen.ends_with(b"line 4999\n"));
    }

    #[test]
    fn onlookers_that_sleep_or_crowd_are_let_go() {
        let mut output = started(Box::new(io::sink()));
        let pairs: Vec<_> = (0..=MAX_ONLOOKERS)
            .map(|_| UnixStream::pair().expect("a pair"))
            .collect();
        let mut theirs = Vec::new();
        for (index, (ours, other)) in pairs.into_iter().enumerate() {
            assert_eq!(output.show(ours, "").is_ok(), index < MAX_ONLOOKERS);
            theirs.push(other);
        }
        for _ in 0..1000 {
            output.write_all(&[b'x'; 1000]).expect("never waits");
        }
        assert!(output.shared().sinks.lock().onlookers.is_empty());
    }

    #[test]
    fn onlookers_that_left_a_silent_guest_make_room() {
        let output = started(Box::new(io::sink()));
        for _ in 0..3 * MAX_ONLOOKERS {
            let (ours, theirs) = UnixStream::pair().expect("a pair");
            output.show(ours, "").expect("room");
            drop(theirs);
        }
        assert_eq!(output.shared().sinks.lock().onlookers.len(), 1);
    }

    #[test]
    fn an_output_that_nobody_reads_makes_printers_wait_and_nobody_else() {
        let (read, write) = io::pipe().expect("a pipe");
        let mut output = started(Box::new(write));
        let line = [b'x'; 1024];
        for _ in 0..CAPACITY / line.len() {
            output.write_all(&line).expect("gathered");
        }
        // The pipe took some; then there is an end.
        let refused = (0..1024).find(|_| output.write_all(&line).is_err());
        assert!(refused.is_some(), "gathering has a bound");
        let asked = std::cell::Cell::new(0);
        output.wait_for_room(|| {
            asked.set(asked.get() + 1);
            asked.get() == 3
        });
        assert_eq!(asked.get(), 3, "waited until there was something else to do");
        output.drain(Duration::from_millis(1));
        drop(read);
        output.wait_for_room(|| false);
        output.drain(Duration::from_secs(10));
        // The pipe holds a piece.
        assert!(output.lost() >= (CAPACITY - PIECE) as u64 && output.write_all(&line).is_err());
    }

    #[test]
    fn everything_is_written_in_order_before_the_end() {
        let (mut read, write) = io::pipe().expect("a pipe");
        let mut output = started(Box::new(write));
        let octets: Vec<u8> = (0..1_000_000_u32).map(|number| (number % 251) as u8).collect();
        output.write_all(&octets).expect("gathered");
        drop(output);
        let mut seen = Vec::new();
        read.read_to_end(&mut seen).expect("until the thread ends");
        assert!(seen == octets);
    }
}
