//! The client's end of an open loop, over the kernel's TCP: see [`OpenLoop`].

use std::num::NonZeroU64;
use std::time::Duration;

use microguest::workload::OpenLoop;
use rustix::thread::set_current_timer_slack;

use super::Failure;
use super::client::Client;

/// How often a client without anything to do looks whether it should go on.
const LOOK: u64 = 10_000_000;
/// Octets read at a time.
const ROOM: usize = 64 * 1024;

impl Client<'_> {
    /// Sends requests when they are due and reads responses when they come.
    pub(super) fn open_loop(&mut self) -> Result<(), Failure> {
        // Else Linux may add 50 us to every wait. Where it cannot be had, requests are late, and that is counted.
        let _ = set_current_timer_slack(NonZeroU64::new(1));
        let mut open = OpenLoop::new(&self.parameters);
        open.start(self.measure.now());
        let mut room = vec![0; ROOM];
        while self.measure.tick() {
            let full = self.send_due(&mut open)?;
            let Some(read) = self.stream.try_read(&mut room)? else {
                return self.ended();
            };
            self.count_responses(&mut open, room.get(..read).unwrap_or_default())?;
            let (now, end) = (self.measure.now(), self.measure.phases.end());
            if let Some(window) = self.measure.phases.window()
                && open.is_settled(now, window.1)
            {
                let missed = open.end_phase(now, window);
                let measure = &mut self.measure;
                measure.phases.finish_open(missed, now, &mut measure.say);
            } else if read == 0 {
                let phase = self.measure.phases.deadline();
                let next = open.deadline(end).into_iter().chain(phase).min();
                let wait = next.map_or(LOOK, |next| next.saturating_sub(now).min(LOOK));
                self.stream.wait(full, Duration::from_nanos(wait))?;
            }
        }
        Ok(())
    }

    /// Writes what is due, a request at a time. Whether the connection takes no more.
    fn send_due(&mut self, open: &mut OpenLoop) -> Result<bool, Failure> {
        let end = self.measure.phases.end();
        loop {
            let now = self.measure.now();
            let Some(outgoing) = open.outgoing(now, end) else {
                return Ok(false);
            };
            if let Some(due) = outgoing.begins {
                self.measure.phases.begun(due, now);
            }
            let (wanted, written) = (outgoing.octets.len(), self.stream.try_write(outgoing.octets)?);
            open.wrote(written);
            if written < wanted {
                return Ok(true);
            }
        }
    }

    fn count_responses(&mut self, open: &mut OpenLoop, mut octets: &[u8]) -> Result<(), Failure> {
        let now = self.measure.now();
        while !octets.is_empty() {
            let (taken, answered) = open.read(octets)?;
            octets = octets.get(taken..).unwrap_or_default();
            if let Some(due) = answered {
                let measure = &mut self.measure;
                measure.phases.transaction(due, now, &mut measure.say);
            }
        }
        Ok(())
    }
}
