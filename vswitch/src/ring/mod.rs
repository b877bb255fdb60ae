//! The device's side of a split virtqueue (virtio 1.2, section 2.7), for bursts.
//!
//! # The fast path
//! A ring is three arrays in memory that the guest shares: descriptors, which name buffers; the available ring, in
//! which the driver lists chains of descriptors for us; and the used ring, in which we list the chains that we are
//! done with. Both lists have a free-running 16-bit index that their writer publishes after the entries.
//!
//! *Transmit* ([`SplitRing::take`]): one acquiring load of the available index says how many chains are there. Each
//! chain is walked once, which copies its descriptors' contents out and checks every address; the next chain's first
//! descriptor and each frame's first line are prefetched meanwhile. A second pass over the burst copies each frame's
//! first octets into the burst. What follows them stays where it is, as segments. The buffers stay ours until
//! [`SplitRing::complete`] lists all of them in the used ring and publishes its index once.
//!
//! *Receive* ([`SplitRing::receive`]): receive chains are planned first, until they hold the frame, then the frame is
//! copied into them straight from the sender's segments, the only time that its payload is copied. If the buffers
//! do not suffice nothing was consumed. [`SplitRing::publish`] makes a burst's frames visible at once.
//!
//! *Notifications*: [`SplitRing::needs_notification`] asks what the driver asked for (event index or flags), after a
//! full fence, so that either we see its wish or it sees our index. Asking the driver to ring is the same the other
//! way round: [`SplitRing::enable_notifications`] writes the wish, fences, and looks again.
//!
//! # Hostile guests
//! Whatever is read from the guest is read once and checked before use; every loop is bounded by the queue's size or
//! [`CHAIN_LIMIT`]. A [`RingFault`] means that the ring's state cannot be trusted: the ring then does nothing until it
//! is set up anew. A frame of an impossible length is only counted ([`RefusedFrames`]), and its buffer given back.

mod chain;
mod fault;
mod gather;
mod layout;
#[doc(hidden)]
pub mod mock;
mod receive;
mod scatter;
#[cfg(test)]
mod tests;
mod transmit;

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

pub use chain::CHAIN_LIMIT;
pub use fault::RingFault;
use layout::Layout;
pub use layout::RingAddresses;

use crate::memory::GuestMemory;

/// The largest queue (virtio 1.2, 2.7).
pub const MAX_QUEUE_SIZE: u16 = 32_768;

/// Feature bits that rings care about (virtio 1.2, sections 5.1.3 and 6; 2.7.7 of 0.95 for the first).
pub mod feature {
    /// Notify when the ring runs empty, whatever the driver suppressed (legacy).
    pub const NOTIFY_ON_EMPTY: u64 = 1 << 24;
    /// Descriptors in any layout (legacy).
    pub const ANY_LAYOUT: u64 = 1 << 27;
    /// Indirect descriptors.
    pub const INDIRECT_DESC: u64 = 1 << 28;
    /// `used_event` and `avail_event`.
    pub const EVENT_IDX: u64 = 1 << 29;
    /// Compliance with virtio 1.0 and later.
    pub const VERSION_1: u64 = 1 << 32;
    /// Buffers are used in the order in which they were made available.
    pub const IN_ORDER: u64 = 1 << 35;
    /// Mergeable receive buffers.
    pub const MRG_RXBUF: u64 = 1 << 15;
}

/// Frames that were given back to the driver without being looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RefusedFrames {
    /// Shorter than the virtio-net header and an Ethernet header.
    pub too_short: u64,
    /// Longer than [`crate::frame::MAX_FRAME`].
    pub too_long: u64,
}

impl RefusedFrames {
    /// Whether there are any.
    pub fn any(self) -> bool {
        self != Self::default()
    }
}

/// How a ring is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingSetup {
    /// Entries: a power of two up to [`MAX_QUEUE_SIZE`].
    pub size: u16,
    /// Where its three parts are, in the peer's address space.
    pub addresses: RingAddresses,
    /// Negotiated feature bits, see [`feature`].
    pub features: u64,
    /// The first entry of the available ring that was not consumed yet.
    pub base: u16,
}

/// The device's side of one split virtqueue.
#[derive(Debug)]
pub struct SplitRing {
    layout: Layout,
    options: Options,
    /// The first available entry that is not consumed.
    next_avail: u16,
    /// The available index as last read.
    seen_avail: u16,
    /// Where the next used entry goes; published by [`SplitRing::publish`].
    next_used: u16,
    /// The used index as published.
    published: u16,
    /// The used index at the last decision to notify; `None` before the first.
    notified: Option<u16>,
    /// The available index at which a frame found no room.
    starved_at: Option<u16>,
    fault: Option<RingFault>,
    refused: RefusedFrames,
    /// Heads of chains that were taken and not completed, in order.
    taken: Vec<u16>,
    scratch: Scratch,
}

/// What was negotiated.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::struct_excessive_bools)] // each stands for a feature bit of its own
struct Options {
    indirect: bool,
    event_idx: bool,
    mergeable: bool,
    notify_on_empty: bool,
    header_len: usize,
}

/// Lists that are filled and emptied within one call, kept so that nothing is allocated.
#[derive(Debug, Default)]
struct Scratch {
    chains: Vec<transmit::Chain>,
    plan: scatter::Plan,
    heads: Vec<(u16, u32)>,
}

impl SplitRing {
    /// Sets a ring up in `memory`. Fails if its parts are not entirely there, or not aligned.
    pub fn new(memory: &Arc<GuestMemory>, setup: &RingSetup) -> Result<Self, RingFault> {
        let options = Options::of(setup.features);
        let layout = Layout::resolve(memory, &setup.addresses, setup.size, options.event_idx)?;
        let used = layout.used_index();
        Ok(Self {
            layout,
            options,
            next_avail: setup.base,
            seen_avail: setup.base,
            next_used: used,
            published: used,
            notified: None,
            starved_at: None,
            fault: None,
            refused: RefusedFrames::default(),
            taken: Vec::with_capacity(crate::frame::BURST),
            scratch: Scratch::default(),
        })
    }

    /// Goes on with the same ring at other addresses or in another memory; what was taken can still be completed.
    pub fn relocate(
        &mut self,
        memory: &Arc<GuestMemory>,
        addresses: &RingAddresses,
    ) -> Result<(), RingFault> {
        self.layout = Layout::resolve(memory, addresses, self.layout.size(), self.options.event_idx)?;
        Ok(())
    }

    /// Entries.
    pub fn size(&self) -> u16 {
        self.layout.size()
    }

    /// The first available entry that was not consumed; what was taken and not completed counts as consumed.
    pub fn next_avail(&self) -> u16 {
        self.next_avail
    }

    /// Chains that were taken and not completed.
    pub fn outstanding(&self) -> usize {
        self.taken.len()
    }

    /// Octets of the virtio-net header in front of each frame: 12, or 10 for a legacy driver without mergeable buffers.
    pub fn header_len(&self) -> usize {
        self.options.header_len
    }

    /// The memory that the ring is in.
    pub fn memory(&self) -> &Arc<GuestMemory> {
        self.layout.memory()
    }

    /// Why the ring stopped.
    pub fn fault(&self) -> Option<RingFault> {
        self.fault
    }

    /// Frames refused since the last call.
    pub fn take_refused(&mut self) -> RefusedFrames {
        std::mem::take(&mut self.refused)
    }

    /// Makes used entries visible to the driver.
    pub fn publish(&mut self) {
        if self.published != self.next_used {
            self.layout.publish_used(self.next_used);
            self.published = self.next_used;
        }
    }

    /// Whether the driver wants to hear of what was published since the last call.
    pub fn needs_notification(&mut self) -> bool {
        let new = self.published;
        if self.notified == Some(new) {
            return false;
        }
        // Either the driver sees the index that was just published when it looks again after changing its wish,
        // or the wish is seen here (virtio 1.2, 2.7.7.2).
        fence(Ordering::SeqCst);
        let old = self.notified.replace(new);
        if self.options.notify_on_empty && self.layout.avail_index() == self.next_avail {
            return true;
        }
        match old {
            Some(old) if self.options.event_idx => passed(self.layout.used_event(), new, old),
            None if self.options.event_idx => true,
            _ => !self.layout.driver_suppresses(),
        }
    }

    /// Asks the driver to ring when it adds a chain. True if there is one already: no ring will come for it.
    pub fn enable_notifications(&mut self) -> bool {
        self.ask_at(self.next_avail)
    }

    /// Asks a receive queue's driver to ring when it adds buffers to those that did not suffice the last time. True
    /// if it has meanwhile.
    pub fn enable_room_notifications(&mut self) -> bool {
        let at = self.starved_at.unwrap_or(self.next_avail);
        self.ask_at(at)
    }

    fn ask_at(&mut self, at: u16) -> bool {
        if self.fault.is_some() {
            return false;
        }
        if self.options.event_idx {
            self.layout.set_avail_event(at);
        } else {
            self.layout.suppress_driver(false);
        }
        fence(Ordering::SeqCst);
        self.layout.avail_index() != at
    }

    /// The driver need not ring: we look by ourselves. With an event index the wish simply stays behind.
    pub fn disable_notifications(&mut self) {
        if self.fault.is_none() && !self.options.event_idx {
            self.layout.suppress_driver(true);
        }
    }

    /// Available chains not consumed yet, after a fresh look.
    fn look(&mut self) -> Result<u16, RingFault> {
        self.seen_avail = self.layout.avail_index();
        let pending = self.seen_avail.wrapping_sub(self.next_avail);
        if pending > self.layout.size() {
            return Err(RingFault::AvailIndex {
                next: self.next_avail,
                index: self.seen_avail,
            });
        }
        Ok(pending)
    }

    /// Lists a chain as used; invisible until [`SplitRing::publish`].
    fn add_used(&mut self, head: u16, len: u32) {
        self.layout.write_used(self.next_used, head, len);
        self.next_used = self.next_used.wrapping_add(1);
    }

    fn stop(&mut self, fault: RingFault) {
        self.fault.get_or_insert(fault);
    }
}

impl Options {
    fn of(features: u64) -> Self {
        let has = |bit: u64| features & bit != 0;
        let long_header = has(feature::VERSION_1) || has(feature::MRG_RXBUF);
        Self {
            indirect: has(feature::INDIRECT_DESC),
            event_idx: has(feature::EVENT_IDX),
            mergeable: has(feature::MRG_RXBUF),
            notify_on_empty: has(feature::NOTIFY_ON_EMPTY) && !has(feature::VERSION_1),
            header_len: if long_header { 12 } else { 10 },
        }
    }
}

/// Whether an index that went from `old` to `new` passed `event` (virtio 1.2, 2.7.10.1, `vring_need_event`).
pub const fn passed(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}
