//! The virtio console (Virtio 1.2, 5.3): one port, without sizes or multiport.
//!
//! What the guest prints is passed on while the driver notifies. What is typed waits in a small store until the guest
//! has given buffers for it; the machine's event loop is told when a full store has room again.

mod receiver;
#[cfg(test)]
mod tests;

use std::io::Write;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use virtio_queue::{DescriptorChain, Queue, QueueT};
use vm_memory::{Address, Bytes};
use vmm_sys_util::eventfd::EventFd;

use super::lifecycle::{CannotExport, Lifecycle, SavedState};
use super::virtio::{ActiveQueue, F_VERSION_1, VirtioDevice};
use crate::memory::GuestRam;
pub(crate) use receiver::Receiver;

/// Descriptors that a ring may have.
const RING_SIZE: u16 = 128;
/// The two queues of the port.
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
/// `VIRTIO_F_EVENT_IDX`.
const EVENT_IDX: u64 = 1 << 29;
/// Octets of one buffer that are printed; what is longer is no console output, and is refused from there on.
const BUFFER_MAX: usize = 64 << 10;
/// Octets that are taken out of guest memory at a time.
const PIECE: usize = 512;
/// Buffers served for one notification: only a driver that adds more meanwhile, and will notify again, reaches it.
const BATCH: usize = 2 * RING_SIZE as usize;

/// What happened to a console so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConsoleCounts {
    /// Octets that the guest printed.
    pub printed: u64,
    /// Octets that nobody took.
    pub lost: u64,
    /// Octets that the guest read.
    pub typed: u64,
    /// Buffers outside memory, of the wrong direction or without end, and rings that broke the rules.
    pub refusals: u64,
}

/// A ring and where its buffers are signalled as used.
struct Ring {
    queue: Queue,
    call: Arc<EventFd>,
}

/// A console port.
pub(crate) struct VirtioConsole {
    ram: GuestRam,
    output: Box<dyn Write + Send>,
    transmit: Option<Ring>,
    receiver: Arc<Receiver>,
    paused: bool,
    counts: ConsoleCounts,
}

impl Ring {
    fn new(queue: &ActiveQueue, features: u64) -> Result<Self, String> {
        Ok(Self {
            queue: queue.ring(features & EVENT_IDX != 0)?,
            call: Arc::clone(&queue.call),
        })
    }

    fn signal(&mut self, ram: &GuestRam) {
        if self.queue.needs_notification(ram).unwrap_or(true) {
            // Fails only when the counter is full, and then the interrupt is pending already.
            let _ = self.call.write(1);
        }
    }

    fn position(&self) -> (u16, u16) {
        (self.queue.next_avail(), self.queue.next_used())
    }
}

impl VirtioConsole {
    /// A console that prints to `output`.
    pub(crate) fn new(ram: GuestRam, output: Box<dyn Write + Send>) -> std::io::Result<Self> {
        Ok(Self {
            receiver: Arc::new(Receiver::new(ram.clone())?),
            ram,
            output,
            transmit: None,
            paused: false,
            counts: ConsoleCounts::default(),
        })
    }

    /// Takes what is typed.
    pub(crate) fn receiver(&self) -> Arc<Receiver> {
        Arc::clone(&self.receiver)
    }

    pub(crate) fn counts(&self) -> ConsoleCounts {
        let (typed, refusals) = self.receiver.counts();
        ConsoleCounts {
            typed,
            refusals: self.counts.refusals + refusals,
            ..self.counts
        }
    }

    fn print_all(&mut self) {
        let Some(ring) = &mut self.transmit else { return };
        for _ in 0..BATCH {
            let Some(chain) = ring.queue.pop_descriptor_chain(&self.ram) else {
                match ring.queue.enable_notification(&self.ram) {
                    Ok(true) => continue,
                    Ok(false) => break,
                    Err(_) => return self.counts.refusals += 1,
                }
            };
            let head = chain.head_index();
            print(&self.ram, chain, &mut self.output, &mut self.counts);
            if ring.queue.add_used(&self.ram, head, 0).is_err() {
                return self.counts.refusals += 1;
            }
        }
        ring.signal(&self.ram);
    }
}

/// Prints one buffer.
fn print(
    ram: &GuestRam,
    chain: DescriptorChain<&GuestRam>,
    output: &mut impl Write,
    counts: &mut ConsoleCounts,
) {
    let mut left = BUFFER_MAX;
    let mut piece = [0; PIECE];
    for part in chain {
        let (mut address, mut len) = (Some(part.addr()), part.len() as usize);
        if part.is_write_only() || len > left {
            counts.refusals += 1;
            return;
        }
        left -= len;
        while let (Some(at), true) = (address, len > 0) {
            let count = len.min(PIECE);
            let Some(octets) = piece.get_mut(..count) else {
                break;
            };
            if ram.read_slice(octets, at).is_err() {
                counts.refusals += 1;
                return;
            }
            let taken = output.write_all(octets).and_then(|()| output.flush()).is_ok();
            *(if taken {
                &mut counts.printed
            } else {
                &mut counts.lost
            }) += count as u64;
            len -= count;
            address = at.checked_add(count as u64);
        }
    }
}

impl Lifecycle for VirtioConsole {
    fn pause(&mut self) {
        self.paused = true;
        self.receiver.pause(true);
    }

    fn resume(&mut self) {
        if std::mem::replace(&mut self.paused, false) {
            self.receiver.pause(false);
            self.print_all();
        }
    }

    fn reset(&mut self) {
        self.transmit = None;
        self.receiver.set_ring(None);
    }

    fn export(&self) -> Result<SavedState, CannotExport> {
        const KIND: &str = "virtio-console";
        if !self.paused {
            return Err(CannotExport::Running(KIND));
        }
        let transmit = self.transmit.as_ref().map(Ring::position);
        SavedState::new(KIND, 1, (transmit, self.receiver.export()))
    }
}

impl VirtioDevice for VirtioConsole {
    fn device_id(&self) -> u16 {
        3
    }

    /// A communication controller of no special kind.
    fn class(&self) -> u32 {
        0x07_8000
    }

    fn features(&self) -> u64 {
        F_VERSION_1 | EVENT_IDX
    }

    fn queue_sizes(&self) -> &[u16] {
        &[RING_SIZE, RING_SIZE]
    }

    fn read_config(&self, _: usize, data: &mut [u8]) {
        data.fill(0);
    }

    fn activate(&mut self, features: u64, queues: &[ActiveQueue]) -> Result<(), String> {
        let ring = |index| {
            let queue = queues.iter().find(|queue| queue.index == index);
            queue.map(|queue| Ring::new(queue, features)).transpose()
        };
        self.transmit = ring(TRANSMIT)?;
        self.receiver.set_ring(ring(RECEIVE)?);
        Ok(())
    }

    fn serve(&mut self, queue: u16) -> bool {
        match queue {
            RECEIVE => self.receiver.give(),
            TRANSMIT if !self.paused => self.print_all(),
            _ => {}
        }
        true
    }

    fn first_notification(&mut self, _: u16) {}
}
