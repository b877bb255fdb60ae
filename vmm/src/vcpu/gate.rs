//! Where processors wait while the machine is paused, and how they learn that it ends.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

/// How a processor came through the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passage {
    /// At once.
    Open,
    /// After the machine had been paused.
    Waited,
    /// Not at all: the machine ends.
    End,
}

/// Passed by every processor before it enters the guest.
#[derive(Default)]
pub(super) struct Gate {
    /// Whether processors must look at the rest; read on each entry to the guest.
    attention: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    closed: bool,
    ending: bool,
    waiting: usize,
}

impl Gate {
    /// Waits as long as the gate is closed.
    pub(super) fn pass(&self) -> Passage {
        if !self.wants_attention() {
            return Passage::Open;
        }
        let mut state = self.state.lock();
        state.waiting += 1;
        self.changed.notify_all();
        while state.closed && !state.ending {
            self.changed.wait(&mut state);
        }
        state.waiting -= 1;
        if state.ending {
            Passage::End
        } else {
            Passage::Waited
        }
    }

    /// Whether processors must come to the gate.
    pub(super) fn wants_attention(&self) -> bool {
        self.attention.load(Ordering::SeqCst)
    }

    /// Closes the gate. Processors in the guest come to it when they are kicked.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.attention.store(true, Ordering::SeqCst);
    }

    /// Whether `count` processors wait at the closed gate, now or before `deadline`.
    pub(super) fn all_wait(&self, count: usize, deadline: Instant) -> bool {
        let mut state = self.state.lock();
        while state.waiting < count {
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                return state.waiting >= count;
            }
        }
        true
    }

    /// Lets processors go on.
    pub(super) fn open(&self) {
        let mut state = self.state.lock();
        state.closed = false;
        self.attention.store(state.ending, Ordering::SeqCst);
        self.changed.notify_all();
    }

    /// Sends all processors home, those that wait too.
    pub(super) fn end(&self) {
        self.state.lock().ending = true;
        self.attention.store(true, Ordering::SeqCst);
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn a_closed_gate_holds_until_it_opens_or_the_machine_ends() {
        let gate = Arc::new(Gate::default());
        assert_eq!(gate.pass(), Passage::Open);
        for end in [false, true] {
            gate.close();
            let walkers: Vec<_> = (0..3)
                .map(|_| {
                    let gate = Arc::clone(&gate);
                    std::thread::spawn(move || gate.pass())
                })
                .collect();
            assert!(gate.all_wait(3, soon()));
            assert!(!gate.all_wait(4, Instant::now()), "there are only three");
            if end {
                gate.end();
            } else {
                gate.open();
            }
            for walker in walkers {
                let expected = if end { Passage::End } else { Passage::Waited };
                assert_eq!(walker.join().expect("ended"), expected);
            }
        }
        gate.open();
        assert_eq!(gate.pass(), Passage::End, "an ended machine does not begin again");
    }
}
