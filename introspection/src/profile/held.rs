//! Held frames: one queue for each flow and direction, and one order by deadline over all of them.

use crate::flow::Slot;
use crate::{Direction, FrameId, Instant};

const NONE: u32 = u32::MAX;

/// A held frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) id: FrameId,
    pub(super) deadline: Instant,
    pub(super) slot: Slot,
    pub(super) direction: Direction,
    /// Octets of the frame.
    pub(super) octets: u32,
    /// The sequence number behind its payload.
    pub(super) end: u32,
    /// Whether it has payload.
    pub(super) payload: bool,
    /// Its acknowledgement number, if it has one.
    pub(super) ack: Option<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    held: Held,
    /// Behind it in its queue; in the free list, the next free one.
    next: u32,
    earlier: u32,
    later: u32,
}

/// One flow and direction's frames, first held first. Its links live in [`HeldFrames`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Queue {
    head: u32,
    tail: u32,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            head: NONE,
            tail: NONE,
        }
    }
}

impl Queue {
    pub(super) const fn is_empty(self) -> bool {
        self.head == NONE
    }
}

/// All held frames of a filter. Every frame is held equally long, so the order of arrival is the order of deadlines.
#[derive(Debug)]
pub(super) struct HeldFrames {
    nodes: Vec<Node>,
    free: u32,
    earliest: u32,
    latest: u32,
    count: usize,
    octets: u64,
    max_count: usize,
    max_octets: u64,
}

impl HeldFrames {
    pub(super) fn new(max_count: usize, max_octets: u64) -> Self {
        Self {
            nodes: Vec::new(),
            free: NONE,
            earliest: NONE,
            latest: NONE,
            count: 0,
            octets: 0,
            max_count: max_count.min(NONE as usize),
            max_octets,
        }
    }

    /// Whether a frame of `octets` may be held, too.
    pub(super) fn has_room(&self, octets: u32) -> bool {
        self.count < self.max_count && self.octets.saturating_add(octets.into()) <= self.max_octets
    }

    /// The frame that must go first.
    pub(super) fn earliest(&self) -> Option<&Held> {
        self.nodes.get(self.earliest as usize).map(|node| &node.held)
    }

    pub(super) fn front(&self, queue: Queue) -> Option<&Held> {
        self.nodes.get(queue.head as usize).map(|node| &node.held)
    }

    pub(super) fn back(&self, queue: Queue) -> Option<&Held> {
        self.nodes.get(queue.tail as usize).map(|node| &node.held)
    }

    /// Puts a frame behind the others of its queue; the caller has checked [`HeldFrames::has_room`].
    pub(super) fn push(&mut self, queue: &mut Queue, held: Held) {
        let node = Node {
            held,
            next: NONE,
            earlier: self.latest,
            later: NONE,
        };
        let at = self.place(node);
        if let Some(latest) = self.nodes.get_mut(self.latest as usize) {
            latest.later = at;
        } else {
            self.earliest = at;
        }
        self.latest = at;
        if let Some(tail) = self.nodes.get_mut(queue.tail as usize) {
            tail.next = at;
        } else {
            queue.head = at;
        }
        queue.tail = at;
        self.count += 1;
        self.octets += u64::from(held.octets);
    }

    /// Takes the first frame out of its queue.
    pub(super) fn pop(&mut self, queue: &mut Queue) -> Option<Held> {
        let at = queue.head;
        let node = *self.nodes.get(at as usize)?;
        queue.head = node.next;
        if node.next == NONE {
            queue.tail = NONE;
        }
        match self.nodes.get_mut(node.earlier as usize) {
            Some(earlier) => earlier.later = node.later,
            None => self.earliest = node.later,
        }
        match self.nodes.get_mut(node.later as usize) {
            Some(later) => later.earlier = node.earlier,
            None => self.latest = node.earlier,
        }
        if let Some(freed) = self.nodes.get_mut(at as usize) {
            freed.next = self.free;
        }
        self.free = at;
        self.count -= 1;
        self.octets -= u64::from(node.held.octets);
        Some(node.held)
    }

    fn place(&mut self, node: Node) -> u32 {
        let at = self.free;
        if let Some(free) = self.nodes.get_mut(at as usize) {
            self.free = free.next;
            *free = node;
            return at;
        }
        self.nodes.push(node);
        self.nodes.len() as u32 - 1
    }
}
