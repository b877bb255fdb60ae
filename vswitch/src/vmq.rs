//! VM queues: where an uplink's frames wait for the worker of the VM that they go to.
//!
//! A NIC with VMQ sorts what it receives by destination address and VLAN into a queue for each VM, so that each VM's
//! share of the traffic can run on a processor of its own. Here the worker that serves the uplink's queue sorts: the
//! forwarding table, which is keyed by (MAC, VLAN), names the port, and every port that is no uplink has one VM queue, a
//! [lane](crate::lane) like any other, which is placed by its load. When the same worker serves both, frames do not wait:
//! they are delivered where they are, without a copy.
//!
//! Order. Whatever an uplink sends to a port goes by the port's VM queue, flooded frames too, and is delivered by that
//! lane's owner only. The owner delivers past the queue only while the queue is empty. So frames of a flow, which come by
//! one queue of the uplink, stay in order wherever either lane moves.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use introspection::Instant;
use parking_lot::Mutex;

use crate::frame::{BURST, BufferPool};
use crate::packet::{Arena, Packet};

/// Frames that may wait for one VM.
const FRAMES: usize = 4096;
/// Octets that may wait for one VM.
const OCTETS: usize = 8 << 20;

/// Frames from uplinks on their way to one port.
#[derive(Debug, Default)]
pub(crate) struct VmQueue {
    waiting: Mutex<Waiting>,
    /// Frames in it, to be read without the lock.
    len: AtomicUsize,
    /// Whether filters of other ports copy into it.
    mirrored: AtomicBool,
}

#[derive(Debug, Default)]
struct Waiting {
    frames: VecDeque<Sorted>,
    octets: usize,
    /// Buffers that came back.
    pool: BufferPool,
}

#[derive(Debug)]
struct Sorted {
    packet: Packet,
    octets: Vec<u8>,
    since: Instant,
}

impl VmQueue {
    /// Whether nothing waits. For the lane's owner the answer stays true until others add to it.
    pub(crate) fn is_empty(&self) -> bool {
        self.len.load(Ordering::SeqCst) == 0
    }

    /// Notes that filters of other ports copy into it from now on: it is served even where there is no uplink.
    pub(crate) fn begin_mirroring(&self) {
        self.mirrored.store(true, Ordering::Release);
    }

    /// Whether they do, or did.
    pub(crate) fn is_mirrored(&self) -> bool {
        self.mirrored.load(Ordering::Acquire)
    }

    /// Adds copies of packets, in order. Returns how many there was no room for, counted from the last.
    pub(crate) fn push(&self, now: Instant, packets: &[Packet], arena: &Arena) -> usize {
        let mut copies = arrayvec::ArrayVec::<Vec<u8>, BURST>::new();
        {
            let mut waiting = self.waiting.lock();
            for packet in packets.iter().take(waiting.room(packets)) {
                copies.push(waiting.pool.empty(packet.meta.frame_len as usize));
            }
        }
        for (packet, copy) in packets.iter().zip(&mut copies) {
            arena.copy_out(packet.octets, packet.meta.frame_len as usize, copy);
        }
        let added = copies.len();
        let mut waiting = self.waiting.lock();
        for (packet, octets) in packets.iter().zip(copies) {
            waiting.octets += octets.len();
            waiting.frames.push_back(Sorted {
                packet: *packet,
                octets,
                since: now,
            });
        }
        self.len.store(waiting.frames.len(), Ordering::SeqCst);
        packets.len() - added
    }

    /// Takes a burst. The time that a packet waited counts as waiting in a queue.
    pub(crate) fn take(&self, now: Instant, arena: &mut Arena, packets: &mut Vec<Packet>) {
        let mut waiting = self.waiting.lock();
        let count = waiting.frames.len().min(BURST);
        let mut octets = 0;
        for sorted in waiting.frames.drain(..count) {
            octets += sorted.octets.len();
            let mut packet = sorted.packet;
            let waited = now.since(sorted.since);
            if packet.times.is_stamped() {
                packet.times.wait.0 += waited;
                packet.times.parse.0 += waited;
            }
            packet.octets = arena.adopt(sorted.octets);
            packets.push(packet);
        }
        waiting.octets -= octets;
        self.len.store(waiting.frames.len(), Ordering::SeqCst);
    }

    /// Takes buffers back, to be used again by those who push.
    pub(crate) fn give_back(&self, buffers: impl Iterator<Item = Vec<u8>>) {
        let mut waiting = self.waiting.lock();
        for buffer in buffers {
            waiting.pool.give(buffer);
        }
    }
}

impl Waiting {
    /// How many of these packets, at most a burst, it has room for.
    fn room(&self, packets: &[Packet]) -> usize {
        let mut octets = self.octets;
        let frames = FRAMES.saturating_sub(self.frames.len()).min(BURST);
        let fitting = packets.iter().take(frames).take_while(|packet| {
            octets += packet.meta.frame_len as usize;
            octets <= OCTETS
        });
        fitting.count()
    }
}

#[cfg(test)]
mod wakeups;
