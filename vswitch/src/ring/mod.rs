//! The device's side of a virtqueue (virtio 1.2, sections 2.7 and 2.8), for bursts.
//!
//! # The fast path
//! A *split* ring is three arrays in memory that the guest shares: descriptors, which name buffers; the available ring, in
//! which the driver lists chains of descriptors for us; and the used ring, in which we list the chains that we are
//! done with. Both lists have a free-running 16-bit index that their writer publishes after the entries. A *packed* ring
//! is one array of descriptors, whose flags say whose turn it is. [`DeviceRing`] is what they have in common, and each
//! format says how it finds, walks and returns chains.
//!
//! *Transmit* ([`DeviceRing::take`]): one look says how many chains are there. Each
//! chain is walked once, which copies its descriptors' contents out and checks every address; the next chain's first
//! descriptor and each frame's first line are prefetched meanwhile. A second pass over the burst copies each frame's
//! first octets into the burst. What follows them stays where it is, as segments. The buffers stay ours until
//! [`DeviceRing::complete`] lists all of them as used and publishes that once. The virtio-net header of a driver that may ask
//! for nothing is not read: DPDK's have it in a cache line of its own.
//!
//! *Receive* ([`DeviceRing::deliver`]): receive chains are planned first, until they hold the frame, then the frame is
//! copied into them straight from the sender's segments, the only time that its payload is copied. If the buffers
//! do not suffice nothing was consumed. A burst's frames become visible at once. A header that has a cache line of its own
//! is written only if it differs from what is there, which is the header of the frame before: then neither side has to
//! fetch that line from the other.
//!
//! *Order*: chains are used in the order in which they became available. Where the driver counts on that
//! ([`feature::IN_ORDER`]), one entry stands for all chains of a transmitted burst. Received ones are listed one by one: a
//! chain that is passed over counts as entirely filled.
//!
//! *Notifications*: [`DeviceRing::needs_notification`] asks what the driver asked for (event index or flags), after a
//! full fence, so that either we see its wish or it sees what we published. Asking the driver to ring is the same the other
//! way round: [`DeviceRing::enable_notifications`] writes the wish, fences, and looks again.
//!
//! *Chains in hand* can be written down in memory that outlives this process, see [`inflight`]. Where that was not agreed on,
//! a test for it per burst is all that it costs.
//!
//! # Hostile guests
//! Whatever is read from the guest is read once and checked before use; every loop is bounded by the queue's size or
//! [`CHAIN_LIMIT`]. A [`RingFault`] means that the ring's state cannot be trusted: the ring then does nothing until it
//! is set up anew. A frame of an impossible length is only counted ([`RefusedFrames`]), and its buffer given back.

mod chain;
mod copy;
mod device;
mod fault;
mod format;
mod gather;
pub mod inflight;
#[doc(hidden)]
pub mod mock;
mod packed;
mod receive;
mod scatter;
mod split;
#[cfg(test)]
mod tests;
mod transmit;

use std::sync::Arc;

pub use chain::CHAIN_LIMIT;
pub use device::DeviceRing;
pub use fault::RingFault;
pub(crate) use gather::prefetch_tail;
pub use split::passed;

use self::packed::Packed;
use self::split::Split;
use crate::frame::{Burst, Outgoing};
use crate::memory::GuestMemory;
use crate::port::Delivery;

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
    /// The ring is packed (virtio 1.2, 2.8).
    pub const RING_PACKED: u64 = 1 << 34;
    /// Buffers are used in the order in which they were made available.
    pub const IN_ORDER: u64 = 1 << 35;
    /// Mergeable receive buffers.
    pub const MRG_RXBUF: u64 = 1 << 15;
    /// Any of those that let a driver ask for a checksum or for segmentation: CSUM, HOST_TSO4, HOST_TSO6, HOST_ECN, HOST_USO.
    pub const REQUESTS: u64 = CSUM | 1 << 11 | 1 << 12 | 1 << 13 | 1 << 56;
    /// The device takes frames with partial checksums.
    pub const CSUM: u64 = 1 << 0;
    pub use crate::net_control::feature::HASH_REPORT;
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

/// Where a ring's parts are, as addresses of the peer's own (`VHOST_USER_SET_VRING_ADDR`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingAddresses {
    /// Descriptor table, or a packed ring's descriptors.
    pub descriptors: u64,
    /// Available ring, or a packed ring's event suppression by the driver.
    pub available: u64,
    /// Used ring, or a packed ring's event suppression by the device.
    pub used: u64,
}

/// How a ring is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingSetup {
    /// Entries, up to [`MAX_QUEUE_SIZE`]; in a split ring a power of two.
    pub size: u16,
    /// Where its three parts are, in the peer's address space.
    pub addresses: RingAddresses,
    /// Negotiated feature bits, see [`feature`].
    pub features: u64,
    /// The position of the first chain that was not consumed yet: an index of the available ring, or a packed ring's
    /// slot with the wrap counter in bit 15.
    pub base: u16,
}

/// The device's side of a split virtqueue.
pub type SplitRing = DeviceRing<Split>;
/// The device's side of a packed virtqueue.
pub type PackedRing = DeviceRing<Packed>;

/// The device's side of one virtqueue, in the format that was negotiated. The formats part at the burst, not at the frame.
#[derive(Debug)]
pub enum Ring {
    /// Split.
    Split(SplitRing),
    /// Packed.
    Packed(PackedRing),
}

/// Does the same with the ring of either format.
macro_rules! either {
    ($ring:expr, $name:ident => $does:expr) => {
        match $ring {
            Ring::Split($name) => $does,
            Ring::Packed($name) => $does,
        }
    };
}

impl Ring {
    /// Sets a ring up in `memory`. Fails if its parts are not entirely there, or not aligned.
    pub fn new(memory: &Arc<GuestMemory>, setup: &RingSetup) -> Result<Self, RingFault> {
        if setup.features & feature::RING_PACKED == 0 {
            SplitRing::new(memory, setup).map(Self::Split)
        } else {
            PackedRing::new(memory, setup).map(Self::Packed)
        }
    }

    /// See [`DeviceRing::relocate`].
    pub fn relocate(
        &mut self,
        memory: &Arc<GuestMemory>,
        addresses: &RingAddresses,
    ) -> Result<(), RingFault> {
        either!(self, ring => ring.relocate(memory, addresses))
    }

    /// See [`DeviceRing::track`].
    pub fn track(&mut self, region: inflight::Region) -> Result<(), RingFault> {
        either!(self, ring => ring.track(region))
    }

    /// See [`DeviceRing::untrack`].
    pub fn untrack(&mut self) {
        either!(self, ring => ring.untrack());
    }

    /// Entries.
    pub fn size(&self) -> u16 {
        either!(self, ring => ring.size())
    }

    /// See [`DeviceRing::base`].
    pub fn base(&self) -> u16 {
        either!(self, ring => ring.base())
    }

    /// Chains that were taken and not completed.
    pub fn outstanding(&self) -> usize {
        either!(self, ring => ring.outstanding())
    }

    /// Octets of the virtio-net header in front of each frame.
    pub fn header_len(&self) -> usize {
        either!(self, ring => ring.header_len())
    }

    /// The memory that the ring is in.
    pub fn memory(&self) -> &Arc<GuestMemory> {
        either!(self, ring => ring.memory())
    }

    /// Why the ring stopped.
    pub fn fault(&self) -> Option<RingFault> {
        either!(self, ring => ring.fault())
    }

    /// Whether there is a fault.
    #[inline]
    pub fn is_faulty(&self) -> bool {
        either!(self, ring => ring.is_faulty())
    }

    /// Frames refused since the last call.
    pub fn take_refused(&mut self) -> RefusedFrames {
        either!(self, ring => ring.take_refused())
    }

    /// See [`DeviceRing::take`].
    pub fn take(&mut self, queue: u16, burst: &mut Burst) -> usize {
        either!(self, ring => ring.take(queue, burst))
    }

    /// See [`DeviceRing::complete`].
    pub fn complete(&mut self) -> usize {
        either!(self, ring => ring.complete())
    }

    /// See [`DeviceRing::discard`].
    pub fn discard(&mut self, limit: usize) -> usize {
        either!(self, ring => ring.discard(limit))
    }

    /// See [`DeviceRing::deliver`].
    pub fn deliver(&mut self, frames: &[Outgoing<'_>]) -> Delivery {
        either!(self, ring => ring.deliver(frames))
    }

    /// See [`DeviceRing::needs_notification`].
    pub fn needs_notification(&mut self) -> bool {
        either!(self, ring => ring.needs_notification())
    }

    /// See [`DeviceRing::wants_notification`].
    pub fn wants_notification(&self) -> bool {
        either!(self, ring => ring.wants_notification())
    }

    /// See [`DeviceRing::unannounced`].
    pub fn unannounced(&self) -> Option<u32> {
        either!(self, ring => ring.unannounced())
    }

    /// See [`DeviceRing::enable_notifications`].
    pub fn enable_notifications(&mut self) -> bool {
        either!(self, ring => ring.enable_notifications())
    }

    /// See [`DeviceRing::enable_room_notifications`].
    pub fn enable_room_notifications(&mut self) -> bool {
        either!(self, ring => ring.enable_room_notifications())
    }

    /// See [`DeviceRing::disable_notifications`].
    pub fn disable_notifications(&mut self) {
        either!(self, ring => ring.disable_notifications());
    }
}

/// Octets of the longest virtio-net header, with a hash (virtio 1.2, 5.1.6).
const HEADER_MAX: usize = 20;

/// What was negotiated.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::struct_excessive_bools)] // each stands for a feature bit of its own
pub struct Options {
    indirect: bool,
    in_order: bool,
    event_idx: bool,
    mergeable: bool,
    notify_on_empty: bool,
    /// A frame may ask for a checksum or for segmentation.
    requests: bool,
    header_len: usize,
}

impl Options {
    fn of(features: u64) -> Self {
        let has = |bit: u64| features & bit != 0;
        let long_header = has(feature::VERSION_1) || has(feature::MRG_RXBUF);
        Self {
            indirect: has(feature::INDIRECT_DESC),
            in_order: has(feature::IN_ORDER),
            event_idx: has(feature::EVENT_IDX),
            mergeable: has(feature::MRG_RXBUF),
            notify_on_empty: has(feature::NOTIFY_ON_EMPTY) && !has(feature::VERSION_1),
            requests: has(feature::REQUESTS),
            header_len: match (has(feature::HASH_REPORT), long_header) {
                (true, _) => HEADER_MAX,
                (false, true) => 12,
                (false, false) => 10,
            },
        }
    }
}

/// A part of a ring, if it is in the guest's memory in one piece, and aligned.
fn part(
    memory: &GuestMemory,
    part: &'static str,
    address: u64,
    len: u64,
    align: usize,
) -> Result<*mut u8, RingFault> {
    let at = memory
        .translate_user(address, len)
        .ok_or(RingFault::Outside { part, address })?;
    if (at as usize).is_multiple_of(align) {
        Ok(at)
    } else {
        Err(RingFault::Misaligned { part, address })
    }
}
