//! All literals of one kind as an Aho-Corasick automaton whose state can be kept between segments.

use aho_corasick::automaton::{Automaton, StateID};
use aho_corasick::{Anchored, MatchKind, dfa, nfa};

use super::matcher::Behind;
use super::sampler::Sampler;
use super::steps::step;

/// Up to this many pattern octets the automaton is a DFA: at most 1 KiB of memory for each octet, and twice as fast as the
/// contiguous NFA that longer sets get.
const DFA_OCTETS: usize = 16_384;

/// Why there is no automaton.
#[derive(Debug, thiserror::Error)]
pub(super) enum BuildError {
    #[error("{0}")]
    Build(#[from] aho_corasick::BuildError),
    #[error("{0}")]
    Start(#[from] aho_corasick::MatchError),
}

/// One automaton and what spares it most of the text.
#[derive(Debug)]
pub(super) struct Literals {
    kind: Kind,
    start: StateID,
    sampler: Option<Sampler>,
    /// The number that each pattern has outside.
    numbers: Box<[u32]>,
}

#[derive(Debug)]
enum Kind {
    Dfa(dfa::DFA),
    Nfa(nfa::contiguous::NFA),
}

impl Literals {
    /// For these patterns and their numbers, which match letters of either case when `nocase`.
    pub(super) fn new(patterns: &[(u32, &[u8])], nocase: bool) -> Result<Self, BuildError> {
        let octets = || patterns.iter().map(|(_, octets)| *octets);
        let total: usize = octets().map(<[u8]>::len).sum();
        let (kind, start) = if total <= DFA_OCTETS {
            let dfa = dfa::Builder::new()
                .match_kind(MatchKind::Standard)
                .prefilter(false)
                .ascii_case_insensitive(nocase)
                .build(octets())?;
            let start = dfa.start_state(Anchored::No)?;
            (Kind::Dfa(dfa), start)
        } else {
            let nfa = nfa::contiguous::Builder::new()
                .match_kind(MatchKind::Standard)
                .prefilter(false)
                .ascii_case_insensitive(nocase)
                .build(octets())?;
            let start = nfa.start_state(Anchored::No)?;
            (Kind::Nfa(nfa), start)
        };
        Ok(Self {
            kind,
            start,
            sampler: Sampler::new(octets()),
            numbers: patterns.iter().map(|(number, _)| *number).collect(),
        })
    }

    pub(super) const fn start(&self) -> u32 {
        self.start.as_u32()
    }

    /// Moves `state` over `octets`. Every pattern that ends at an octet is given to `found`; when that returns true for
    /// one, the scan stops behind the octet. Returns the octets scanned.
    pub(super) fn scan(
        &self,
        state: &mut u32,
        octets: &[u8],
        behind: Behind,
        found: &mut dyn FnMut(u32) -> bool,
    ) -> usize {
        match &self.kind {
            Kind::Dfa(dfa) => self.walk(dfa, state, octets, behind, found),
            Kind::Nfa(nfa) => self.walk(nfa, state, octets, behind, found),
        }
    }

    fn walk<A: Automaton>(
        &self,
        automaton: &A,
        state: &mut u32,
        octets: &[u8],
        behind: Behind,
        found: &mut dyn FnMut(u32) -> bool,
    ) -> usize {
        let mut at = StateID::new_unchecked(*state as usize);
        let mut place = 0;
        // Until the automaton is behind this place, there is nothing to be spared.
        let mut busy_until = if at == self.start { None } else { Some(place) };
        loop {
            if busy_until.is_none()
                && let Some(sampler) = &self.sampler
            {
                let candidate = sampler.next(octets, place, behind);
                place = candidate.from;
                busy_until = Some(candidate.seen);
            }
            let rest = octets.get(place..).unwrap_or_default();
            let mut idle = false;
            for octet in rest {
                step();
                at = automaton.next_state(Anchored::No, at, *octet);
                place += 1;
                if automaton.is_special(at) && automaton.is_match(at) && self.tell(automaton, at, found) {
                    *state = at.as_u32();
                    return place;
                }
                if at == self.start && self.sampler.is_some() && busy_until.is_none_or(|until| place > until)
                {
                    idle = true;
                    break;
                }
            }
            if !idle {
                break;
            }
            busy_until = None;
        }
        *state = at.as_u32();
        octets.len()
    }

    fn tell<A: Automaton>(&self, automaton: &A, at: StateID, found: &mut dyn FnMut(u32) -> bool) -> bool {
        let mut stop = false;
        for index in 0..automaton.match_len(at) {
            let pattern = automaton.match_pattern(at, index).as_usize();
            if let Some(number) = self.numbers.get(pattern) {
                stop |= found(*number);
            }
        }
        stop
    }

    #[cfg(test)]
    pub(super) const fn kind(&self) -> aho_corasick::AhoCorasickKind {
        match self.kind {
            Kind::Dfa(_) => aho_corasick::AhoCorasickKind::DFA,
            Kind::Nfa(_) => aho_corasick::AhoCorasickKind::ContiguousNFA,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Patterns that share beginnings and ends, as their letters are few.
    fn patterns() -> impl Strategy<Value = Vec<Vec<u8>>> {
        (4_usize..50).prop_flat_map(|shortest| {
            let pattern = proptest::collection::vec(97_u8..100, shortest..shortest + 6);
            proptest::collection::vec(pattern, 1..6)
        })
    }

    proptest! {
        /// Whole patterns, beginnings and ends of patterns and noise, cut anywhere: found is what stands there.
        #[test]
        fn a_cut_text_of_fragments_is_searched_in_full(
            patterns in patterns(),
            fragments in proptest::collection::vec((any::<prop::sample::Index>(), 0_usize..60, 0_usize..60), 0..40),
            cuts in proptest::collection::vec(0_usize..300, 0..8),
        ) {
            let mut text = Vec::new();
            for (which, from, len) in fragments {
                match which.get(&patterns).get(from..) {
                    Some(end) => text.extend(&end[..len.min(end.len())]),
                    None => text.extend(std::iter::repeat_n(0, len)),
                }
            }
            let numbered: Vec<(u32, &[u8])> = (0..).zip(patterns.iter().map(Vec::as_slice)).collect();
            let literals = Literals::new(&numbered, false).expect("few");
            let mut state = literals.start();
            let mut found = Vec::new();
            let mut rest = text.as_slice();
            for cut in cuts.into_iter().chain([usize::MAX]) {
                let (piece, behind) = rest.split_at(cut.min(rest.len()));
                literals.scan(&mut state, piece, Behind::More, &mut |number| {
                    found.push(number);
                    false
                });
                rest = behind;
            }
            let mut expected = Vec::new();
            for end in 1..=text.len() {
                let ends = numbered.iter().filter(|(_, pattern)| text[..end].ends_with(pattern));
                expected.extend(ends.map(|(number, _)| *number));
            }
            let mut in_whole = Vec::new();
            literals.scan(&mut literals.start(), &text, Behind::Nothing, &mut |number| {
                in_whole.push(number);
                false
            });
            for found in [&mut found, &mut in_whole, &mut expected] {
                found.sort_unstable();
            }
            prop_assert_eq!(&found, &expected);
            prop_assert_eq!(in_whole, expected);
        }
    }
}
