//! Gathering a guest's console output, so that a line costs one system call instead of one per octet, and lines of two
//! consoles that print to the same place do not mix.

use std::io::{self, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use vmm_sys_util::timerfd::TimerFd;

/// Octets gathered at most.
const CAPACITY: usize = 512;
/// How long an unfinished line may wait, for instance a prompt.
const PATIENCE: Duration = Duration::from_millis(10);

/// A `Write` that passes on whole lines, full buffers and what [`LineBuffer::flush_now`] finds.
pub(crate) struct LineBuffer {
    output: Box<dyn Write + Send>,
    gathered: Vec<u8>,
    timer: TimerFd,
}

impl LineBuffer {
    pub(crate) fn new(output: Box<dyn Write + Send>) -> io::Result<Self> {
        Ok(Self {
            output,
            gathered: Vec::with_capacity(CAPACITY),
            timer: TimerFd::new()?,
        })
    }

    /// Readable when [`LineBuffer::flush_now`] is due. Valid as long as the buffer.
    pub(crate) fn timer_fd(&self) -> RawFd {
        self.timer.as_raw_fd()
    }

    /// Passes on everything. What the output refuses is dropped.
    pub(crate) fn flush_now(&mut self) {
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
        let mut octets = &octets[..octets.len().min(CAPACITY - self.gathered.len())];
        let line_end = octets.iter().rposition(|octet| *octet == b'\n');
        if let Some(end) = line_end {
            octets = &octets[..=end];
        }
        if self.gathered.is_empty() && line_end.is_none() {
            self.timer.reset(PATIENCE, None)?;
        }
        self.gathered.extend(octets);
        if self.gathered.len() == CAPACITY || line_end.is_some() {
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    /// Remembers each piece that it was handed.
    #[derive(Clone, Default)]
    struct Pieces(Arc<Mutex<Vec<Vec<u8>>>>);

    impl Write for Pieces {
        fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
            self.0.lock().push(octets.to_vec());
            Ok(octets.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn only_whole_lines_and_full_buffers_are_passed_on() {
        let pieces = Pieces::default();
        let mut lines = LineBuffer::new(Box::new(pieces.clone())).expect("a timer");
        lines.write_all(b"one\ntwo\nthr").expect("taken");
        assert_eq!(*pieces.0.lock(), [b"one\ntwo\n"]);
        lines.write_all(b"ee\n").expect("taken");
        lines.write_all(&[b'x'; CAPACITY + 1]).expect("taken");
        lines.flush_now();
        let pieces = pieces.0.lock();
        assert_eq!(pieces[1], b"three\n");
        assert_eq!((pieces[2].len(), pieces[3].len()), (CAPACITY, 1));
    }
}
