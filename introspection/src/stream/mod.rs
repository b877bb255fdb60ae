//! One direction of a TCP connection, judged as the stream that the receiver will read.
//!
//! The automaton's state is kept from one segment to the next. What comes early is kept until the gap before it is
//! closed. For each place in the stream the first octet shown wins: a later frame with another octet there is a conflict, and
//! is dropped if any rule may drop. (Some stacks keep the first copy of overlapping data, some the last; a sender
//! that sends two could otherwise show one to the rules and the other to the receiver.)
//!
//! The receiver's cumulative acknowledgement is the ground truth: octets below it can no longer reach the
//! application. It bounds what has to be remembered, confirms a new connection's sequence numbers, and puts the
//! stream right after data that went by unjudged.

mod early;
mod history;

use crate::rules::{Compiled, Place, RuleSet, Scanned, Seen, State, Verdict};
use crate::seq::{before, distance, later};
use early::{Early, Kept};
use history::{History, IDLE_CAPACITY};
use std::collections::VecDeque;

/// An acknowledgement further ahead than this (the largest window, RFC 7323, 2.3) is not believed.
const MAX_WINDOW: i32 = 1 << 30;
/// Buffers kept for the next history, which are charged to nobody.
const SPARES: usize = 16;

/// Octets that all streams of a filter may keep together.
#[derive(Debug)]
pub(crate) struct Budget {
    /// Octets for each stream's history, and as many for what came early.
    pub(crate) each: usize,
    total: usize,
    used: usize,
    /// Empty buffers of histories that ended: a connection keeps no memory between two messages, and the next message
    /// needs none from the allocator.
    spares: Vec<VecDeque<u8>>,
}

impl Budget {
    pub(crate) const fn new(each: usize, total: usize) -> Self {
        Self {
            each,
            total,
            used: 0,
            spares: Vec::new(),
        }
    }

    #[cfg(test)]
    pub(crate) const fn used(&self) -> usize {
        self.used
    }

    const fn charge(&mut self, octets: usize) -> bool {
        match self.used.checked_add(octets) {
            Some(used) if used <= self.total => {
                self.used = used;
                true
            }
            _ => false,
        }
    }

    const fn release(&mut self, octets: usize) {
        self.used = self.used.saturating_sub(octets);
    }

    /// A spare buffer with room for at least `target` octets, if there is one and what it has more than the `before` octets that
    /// were charged already can be charged.
    fn take_spare(&mut self, target: usize, before: usize) -> Option<VecDeque<u8>> {
        let index = self.spares.iter().position(|spare| spare.capacity() >= target)?;
        let more = self.spares.get(index)?.capacity().saturating_sub(before);
        self.charge(more).then(|| self.spares.swap_remove(index))
    }

    /// Keeps a buffer that is charged no more, if it is a large one.
    fn keep_spare(&mut self, mut buffer: VecDeque<u8>) {
        if buffer.capacity() <= IDLE_CAPACITY {
            return;
        }
        buffer.clear();
        if self.spares.len() < SPARES {
            self.spares.push(buffer);
        } else if let Some(smallest) = self.spares.iter_mut().min_by_key(|spare| spare.capacity())
            && smallest.capacity() < buffer.capacity()
        {
            *smallest = buffer;
        }
    }
}

/// What judging a frame needs from outside, and what it found.
pub(crate) struct Judging<'a> {
    pub(crate) rules: &'a RuleSet,
    pub(crate) place: Place<'a>,
    pub(crate) budget: &'a mut Budget,
    /// A place for what rules of several parts see in octets that are judged by themselves.
    pub(crate) scratch: &'a mut Seen,
    pub(crate) found: &'a mut dyn FnMut(&Compiled),
    /// Octets went through the automaton.
    pub(crate) octets: u64,
    /// Some octets were judged out of their context.
    pub(crate) failed_open: bool,
    /// The frame contradicts what was judged before.
    pub(crate) conflict: bool,
}

impl Judging<'_> {
    fn scan(&mut self, state: &mut State, octets: &[u8]) -> (usize, Verdict) {
        let scanned = self.rules.scan(self.place, state, octets, &mut *self.found);
        self.note(scanned)
    }

    fn note(&mut self, scanned: Scanned) -> (usize, Verdict) {
        self.octets += scanned.octets as u64;
        self.failed_open |= scanned.forgot;
        (scanned.octets, scanned.verdict)
    }

    /// Judges octets that are all there is.
    pub(crate) fn whole(&mut self, octets: &[u8]) -> Verdict {
        let scanned = self
            .rules
            .scan_whole(self.place, self.scratch, octets, &mut *self.found);
        self.note(scanned).1
    }

    /// Judges octets by themselves: what cannot be judged in its place at least must not match alone.
    fn scan_alone(&mut self, octets: &[u8]) -> Verdict {
        if octets.is_empty() {
            return Verdict::Pass;
        }
        self.failed_open = true;
        self.whole(octets)
    }

    fn contradiction(&mut self) -> Verdict {
        self.conflict = true;
        if self.rules.enforces() {
            Verdict::Drop
        } else {
            Verdict::Pass
        }
    }
}

/// The stream's state.
#[derive(Debug)]
pub(crate) struct Stream {
    state: State,
    /// The octet to be judged next; `None` until the stream was picked up.
    next: Option<u32>,
    /// The receiver has everything before this.
    acked: Option<u32>,
    /// The first octet of a new connection that its receiver has not confirmed.
    opening: Option<u32>,
    /// Octets that must never pass, first and behind the last.
    blocked: Option<(u32, u32)>,
    history: History,
    early: Early,
}

impl Stream {
    pub(crate) fn new(rules: &RuleSet) -> Self {
        Self {
            state: rules.start(),
            next: None,
            acked: None,
            opening: None,
            blocked: None,
            history: History::default(),
            early: Early::default(),
        }
    }

    /// Goes on where it stands with other rules.
    pub(crate) fn begin_anew(&mut self, rules: &RuleSet) {
        rules.restart(&mut self.state);
    }

    /// Gives back what it was charged.
    pub(crate) fn close(&mut self, budget: &mut Budget) {
        self.history.clear(budget);
        self.early.clear(budget);
    }

    /// Notes a SYN before the stream's octet `first`. On a stream that is known already it counts only once the
    /// receiver acknowledges it: a forged SYN must not make the rules forget.
    pub(crate) fn open(&mut self, first: u32) {
        if self.next.is_none() {
            self.next = Some(first);
            self.acked = None;
        } else {
            self.opening = Some(first);
        }
    }

    /// Notes that the receiver has everything before `ack`.
    pub(crate) fn acknowledge(&mut self, ack: u32, rules: &RuleSet, budget: &mut Budget) {
        let confirmed = self.opening == Some(ack);
        let Some(next) = self.next.filter(|_| !confirmed) else {
            if confirmed {
                self.restart(ack, rules, budget);
            }
            self.acked = Some(ack);
            return;
        };
        match distance(next, ack) {
            1..=MAX_WINDOW => {
                self.restart(ack, rules, budget);
                self.acked = Some(ack);
            }
            ..=0 => {
                let acked = self.acked.map_or(ack, |acked| later(acked, ack));
                self.acked = Some(acked);
                let unacked = usize::try_from(distance(acked, next)).unwrap_or(0);
                self.history.keep_last(unacked, budget);
            }
            _ => {}
        }
    }

    /// Judges a segment's payload, whose first octet is `seq`.
    pub(crate) fn judge(&mut self, seq: u32, payload: &[u8], judging: &mut Judging<'_>) -> Verdict {
        let Ok(len) = i32::try_from(payload.len()) else {
            return judging.scan_alone(payload);
        };
        if len == 0 {
            return Verdict::Pass;
        }
        let next = self.pick_up(seq, judging.budget.each);
        if self.is_blocked(seq, len) {
            return Verdict::Drop;
        }
        let ahead = distance(next, seq);
        if ahead > 0 {
            return self.early_segment(next, seq, payload, judging);
        }
        let repeated = ahead.unsigned_abs().min(len.unsigned_abs()) as usize;
        let (old, new) = payload.split_at(repeated);
        if !new.is_empty() && self.early.contradicts(next, new) && judging.contradiction() != Verdict::Pass {
            return Verdict::Drop;
        }
        let verdict = self.repeated(next, seq, old, judging);
        if verdict != Verdict::Pass || new.is_empty() {
            return verdict;
        }
        self.advance(next, new, judging)
    }

    /// Where the stream stands. On a connection that is older than the filter it starts at what the receiver waits for,
    /// if that is known and near, else at the first segment seen.
    fn pick_up(&mut self, seq: u32, near: usize) -> u32 {
        if let Some(next) = self.next {
            return next;
        }
        self.acked = self
            .acked
            .filter(|acked| usize::try_from(distance(*acked, seq)).is_ok_and(|gap| gap <= near));
        let start = self.acked.unwrap_or(seq);
        self.next = Some(start);
        start
    }

    fn is_blocked(&self, seq: u32, len: i32) -> bool {
        self.blocked
            .is_some_and(|(from, to)| before(seq, to) && before(from, seq.wrapping_add_signed(len)))
    }

    /// Judges octets from `seq` up to at most `next`, which passed already.
    fn repeated(&self, next: u32, seq: u32, old: &[u8], judging: &mut Judging<'_>) -> Verdict {
        // The receiver discards what it has acknowledged. (A keep-alive probe has one arbitrary octet there.)
        let had = self.acked.map_or(0, |acked| distance(seq, acked).max(0));
        let wanted = old.get(usize::try_from(had).unwrap_or(0)..).unwrap_or_default();
        let seq = seq.wrapping_add_signed(had);
        let back = usize::try_from(distance(seq, next)).unwrap_or(usize::MAX);
        let forgotten = back.saturating_sub(self.history.len()).min(wanted.len());
        let (unknown, known) = wanted.split_at(forgotten);
        let start = self.history.len().saturating_sub(back - forgotten);
        if !self.history.agrees(start, known) && judging.contradiction() != Verdict::Pass {
            return Verdict::Drop;
        }
        judging.scan_alone(unknown)
    }

    fn early_segment(&mut self, next: u32, seq: u32, payload: &[u8], judging: &mut Judging<'_>) -> Verdict {
        if self.early.contradicts(seq, payload) && judging.contradiction() != Verdict::Pass {
            return Verdict::Drop;
        }
        match self.early.keep(next, seq, payload, judging.budget) {
            Kept::All => Verdict::Pass,
            Kept::Partly => judging.scan_alone(payload),
        }
    }

    /// Judges `new`, which starts at `next`, and what came early and now is in order.
    fn advance(&mut self, next: u32, new: &[u8], judging: &mut Judging<'_>) -> Verdict {
        let mut at = next;
        let mut rest = new;
        loop {
            let gap = self.early.gap(at).unwrap_or(usize::MAX);
            let (now, behind) = rest.split_at(rest.len().min(gap));
            rest = behind;
            let (octets, verdict) = self.scan_on(now, judging);
            at = at.wrapping_add(octets as u32);
            if verdict != Verdict::Pass {
                return self.deny(next, at, verdict);
            }
            let Some(piece) = self.early.take(at, judging.budget) else {
                break;
            };
            rest = rest.get(piece.len()..).unwrap_or_default();
            let (octets, verdict) = self.scan_on(&piece, judging);
            at = at.wrapping_add(octets as u32);
            if verdict != Verdict::Pass {
                return self.deny(next, at, verdict);
            }
        }
        self.next = Some(at);
        Verdict::Pass
    }

    fn scan_on(&mut self, octets: &[u8], judging: &mut Judging<'_>) -> (usize, Verdict) {
        let (scanned, verdict) = judging.scan(&mut self.state, octets);
        self.history
            .push(octets.get(..scanned).unwrap_or_default(), judging.budget);
        (scanned, verdict)
    }

    /// A match ended before `to`, in what became judgeable from `from` on. Blocking all of that keeps the receiver from
    /// ever reading past `from`, even if the match itself was sent early and is in its buffers.
    fn deny(&mut self, from: u32, to: u32, verdict: Verdict) -> Verdict {
        self.next = Some(to);
        let from = self.blocked.map_or(from, |(earlier, _)| earlier);
        self.blocked = Some((from, to));
        verdict
    }

    /// Goes on at `next` with nothing remembered.
    fn restart(&mut self, next: u32, rules: &RuleSet, budget: &mut Budget) {
        self.close(budget);
        rules.restart(&mut self.state);
        self.next = Some(next);
        self.opening = None;
        self.blocked = None;
    }
}

#[cfg(test)]
mod tests;
