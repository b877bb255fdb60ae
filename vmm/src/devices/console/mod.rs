//! The virtio console (Virtio 1.2, 5.3): one port, without sizes or multiport.
//!
//! What the guest prints is passed on while the driver notifies. What is typed waits in a small store until the guest
//! has given buffers for it; the machine's event loop is told when a full store has room again.

mod receiver;
#[cfg(test)]
mod tests;

use std::io::Write;
use std::os::fd::RawFd;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use virtio_queue::DescriptorChain;
use vm_memory::{Address, Bytes, GuestAddress};

use super::lifecycle::{CannotExport, Lifecycle, SavedState};
use super::lines::LineBuffer;
use super::virtio::{ActiveQueue, F_VERSION_1, ServedRing, VirtioDevice};
use crate::memory::GuestRam;
pub(crate) use receiver::Receiver;

/// Descriptors that a ring may have.
const RING_SIZE: u16 = 128;
/// The two queues of the port.
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
/// Octets of one buffer that are printed; what is longer is no console output, and is refused from there on.
const BUFFER_MAX: usize = 64 << 10;
/// Octets that are taken out of guest memory at a time.
const PIECE: usize = 512;
/// Descriptors of a buffer that are looked at.
const PARTS_MAX: usize = 64;

/// What happened to a console so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConsoleCounts {
    /// Octets that the guest printed, those that nobody took included.
    pub printed: u64,
    /// Octets that nobody took.
    pub lost: u64,
    /// Octets that the guest read.
    pub typed: u64,
    /// Buffers outside memory, of the wrong direction or without end, and rings that broke the rules.
    pub refusals: u64,
}

/// A console port.
pub(crate) struct VirtioConsole {
    ram: GuestRam,
    output: LineBuffer,
    transmit: Option<ServedRing>,
    accepted: Option<u64>,
    receiver: Arc<Receiver>,
    paused: bool,
    counts: ConsoleCounts,
}

impl VirtioConsole {
    /// A console that prints to `output`.
    pub(crate) fn new(ram: GuestRam, output: Box<dyn Write + Send>) -> std::io::Result<Self> {
        Ok(Self {
            receiver: Arc::new(Receiver::new(ram.clone())?),
            ram,
            output: LineBuffer::new(output)?,
            transmit: None,
            accepted: None,
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

    /// The features that the driver accepted, while one is at work.
    pub(crate) fn accepted(&self) -> Option<u64> {
        self.accepted
    }

    /// Readable when output has waited long enough for the end of its line. Valid as long as the console.
    pub(crate) fn flush_timer_fd(&self) -> RawFd {
        self.output.timer_fd()
    }

    /// Hands over output that waits for the end of its line.
    pub(crate) fn flush(&mut self) {
        self.output.flush_now();
    }

    fn print_all(&mut self) {
        let Self {
            ram,
            output,
            transmit,
            counts,
            ..
        } = self;
        let Some(ring) = transmit else { return };
        let served = ring.serve(ram, |chain| {
            let whole = print(ram, chain, output, counts);
            counts.refusals += u64::from(!whole);
            Some(0)
        });
        counts.refusals += u64::from(served.is_err());
    }
}

/// Prints one buffer; whether it kept the rules.
fn print(
    ram: &GuestRam,
    mut chain: DescriptorChain<&GuestRam>,
    output: &mut LineBuffer,
    counts: &mut ConsoleCounts,
) -> bool {
    let mut left = BUFFER_MAX;
    for part in chain.by_ref().take(PARTS_MAX) {
        let len = part.len() as usize;
        if part.is_write_only() || len > left || !print_part(ram, part.addr(), len, output, counts) {
            return false;
        }
        left -= len;
    }
    left < BUFFER_MAX && chain.next().is_none()
}

/// Prints `len` octets of guest memory from `address` on, as far as they are memory; whether all were.
fn print_part(
    ram: &GuestRam,
    address: GuestAddress,
    len: usize,
    output: &mut LineBuffer,
    counts: &mut ConsoleCounts,
) -> bool {
    let mut piece = [0; PIECE];
    for at in (0..len).step_by(PIECE) {
        let (octets, from) = (
            piece.get_mut(..PIECE.min(len - at)),
            address.checked_add(at as u64),
        );
        let (Some(octets), Some(from)) = (octets, from) else {
            return false;
        };
        if ram.read_slice(octets, from).is_err() {
            return false;
        }
        let count = octets.len() as u64;
        counts.printed += count;
        counts.lost += if output.write_all(octets).is_ok() {
            0
        } else {
            count
        };
    }
    true
}

impl Lifecycle for VirtioConsole {
    fn pause(&mut self) {
        if !std::mem::replace(&mut self.paused, true) {
            self.receiver.pause(true);
            self.flush();
        }
    }

    fn resume(&mut self) {
        if std::mem::replace(&mut self.paused, false) {
            self.receiver.pause(false);
            self.print_all();
        }
    }

    fn reset(&mut self) {
        self.flush();
        self.transmit = None;
        self.accepted = None;
        self.receiver.set_ring(None);
    }

    fn export(&self) -> Result<SavedState, CannotExport> {
        const KIND: &str = "virtio-console";
        if !self.paused {
            return Err(CannotExport::Running(KIND));
        }
        let transmit = self.transmit.as_ref().map(ServedRing::position);
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
        F_VERSION_1
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
            queue.map(ServedRing::new).transpose()
        };
        self.transmit = ring(TRANSMIT)?;
        self.receiver.set_ring(ring(RECEIVE)?);
        self.accepted = Some(features);
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
