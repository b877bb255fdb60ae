//! The control queue (Virtio 1.2, 5.1.6.5), the only queue that this process serves.

use std::sync::Arc;

use offload::MacAddr;
use virtio_queue::{DescriptorChain, Queue, QueueT};
use vm_memory::Bytes;
use vmm_sys_util::eventfd::EventFd;

use super::features::{
    CTRL_GUEST_OFFLOADS, CTRL_MAC, CTRL_RX, CTRL_RX_EXTRA, CTRL_VLAN, GUEST_ANNOUNCE, HASH_REPORT, MQ, RSS,
};
use crate::devices::virtio::ActiveQueue;
use crate::memory::GuestRam;

/// Steps per notification: more than the ring has room for, so only a driver that adds commands meanwhile, and will
/// notify again, reaches it.
const BATCH: usize = 256;
/// Octets of a command, as many as the switch takes. Only a table of some 680 MAC addresses is longer.
pub(super) const COMMAND_MAX: usize = 4096;
/// Descriptors of a command that are looked at, so that a notification has an end soon whatever the chains are.
const PARTS_MAX: usize = 16;
/// Class and number of the command that sets the device's MAC address.
pub(super) const MAC_ADDRESS: [u8; 2] = [1, 1];
/// Class and number of the command that sets the table of MAC addresses, and what stands for tables that are too long: lists
/// of all addresses.
const MAC_TABLE: [u8; 2] = [1, 0];
const ALL_ADDRESSES: [u8; 10] = [1, 0, 255, 255, 255, 255, 255, 255, 255, 255];
/// `VIRTIO_NET_OK` and `VIRTIO_NET_ERR`.
const OK: u8 = 0;
const ERR: u8 = 1;

/// What a valid command asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ControlEffect {
    /// Fewer frames: all the same to a back end that takes no commands, or will take this one when it is there.
    Filter,
    /// Something that only a back end can judge and do.
    Deliver,
    /// Another MAC address.
    SetMac(MacAddr),
    /// The driver has announced itself.
    Announced,
    /// So many queue pairs are in use.
    SetPairs(u16),
    /// So many are in use, and the driver says by hash what it receives on which: only a back end can judge that.
    Steer(u16),
}

/// Class, command and data of a command; `None` when it is not valid with `features`.
pub(super) fn decode(command: &[u8], features: u64) -> Option<ControlEffect> {
    let has = |feature| features & feature != 0;
    match *command {
        // Receive modes, and the tables of addresses and VLANs to receive.
        [0, 0..=1, _] | [1, 0, _, ..] if has(CTRL_RX) => Some(ControlEffect::Filter),
        [0, 2..=5, _] if has(CTRL_RX_EXTRA) => Some(ControlEffect::Filter),
        [2, 0..=1, _, 0..=0xf] if has(CTRL_VLAN) => Some(ControlEffect::Filter),
        [1, 1, ref mac @ ..] if has(CTRL_MAC) => Some(ControlEffect::SetMac(MacAddr(mac.try_into().ok()?))),
        [3, 0] if has(GUEST_ANNOUNCE) => Some(ControlEffect::Announced),
        [4, 0, low, high] if has(MQ) => Some(ControlEffect::SetPairs(u16::from_le_bytes([low, high]))),
        [4, 1, ref config @ ..] if has(RSS) => steered_pairs(config).map(ControlEffect::Steer),
        [4, 2, ..] if has(HASH_REPORT) => Some(ControlEffect::Deliver),
        [5, 0, ..] if has(CTRL_GUEST_OFFLOADS) && command.len() == 10 => Some(ControlEffect::Deliver),
        _ => None,
    }
}

/// The queue pairs that `virtio_net_rss_config` uses: those that the driver transmits on, and up to the highest one that its
/// table names (Virtio 1.2, 5.1.6.5.7.1).
fn steered_pairs(config: &[u8]) -> Option<u16> {
    let (halves, _) = config.get(4..)?.as_chunks::<2>();
    let mut halves = halves.iter().map(|half| u16::from_le_bytes(*half));
    let entries = usize::from(halves.next()?) + 1;
    let mut receive = halves.by_ref().take(1 + entries);
    let highest = receive.by_ref().max()?;
    Some(halves.next()?.max(highest.checked_add(1)?))
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
    let mut command = Vec::new();
    let mut is_longer = false;
    let parts = chain.clone().take(PARTS_MAX);
    for part in parts.filter(|part| !part.is_write_only()) {
        let len = (part.len() as usize).min(COMMAND_MAX - command.len());
        is_longer |= len < part.len() as usize;
        let mut octets = vec![0; len];
        if ram.read_slice(&mut octets, part.addr()).is_err() {
            return 0;
        }
        command.extend(octets);
    }
    if is_longer {
        let stands_for_it = command.starts_with(&MAC_TABLE).then_some(ALL_ADDRESSES);
        command = stands_for_it.map_or_else(Vec::new, Vec::from);
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
