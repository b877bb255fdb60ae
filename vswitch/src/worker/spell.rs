//! How long a worker polls in vain before it sleeps, where each look is a system call: see
//! [`Backend::is_drained`](crate::port::Backend::is_drained).
//!
//! To wake a thread takes longer than many a peer takes to answer, and Linux moves a thread that is woken from two processors in turn
//! to the one that wakes it, each time, where its memory is cold. So a worker that would have slept for a moment only polls for that
//! long. What it costs when nothing comes is bounded: spells in vain are followed by a time without, which doubles as long as they
//! are. That is so with idle ports, with those whose peers take their time, and where polling keeps the peers themselves from running.
//! Bulk transfers do not wait for a wake-up, but for processors, and are not polled for.

use std::time::Duration;

use introspection::Instant;

/// A spell, and the longest sleep that it would have spared.
const LONG: Duration = Duration::from_micros(50);
/// Who was busy for longer before it has carried more than a request.
const BRIEF: Duration = Duration::from_micros(20);
/// The time without spells after the first one in vain.
const PENALTY: Duration = Duration::from_millis(1);
/// How often that is doubled: to 256 ms.
const DOUBLINGS: u32 = 8;
/// Spells in which something came, for one in vain that is no reason to stop.
const ENOUGH: u32 = 16;

/// Whether to poll on.
#[derive(Debug, Default)]
pub(super) struct Spell {
    on: bool,
    /// It is of use after what was carried last.
    applies: bool,
    /// Times that something came since it is on.
    found: u32,
    /// Spells in vain without enough of those between them.
    vain: u32,
    /// It is not on before.
    after: Instant,
}

impl Spell {
    /// There is nothing to do, after so many nanoseconds of carrying.
    pub(super) fn begin(&mut self, busy: u64) {
        self.applies = u128::from(busy) <= BRIEF.as_nanos();
    }

    /// How long to poll.
    pub(super) const fn length(&self) -> Duration {
        if self.on && self.applies {
            LONG
        } else {
            Duration::ZERO
        }
    }

    /// Something came while the worker polled.
    pub(super) fn found(&mut self) {
        self.found = self.found.saturating_add(u32::from(self.applies));
    }

    /// Nothing came, and the worker is about to sleep.
    pub(super) fn in_vain(&mut self, now: Instant) {
        if !self.on || !self.applies {
            return;
        }
        self.on = false;
        if self.found >= ENOUGH {
            self.vain = 0;
            return;
        }
        self.after = now.after(PENALTY * (1 << self.vain));
        self.vain = (self.vain + 1).min(DOUBLINGS);
    }

    /// The worker slept until a lane rang.
    pub(super) fn slept(&mut self, begun: Instant, ended: Instant) {
        if !self.on && ended - begun < LONG && ended >= self.after {
            (self.on, self.found) = (true, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: u64 = 1_000;

    /// Something rings every `gap` after what was served, for a second; how long was polled in vain, and how often slept.
    fn run(spell: &mut Spell, gap: impl Fn(u64) -> u64) -> (u64, u64) {
        let (mut now, mut vain, mut sleeps) = (0, 0, 0);
        for turn in 0.. {
            if now > 1_000_000 * US {
                break;
            }
            let gap = gap(turn);
            spell.begin(5 * US);
            let length = spell.length().as_nanos() as u64;
            if gap < length {
                spell.found();
            } else {
                vain += length;
                spell.in_vain(Instant(now + length));
                spell.slept(Instant(now + length), Instant(now + gap));
                sleeps += 1;
            }
            now += gap;
        }
        (vain, sleeps)
    }

    #[test]
    fn who_answers_at_once_is_waited_for() {
        let (vain, sleeps) = run(&mut Spell::default(), |_| 20 * US);
        assert_eq!((vain, sleeps), (0, 1));
        // And who pauses now and then.
        let (vain, sleeps) = run(&mut Spell::default(), |turn| {
            if turn % 100 == 99 { 500 * US } else { 20 * US }
        });
        assert!(sleeps < 1_000_000 / (100 * 20) * 3, "{sleeps}");
        assert!(vain < 25_000 * US, "{vain}");
    }

    #[test]
    fn who_takes_long_is_not() {
        for gap in [60 * US, 1_000 * US, 1_000_000 * US] {
            assert_eq!(run(&mut Spell::default(), |_| gap).0, 0, "{gap}");
        }
    }

    #[test]
    fn a_transfer_is_not_polled_for() {
        let mut spell = Spell::default();
        assert_eq!(run(&mut spell, |_| 20 * US).1, 1);
        spell.begin(30 * US);
        assert_eq!(spell.length(), Duration::ZERO);
        spell.in_vain(Instant(0));
        spell.begin(5 * US);
        assert_eq!(spell.length(), LONG, "it says nothing of requests");
    }

    #[test]
    fn what_is_polled_in_vain_is_little_whatever_comes() {
        // One that comes soon, to have the worker poll, and then one that does not.
        for rest in [51, 80, 1_000, 40_000] {
            let gaps = |turn| if turn % 2 == 0 { 30 * US } else { rest * US };
            let (vain, _) = run(&mut Spell::default(), gaps);
            assert!(vain < 1_500 * US, "{rest}: {vain}");
        }
        // Polling itself keeps the peer from answering.
        let (mut spell, mut now, mut vain) = (Spell::default(), 0, 0);
        while now < 1_000_000 * US {
            spell.begin(5 * US);
            let length = spell.length().as_nanos() as u64;
            vain += length;
            spell.in_vain(Instant(now + length));
            spell.slept(Instant(now + length), Instant(now + length + 20 * US));
            now += length + 20 * US;
        }
        assert!(vain < 1_500 * US, "{vain}");
    }
}
