//! All patterns and expressions of a set, and where a stream stands in them.

use smallvec::SmallVec;

use super::RuleError;
use super::expression::{self, Expression, Expressions};
use super::literal::Literals;

/// Literals shorter than this have an automaton of their own, so that they do not spoil the longer ones' sampling.
const SHORT: usize = 8;

/// Where the automata stand after some octets, and what rules of several parts have seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    machines: SmallVec<[u32; 4]>,
    pub(super) seen: Seen,
}

/// What rules of several parts have seen: a rule, and the set of its parts.
pub(crate) type Seen = SmallVec<[(u32, u32); 0]>;

/// What stands behind octets that are scanned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Behind {
    /// Perhaps more of the stream: the state is kept for it.
    More,
    /// Nothing, ever: a match that is not complete will not be, and the state is of no use any more.
    Nothing,
}

/// A literal and the number of its part.
#[derive(Debug)]
pub(super) struct Literal {
    pub(super) number: u32,
    pub(super) octets: Vec<u8>,
    pub(super) nocase: bool,
}

#[derive(Debug)]
enum Machine {
    Literals(Box<Literals>),
    Expressions(Box<Expressions>),
}

impl Machine {
    const fn start(&self) -> u32 {
        match self {
            Self::Literals(literals) => literals.start(),
            Self::Expressions(expressions) => expressions.start(),
        }
    }

    fn scan(
        &self,
        state: &mut u32,
        octets: &[u8],
        behind: Behind,
        found: &mut dyn FnMut(u32) -> bool,
    ) -> usize {
        match self {
            Self::Literals(literals) => literals.scan(state, octets, behind, found),
            Self::Expressions(expressions) => expressions.scan(state, octets, behind, found),
        }
    }
}

/// The automata of a set.
#[derive(Debug)]
pub(super) struct Matcher {
    machines: Vec<Machine>,
}

/// Why there is none.
#[derive(Debug)]
pub(super) enum MatcherError {
    /// For the expression with this number.
    TooLarge(u32),
    Other(RuleError),
}

impl Matcher {
    pub(super) fn new(literals: &[Literal], expressions: Vec<Expression>) -> Result<Self, MatcherError> {
        let mut machines = Vec::new();
        for nocase in [false, true] {
            for short in [false, true] {
                let some: Vec<(u32, &[u8])> = literals
                    .iter()
                    .filter(|literal| literal.nocase == nocase && (literal.octets.len() < SHORT) == short)
                    .map(|literal| (literal.number, literal.octets.as_slice()))
                    .collect();
                if !some.is_empty() {
                    let machine =
                        Literals::new(&some, nocase).map_err(|error| MatcherError::Other(error.into()))?;
                    machines.push(Machine::Literals(Box::new(machine)));
                }
            }
        }
        let groups = expression::build(expressions).map_err(MatcherError::TooLarge)?;
        let size = groups.iter().map(Expressions::memory).sum();
        if size > super::MAX_EXPRESSIONS_SIZE {
            return Err(MatcherError::Other(RuleError::ExpressionsTooLarge { size }));
        }
        machines.extend(
            groups
                .into_iter()
                .map(|group| Machine::Expressions(Box::new(group))),
        );
        Ok(Self { machines })
    }

    /// Before the first octet.
    pub(super) fn start(&self) -> State {
        State {
            machines: self.machines.iter().map(Machine::start).collect(),
            seen: SmallVec::new(),
        }
    }

    /// Puts a state back to before the first octet; allocates nothing if the state was made here.
    pub(super) fn restart(&self, state: &mut State) {
        state.machines.clear();
        state.machines.extend(self.machines.iter().map(Machine::start));
        state.seen.clear();
    }

    /// Moves `state` over `octets`. Every part that ends at an octet is given to `found` with the state; when that returns
    /// true for one, the scan stops behind the octet. Returns the octets scanned.
    pub(super) fn scan(
        &self,
        state: &mut State,
        octets: &[u8],
        mut found: impl FnMut(u32, &mut Seen) -> bool,
    ) -> usize {
        let State { machines, seen } = state;
        let before: SmallVec<[u32; 4]> = SmallVec::from_slice(machines);
        let mut limit = octets.len();
        for (machine, at) in self.machines.iter().zip(machines.iter_mut()) {
            let reached = octets.get(..limit).unwrap_or_default();
            limit = machine.scan(at, reached, Behind::More, &mut |part| found(part, seen));
        }
        if limit < octets.len() {
            // Some automata went past the octet at which a later one stopped: they go there once more.
            let reached = octets.get(..limit).unwrap_or_default();
            for ((machine, at), before) in self.machines.iter().zip(machines.iter_mut()).zip(before) {
                *at = before;
                machine.scan(at, reached, Behind::More, &mut |_| false);
            }
        }
        limit
    }

    /// The same for octets that nothing stands before or behind. What rules of several parts see goes to `seen`.
    pub(super) fn scan_whole(
        &self,
        seen: &mut Seen,
        octets: &[u8],
        mut found: impl FnMut(u32, &mut Seen) -> bool,
    ) -> usize {
        seen.clear();
        let mut limit = octets.len();
        for machine in &self.machines {
            let reached = octets.get(..limit).unwrap_or_default();
            let mut at = machine.start();
            limit = machine.scan(&mut at, reached, Behind::Nothing, &mut |part| found(part, seen));
        }
        limit
    }
}
