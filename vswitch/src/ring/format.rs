//! What the two formats of virtqueues do differently.

use std::sync::Arc;

use super::chain::{Access, Chain, Single};
use super::inflight::Region;
use super::{Options, RingAddresses, RingFault, RingSetup};
use crate::frame::Segment;
use crate::memory::GuestMemory;

/// A virtqueue's format, as the device sees it.
///
/// A *position* says where in the ring a chain is: a split ring's free-running index, or a packed ring's slot with the
/// wrap counter in bit 15.
pub trait Format: Sized {
    /// What is known of a chain before it is walked.
    type Head: Copy;

    /// Finds the ring's parts.
    fn new(memory: &Arc<GuestMemory>, setup: &RingSetup, options: Options) -> Result<Self, RingFault>;

    /// Goes on with the ring's parts in other places.
    fn relocate(&mut self, memory: &Arc<GuestMemory>, addresses: &RingAddresses) -> Result<(), RingFault>;

    /// Entries.
    fn size(&self) -> u16;

    /// The memory that the ring is in.
    fn memory(&self) -> &Arc<GuestMemory>;

    /// The position of the first chain that is not consumed.
    fn next_avail(&self) -> u16;

    /// The position `slots` places after another.
    fn after(&self, at: u16, slots: u16) -> u16;

    /// The position `slots` places before another.
    fn before(&self, at: u16, slots: u16) -> u16;

    /// Looks at what the driver has made available.
    fn look(&mut self) -> Result<(), RingFault>;

    /// The chain at a position, if the last look saw one.
    fn head(&self, at: u16) -> Option<Self::Head>;

    /// Fetches ahead what walking the chains some places behind a position will read first.
    fn prefetch(&self, at: u16);

    /// Whether the last look saw this many chains, as far as that can be told without another.
    fn has_seen(&self, count: usize) -> bool;

    /// Passes the next chains on, `limit` at most, as long as each is one buffer in one piece and `take` wants it. Nothing is
    /// consumed. What it stops at, whatever is the matter with it, is for [`Format::walk`] to judge.
    fn singles(&self, limit: usize, access: Access, take: impl FnMut(Single) -> bool);

    /// Appends a chain's pieces to `segments`. On a fault some may have been appended.
    fn walk(
        &self,
        at: u16,
        head: Self::Head,
        access: Access,
        segments: &mut Vec<Segment>,
    ) -> Result<Chain, RingFault>;

    /// A chain's identifier and slots, its buffers unseen.
    fn skip(&self, at: u16, head: Self::Head) -> Result<Chain, RingFault>;

    /// Fetches ahead, to be written, the places of the next `count` used entries.
    fn prefetch_used(&self, count: usize);

    /// Counts the next `slots` places as consumed.
    fn consume(&mut self, slots: u16);

    /// Lists a chain, or with in-order use a batch that ends with it, as used; invisible until [`Format::publish`].
    fn add_used(&mut self, id: u16, len: u32, slots: u16);

    /// Lists chains of one slot each, with the octets that were written to them, as [`Format::add_used`] does.
    fn add_used_singles(&mut self, used: impl Iterator<Item = (u16, u32)>);

    /// Makes what was listed visible to the driver.
    fn publish(&mut self);

    /// Has chains in hand written down in a region, and goes on with what it says.
    fn track(&mut self, region: Region);

    /// Writes down that chains were taken which follow each other from a position on.
    fn note_taken(&mut self, from: u16, chains: &[Chain]);

    /// Publishes like [`Format::publish`]; the chains that were taken first are written down as returned.
    fn publish_taken(&mut self, chains: &[Chain]);

    /// The ring stops in an orderly way: what was written down does not count any more.
    fn untrack(&mut self);

    /// Entries published since the last [`Format::announced`]; `None` before the first.
    fn unannounced(&self) -> Option<u32>;

    /// Whether the driver wants to hear of what was published since the last [`Format::announced`].
    fn wants_notification(&self) -> bool;

    /// What was published is taken as known to the driver.
    fn announced(&mut self);

    /// Asks the driver to ring when it makes the chain at a position available. True if it has already.
    fn ask_at(&mut self, at: u16) -> bool;

    /// Asks the driver to ring whatever it makes available from now on, behind what it has. True if it just did.
    fn ask_for_more(&mut self) -> bool;

    /// The driver need not ring.
    fn suppress(&mut self);
}
