//! Serves a disk's ring: takes requests, carries them out, answers.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vmm_sys_util::eventfd::EventFd;

use super::counts::{DiskCounts, Refusal};
use super::format::Image;
use super::parts;
use super::request::{self, Chain, ID_LEN, Limits, Request};
use crate::memory::GuestRam;

/// Requests that are served before the driver is told, if it wants to be.
const BATCH: usize = 32;

/// `VIRTIO_BLK_S_` values (Virtio 1.2, 5.2.6).
const S_OK: u8 = 0;
const S_IOERR: u8 = 1;
const S_UNSUPP: u8 = 2;

/// A ring of a driver at work.
pub(super) struct Ring {
    pub(super) queue: Queue,
    /// Signalled when requests were answered.
    pub(super) call: Arc<EventFd>,
    /// Every write is made last before it is answered, because the driver did not say that it flushes.
    pub(super) write_through: bool,
}

/// What carries requests out.
pub(super) struct Server {
    pub(super) image: Image,
    pub(super) limits: Limits,
    /// The disk's name as the guest reads it.
    pub(super) id: [u8; ID_LEN],
    /// What error messages call the disk.
    pub(super) name: String,
    pub(super) counts: Arc<Mutex<DiskCounts>>,
    /// Commands of the machine that wait; they come before the driver's next request, which may take long.
    pub(super) asked: Arc<AtomicUsize>,
    /// An error of the host was told; the following ones are only counted.
    pub(super) told: bool,
}

/// Why a request is not carried out.
enum Failure {
    Refused(Refusal),
    Host(io::Error),
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Host(error)
    }
}

impl Server {
    /// Serves up to [`BATCH`] requests; whether there may be more, so that this must be called again.
    pub(super) fn serve(&mut self, ring: &mut Ring, ram: &GuestRam) -> bool {
        let (mut served, more) = (0, self.serve_batch(ring, ram));
        let more = match more {
            Ok(count) => {
                served = count;
                count == BATCH || ring.queue.enable_notification(ram).unwrap_or(false)
            }
            Err(refusal) => {
                self.counts.lock().refusals.count(refusal);
                // Another notification is a reason to look at the ring again, as it is for one that is intact.
                let _ = ring.queue.enable_notification(ram);
                false
            }
        };
        if served > 0 && ring.queue.needs_notification(ram).unwrap_or(true) {
            // Fails only when the counter is full, and then the interrupt is pending already.
            let _ = ring.call.write(1);
        }
        more
    }

    /// How many requests were served; fewer than there are when the machine asks for something meanwhile.
    fn serve_batch(&mut self, ring: &mut Ring, ram: &GuestRam) -> Result<usize, Refusal> {
        // Fails only when the ring is not in memory, which taking requests finds out.
        let _ = ring.queue.disable_notification(ram);
        for served in 0..BATCH {
            if served > 0 && self.asked.load(Ordering::SeqCst) > 0 {
                return Ok(served);
            }
            let next = ring.queue.iter(ram).map_err(|_| Refusal::Ring)?.next();
            let Some(chain) = next else { return Ok(served) };
            let head = chain.head_index();
            let written = self.answer(ram, chain, ring.write_through);
            let added = ring.queue.add_used(ram, head, written);
            added.map_err(|_| Refusal::Ring)?;
        }
        Ok(BATCH)
    }

    /// Carries out one request; returns how many octets of the chain were written.
    fn answer(&mut self, ram: &GuestRam, chain: DescriptorChain<&GuestRam>, write_through: bool) -> u32 {
        let (mut parts, fault) = request::gather(ram, chain);
        let room = parts.room.len();
        let Some(status) = parts.room.take_last() else {
            let refusal = fault.unwrap_or(Refusal::Status);
            self.counts.lock().refusals.count(refusal);
            return 0;
        };
        let done = match fault {
            Some(refusal) => Err(Failure::Refused(refusal)),
            None => self.carry_out(&mut parts, write_through),
        };
        parts::put(self.judge(done), &status);
        u32::try_from(room).unwrap_or(u32::MAX)
    }

    fn carry_out(&mut self, parts: &mut Chain<'_>, write_through: bool) -> Result<(), Failure> {
        let request = request::parse(parts, self.limits)?;
        let octets = parts.room.len() + parts.told.len();
        match &request {
            Request::Read { offset } => self.image.read(*offset, &mut parts.room)?,
            Request::Write { offset } => self.image.write(*offset, &mut parts.told)?,
            Request::Flush => {}
            Request::Identify => drop(parts.room.fill(&self.id)),
            Request::Discard(ranges) => {
                for range in ranges.as_slice() {
                    self.image.discard(*range)?;
                }
            }
            Request::WriteZeroes(ranges) => {
                for range in ranges.as_slice() {
                    self.image.write_zeroes(*range)?;
                }
            }
        }
        let changes = matches!(request, Request::Write { .. } | Request::WriteZeroes(_));
        let flush = matches!(request, Request::Flush) || changes && write_through;
        if flush && !self.limits.read_only {
            self.image.flush()?;
        }
        self.count(&request, octets);
        Ok(())
    }

    fn count(&self, request: &Request, octets: u64) {
        let mut counts = self.counts.lock();
        match request {
            Request::Read { .. } => {
                counts.reads += 1;
                counts.read_octets += octets;
            }
            Request::Write { .. } => {
                counts.writes += 1;
                counts.written_octets += octets;
            }
            Request::Flush => counts.flushes += 1,
            Request::Identify => {}
            Request::Discard(_) => counts.discards += 1,
            Request::WriteZeroes(_) => counts.zeroes += 1,
        }
    }

    /// Counts what went wrong; the status that the driver gets.
    fn judge(&mut self, done: Result<(), Failure>) -> u8 {
        match done {
            Ok(()) => S_OK,
            Err(Failure::Refused(refusal)) => {
                self.counts.lock().refusals.count(refusal);
                if refusal == Refusal::Unsupported {
                    S_UNSUPP
                } else {
                    S_IOERR
                }
            }
            Err(Failure::Host(error)) if cannot(&error) => {
                self.counts.lock().refusals.count(Refusal::Unsupported);
                S_UNSUPP
            }
            Err(Failure::Host(error)) => {
                self.counts.lock().errors += 1;
                if !std::mem::replace(&mut self.told, true) {
                    tracing::warn!(disk = self.name, %error, "a request failed; more errors of this disk are only counted");
                }
                S_IOERR
            }
        }
    }
}

/// Whether the host has no such operation for this file or device.
fn cannot(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Unsupported || error.raw_os_error() == Some(libc::EOPNOTSUPP)
}
