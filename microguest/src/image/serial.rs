//! The first serial port (16550), without interrupts.

use core::fmt::{self, Write};
use core::panic::PanicInfo;

use microguest::cmdline::ParameterError;
use microguest::report::{Line, PREFIX};

use crate::ports;

const DATA: u16 = 0x3f8;
const FIFO_CONTROL: u16 = DATA + 2;
const LINE_STATUS: u16 = DATA + 5;
/// FIFOs on and emptied.
const FIFO_ENABLE: u8 = 0x07;
/// Line status: an octet was received.
const RECEIVED: u8 = 1 << 0;
/// Line status: the transmit FIFO is empty.
const TRANSMIT_EMPTY: u8 = 1 << 5;
/// Octets that the transmit FIFO takes.
const FIFO: usize = 16;
/// How often to look for an empty FIFO before writing anyway: a dead port must not hang the guest.
const PATIENCE: usize = 100_000;

/// Writes a report line.
pub(crate) fn line(line: &Line<'_>) {
    // Octets are dropped rather than refused, so writing cannot fail.
    let _ = writeln!(Port::default(), "{line}");
}

/// Ends a line that somebody else began.
pub(crate) fn end_line() {
    ports::write8(DATA, b'\n');
}

/// Reports a panic.
pub(crate) fn panic_line(info: &PanicInfo<'_>) {
    let mut port = Port::default();
    let _ = write!(port, "{PREFIX}error panic ");
    if let Some(place) = info.location() {
        let _ = write!(port, "{}:{} ", place.file(), place.line());
    }
    let _ = writeln!(port, "{}", info.message());
}

/// Reports a command line that cannot be taken, in full; what is returned ends the guest.
pub(crate) fn parameter_error(error: ParameterError) -> &'static str {
    let _ = writeln!(Port::default(), "{PREFIX}error {error}");
    "nothing to do"
}

/// The octet that was received, if any.
pub(crate) fn read() -> Option<u8> {
    (ports::read8(LINE_STATUS) & RECEIVED != 0).then(|| ports::read8(DATA))
}

/// Looks at the line status only once in a FIFO's length: each look is an exit to the host.
#[derive(Default)]
struct Port {
    room: usize,
}

impl Port {
    fn make_room(&mut self) {
        ports::write8(FIFO_CONTROL, FIFO_ENABLE & !0x02);
        for _ in 0..PATIENCE {
            if ports::read8(LINE_STATUS) & TRANSMIT_EMPTY != 0 {
                break;
            }
        }
        self.room = FIFO;
    }
}

impl Write for Port {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for octet in text.bytes() {
            if self.room == 0 {
                self.make_room();
            }
            ports::write8(DATA, octet);
            self.room -= 1;
        }
        Ok(())
    }
}
