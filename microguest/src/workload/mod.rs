//! The two ends of each workload, as state machines that act on a smoltcp TCP socket.
//!
//! They do no I/O and read no clock: `now` is given in nanoseconds from an epoch of the caller's, what is to be reported
//! is handed out as [`Line`]s. So the guest, the host's own endpoints and tests in virtual time run the same code.
//!
//! | workload | client | server |
//! |---|---|---|
//! | rr | writes a request, reads the response | echoes a whole request |
//! | wwr | writes half, then the other half in a segment of its own, reads | echoes a whole request |
//! | records | asks once, then reads | writes a record, the next when all is acknowledged |
//! | stream | writes blocks of 64 KiB as fast as it can | reads |
//!
//! A record starts with its length (four octets, little-endian) and takes `segments` segments, of which the last holds
//! `size` octets. A block starts with an octet that is 1 if the measured phase ends with this block, else 0; the rest is
//! pseudo-random. A transaction of rr and wwr is timed from before the first write to after the last read; of records
//! from one complete record to the next; of stream from one block handed to TCP to the next.
//!
//! With a `rate`, rr is an [open loop](OpenLoop): a transaction is timed from when its request was due.

mod client;
mod exchange;
mod open;
mod phases;
mod server;
mod stream;

pub use client::Client;
pub use exchange::{Failure, RECORD_HEADER, record, record_length};
pub use open::{OpenLoop, Outgoing, Schedule};
pub use phases::Phases;
pub use server::Server;
pub use stream::{BLOCK, Fletcher, Position, Reader, Writer};

use crate::report::Line;

/// Takes report lines as they arise.
pub type Sink<'a> = &'a mut dyn FnMut(&Line<'_>);

/// What a state machine did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// Nothing: it waits for the network or for its deadline.
    Idle,
    /// It read or wrote: let the stack transmit, then poll it again.
    Busy,
}
