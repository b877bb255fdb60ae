//! The virtio block device (Virtio 1.2, 5.2).
//!
//! A [`Disk`] is an opened image with a thread of its own. A [`Block`] is what the guest sees of it: features, the
//! configuration structure, and a ring that it hands to the thread when the driver is ready.

mod counts;
mod disk;
mod error;
mod format;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod lock;
mod open;
mod parts;
mod request;
mod server;
mod sys;
#[cfg(test)]
mod tests;
mod worker;

use std::sync::Arc;

use serde::Serialize;

use super::lifecycle::{CannotExport, Lifecycle, SavedState};
use super::virtio::{ActiveQueue, F_VERSION_1, VirtioDevice};
use crate::memory::GuestRam;
pub use counts::{DiskCounts, DiskRefusals};
pub(crate) use disk::Disk;
pub use error::DiskError;
use request::{MAX_DISCARD_SECTORS, MAX_RANGES, MAX_ZERO_SECTORS, SECTOR};
use server::Ring;
use worker::Session;

/// Descriptors that the ring may have.
const RING_SIZE: u16 = 256;
/// Data parts that a request may have: what a ring without indirect descriptors holds beside header and status.
const SEGMENTS: u32 = RING_SIZE as u32 - 2;
/// Octets that a data part should have at most, so that any request that keeps both limits may be carried out.
const SEGMENT_OCTETS: u32 = 128 << 10;
/// Octets that the host handles best: a page.
const PHYSICAL_BLOCK: u64 = 4096;

/// Feature bits (Virtio 1.2, 5.2.3 and 6).
const SIZE_MAX: u64 = 1 << 1;
const SEG_MAX: u64 = 1 << 2;
const RO: u64 = 1 << 5;
const BLK_SIZE: u64 = 1 << 6;
const FLUSH: u64 = 1 << 9;
const TOPOLOGY: u64 = 1 << 10;
const DISCARD: u64 = 1 << 13;
const WRITE_ZEROES: u64 = 1 << 14;
const INDIRECT_DESC: u64 = 1 << 28;
const EVENT_IDX: u64 = 1 << 29;

/// Octets of `virtio_blk_config` that this device has.
const CONFIG_LEN: usize = 60;

/// One disk as a guest sees it.
pub(crate) struct Block {
    disk: Arc<Disk>,
    ram: GuestRam,
    offered: u64,
    accepted: Option<u64>,
    paused: bool,
    /// Where the ring stands while paused.
    position: Option<(u16, u16)>,
}

impl Block {
    /// A device for `disk` in a machine with the memory `ram`. A disk is of one device at a time.
    pub(crate) fn new(disk: Arc<Disk>, ram: GuestRam) -> Self {
        let always =
            F_VERSION_1 | INDIRECT_DESC | EVENT_IDX | SIZE_MAX | SEG_MAX | BLK_SIZE | FLUSH | TOPOLOGY;
        let changes = if disk.limits().read_only {
            RO
        } else {
            DISCARD | WRITE_ZEROES
        };
        Self {
            disk,
            ram,
            offered: always | changes,
            accepted: None,
            paused: false,
            position: None,
        }
    }

    /// The disk behind the device.
    pub(crate) fn disk(&self) -> &Disk {
        &self.disk
    }

    /// The features that the driver accepted, while one is at work.
    pub(crate) fn accepted(&self) -> Option<u64> {
        self.accepted
    }

    /// `virtio_blk_config` (Virtio 1.2, 5.2.4).
    fn config(&self) -> [u8; CONFIG_LEN] {
        let mut octets = [0; CONFIG_LEN];
        let mut put = |at: usize, field: &[u8]| {
            for (place, octet) in octets.iter_mut().skip(at).zip(field) {
                *place = *octet;
            }
        };
        let blocks = PHYSICAL_BLOCK / SECTOR;
        put(0, &self.disk.limits().sectors.to_le_bytes());
        put(8, &SEGMENT_OCTETS.to_le_bytes());
        put(12, &SEGMENTS.to_le_bytes());
        put(20, &(SECTOR as u32).to_le_bytes());
        put(24, &[blocks.trailing_zeros() as u8]);
        put(26, &(blocks as u16).to_le_bytes());
        put(36, &MAX_DISCARD_SECTORS.to_le_bytes());
        put(40, &MAX_RANGES.to_le_bytes());
        put(44, &(blocks as u32).to_le_bytes());
        put(48, &MAX_ZERO_SECTORS.to_le_bytes());
        put(52, &MAX_RANGES.to_le_bytes());
        put(56, &[1]);
        octets
    }
}

/// A device's state as it is exported; the disk's content is not part of it.
#[derive(Serialize)]
struct SavedBlock {
    sectors: u64,
    offered: u64,
    accepted: Option<u64>,
    /// Next available and next used entry of the ring.
    ring: Option<(u16, u16)>,
}

impl Lifecycle for Block {
    fn pause(&mut self) {
        if !std::mem::replace(&mut self.paused, true) {
            self.position = self.disk.pause();
        }
    }

    fn resume(&mut self) {
        if std::mem::replace(&mut self.paused, false) {
            self.disk.resume();
        }
    }

    fn reset(&mut self) {
        if self.accepted.take().is_some() {
            self.disk.forget();
            self.position = None;
        }
    }

    fn export(&self) -> Result<SavedState, CannotExport> {
        const KIND: &str = "virtio-blk";
        if !self.paused {
            return Err(CannotExport::Running(KIND));
        }
        let state = SavedBlock {
            sectors: self.disk.limits().sectors,
            offered: self.offered,
            accepted: self.accepted,
            ring: self.position,
        };
        SavedState::new(KIND, 1, state)
    }
}

impl VirtioDevice for Block {
    fn device_id(&self) -> u16 {
        2
    }

    /// A mass storage controller of another kind than those that have a number.
    fn class(&self) -> u32 {
        0x01_8000
    }

    fn features(&self) -> u64 {
        self.offered
    }

    fn queue_sizes(&self) -> &[u16] {
        &[RING_SIZE]
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        let config = self.config();
        let mut rest = config.get(offset..).unwrap_or_default().iter();
        data.fill_with(|| rest.next().copied().unwrap_or(0));
    }

    fn activate(&mut self, features: u64, queues: &[ActiveQueue]) -> Result<(), String> {
        let [queue] = queues else {
            return Err("the driver did not enable the request queue".to_owned());
        };
        let ring = Ring {
            queue: queue.ring(features & EVENT_IDX != 0)?,
            call: Arc::clone(&queue.call),
            write_through: features & FLUSH == 0,
        };
        self.accepted = Some(features);
        self.disk.start(Session {
            ram: self.ram.clone(),
            ring,
            kick: Arc::clone(&queue.kick),
        });
        if self.paused {
            self.position = Some((0, 0));
        }
        Ok(())
    }

    /// The disk's thread serves it.
    fn serve(&mut self, _queue: u16) -> bool {
        false
    }

    fn first_notification(&mut self, _queue: u16) {}
}

impl Drop for Block {
    /// The disk must not keep on serving a machine that is no more, nor be paused for the next one.
    fn drop(&mut self) {
        self.reset();
        self.resume();
    }
}
