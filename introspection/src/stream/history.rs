//! The most recent judged octets of a stream, to compare retransmissions with.

use std::collections::VecDeque;

use super::Budget;

/// An empty history keeps at most this much memory.
pub(super) const IDLE_CAPACITY: usize = 4096;

/// The last octets before the stream's next one, in a buffer whose capacity is charged to the budget.
#[derive(Debug, Default)]
pub(super) struct History {
    octets: VecDeque<u8>,
}

impl History {
    pub(super) fn len(&self) -> usize {
        self.octets.len()
    }

    pub(super) fn clear(&mut self, budget: &mut Budget) {
        budget.release(self.octets.capacity());
        budget.keep_spare(std::mem::take(&mut self.octets));
    }

    /// Appends judged octets; forgets the oldest ones where memory does not suffice.
    pub(super) fn push(&mut self, octets: &[u8], budget: &mut Budget) {
        let wanted = (self.octets.len() + octets.len()).min(budget.each);
        if wanted > self.octets.capacity() {
            self.grow(wanted, budget);
        }
        let room = self.octets.capacity().min(budget.each);
        let newest = octets
            .get(octets.len().saturating_sub(room)..)
            .unwrap_or_default();
        let excess = (self.octets.len() + newest.len()).saturating_sub(room);
        self.octets.drain(..excess.min(self.octets.len()));
        self.octets.extend(newest);
    }

    fn grow(&mut self, wanted: usize, budget: &mut Budget) {
        let before = self.octets.capacity();
        let target = wanted.next_power_of_two().min(budget.each).max(wanted);
        if let Some(mut spare) = budget.take_spare(target, before) {
            let (first, second) = self.octets.as_slices();
            spare.extend(first);
            spare.extend(second);
            budget.keep_spare(std::mem::replace(&mut self.octets, spare));
            return;
        }
        if !budget.charge(target - before) {
            return;
        }
        self.octets.reserve_exact(target - self.octets.len());
        let more = self.octets.capacity().saturating_sub(target);
        // The allocator may give more than was asked for; it is ours either way.
        budget.used = budget.used.saturating_add(more);
    }

    /// Forgets all but the last `count` octets.
    pub(super) fn keep_last(&mut self, count: usize, budget: &mut Budget) {
        let excess = self.octets.len().saturating_sub(count);
        self.octets.drain(..excess);
        if self.octets.is_empty() && self.octets.capacity() > IDLE_CAPACITY {
            self.clear(budget);
        }
    }

    /// Whether `octets` are those from `start` on. What lies past the end agrees with anything.
    pub(super) fn agrees(&self, start: usize, octets: &[u8]) -> bool {
        let (front, back) = self.octets.as_slices();
        let (first, second) = if let Some(front) = front.get(start..) {
            (front, back)
        } else {
            (back.get(start - front.len()..).unwrap_or_default(), &[][..])
        };
        let (head, tail) = octets.split_at(octets.len().min(first.len()));
        let common = tail.len().min(second.len());
        first.get(..head.len()) == Some(head) && second.get(..common) == tail.get(..common)
    }
}
