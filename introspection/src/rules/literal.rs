//! All literals of one kind as an Aho-Corasick automaton whose state can be kept between segments.

use aho_corasick::automaton::{Automaton, StateID};
use aho_corasick::{Anchored, MatchKind, dfa, nfa};

use super::sampler::Sampler;

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
    pub(super) fn scan(&self, state: &mut u32, octets: &[u8], found: &mut dyn FnMut(u32) -> bool) -> usize {
        match &self.kind {
            Kind::Dfa(dfa) => self.walk(dfa, state, octets, found),
            Kind::Nfa(nfa) => self.walk(nfa, state, octets, found),
        }
    }

    fn walk<A: Automaton>(
        &self,
        automaton: &A,
        state: &mut u32,
        octets: &[u8],
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
                let candidate = sampler.next(octets, place);
                place = candidate.from;
                busy_until = Some(candidate.seen);
            }
            let rest = octets.get(place..).unwrap_or_default();
            let mut idle = false;
            for octet in rest {
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
