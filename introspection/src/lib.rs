//! Packet introspection without I/O: filters, latency attribution and stall classification.
//!
//! Everything here takes the time and bytes and returns actions; nothing reads a clock, starts a thread or
//! owns a frame.

mod filter;
mod instant;
pub mod stage;

pub use filter::{
    Action, Direction, DropCause, Filter, FilterCounters, FrameId, FrameRef, Needs, ParseProfileError,
    Profile, ReleaseCause,
};
pub use instant::Instant;
