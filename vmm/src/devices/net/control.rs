//! The control queue (Virtio 1.2, 5.1.6.5), the only queue that this process serves.

use std::sync::Arc;

use offload::MacAddr;
use virtio_queue::{DescriptorChain, Queue, QueueT};
use vm_memory::Bytes;
use vmm_sys_util::eventfd::EventFd;

use super::features::{CTRL_MAC, CTRL_RX, GUEST_ANNOUNCE, MQ};
use crate::devices::virtio::ActiveQueue;
use crate::memory::GuestRam;

/// Steps per notification: more than the ring has room for, so only a driver that adds commands meanwhile, and will
/// notify again, reaches it.
const BATCH: usize = 256;
/// Octets of a command that are looked at; only MAC tables are longer, and those are not read.
const COMMAND_MAX: usize = 16;
/// Descriptors of a command that are looked at, so that a notification has an end soon whatever the chains are.
const PARTS_MAX: usize = 16;
/// `VIRTIO_NET_OK` and `VIRTIO_NET_ERR`.
const OK: u8 = 0;
const ERR: u8 = 1;

/// What a valid command asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ControlEffect {
    /// Nothing but an answer: the switch delivers by what it learned, not by receive filters.
    Acknowledge,
    /// Another MAC address.
    SetMac(MacAddr),
    /// The driver has announced itself.
    Announced,
    /// So many queue pairs are in use.
    SetPairs(u16),
}

/// Class, command and data of a command; `None` when it is not valid with `features`.
pub(super) fn decode(command: &[u8], features: u64) -> Option<ControlEffect> {
    let has = |feature| features & feature != 0;
    match *command {
        // Receive modes, and the table of addresses to receive.
        [0, 0..=1, _, ..] | [1, 0, _, ..] if has(CTRL_RX) => Some(ControlEffect::Acknowledge),
        [1, 1, ref mac @ ..] if has(CTRL_MAC) => Some(ControlEffect::SetMac(MacAddr(mac.try_into().ok()?))),
        [3, 0] if has(GUEST_ANNOUNCE) => Some(ControlEffect::Announced),
        [4, 0, low, high] if has(MQ) => Some(ControlEffect::SetPairs(u16::from_le_bytes([low, high]))),
        _ => None,
    }
}

/// The control queue of a driver at work.
pub(super) struct ControlQueue {
    queue: Queue,
    call: Arc<EventFd>,
    broken: u64,
}

impl ControlQueue {
    pub(super) fn new(active: &ActiveQueue, event_idx: bool) -> Result<Self, String> {
        Ok(Self {
            queue: active.ring(event_idx)?,
            call: Arc::clone(&active.call),
            broken: 0,
        })
    }

    /// Answers what the driver made available, each command as `carry_out` says.
    pub(super) fn serve(&mut self, ram: &GuestRam, mut carry_out: impl FnMut(&[u8]) -> bool) {
        for _ in 0..BATCH {
            let Some(chain) = self.queue.pop_descriptor_chain(ram) else {
                match self.queue.enable_notification(ram) {
                    Ok(true) => continue,
                    Ok(false) => break,
                    Err(_) => return self.broken += 1,
                }
            };
            let head = chain.head_index();
            let written = answer(ram, chain, &mut carry_out);
            self.broken += u64::from(written == 0);
            if self.queue.add_used(ram, head, written).is_err() {
                return self.broken += 1;
            }
        }
        if self.queue.needs_notification(ram).unwrap_or(true) {
            // Fails only when the counter is full, and then the interrupt is pending already.
            let _ = self.call.write(1);
        }
    }

    /// Next available and next used entry.
    pub(super) fn position(&self) -> (u16, u16) {
        (self.queue.next_avail(), self.queue.next_used())
    }

    /// Times that the ring or a chain broke the rules, since last asked.
    pub(super) fn take_broken(&mut self) -> u64 {
        std::mem::take(&mut self.broken)
    }
}

/// Carries out one command; returns the octets written, 0 when the driver left no room for an answer.
fn answer(
    ram: &GuestRam,
    chain: DescriptorChain<&GuestRam>,
    carry_out: &mut impl FnMut(&[u8]) -> bool,
) -> u32 {
    let mut command = Vec::with_capacity(COMMAND_MAX);
    let parts = chain.clone().take(PARTS_MAX);
    for part in parts.filter(|part| !part.is_write_only()) {
        let len = (part.len() as usize).min(COMMAND_MAX - command.len());
        let mut octets = vec![0; len];
        if ram.read_slice(&mut octets, part.addr()).is_err() {
            return 0;
        }
        command.extend(octets);
    }
    let room = chain
        .take(PARTS_MAX)
        .find(|part| part.is_write_only() && part.len() > 0);
    let Some(room) = room else {
        return 0;
    };
    let verdict = if carry_out(&command) { OK } else { ERR };
    u32::from(ram.write_obj(verdict, room.addr()).is_ok())
}
