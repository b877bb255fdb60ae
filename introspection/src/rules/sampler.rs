//! Skipping what cannot be the beginning of a match.
//!
//! Every match of a set begins with one of its *prefixes*, none of which is shorter than `m` octets. Any `m` octets have
//! `s = m - 3` groups of four in them, so whoever looks at every `s`-th group of a text meets one of each match. All groups
//! of the prefixes' first `m` octets are noted, in a table of bits by a hash and in a table by themselves; a text whose groups
//! are not there holds no match. (The idea is Wu and Manber's, "A Fast Algorithm for Multi-Pattern Searching", 1994.) Bit 5 of each octet is
//! set before, so letters of both cases are one: that can only bring more candidates, never lose one.

/// Octets of a group.
const GROUP: usize = 4;
/// Octets of a prefix that are made use of, at most.
const USED: usize = 16 + GROUP - 1;
/// Words of the table of bits, 32 KiB: it shall stay in a processor's nearest cache.
const WORDS: usize = 8192;
/// Groups of a set at most: then a quarter of the bits is set.
const MAX_GROUPS: usize = WORDS * 32 / 4;
const LOWER: u32 = 0x2020_2020;

/// The groups that a match may begin with.
#[derive(Debug)]
pub(super) struct Sampler {
    /// A bit for each group, by its hash.
    words: Box<[u32; WORDS]>,
    /// The groups themselves, each at the first free place from its hash on; half of the places are 0, which is no group.
    groups: Box<[u32]>,
    shift: u32,
    stride: usize,
}

/// Where an automaton in its initial state has to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// No match begins before this place.
    pub(super) from: usize,
    /// The place of the group that was found; past the text when there is none left to look at.
    pub(super) seen: usize,
}

impl Sampler {
    /// For these prefixes; `None` when one is too short or there are none.
    #[allow(clippy::needless_pass_by_value)] // an iterator, which is cheaper to clone than to lend
    pub(super) fn new<'a>(prefixes: impl IntoIterator<Item = &'a [u8]> + Clone) -> Option<Self> {
        let shortest = prefixes.clone().into_iter().map(<[u8]>::len).min()?.min(USED);
        let affordable = (MAX_GROUPS / prefixes.clone().into_iter().count().max(1)).max(1);
        let stride = shortest.checked_sub(GROUP - 1)?.min(affordable);
        if stride == 0 {
            return None;
        }
        let noted = || {
            prefixes
                .clone()
                .into_iter()
                .flat_map(|prefix| prefix.windows(GROUP).take(stride))
        };
        let places = (noted().count() * 2).next_power_of_two().max(2);
        let mut sampler = Self {
            words: vec![0; WORDS].into_boxed_slice().try_into().ok()?,
            groups: vec![0; places].into(),
            shift: 32 - places.trailing_zeros(),
            stride,
        };
        for group in noted() {
            sampler.note(fold(group));
        }
        Some(sampler)
    }

    /// Finds the next place at or behind `from` where a match may begin, as far as `octets` tell. What stands behind the
    /// last whole group is always a candidate: its end is not known yet.
    pub(super) fn next(&self, octets: &[u8], from: usize) -> Candidate {
        let stride = self.stride;
        let mut at = from;
        while let Some(rest) = octets.get(at..) {
            let mut groups = rest.windows(GROUP).step_by(stride);
            let Some(skipped) = groups.position(|group| self.hint(fold(group)) & 1 != 0) else {
                at += rest.len().saturating_sub(GROUP - 1).div_ceil(stride) * stride;
                break;
            };
            at += skipped * stride;
            if octets.get(at..).is_some_and(|group| self.has(fold(group))) {
                return Candidate {
                    from: (at + 1).saturating_sub(stride).max(from),
                    seen: at,
                };
            }
            at += stride;
        }
        Candidate {
            from: (at + 1).saturating_sub(stride).max(from).min(octets.len()),
            seen: usize::MAX,
        }
    }

    /// A number that is odd if the group may be one of the set's.
    #[inline]
    fn hint(&self, group: u32) -> u32 {
        let hash = hash(group);
        self.words[(hash >> 19) as usize % WORDS] >> (hash >> 14 & 31)
    }

    /// Whether the group is one of the set's.
    fn has(&self, group: u32) -> bool {
        self.hint(group) & 1 != 0 && self.groups.get(self.find(group)) == Some(&group)
    }

    fn note(&mut self, group: u32) {
        let hash = hash(group);
        self.words[(hash >> 19) as usize % WORDS] |= 1 << (hash >> 14 & 31);
        let at = self.find(group);
        if let Some(place) = self.groups.get_mut(at) {
            *place = group;
        }
    }

    /// Where a group stands, or would.
    fn find(&self, group: u32) -> usize {
        let mut at = (hash(group) >> self.shift) as usize;
        while self
            .groups
            .get(at)
            .is_some_and(|other| *other != 0 && *other != group)
        {
            at = (at + 1) % self.groups.len();
        }
        at
    }
}

/// The first octets as a group without regard to case; never 0.
#[inline]
fn fold(octets: &[u8]) -> u32 {
    octets.first_chunk().map_or(0, |group| u32::from_le_bytes(*group)) | LOWER
}

/// Knuth's multiplicative hash (The Art of Computer Programming 3, 6.4).
#[inline]
const fn hash(group: u32) -> u32 {
    group.wrapping_mul(0x9e37_79b1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn short_prefixes_have_no_sampler() {
        let of = |prefixes: &[&[u8]]| Sampler::new(prefixes.iter().copied()).map(|sampler| sampler.stride);
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[b"abc", b"abcdefgh"]), None);
        assert_eq!(of(&[b"abcd"]), Some(1));
        assert_eq!(of(&[b"abcdefgh", b"0123456789"]), Some(5));
        assert_eq!(of(&[&[b'x'; 100]]), Some(16));
    }

    proptest! {
        #[test]
        fn no_beginning_is_skipped(
            prefix in proptest::collection::vec(any::<u8>(), 4..40),
            before in proptest::collection::vec(any::<u8>(), 0..80),
            cut in 0usize..40,
            from in 0usize..80,
        ) {
            let sampler = Sampler::new([prefix.as_slice()].into_iter()).expect("long enough");
            let from = from.min(before.len());
            let text = [&before, prefix.get(..prefix.len() - cut.min(prefix.len())).unwrap_or_default()].concat();
            // Wherever a candidate is passed by, the place where the prefix begins is not.
            let mut at = from;
            loop {
                let found = sampler.next(&text, at);
                prop_assert!(found.from >= at && found.from <= before.len());
                if found.seen == usize::MAX || found.from >= before.len() {
                    break;
                }
                at = found.from + 1;
            }
        }
    }
}
