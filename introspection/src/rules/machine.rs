//! The Aho-Corasick automaton, driven octet by octet so that its state can be kept between segments.

use aho_corasick::automaton::{Automaton, StateID};
use aho_corasick::{Anchored, MatchKind, dfa, nfa};

/// Up to this many pattern octets the automaton is a DFA: about 1 KiB of memory for each octet, and twice as fast as
/// the contiguous NFA that longer sets get.
const DFA_OCTETS: usize = 4096;

/// Where the automaton stands after some octets.
pub(crate) type State = StateID;

/// Why there is no automaton.
#[derive(Debug, thiserror::Error)]
pub(super) enum BuildError {
    #[error("{0}")]
    Build(#[from] aho_corasick::BuildError),
    #[error("{0}")]
    Start(#[from] aho_corasick::MatchError),
}

#[derive(Debug)]
pub(super) struct Machine {
    kind: Kind,
    start: State,
}

#[derive(Debug)]
enum Kind {
    Dfa(dfa::DFA),
    Nfa(nfa::contiguous::NFA),
}

impl Machine {
    pub(super) fn new(patterns: &[Vec<u8>], total: usize) -> Result<Self, BuildError> {
        let (kind, start) = if total <= DFA_OCTETS {
            let dfa = dfa::Builder::new()
                .match_kind(MatchKind::Standard)
                .prefilter(false)
                .build(patterns)?;
            let start = dfa.start_state(Anchored::No)?;
            (Kind::Dfa(dfa), start)
        } else {
            let nfa = nfa::contiguous::Builder::new()
                .match_kind(MatchKind::Standard)
                .prefilter(false)
                .build(patterns)?;
            let start = nfa.start_state(Anchored::No)?;
            (Kind::Nfa(nfa), start)
        };
        Ok(Self { kind, start })
    }

    pub(super) const fn start(&self) -> State {
        self.start
    }

    /// Moves `state` over `octets`. Every pattern that ends at an octet is given to `found`; when that returns true for
    /// one, the scan stops behind the octet. Returns the octets scanned.
    pub(super) fn scan(&self, state: &mut State, octets: &[u8], found: impl FnMut(usize) -> bool) -> usize {
        match &self.kind {
            Kind::Dfa(dfa) => scan(dfa, state, octets, found),
            Kind::Nfa(nfa) => scan(nfa, state, octets, found),
        }
    }
}

fn scan<A: Automaton>(
    automaton: &A,
    state: &mut State,
    octets: &[u8],
    mut found: impl FnMut(usize) -> bool,
) -> usize {
    let mut at = *state;
    for (octet, place) in octets.iter().zip(1..) {
        at = automaton.next_state(Anchored::No, at, *octet);
        if automaton.is_special(at) && automaton.is_match(at) {
            let mut stop = false;
            for index in 0..automaton.match_len(at) {
                stop |= found(automaton.match_pattern(at, index).as_usize());
            }
            if stop {
                *state = at;
                return place;
            }
        }
    }
    *state = at;
    octets.len()
}

#[cfg(test)]
impl Machine {
    pub(super) const fn kind_name(&self) -> &'static str {
        match self.kind {
            Kind::Dfa(_) => "dfa",
            Kind::Nfa(_) => "nfa",
        }
    }
}
