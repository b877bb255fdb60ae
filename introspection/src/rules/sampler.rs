//! Skipping what cannot be the beginning of a match.
//!
//! Every match of a set begins with one of its *prefixes*, none of which is shorter than `m` octets. Any `m` octets have
//! `s = m - 3` groups of four in them, so whoever looks at every `s`-th group of a text meets one of each match. All groups
//! of the prefixes' first `m` octets are noted, in a table of marks by a hash and in a table by themselves; a text whose groups
//! are not there holds no match. (The idea is Wu and Manber's, "A Fast Algorithm for Multi-Pattern Searching", 1994.) Bit 5 of each octet is
//! set before, so letters of both cases are one: that can only bring more candidates, never lose one.
//!
//! Four groups are looked up at once, which do not wait for each other; the stride is a constant there, so it is rounded down to one that has
//! code. What bounds that is the number of instructions: a mark is an octet, for a bit would have to be shifted out of its word, which takes
//! as long as all the rest. At the end of a text, where a match may have begun whose groups are still to come, every place is looked up: an automaton reads
//! only from where one of the set's groups stands, or the last three octets.

use super::matcher::Behind;
use super::steps::step;

/// Octets of a group.
const GROUP: usize = 4;
/// Groups that are looked up at once.
const TOGETHER: usize = 4;
/// Strides, ascending.
const STRIDES: [usize; 14] = [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20, 24, 32];
/// Marks of a set with few groups, 16 KiB: they shall stay in a processor's nearest cache with the text.
const FEW: usize = 1 << 14;
/// Marks of a set with many groups: they stay in the second cache.
const MANY: usize = 1 << 18;
/// Groups of a set at most: then a quarter of the marks is set.
const MAX_GROUPS: usize = MANY / 4;
const LOWER: u32 = 0x2020_2020;

/// The groups that a match may begin with.
#[derive(Debug)]
pub(super) struct Sampler {
    marks: Marks,
    /// The groups themselves, each at the first free place from its hash on; half of the places are 0, which is no group.
    groups: Box<[u32]>,
    shift: u32,
    stride: usize,
}

/// By a group's hash, 1 if it may be one of the set's, else 0.
#[derive(Debug)]
enum Marks {
    Few(Box<[u8; FEW]>),
    Many(Box<[u8; MANY]>),
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
        let shortest = prefixes.clone().into_iter().map(<[u8]>::len).min()?;
        let affordable = (MAX_GROUPS / prefixes.clone().into_iter().count().max(1)).max(1);
        let longest = shortest.checked_sub(GROUP - 1)?.min(affordable);
        let stride = STRIDES.into_iter().rev().find(|stride| *stride <= longest)?;
        let noted = || {
            prefixes
                .clone()
                .into_iter()
                .flat_map(|prefix| prefix.windows(GROUP).take(stride))
        };
        let count = noted().count();
        let places = (count * 2).next_power_of_two().max(2);
        let marks = if count <= FEW / 16 {
            Marks::Few(vec![0; FEW].into_boxed_slice().try_into().ok()?)
        } else {
            Marks::Many(vec![0; MANY].into_boxed_slice().try_into().ok()?)
        };
        let mut sampler = Self {
            marks,
            groups: vec![0; places].into(),
            shift: 32 - places.trailing_zeros(),
            stride,
        };
        for group in noted() {
            sampler.note(fold(group));
        }
        Some(sampler)
    }

    /// Finds the next place at or behind `from` where a match may begin, as far as `octets` tell. If more may follow, the last three
    /// octets are always a candidate: what group they begin is not known yet. If not, a match stands in the text as a whole, with one of
    /// the groups that were looked up, and the end needs no look of its own.
    pub(super) fn next(&self, octets: &[u8], from: usize, behind: Behind) -> Candidate {
        let mut at = from;
        while let Some(rest) = octets.get(at..) {
            let Some(groups) = self.skip(rest) else {
                at += rest.len().saturating_sub(GROUP - 1).div_ceil(self.stride) * self.stride;
                break;
            };
            at += groups * self.stride;
            if octets.get(at..).is_some_and(|group| self.has(fold(group))) {
                return Candidate {
                    from: (at + 1).saturating_sub(self.stride).max(from),
                    seen: at,
                };
            }
            at += self.stride;
        }
        if behind == Behind::Nothing {
            return Candidate {
                from: octets.len(),
                seen: usize::MAX,
            };
        }
        let earliest = (at + 1).saturating_sub(self.stride).max(from).min(octets.len());
        let end = octets.get(earliest..).unwrap_or_default();
        let begun = end.windows(GROUP).position(|group| self.has(fold(group)));
        Candidate {
            from: earliest + begun.unwrap_or(end.len().saturating_sub(GROUP - 1)),
            seen: usize::MAX,
        }
    }

    /// How many of the groups at each stride of a text are surely none of the set's; `None` for all.
    fn skip(&self, text: &[u8]) -> Option<usize> {
        match &self.marks {
            Marks::Few(marks) => skip(marks, text, self.stride),
            Marks::Many(marks) => skip(marks, text, self.stride),
        }
    }

    /// Other than 0 if the group may be one of the set's.
    fn mark(&self, group: u32) -> u8 {
        match &self.marks {
            Marks::Few(marks) => mark(marks, group),
            Marks::Many(marks) => mark(marks, group),
        }
    }

    /// Whether the group is one of the set's.
    fn has(&self, group: u32) -> bool {
        self.mark(group) != 0 && self.groups.get(self.find(group)) == Some(&group)
    }

    fn note(&mut self, group: u32) {
        match &mut self.marks {
            Marks::Few(marks) => marks[place(marks, group)] = 1,
            Marks::Many(marks) => marks[place(marks, group)] = 1,
        }
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
            step();
            at = (at + 1) % self.groups.len();
        }
        at
    }
}

/// [`Sampler::skip`] by one of the tables.
fn skip<const MARKS: usize>(marks: &[u8; MARKS], text: &[u8], stride: usize) -> Option<usize> {
    match stride {
        4 => skip_by::<4, MARKS>(marks, text),
        5 => skip_by::<5, MARKS>(marks, text),
        6 => skip_by::<6, MARKS>(marks, text),
        7 => skip_by::<7, MARKS>(marks, text),
        8 => skip_by::<8, MARKS>(marks, text),
        10 => skip_by::<10, MARKS>(marks, text),
        12 => skip_by::<12, MARKS>(marks, text),
        16 => skip_by::<16, MARKS>(marks, text),
        20 => skip_by::<20, MARKS>(marks, text),
        24 => skip_by::<24, MARKS>(marks, text),
        32 => skip_by::<32, MARKS>(marks, text),
        stride => skip_each(marks, text, stride),
    }
}

/// [`skip`] for a stride of at least a group.
fn skip_by<const STRIDE: usize, const MARKS: usize>(marks: &[u8; MARKS], text: &[u8]) -> Option<usize> {
    let (strides, _) = text.as_chunks::<STRIDE>();
    let (blocks, _) = strides.as_chunks::<TOGETHER>();
    let may_have = |block: &[[u8; STRIDE]; TOGETHER]| {
        let mut any = 0;
        for stride in block {
            any |= mark(marks, fold(stride));
        }
        any != 0
    };
    let clear = blocks.iter().position(may_have).unwrap_or(blocks.len()) * TOGETHER;
    let rest = text.get(clear * STRIDE..)?;
    Some(clear + skip_each(marks, rest, STRIDE)?)
}

fn skip_each<const MARKS: usize>(marks: &[u8; MARKS], text: &[u8], stride: usize) -> Option<usize> {
    text.windows(GROUP)
        .step_by(stride)
        .position(|group| mark(marks, fold(group)) != 0)
}

#[inline]
fn mark<const MARKS: usize>(marks: &[u8; MARKS], group: u32) -> u8 {
    step();
    marks[place(marks, group)]
}

/// Where a group's mark stands.
#[inline]
const fn place<const MARKS: usize>(_: &[u8; MARKS], group: u32) -> usize {
    (hash(group) >> (32 - MARKS.trailing_zeros())) as usize % MARKS
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
        assert_eq!(of(&[&[b'x'; 100]]), Some(32));
        assert_eq!(of(&[&[b'x'; 24]]), Some(20), "21 has no code");
    }

    /// So many prefixes, or one, that their groups are marked in the large table, or the small one.
    fn sampler(prefix: &[u8], others: u32) -> Sampler {
        let fillers: Vec<Vec<u8>> = (0..others)
            .map(|filler| (0..60_u32).map(|n| (hash(filler * 64 + n) >> 24) as u8).collect())
            .collect();
        let sampler = Sampler::new(fillers.iter().map(Vec::as_slice).chain([prefix])).expect("long enough");
        assert_eq!(matches!(sampler.marks, Marks::Many(_)), others > 0);
        sampler
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn no_beginning_is_skipped(
            prefix in proptest::collection::vec(any::<u8>(), 4..60),
            before in proptest::collection::vec(any::<u8>(), 0..400),
            cut in 0usize..60,
            from in 0usize..400,
            others in prop::sample::select(vec![0, 1_100]),
        ) {
            let sampler = sampler(&prefix, others);
            let from = from.min(before.len());
            let begun = prefix.get(..prefix.len() - cut.min(prefix.len())).unwrap_or_default();
            for (begun, behind) in [(begun, Behind::More), (&prefix, Behind::More), (&prefix, Behind::Nothing)] {
                let text = [&before, begun].concat();
                // Wherever a candidate is passed by, the place where the prefix begins is not.
                let mut at = from;
                loop {
                    let found = sampler.next(&text, at, behind);
                    prop_assert!(found.from >= at && found.from <= before.len());
                    if found.seen == usize::MAX || found.from >= before.len() {
                        break;
                    }
                    at = found.from + 1;
                }
            }
        }
    }
}
