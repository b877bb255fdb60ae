//! Regular expressions as fully built deterministic automata.
//!
//! A lazily built automaton forgets its states when its cache is full, and a sender could fill it; then streams would be
//! judged from their middle. One that is built as a whole has states that stay right for a stream's life, costs no
//! memory for each sender, and its size is known when rules are loaded: that is where an expression that would grow too
//! large is refused.

use regex_automata::dfa::{Automaton, StartKind, dense};
use regex_automata::nfa::thompson;
use regex_automata::util::primitives::StateID;
use regex_automata::util::start;
use regex_automata::{Anchored, MatchKind};
use regex_syntax::hir::literal::{ExtractKind, Extractor};
use regex_syntax::hir::{Hir, Look};

use super::matcher::Behind;
use super::sampler::Sampler;
use super::steps::step;

/// Octets of one automaton at most.
const DFA_SIZE: usize = 4 << 20;
/// Octets of the nondeterministic automaton before it.
const NFA_SIZE: usize = 1 << 20;
/// Expressions that are tried as one automaton.
const TOGETHER: usize = 16;
/// Expressions that begin with one of more literals than this are not sampled.
const PREFIXES: usize = 256;
/// Set in a stored state whose match was told at the end of the octets before.
const TOLD: u32 = 1 << 31;

/// Why an expression is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Where, in octets from 0, and what the parser says.
    Syntax(usize, String),
    /// It has an anchor or a word boundary.
    Look(&'static str),
    /// It matches without any octet.
    Empty,
}

/// Reads an expression over octets, not characters.
pub(super) fn parse(text: &str, nocase: bool) -> Result<Hir, Fault> {
    let hir = read(text, nocase)?;
    if let Some(look) = hir.properties().look_set().iter().next() {
        return Err(Fault::Look(match look {
            Look::Start | Look::StartLF | Look::StartCRLF => "^",
            Look::End | Look::EndLF | Look::EndCRLF => "$",
            _ => "\\b",
        }));
    }
    match hir.properties().minimum_len() {
        Some(1..) => Ok(hir),
        _ => Err(Fault::Empty),
    }
}

fn read(text: &str, nocase: bool) -> Result<Hir, Fault> {
    regex_syntax::ParserBuilder::new()
        .unicode(false)
        .utf8(false)
        .case_insensitive(nocase)
        .nest_limit(50)
        .build()
        .parse(text)
        .map_err(|error| match &error {
            regex_syntax::Error::Parse(error) => {
                Fault::Syntax(error.span().start.offset, error.kind().to_string())
            }
            regex_syntax::Error::Translate(error) => {
                Fault::Syntax(error.span().start.offset, error.kind().to_string())
            }
            _ => Fault::Syntax(0, error.to_string()),
        })
}

/// An expression and the number that it has outside.
#[derive(Clone, Debug)]
pub(super) struct Expression {
    pub(super) number: u32,
    pub(super) hir: Hir,
    /// What each match begins with; `None` where that is not known or too much.
    prefixes: Option<Vec<Vec<u8>>>,
}

impl Expression {
    /// `text` is an expression that [`parse`] took, and `hir` what came of it.
    pub(super) fn new(number: u32, text: &str, hir: Hir) -> Self {
        // The sampler does not tell cases apart, so prefixes are read from the expression as it is written.
        let prefixes = read(text, false).ok().and_then(|plain| prefixes(&plain));
        Self {
            number,
            hir,
            prefixes,
        }
    }
}

fn prefixes(hir: &Hir) -> Option<Vec<Vec<u8>>> {
    let seq = Extractor::new()
        .kind(ExtractKind::Prefix)
        .limit_total(PREFIXES)
        .extract(hir);
    let literals = seq.literals()?;
    let long = |literal: &regex_syntax::hir::literal::Literal| literal.len() >= 4;
    let usable = !literals.is_empty() && literals.len() <= PREFIXES && literals.iter().all(long);
    usable.then(|| {
        literals
            .iter()
            .map(|literal| literal.as_bytes().to_vec())
            .collect()
    })
}

/// Some expressions as one automaton.
#[derive(Debug)]
pub(super) struct Expressions {
    dfa: dense::DFA<Vec<u32>>,
    start: StateID,
    sampler: Option<Sampler>,
    numbers: Box<[u32]>,
}

/// Builds automata for expressions, few of them. Fails with the number of an expression that is too large by itself.
pub(super) fn build(mut expressions: Vec<Expression>) -> Result<Vec<Expressions>, u32> {
    // Those that let text be skipped keep by themselves.
    expressions.sort_by_key(|expression| expression.prefixes.is_none());
    let mut groups = Vec::new();
    for alike in expressions.chunk_by(|a, b| a.prefixes.is_some() == b.prefixes.is_some()) {
        for some in alike.chunks(TOGETHER) {
            build_some(some, &mut groups)?;
        }
    }
    Ok(groups)
}

fn build_some(expressions: &[Expression], groups: &mut Vec<Expressions>) -> Result<(), u32> {
    if let Some(group) = Expressions::new(expressions) {
        groups.push(group);
        return Ok(());
    }
    match expressions {
        [] => Ok(()),
        [single] => Err(single.number),
        several => {
            let (first, second) = several.split_at(several.len() / 2);
            build_some(first, groups)?;
            build_some(second, groups)
        }
    }
}

impl Expressions {
    /// `None` when the automaton would be too large.
    fn new(expressions: &[Expression]) -> Option<Self> {
        let hirs: Vec<&Hir> = expressions.iter().map(|expression| &expression.hir).collect();
        let config = thompson::Config::new()
            .utf8(false)
            .nfa_size_limit(Some(NFA_SIZE))
            .which_captures(thompson::WhichCaptures::None);
        let nfa = thompson::Compiler::new()
            .configure(config)
            .build_many_from_hir(&hirs)
            .ok()?;
        let config = dense::Config::new()
            .match_kind(MatchKind::All)
            .start_kind(StartKind::Unanchored)
            .accelerate(false)
            .dfa_size_limit(Some(DFA_SIZE))
            .determinize_size_limit(Some(4 * DFA_SIZE));
        let dfa = dense::Builder::new()
            .configure(config)
            .build_from_nfa(&nfa)
            .ok()?;
        let start = dfa
            .start_state(&start::Config::new().anchored(Anchored::No))
            .ok()?;
        let prefixes = expressions
            .iter()
            .map(|expression| expression.prefixes.as_deref())
            .collect::<Option<Vec<_>>>();
        let sampler =
            prefixes.and_then(|lists| Sampler::new(lists.iter().copied().flatten().map(Vec::as_slice)));
        Some(Self {
            dfa,
            start,
            sampler,
            numbers: expressions.iter().map(|expression| expression.number).collect(),
        })
    }

    pub(super) const fn start(&self) -> u32 {
        self.start.as_u32()
    }

    /// Octets of memory.
    pub(super) fn memory(&self) -> usize {
        self.dfa.memory_usage()
    }

    /// As [`super::literal::Literals::scan`]. An end of a match right behind another end of the same expression is not told.
    ///
    /// The automaton knows of a match one octet later, or when it is told that the text ends. So at the end of `octets` it is
    /// asked what would be if nothing came, and a match that this tells is passed over when the next octet tells it again.
    pub(super) fn scan(
        &self,
        state: &mut u32,
        octets: &[u8],
        behind: Behind,
        found: &mut dyn FnMut(u32) -> bool,
    ) -> usize {
        let mut at = StateID::new_unchecked((*state & !TOLD) as usize);
        let mut told = *state & TOLD != 0;
        let mut place = 0;
        let mut busy_until = (at != self.start).then_some(0);
        loop {
            if busy_until.is_none()
                && let Some(sampler) = &self.sampler
            {
                let candidate = sampler.next(octets, place, behind);
                place = candidate.from;
                busy_until = Some(candidate.seen);
            }
            let mut idle = false;
            for octet in octets.get(place..).unwrap_or_default() {
                step();
                let next = self.dfa.next_state(at, *octet);
                if self.dfa.is_special_state(next)
                    && self.dfa.is_match_state(next)
                    && !told
                    && self.tell(at, next, found)
                {
                    *state = at.as_u32() | TOLD;
                    return place;
                }
                told = false;
                at = next;
                place += 1;
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
        let end = self.dfa.next_eoi_state(at);
        if self.dfa.is_match_state(end) {
            if !told {
                self.tell(at, end, found);
            }
            told = true;
        }
        *state = at.as_u32() | if told { TOLD } else { 0 };
        octets.len()
    }

    /// Tells the matches of `next` that its predecessor has not told one octet before.
    fn tell(&self, before: StateID, next: StateID, found: &mut dyn FnMut(u32) -> bool) -> bool {
        let mut stop = false;
        for index in 0..self.dfa.match_len(next) {
            let pattern = self.dfa.match_pattern(next, index);
            let again = self.dfa.is_match_state(before)
                && (0..self.dfa.match_len(before)).any(|at| self.dfa.match_pattern(before, at) == pattern);
            if let Some(number) = self.numbers.get(pattern.as_usize()).filter(|_| !again) {
                stop |= found(*number);
            }
        }
        stop
    }
}
