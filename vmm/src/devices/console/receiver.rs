//! The receiving half of the port, shared by the event loop and the processor that notifies.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

use parking_lot::Mutex;
use virtio_queue::DescriptorChain;
use virtio_queue::desc::split::Descriptor;
use vm_memory::Bytes;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::PARTS_MAX;
use crate::devices::Terminal;
use crate::devices::virtio::ServedRing;
use crate::memory::GuestRam;

/// Octets that wait for the guest at most.
const CAPACITY: usize = 4096;

/// What was typed and not yet read.
pub(crate) struct Receiver {
    ram: GuestRam,
    room: EventFd,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    ring: Option<ServedRing>,
    waiting: VecDeque<u8>,
    /// The event loop waits for room.
    starved: bool,
    paused: bool,
    typed: u64,
    refusals: u64,
}

impl Receiver {
    pub(super) fn new(ram: GuestRam) -> io::Result<Self> {
        Ok(Self {
            ram,
            room: EventFd::new(EFD_NONBLOCK | libc::EFD_CLOEXEC)?,
            state: Mutex::default(),
        })
    }

    /// The driver's ring, or that there is none any more.
    pub(super) fn set_ring(&self, ring: Option<ServedRing>) {
        self.state.lock().ring = ring;
        self.give();
    }

    /// While paused, octets only gather.
    pub(super) fn pause(&self, paused: bool) {
        self.state.lock().paused = paused;
        self.give();
    }

    /// Octets that the guest read, and buffers that were refused.
    pub(super) fn counts(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.typed, state.refusals)
    }

    /// The ring's position, and what waits for the guest.
    pub(super) fn export(&self) -> (Option<(u16, u16)>, Vec<u8>) {
        let state = self.state.lock();
        (
            state.ring.as_ref().map(ServedRing::position),
            state.waiting.iter().copied().collect(),
        )
    }

    /// Puts what waits into the guest's buffers, as far as there are any.
    pub(super) fn give(&self) {
        let mut state = self.state.lock();
        if !state.paused {
            state.give(&self.ram);
        }
        if state.starved && state.waiting.len() < CAPACITY {
            state.starved = false;
            // Fails only when the counter is full, and then the event loop is told already.
            let _ = self.room.write(1);
        }
    }
}

impl State {
    fn give(&mut self, ram: &GuestRam) {
        let Some(ring) = &mut self.ring else { return };
        let (waiting, typed, refusals) = (&mut self.waiting, &mut self.typed, &mut self.refusals);
        let served = ring.serve(ram, |chain| {
            if waiting.is_empty() {
                return None;
            }
            let written = hand_over(ram, chain, waiting);
            *typed += u64::from(written);
            *refusals += u64::from(written == 0);
            Some(written)
        });
        *refusals += u64::from(served.is_err());
    }
}

/// Writes what waits to one buffer, as far as it has room; how much.
fn hand_over(ram: &GuestRam, chain: DescriptorChain<&GuestRam>, waiting: &mut VecDeque<u8>) -> u32 {
    let octets = waiting.make_contiguous();
    let mut written = 0;
    for part in chain.take(PARTS_MAX).filter(Descriptor::is_write_only) {
        let rest = octets.get(written..).unwrap_or_default();
        let piece = rest.get(..part.len() as usize).unwrap_or(rest);
        if ram.write_slice(piece, part.addr()).is_err() {
            break;
        }
        written += piece.len();
    }
    waiting.drain(..written);
    written as u32
}

impl Terminal for Receiver {
    fn room(&self) -> usize {
        let mut state = self.state.lock();
        let room = CAPACITY - state.waiting.len();
        state.starved = room == 0;
        room
    }

    fn receive(&self, octets: &[u8]) {
        let mut state = self.state.lock();
        let room = CAPACITY - state.waiting.len();
        state.waiting.extend(octets.iter().take(room));
        if !state.paused {
            state.give(&self.ram);
        }
    }

    fn room_fd(&self) -> RawFd {
        self.room.as_raw_fd()
    }

    fn clear_room(&self) {
        // Fails only when there is nothing to forget.
        let _ = self.room.read();
    }
}
