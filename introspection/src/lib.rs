//! Packet introspection without I/O: filters, latency attribution and stall classification.
//!
//! Everything here takes the time and bytes and returns actions; nothing reads a clock, starts a thread or
//! owns a frame.

mod chain;
pub mod diagnosis;
mod filter;
pub mod flow;
mod fragment;
mod instant;
mod profile;
pub mod rules;
mod seq;
pub mod stage;
pub mod stall;
mod stream;
#[cfg(test)]
mod testing;

pub use chain::{ChainError, FilterChain};
pub use filter::{
    Action, Direction, DropCause, Filter, FilterCounters, FrameId, FrameRef, Needs, ParseProfileError,
    PartHold, PartWork, Profile, ReleaseCause,
};
pub use flow::{Endpoint, FlowKey};
pub use instant::Instant;
pub use profile::{Caps, FilterOptions, build, compose};
pub use rules::{Rule, RuleAction, RuleError, RuleFile, RuleMatch, RulePart, RuleProtocol, RuleSet};
