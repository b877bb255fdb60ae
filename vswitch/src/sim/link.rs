//! The link between a host's stack and its rings: it delays, and may lose, reorder and stall.

use std::collections::BTreeMap;

use introspection::Instant;

use super::random::Random;

/// How bad a link is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quality {
    /// One frame in so many is lost; 0 for none.
    pub(super) loss: u64,
    /// One frame in so many is overtaken by later ones; 0 for none.
    pub(super) reorder: u64,
}

/// One direction of a link.
#[derive(Debug)]
pub(super) struct Link {
    quality: Quality,
    /// Frames on their way, by arrival and by number.
    frames: BTreeMap<(u64, u64), Vec<u8>>,
    count: u64,
    last: u64,
}

/// Nanoseconds that a frame takes at least.
const DELAY: u64 = 5_000;

impl Link {
    pub(super) fn new(quality: Quality) -> Self {
        Self {
            quality,
            frames: BTreeMap::new(),
            count: 0,
            last: 0,
        }
    }

    /// Puts a frame on its way.
    pub(super) fn push(&mut self, now: Instant, frame: Vec<u8>, random: &mut Random) {
        let Quality { loss, reorder } = self.quality;
        if loss > 0 && random.once_in(loss) {
            return;
        }
        let mut at = now.0 + DELAY + random.below(DELAY);
        if reorder > 0 && random.once_in(reorder) {
            at += 100_000;
        } else {
            at = at.max(self.last);
            self.last = at;
        }
        self.count += 1;
        self.frames.insert((at, self.count), frame);
    }

    /// The next frame that has arrived; it stays until [`Link::pop`].
    pub(super) fn front(&self, now: Instant) -> Option<&[u8]> {
        let (key, frame) = self.frames.first_key_value()?;
        (key.0 <= now.0).then_some(frame)
    }

    pub(super) fn pop(&mut self) {
        self.frames.pop_first();
    }

    /// When the next frame arrives.
    pub(super) fn due(&self) -> Option<Instant> {
        self.frames.first_key_value().map(|(key, _)| Instant(key.0))
    }
}
