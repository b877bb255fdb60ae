//! A virtqueue of either format, from the device's side.

use std::sync::Arc;

use super::chain::Chain;
use super::format::Format;
use super::inflight::Region;
use super::{Options, RefusedFrames, RingAddresses, RingFault, RingSetup, scatter, transmit};
use crate::memory::GuestMemory;

/// The device's side of one virtqueue: what does not depend on its format. [`super::SplitRing`] and
/// [`super::PackedRing`] are what it is used as.
#[derive(Debug)]
pub struct DeviceRing<F> {
    pub(super) format: F,
    pub(super) options: Options,
    /// The position at which a frame found no room.
    pub(super) starved_at: Option<u16>,
    pub(super) fault: Option<RingFault>,
    pub(super) refused: RefusedFrames,
    /// Chains that were taken and not completed, in order.
    pub(super) taken: Vec<Chain>,
    pub(super) scratch: Scratch,
}

/// Lists that are filled and emptied within one call, kept so that nothing is allocated.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pub(super) frames: Vec<transmit::Admitted>,
    pub(super) buffers: scatter::Buffers,
    pub(super) plan: scatter::Plan,
    pub(super) chains: Vec<Chain>,
}

impl<F: Format> DeviceRing<F> {
    /// Sets a ring up in `memory`. Fails if its parts are not entirely there, or not aligned.
    pub fn new(memory: &Arc<GuestMemory>, setup: &RingSetup) -> Result<Self, RingFault> {
        let options = Options::of(setup.features);
        Ok(Self {
            format: F::new(memory, setup, options)?,
            options,
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
        self.format.relocate(memory, addresses)
    }

    /// Entries.
    pub fn size(&self) -> u16 {
        self.format.size()
    }

    /// Where the ring would go on if it stopped now: at the first chain that was not completed.
    pub fn base(&self) -> u16 {
        let slots = self.taken.iter().map(|chain| chain.slots).sum();
        self.format.before(self.format.next_avail(), slots)
    }

    /// Chains that were taken and not completed.
    pub fn outstanding(&self) -> usize {
        self.taken.len()
    }

    /// Octets of the virtio-net header in front of each frame: 20 with a hash, else 12, or 10 for a legacy driver without
    /// mergeable buffers.
    pub fn header_len(&self) -> usize {
        self.options.header_len
    }

    /// The memory that the ring is in.
    pub fn memory(&self) -> &Arc<GuestMemory> {
        self.format.memory()
    }

    /// Why the ring stopped.
    pub fn fault(&self) -> Option<RingFault> {
        self.fault
    }

    /// Whether there is a fault; it is not copied, which takes its time.
    #[inline]
    pub fn is_faulty(&self) -> bool {
        self.fault.is_some()
    }

    /// Frames refused since the last call.
    pub fn take_refused(&mut self) -> RefusedFrames {
        std::mem::take(&mut self.refused)
    }

    /// Has the chains in hand written down in `region`, and goes on where it says that the ring was: what was in hand
    /// then is taken again. For a ring that was just set up. Fails if the region is too small.
    pub fn track(&mut self, region: Region) -> Result<(), RingFault> {
        if region.entries() < self.size() {
            return Err(RingFault::Untracked {
                size: self.size(),
                entries: region.entries(),
            });
        }
        self.format.track(region);
        Ok(())
    }

    /// The ring stops in an orderly way, and [`DeviceRing::base`] says where: what was written down does not count any more.
    pub fn untrack(&mut self) {
        self.format.untrack();
    }

    /// Whether the driver wants to hear of what was published since the last call. The next call starts from here.
    pub fn needs_notification(&mut self) -> bool {
        let wanted = self.format.wants_notification();
        self.format.announced();
        wanted
    }

    /// The same, only looked at.
    pub fn wants_notification(&self) -> bool {
        self.format.wants_notification()
    }

    /// Entries published since the last [`DeviceRing::needs_notification`]; `None` before the first.
    pub fn unannounced(&self) -> Option<u32> {
        self.format.unannounced()
    }

    /// Asks the driver to ring when it adds a chain. True if there is one already: no ring will come for it.
    pub fn enable_notifications(&mut self) -> bool {
        self.ask_at(self.format.next_avail())
    }

    /// Asks a receive queue's driver to ring when it adds buffers: to those that did not suffice the last time, or where
    /// nothing was missing any. True if it has added some meanwhile to those that did not suffice: no ring will come for
    /// them. Buffers that are there and that nobody missed are no news, so a worker whose frames wait for another queue
    /// sleeps.
    pub fn enable_room_notifications(&mut self) -> bool {
        if self.fault.is_some() {
            return false;
        }
        let Some(at) = self.starved_at else {
            return self.format.ask_for_more();
        };
        let added = self.format.ask_at(at);
        if added {
            self.starved_at = None;
        }
        added
    }

    fn ask_at(&mut self, at: u16) -> bool {
        self.fault.is_none() && self.format.ask_at(at)
    }

    /// The driver need not ring: we look by ourselves.
    pub fn disable_notifications(&mut self) {
        if self.fault.is_none() {
            self.format.suppress();
        }
    }

    pub(super) fn stop(&mut self, fault: RingFault) {
        self.fault.get_or_insert(fault);
    }
}
