//! Chains in our hands, written down in memory that outlives us (vhost-user, "Inflight I/O tracking").
//!
//! A front end keeps the memory while we restart, and hands it over again. Chains are used in the order in which they
//! became available here, so the first one that is not used tells where to go on, and everything from there on is taken
//! again: nothing is lost and nothing returned twice. For split rings the used index, which is in the guest's memory, says
//! where that is; for packed ones only what is written down does. The rest of the layout is kept for other back ends and
//! for people.
//!
//! What is written down guards against the end of this process, not against a power cut: stores must reach the memory
//! in order, which they do as this processor sees them, and nobody reads them at the same time.
//!
//! The memory is the front end's: whatever is read from it is checked like anything from a guest.

mod area;
pub(super) mod packed;
mod region;
pub(super) mod split;

pub use self::area::{Area, AreaError, Description};
pub use self::region::Region;

/// The version of both layouts.
const VERSION: u16 = 1;

/// Octets of one queue's part, for queues of `size` entries in either format: a multiple of a cache line.
pub const fn region_len(size: u16) -> u64 {
    (packed::HEADER + packed::ENTRY * size as u64).next_multiple_of(64)
}
