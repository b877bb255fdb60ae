//! Taps: network interfaces of the host's kernel as ports of the switch.
//!
//! Frames cross with a virtio-net header, so that large sends and partial checksums pass whole in both directions.
//! The kernel copies a delivered frame straight out of the sender's guest memory.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use introspection::Instant;
use offload::VnetHeader;
use parking_lot::Mutex;

use crate::counters::DropReason;
use crate::frame::{Burst, Outgoing};
use crate::port::{Backend, BackendStatus, Capabilities, Delivery, Refusal, Waker};

mod device;
mod error;

pub use error::TapError;

use device::{Device, Readiness};

/// A tap interface as a port.
pub struct TapPort {
    queues: Vec<Queue>,
    name: String,
    waker: OnceLock<Arc<dyn Waker>>,
    /// The port was closed, or the interface was removed: nothing moves any more.
    gone: AtomicBool,
    faults: Faults,
}

/// A descriptor of the interface. One that has several deals frames out to them by flow, and learns from each flow's frames
/// that come in which of them its others are to leave by.
struct Queue {
    device: Device,
    /// A buffer to read the next frame into, when the last read found none.
    spare: Mutex<Vec<u8>>,
    /// The last read found nothing. What comes since makes the descriptor ready, which is watched at all times.
    drained: AtomicBool,
    /// The descriptor is watched for room.
    wants_room: AtomicBool,
}

/// What went wrong with frames.
#[derive(Default)]
struct Faults {
    /// Frames that the kernel would not take.
    refused: AtomicU64,
    /// Frames for an interface that was set down.
    link_down: AtomicU64,
    /// Reads that failed.
    read: AtomicU64,
    /// The last one, in words.
    last: Mutex<Option<String>>,
}

impl TapPort {
    /// Opens the tap `name`, makes it if there is none, gives it an MTU (in octets of IP) and brings it up.
    ///
    /// With several queues it has to be, and is made, a tap of that kind (`IFF_MULTI_QUEUE`). It works in the network
    /// namespace of the calling thread. A tap that it made goes when the port goes.
    pub fn open(name: &str, mtu: u16, queues: u16) -> Result<Arc<Self>, TapError> {
        let open = |_| {
            Ok(Queue {
                device: Device::open(name, mtu, queues > 1)?,
                spare: Mutex::new(Vec::new()),
                drained: AtomicBool::new(false),
                wants_room: AtomicBool::new(false),
            })
        };
        Ok(Arc::new(Self {
            queues: (0..queues.max(1)).map(open).collect::<Result<_, _>>()?,
            name: name.to_owned(),
            waker: OnceLock::new(),
            gone: AtomicBool::new(false),
            faults: Faults::default(),
        }))
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// The interface is no more. Its descriptor would be ready for ever, so nobody may watch it.
    fn go(&self, why: &str) {
        if !self.gone.swap(true, Ordering::AcqRel) {
            if let Some(waker) = self.waker.get() {
                for (number, queue) in (0..).zip(&self.queues) {
                    waker.unwatch(number, queue.device.as_raw_fd());
                }
            }
            *self.faults.last.lock() = Some(format!("tap {}: {why}", self.name()));
        }
    }

    fn queue(&self, queue: u16) -> Option<&Queue> {
        self.queues.get(usize::from(queue)).filter(|_| !self.is_gone())
    }

    /// The queue that a flow's frames go in by.
    fn queue_of(&self, frame: &Outgoing<'_>) -> u16 {
        (frame.flow_hash as usize % self.queues.len().max(1)) as u16
    }

    fn watch_room(&self, queue: u16, on: bool) {
        let Some(Queue {
            device, wants_room, ..
        }) = self.queue(queue)
        else {
            return;
        };
        if wants_room.swap(on, Ordering::AcqRel) == on {
            return;
        }
        if let Some(waker) = self.waker.get()
            && let Err(error) = waker.watch_writable(queue, device.as_raw_fd(), on)
        {
            self.faults.note(&self.faults.refused, self.name(), &error);
        }
    }

    /// Notices an interface that was removed.
    fn look(&self, queue: u16) -> Readiness {
        let readiness = self
            .queue(queue)
            .map_or_else(Readiness::default, |queue| queue.device.readiness());
        if readiness.broken {
            self.go(REMOVED);
        }
        readiness
    }

    fn deliver_one(&self, frame: &Outgoing<'_>) -> Result<(), Refusal> {
        let number = self.queue_of(frame);
        let Some(queue) = self.queue(number) else {
            return Err(Refusal::Drop(DropReason::PortDown));
        };
        let vnet = VnetHeader {
            num_buffers: 0,
            ..frame.vnet
        };
        let error = match queue.device.write(vnet, frame.head, frame.tail) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let faults = &self.faults;
        Err(match error.raw_os_error() {
            Some(libc::EAGAIN | libc::ENOBUFS) => {
                self.watch_room(number, true);
                Refusal::Full
            }
            Some(libc::EBADFD | libc::ENODEV) => {
                self.go(REMOVED);
                Refusal::Drop(DropReason::PortDown)
            }
            Some(libc::EIO) => {
                faults.note(&faults.link_down, self.name(), &error);
                Refusal::Drop(DropReason::PortDown)
            }
            Some(libc::EFAULT) => Refusal::Drop(DropReason::MemoryLost),
            _ => {
                faults.note(&faults.refused, self.name(), &error);
                Refusal::Drop(DropReason::DeviceError)
            }
        })
    }
}

const REMOVED: &str = "the interface was removed; remove the port, then add it again";

impl Faults {
    fn note(&self, counter: &AtomicU64, name: &str, error: &io::Error) {
        // The words are for the first of each kind; the rest is counted.
        if counter.fetch_add(1, Ordering::Relaxed) == 0 {
            *self.last.lock() = Some(format!("tap {name}: {error}"));
        }
    }
}

impl Backend for TapPort {
    fn attach(&self, waker: Arc<dyn Waker>) {
        for (number, queue) in (0..).zip(&self.queues) {
            if let Err(error) = waker.watch(number, queue.device.as_raw_fd()) {
                self.faults.note(&self.faults.read, self.name(), &error);
            }
        }
        // A second call would be the switch's mistake; the first waker stays.
        let _ = self.waker.set(waker);
    }

    fn queues(&self) -> u16 {
        self.queues.len() as u16
    }

    fn take(&self, queue: u16, _now: Instant, burst: &mut Burst) {
        let Some(Queue {
            device,
            spare,
            drained,
            ..
        }) = self.queue(queue)
        else {
            return;
        };
        let mut spare = spare.lock();
        drained.store(false, Ordering::Relaxed);
        while burst.room() > 0 {
            if spare.capacity() == 0 {
                *spare = burst.large_buffer();
            }
            match device.read(&mut spare) {
                Ok(vnet) => burst.push_owned(vnet, std::mem::take(&mut *spare)),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => return drained.store(true, Ordering::Relaxed),
                    // A read that was shut down, or a file without its interface.
                    Some(libc::EBADFD | libc::ENODEV | libc::EFAULT | libc::EIO) => return self.go(REMOVED),
                    _ => return self.faults.note(&self.faults.read, self.name(), &error),
                },
            }
        }
    }

    fn complete(&self, _queue: u16, _burst: &Burst) {}

    fn capabilities(&self) -> Capabilities {
        // All descriptors of an interface have the same.
        self.queues
            .first()
            .map_or_else(Capabilities::default, |queue| queue.device.capabilities())
    }

    fn deliver(&self, frames: &[Outgoing<'_>]) -> Delivery {
        for (accepted, frame) in frames.iter().enumerate() {
            if let Err(refusal) = self.deliver_one(frame) {
                return Delivery {
                    accepted,
                    refusal: Some(refusal),
                };
            }
        }
        Delivery {
            accepted: frames.len(),
            refusal: None,
        }
    }

    fn notify(&self) {}

    fn arm(&self, queue: u16, wants_room: bool) -> bool {
        self.watch_room(queue, wants_room);
        if !wants_room && self.is_drained(queue) {
            return false;
        }
        let readiness = self.look(queue);
        !self.is_gone() && (readiness.readable || wants_room && readiness.writable)
    }

    fn rings_reliably(&self) -> bool {
        true
    }

    fn is_drained(&self, queue: u16) -> bool {
        self.queue(queue)
            .is_some_and(|queue| queue.drained.load(Ordering::Relaxed))
    }

    fn disarm(&self, queue: u16) {
        self.watch_room(queue, false);
    }

    fn woken(&self, queue: u16) {
        // Readiness is a level: reading is what ends it. Only an interface that went has to be noticed here, unless it was just read.
        if !self.is_drained(queue) {
            self.look(queue);
        }
    }

    fn deadline(&self, _queue: u16, _now: Instant) -> Option<Instant> {
        None
    }

    fn status(&self) -> BackendStatus {
        let up = !self.is_gone();
        let counts = [
            ("frame_refused", &self.faults.refused),
            ("link_down", &self.faults.link_down),
            ("read_failed", &self.faults.read),
        ];
        let refusals: BTreeMap<String, u64> = counts
            .into_iter()
            .map(|(kind, counter)| (kind.to_owned(), counter.load(Ordering::Relaxed)))
            .filter(|(_, n)| *n > 0)
            .collect();
        BackendStatus {
            up,
            features: 0,
            connections: u64::from(up),
            last_error: self.faults.last.lock().clone(),
            refusals,
            served: None,
        }
    }

    fn close(&self) {
        self.go("closed");
        for queue in &self.queues {
            if let Err(error) = queue.device.release() {
                self.faults.note(&self.faults.read, self.name(), &error);
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
