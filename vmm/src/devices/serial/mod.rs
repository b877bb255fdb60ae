//! COM1: a 16550 whose transmitter is the caller's `Write` and whose receiver is fed from a descriptor.

mod input;

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use vm_superio::serial::SerialEvents;
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::Terminal;
use super::lifecycle::{CannotExport, Lifecycle, SavedState};
use super::lines::LineBuffer;

pub(crate) use input::{Input, Typed};

/// First port of COM1.
pub(crate) const COM1: u16 = 0x3f8;
/// Ports of a 16550.
pub(crate) const PORTS: u16 = 8;
/// COM1's interrupt line.
pub(crate) const COM1_LINE: u32 = 4;

type Uart = Serial<Interrupt, Arc<Receiver>, LineBuffer>;

/// COM1, shared by the vCPU threads and the event loop.
pub(crate) struct SerialPort {
    uart: Mutex<Uart>,
    receiver: Arc<Receiver>,
    interrupt: Arc<EventFd>,
    flush_timer: RawFd,
}

/// The 16550's interrupt output.
struct Interrupt(Arc<EventFd>);

impl Trigger for Interrupt {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// Tells the event loop when the receiver has room again, and counts what was lost.
struct Receiver {
    room: EventFd,
    starved: AtomicBool,
    lost: AtomicU64,
}

impl SerialEvents for Receiver {
    fn buffer_read(&self) {}

    fn out_byte(&self) {}

    fn tx_lost_byte(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
    }

    fn in_buffer_empty(&self) {
        if self.starved.swap(false, Ordering::Relaxed) {
            // Fails only when the counter is full, and then the event loop is told already.
            let _ = self.room.write(1);
        }
    }
}

impl SerialPort {
    /// A port that writes to `output`.
    pub(crate) fn new(output: Box<dyn io::Write + Send>) -> io::Result<Self> {
        let flags = EFD_NONBLOCK | libc::EFD_CLOEXEC;
        let receiver = Arc::new(Receiver {
            room: EventFd::new(flags)?,
            starved: AtomicBool::new(false),
            lost: AtomicU64::new(0),
        });
        let interrupt = Arc::new(EventFd::new(flags)?);
        let output = LineBuffer::new(output)?;
        let flush_timer = output.timer_fd();
        let uart = Serial::with_events(Interrupt(Arc::clone(&interrupt)), Arc::clone(&receiver), output);
        Ok(Self {
            uart: Mutex::new(uart),
            receiver,
            interrupt,
            flush_timer,
        })
    }

    /// Signalled when the port raises its interrupt line.
    pub(crate) fn interrupt(&self) -> &EventFd {
        &self.interrupt
    }

    /// Readable when output has waited long enough for the end of its line.
    pub(crate) fn flush_timer_fd(&self) -> RawFd {
        self.flush_timer
    }

    /// Octets of output that the console did not take.
    pub(crate) fn lost(&self) -> u64 {
        self.receiver.lost.load(Ordering::Relaxed)
    }

    /// A guest's write; more than one octet is a string written to one port.
    pub(crate) fn write(&self, offset: u8, data: &[u8]) {
        let mut uart = self.uart.lock();
        for octet in data {
            // A failed write is counted by `tx_lost_byte`; an interrupt that cannot be raised is pending already.
            let _ = uart.write(offset, *octet);
        }
    }

    /// A guest's read.
    pub(crate) fn read(&self, offset: u8, data: &mut [u8]) {
        let mut uart = self.uart.lock();
        for octet in data {
            *octet = uart.read(offset);
        }
    }

    /// Hands over output that waits for the end of its line.
    pub(crate) fn flush(&self) {
        self.uart.lock().writer_mut().flush_now();
    }
}

impl Terminal for SerialPort {
    fn room(&self) -> usize {
        let uart = self.uart.lock();
        let room = uart.fifo_capacity();
        self.receiver.starved.store(room == 0, Ordering::Relaxed);
        room
    }

    /// A full receiver loses octets like a real one.
    fn receive(&self, octets: &[u8]) {
        // An interrupt that cannot be raised is pending already.
        let _ = self.uart.lock().enqueue_raw_bytes(octets);
    }

    fn room_fd(&self) -> RawFd {
        self.receiver.room.as_raw_fd()
    }

    fn clear_room(&self) {
        // Fails only when there is nothing to forget.
        let _ = self.receiver.room.read();
    }
}

impl Lifecycle for Arc<SerialPort> {
    /// Output that waits for the end of its line goes out; input comes from the event loop, which is asked first.
    fn pause(&mut self) {
        self.flush();
    }

    fn resume(&mut self) {}

    fn reset(&mut self) {
        self.flush();
        // The registers have no reset of their own: these are the values that a 16550 starts with.
        for (register, value) in [(1, 0), (2, 0), (3, 3), (4, 8), (7, 0)] {
            self.write(register, &[value]);
        }
    }

    fn export(&self) -> Result<SavedState, CannotExport> {
        let state = self.uart.lock().state();
        let registers = [
            state.baud_divisor_low,
            state.baud_divisor_high,
            state.interrupt_enable,
            state.interrupt_identification,
            state.line_control,
            state.line_status,
            state.modem_control,
            state.modem_status,
            state.scratch,
        ];
        SavedState::new("serial", 1, (registers, state.in_buffer))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::testing::Screen;

    #[test]
    fn output_arrives_by_lines_and_on_flush() {
        let screen = Screen::default();
        let port = SerialPort::new(Box::new(screen.clone())).expect("eventfds");
        port.write(0, b"one\ntw");
        assert_eq!(screen.text(), "one\n");
        port.flush();
        assert_eq!(screen.text(), "one\ntw");
        port.write(0, &[b'x'; 2000]);
        port.flush();
        assert_eq!(screen.text().len(), 2006);
    }

    #[test]
    fn input_raises_the_interrupt_and_room_is_signalled_once() {
        let port = SerialPort::new(Box::new(io::sink())).expect("eventfds");
        port.write(1, &[1]);
        // Enabling interrupts reports the empty transmitter once on some chips; start from silence.
        let _ = port.interrupt().read();
        let room = port.room();
        port.receive(&vec![b'g'; room]);
        assert!(port.interrupt().read().is_ok(), "received data interrupt");
        assert_eq!(port.room(), 0);
        for _ in 0..room {
            let mut octet = [0];
            port.read(0, &mut octet);
            assert_eq!(octet, *b"g");
        }
        assert_eq!(port.receiver.room.read().ok(), Some(1));
        assert_eq!(port.room(), room);
    }

    #[test]
    fn a_closed_console_is_counted_not_fatal() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let port = SerialPort::new(Box::new(Closed)).expect("eventfds");
        port.write(0, b"abc\n");
        assert_eq!(port.lost(), 1, "the octet that completed the line");
        port.write(0, b"d\n");
        assert_eq!(port.lost(), 2);
    }
}
