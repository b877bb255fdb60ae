//! The virtio entropy device (Virtio 1.2, 5.4): the host's random numbers for the guest.
//!
//! Requests are carried out while the driver notifies. A driver gets no more than [`REQUEST_MAX`] octets for one
//! buffer, which the specification allows, so that a notification has an end soon whatever the buffers are.

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use virtio_queue::DescriptorChain;
use virtio_queue::desc::split::Descriptor;
use vm_memory::Bytes;

use super::lifecycle::{CannotExport, Lifecycle, SavedState};
use super::virtio::{ActiveQueue, F_VERSION_1, ServedRing, VirtioDevice};
use crate::memory::GuestRam;

/// Descriptors that the ring may have.
const RING_SIZE: u16 = 64;
/// Octets given for one buffer at most.
const REQUEST_MAX: usize = 256;
/// Descriptors of a buffer that are looked at.
const PARTS_MAX: usize = 16;

/// What happened to an entropy device so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RngCounts {
    /// Buffers filled, at least in part.
    pub requests: u64,
    /// Octets given.
    pub octets: u64,
    /// Buffers without room or outside memory, and rings that broke the rules.
    pub refusals: u64,
}

/// An entropy device.
pub(crate) struct Rng {
    ram: GuestRam,
    /// With the features that the driver accepted.
    ring: Option<(ServedRing, u64)>,
    paused: bool,
    counts: RngCounts,
}

impl Rng {
    pub(crate) fn new(ram: GuestRam) -> Self {
        Self {
            ram,
            ring: None,
            paused: false,
            counts: RngCounts::default(),
        }
    }

    pub(crate) fn counts(&self) -> RngCounts {
        self.counts
    }

    /// The features that the driver accepted, while one is at work.
    pub(crate) fn accepted(&self) -> Option<u64> {
        self.ring.as_ref().map(|(_, features)| *features)
    }

    fn fill_buffers(&mut self) {
        let Self {
            ram, ring, counts, ..
        } = self;
        let Some((ring, _)) = ring else { return };
        let served = ring.serve(ram, |chain| {
            let given = fill(ram, chain);
            counts.octets += u64::from(given);
            counts.requests += u64::from(given > 0);
            counts.refusals += u64::from(given == 0);
            Some(given)
        });
        counts.refusals += u64::from(served.is_err());
    }
}

/// Fills the beginning of a buffer; returns the octets written.
fn fill(ram: &GuestRam, chain: DescriptorChain<&GuestRam>) -> u32 {
    let mut random = [0; REQUEST_MAX];
    let mut written = 0;
    for part in chain.take(PARTS_MAX).filter(Descriptor::is_write_only) {
        let len = (part.len() as usize).min(REQUEST_MAX - written);
        let Some(octets) = random.get_mut(..len) else {
            break;
        };
        // Only a kernel without getrandom(2) refuses, and a refused read of it must not give the guest zeros.
        if getrandom::fill(octets).is_err() || ram.write_slice(octets, part.addr()).is_err() {
            break;
        }
        written += len;
    }
    written as u32
}

impl Lifecycle for Rng {
    fn pause(&mut self) {
        self.paused = true;
    }

    fn resume(&mut self) {
        if std::mem::replace(&mut self.paused, false) {
            self.fill_buffers();
        }
    }

    fn reset(&mut self) {
        self.ring = None;
    }

    fn export(&self) -> Result<SavedState, CannotExport> {
        if !self.paused {
            return Err(CannotExport::Running("virtio-rng"));
        }
        let position = self.ring.as_ref().map(|(ring, _)| ring.position());
        SavedState::new("virtio-rng", 1, position)
    }
}

impl VirtioDevice for Rng {
    fn device_id(&self) -> u16 {
        4
    }

    /// Unclassified: PCI has no class for it.
    fn class(&self) -> u32 {
        0xff_0000
    }

    fn features(&self) -> u64 {
        F_VERSION_1
    }

    fn queue_sizes(&self) -> &[u16] {
        &[RING_SIZE]
    }

    fn read_config(&self, _: usize, data: &mut [u8]) {
        data.fill(0);
    }

    fn activate(&mut self, features: u64, queues: &[ActiveQueue]) -> Result<(), String> {
        let queue = queues.first().ok_or("the driver enabled no queue")?;
        self.ring = Some((ServedRing::new(queue)?, features));
        Ok(())
    }

    fn serve(&mut self, _: u16) -> bool {
        if !self.paused {
            self.fill_buffers();
        }
        true
    }

    fn first_notification(&mut self, _: u16) {}
}
