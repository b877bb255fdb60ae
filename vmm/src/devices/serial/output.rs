//! Gathering a guest's console output, so that a line costs one system call instead of one per octet.

use std::io::{self, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use vmm_sys_util::timerfd::TimerFd;

/// Octets gathered at most.
const CAPACITY: usize = 512;
/// How long an unfinished line may wait, for instance a prompt.
const PATIENCE: Duration = Duration::from_millis(10);

/// A `Write` that passes on whole lines, full buffers and what [`LineBuffer::flush_now`] finds.
pub(super) struct LineBuffer {
    output: Box<dyn Write + Send>,
    gathered: Vec<u8>,
    timer: TimerFd,
}

impl LineBuffer {
    pub(super) fn new(output: Box<dyn Write + Send>) -> io::Result<Self> {
        Ok(Self {
            output,
            gathered: Vec::with_capacity(CAPACITY),
            timer: TimerFd::new()?,
        })
    }

    /// Readable when [`LineBuffer::flush_now`] is due. Valid as long as the buffer.
    pub(super) fn timer_fd(&self) -> RawFd {
        self.timer.as_raw_fd()
    }

    /// Passes on everything. What the output refuses is dropped.
    pub(super) fn flush_now(&mut self) {
        // Disarming a timer that this object owns cannot fail in a way that matters: a late flush is harmless.
        let _ = self.timer.clear();
        let _ = self.pass_on();
    }

    fn pass_on(&mut self) -> io::Result<()> {
        let result = self
            .output
            .write_all(&self.gathered)
            .and_then(|()| self.output.flush());
        self.gathered.clear();
        result
    }
}

impl Write for LineBuffer {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let octets = &octets[..octets.len().min(CAPACITY - self.gathered.len())];
        if self.gathered.is_empty() {
            self.timer.reset(PATIENCE, None)?;
        }
        self.gathered.extend(octets);
        if self.gathered.len() == CAPACITY || octets.contains(&b'\n') {
            self.timer.clear()?;
            self.pass_on()?;
        }
        Ok(octets.len())
    }

    /// Does nothing: the 16550 calls it for every octet.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
