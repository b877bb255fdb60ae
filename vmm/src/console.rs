//! Where everything that a guest prints goes: the caller's output, those who look on, and a short memory of it.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

/// Octets of past output that a new onlooker is shown.
const REMEMBERED: usize = 16 << 10;
/// Onlookers at a time.
pub(crate) const MAX_ONLOOKERS: usize = 4;

/// Where a guest's consoles are connected to.
pub struct Console {
    /// Takes what the guest prints, in pieces that mostly are lines.
    pub output: Box<dyn Write + Send>,
    /// Gives what the guest reads. A terminal is set to raw mode while the machine runs; Ctrl-A x then stops it.
    pub input: Option<OwnedFd>,
}

/// The one output of all of a machine's consoles.
#[derive(Clone)]
pub(crate) struct Output(Arc<Shared>);

struct Shared {
    made: Instant,
    /// Microseconds until the guest first printed something, plus one; 0 before that.
    first: AtomicU64,
    sinks: Mutex<Sinks>,
}

struct Sinks {
    main: Box<dyn Write + Send>,
    recent: VecDeque<u8>,
    onlookers: Vec<UnixStream>,
}

impl Output {
    pub(crate) fn new(main: Box<dyn Write + Send>) -> Self {
        Self(Arc::new(Shared {
            made: Instant::now(),
            first: AtomicU64::new(0),
            sinks: Mutex::new(Sinks {
                main,
                recent: VecDeque::new(),
                onlookers: Vec::new(),
            }),
        }))
    }

    /// When the guest first printed something since the last [`Output::forget_first`].
    pub(crate) fn first(&self) -> Option<Instant> {
        let us = self.0.first.load(Ordering::Relaxed).checked_sub(1)?;
        self.0.made.checked_add(std::time::Duration::from_micros(us))
    }

    /// The guest starts anew.
    pub(crate) fn forget_first(&self) {
        self.0.first.store(0, Ordering::Relaxed);
    }

    /// Shows `stream` the greeting, the recent output and, from now on, all that comes; one that does not keep up is let
    /// go.
    pub(crate) fn show(&self, mut stream: UnixStream, greeting: &str) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        let mut sinks = self.0.sinks.lock();
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
        if self.0.first.load(Ordering::Relaxed) == 0 && !octets.is_empty() {
            let us = self.0.made.elapsed().as_micros() as u64;
            self.0.first.store(us + 1, Ordering::Relaxed);
        }
        let mut sinks = self.0.sinks.lock();
        sinks.remember(octets);
        sinks.onlookers.retain_mut(|onlooker| {
            let kept = onlooker.write_all(octets).is_ok();
            if !kept {
                // Fails only when the other end was faster.
                let _ = onlooker.shutdown(Shutdown::Both);
            }
            kept
        });
        sinks.main.write_all(octets).map(|()| octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.sinks.lock().main.flush()
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

    #[test]
    fn an_onlooker_sees_what_was_and_what_comes() {
        let screen = Screen::default();
        let mut output = Output::new(Box::new(screen.clone()));
        assert!(output.first().is_none());
        output.write_all(b"before ").expect("taken");
        assert!(output.first().is_some());
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        output.show(ours, "hi! ").expect("room for one");
        output.write_all(b"after").expect("taken");
        let mut seen = [0; 16];
        theirs.read_exact(&mut seen).expect("shown");
        assert_eq!(
            (&seen, screen.text().as_str()),
            (b"hi! before after", "before after")
        );
    }

    #[test]
    fn memory_is_bounded_and_keeps_the_newest() {
        let mut output = Output::new(Box::new(io::sink()));
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
        let mut output = Output::new(Box::new(io::sink()));
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
        assert!(output.0.sinks.lock().onlookers.is_empty());
    }

    #[test]
    fn onlookers_that_left_a_silent_guest_make_room() {
        let output = Output::new(Box::new(io::sink()));
        for _ in 0..3 * MAX_ONLOOKERS {
            let (ours, theirs) = UnixStream::pair().expect("a pair");
            output.show(ours, "").expect("room");
            drop(theirs);
        }
        assert_eq!(output.0.sinks.lock().onlookers.len(), 1);
    }
}
