//! Rules: what to find in streams and datagrams, where to look for it, and what to do.
//!
//! All literals of a set are one automaton (four at most: short and long ones, with and without regard to case), all
//! regular expressions a few more. Which rules a match is one of, and whether they look into this flow at all, is asked
//! only once something was found.

mod error;
mod escape;
mod expression;
mod literal;
mod matcher;
mod rule;
mod sampler;
mod scope;
mod steps;
pub mod suricata;

use std::collections::HashSet;
use std::sync::Arc;

use crate::flow::FlowKey;
use crate::{Direction, Instant};
pub use error::{FaultyRule, RuleError};
use expression::{Expression, Fault};
use matcher::{Literal, Matcher, MatcherError};
pub(crate) use matcher::{Seen, State};
pub use rule::{Rule, RuleAction, RuleFile, RulePart, RuleProtocol};
pub(crate) use scope::Place;
use scope::Scope;
pub use scope::{ParsePortsError, ParsePrefixError, Ports, Prefix, Towards};

/// Rules in one set at most.
pub const MAX_RULES: usize = 4096;
/// Octets of one pattern at most.
pub const MAX_PATTERN: usize = 1024;
/// Octets of all patterns of a set at most.
pub const MAX_PATTERNS_TOTAL: usize = 256 * 1024;
/// Octets of a rule's name at most.
pub const MAX_NAME: usize = 64;
/// Patterns and expressions of one rule at most.
pub const MAX_PARTS: usize = 16;
/// Octets of one regular expression at most.
pub const MAX_EXPRESSION: usize = 1024;
/// Regular expressions of a set at most.
pub const MAX_EXPRESSIONS: usize = 256;
/// Octets of all automata for regular expressions of a set at most.
pub const MAX_EXPRESSIONS_SIZE: usize = 64 << 20;

/// Rules of several parts of which a stream may have met some but not all, at most.
const MAX_UNFINISHED: usize = 256;

/// A rule's match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleMatch {
    /// When the frame that completed it was judged.
    pub at: Instant,
    /// The rule's name.
    pub rule: Arc<str>,
    /// What was done.
    pub action: RuleAction,
    /// The flow.
    pub flow: FlowKey,
    /// The way of the matching octets.
    pub direction: Direction,
}

/// What rules say of some octets; the greater wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    Pass,
    Drop,
    Reset,
}

/// How far a scan came, and what it found there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scanned {
    /// Octets scanned: all of them, or up to the end of the match that denies the rest.
    pub(crate) octets: usize,
    pub(crate) verdict: Verdict,
    /// More rules of several parts were begun than can be remembered.
    pub(crate) forgot: bool,
}

impl Scanned {
    const fn nothing() -> Self {
        Self {
            octets: 0,
            verdict: Verdict::Pass,
            forgot: false,
        }
    }
}

/// A compiled rule.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) name: Arc<str>,
    pub(crate) action: RuleAction,
    pub(crate) mirror_to: Option<Arc<str>>,
    /// Its place in [`RuleSet::scopes`].
    scope: usize,
    /// One bit for each part.
    parts: u32,
}

/// A part of a rule: the rule's place in the set, and the part's bit.
#[derive(Clone, Copy, Debug)]
struct Part {
    rule: u32,
    bit: u32,
}

/// Rules ready for use.
#[derive(Debug)]
pub struct RuleSet {
    rules: Vec<Compiled>,
    parts: Vec<Part>,
    scopes: Vec<Scope>,
    matcher: Matcher,
    enforces: bool,
}

impl RuleSet {
    /// Checks and compiles rules.
    pub fn compile(rules: &[Rule]) -> Result<Self, RuleError> {
        if rules.len() > MAX_RULES {
            return Err(RuleError::TooMany { count: rules.len() });
        }
        let mut draft = Draft::default();
        let mut names = HashSet::new();
        for (rule, number) in rules.iter().zip(1..) {
            check_name(rule, number)?;
            if !names.insert(rule.name.as_str()) {
                return Err(RuleError::DuplicateName {
                    name: rule.name.clone(),
                });
            }
            draft.add(rule)?;
        }
        let parts = draft.parts;
        let matcher = Matcher::new(&draft.literals, draft.expressions).map_err(|error| match error {
            MatcherError::TooLarge(part) => {
                let rule = parts
                    .get(part as usize)
                    .and_then(|part| rules.get(part.rule as usize));
                let name = rule.map_or_else(String::new, |rule| rule.name.clone());
                RuleError::ExpressionTooLarge { name }
            }
            MatcherError::Other(error) => error,
        })?;
        Ok(Self {
            matcher,
            enforces: rules
                .iter()
                .any(|rule| matches!(rule.action, RuleAction::Drop | RuleAction::Reset)),
            rules: draft.rules,
            parts,
            scopes: draft.scopes,
        })
    }

    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The names of the ports that rules mirror to.
    pub fn mirrors(&self) -> impl Iterator<Item = &Arc<str>> {
        self.rules.iter().filter_map(|rule| rule.mirror_to.as_ref())
    }

    /// Whether some rule drops.
    pub(crate) const fn enforces(&self) -> bool {
        self.enforces
    }

    /// Whether some rule looks at what goes this way.
    pub(crate) fn concerns(&self, place: Place<'_>) -> bool {
        self.scopes.iter().any(|scope| scope.includes(place))
    }

    /// The state before the first octet.
    pub(crate) fn start(&self) -> State {
        self.matcher.start()
    }

    /// Puts a state back to before the first octet.
    pub(crate) fn restart(&self, state: &mut State) {
        self.matcher.restart(state);
    }

    /// Scans `octets`, which stand behind those that led to `state`. Each match is given to `found`; the scan stops behind
    /// a match that denies.
    pub(crate) fn scan(
        &self,
        place: Place<'_>,
        state: &mut State,
        octets: &[u8],
        mut found: impl FnMut(&Compiled),
    ) -> Scanned {
        let mut scanned = Scanned::nothing();
        scanned.octets = self.matcher.scan(state, octets, |part, seen| {
            self.tell(place, part, seen, &mut scanned, &mut found)
        });
        scanned
    }

    /// Scans octets that are all there is; `seen` is a place for what rules of several parts see.
    pub(crate) fn scan_whole(
        &self,
        place: Place<'_>,
        seen: &mut Seen,
        octets: &[u8],
        mut found: impl FnMut(&Compiled),
    ) -> Scanned {
        let mut scanned = Scanned::nothing();
        scanned.octets = self.matcher.scan_whole(seen, octets, |part, seen| {
            self.tell(place, part, seen, &mut scanned, &mut found)
        });
        scanned
    }

    /// Takes note of a part that was met. True when that denies what follows.
    fn tell(
        &self,
        place: Place<'_>,
        part: u32,
        seen: &mut Seen,
        scanned: &mut Scanned,
        found: &mut impl FnMut(&Compiled),
    ) -> bool {
        let Some(part) = self.parts.get(part as usize) else {
            return false;
        };
        let Some(rule) = self.rules.get(part.rule as usize) else {
            return false;
        };
        if self
            .scopes
            .get(rule.scope)
            .is_some_and(|scope| scope.includes(place))
            && completes(*part, rule.parts, seen, &mut scanned.forgot)
        {
            found(rule);
            scanned.verdict = scanned.verdict.max(rule.verdict());
        }
        scanned.verdict != Verdict::Pass
    }
}

/// Whether this part was the last one that its rule waited for; then the rule begins anew.
fn completes(part: Part, all: u32, seen: &mut Seen, forgot: &mut bool) -> bool {
    if part.bit == all {
        return true;
    }
    let Some(at) = seen.iter().position(|(rule, _)| *rule == part.rule) else {
        if seen.len() == MAX_UNFINISHED {
            *forgot = true;
            seen.remove(0);
        }
        seen.push((part.rule, part.bit));
        return false;
    };
    let Some((_, met)) = seen.get_mut(at) else {
        return false;
    };
    *met |= part.bit;
    let complete = *met == all;
    if complete {
        seen.swap_remove(at);
    }
    complete
}

/// A rule set in the making.
#[derive(Default)]
struct Draft {
    rules: Vec<Compiled>,
    parts: Vec<Part>,
    scopes: Vec<Scope>,
    known: std::collections::HashMap<Scope, usize>,
    literals: Vec<Literal>,
    expressions: Vec<Expression>,
    octets: usize,
}

impl Draft {
    fn add(&mut self, rule: &Rule) -> Result<(), RuleError> {
        let name = || rule.name.clone();
        check_scope(rule)?;
        if rule.also.len() >= MAX_PARTS {
            return Err(RuleError::TooManyParts {
                name: name(),
                count: rule.also.len() + 1,
            });
        }
        let mut bits = 0;
        let index = self.rules.len() as u32;
        let mut count = 0_u32;
        for part in rule.parts() {
            if part.pattern.is_empty() && part.regex.is_none() {
                return Err(RuleError::EmptyPattern { name: name() });
            }
            let things = [!part.pattern.is_empty(), part.regex.is_some()];
            for literal in [true, false]
                .into_iter()
                .zip(things)
                .filter_map(|(kind, there)| there.then_some(kind))
            {
                let bit = 1 << count;
                count += 1;
                bits |= bit;
                let number = self.parts.len() as u32;
                self.parts.push(Part { rule: index, bit });
                if literal {
                    self.literal(rule, &part, number)?;
                } else {
                    self.expression(rule, &part, number)?;
                }
            }
        }
        let scope = Scope::from(rule);
        let next = self.scopes.len();
        let scope_at = *self.known.entry(scope.clone()).or_insert(next);
        if scope_at == next {
            self.scopes.push(scope);
        }
        self.rules.push(Compiled {
            name: rule.name.as_str().into(),
            action: rule.action,
            mirror_to: rule.mirror_to.as_deref().map(Arc::from),
            scope: scope_at,
            parts: bits,
        });
        Ok(())
    }

    fn literal(&mut self, rule: &Rule, part: &RulePart, number: u32) -> Result<(), RuleError> {
        let name = || rule.name.clone();
        let octets =
            escape::octets(&part.pattern).map_err(|offset| RuleError::BadEscape { name: name(), offset })?;
        let len = octets.len();
        if len > MAX_PATTERN {
            return Err(RuleError::PatternTooLong { name: name(), len });
        }
        self.octets += len;
        if self.octets > MAX_PATTERNS_TOTAL {
            return Err(RuleError::PatternsTooLong {
                name: name(),
                len: self.octets,
            });
        }
        self.literals.push(Literal {
            number,
            octets,
            nocase: part.nocase,
        });
        Ok(())
    }

    fn expression(&mut self, rule: &Rule, part: &RulePart, number: u32) -> Result<(), RuleError> {
        let name = rule.name.clone();
        let text = part.regex.as_deref().unwrap_or_default();
        if error::is_too_long(text) {
            return Err(RuleError::ExpressionTooLarge { name });
        }
        if self.expressions.len() == MAX_EXPRESSIONS {
            return Err(RuleError::TooManyExpressions { name });
        }
        let hir = expression::parse(text, part.nocase).map_err(|fault| match fault {
            Fault::Syntax(offset, reason) => RuleError::BadExpression { name, offset, reason },
            Fault::Look(look) => RuleError::Anchored { name, look },
            Fault::Empty => RuleError::EmptyPattern { name },
        })?;
        self.expressions.push(Expression::new(number, text, hir));
        Ok(())
    }
}

fn check_name(rule: &Rule, number: usize) -> Result<(), RuleError> {
    let name = &rule.name;
    if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
        return Err(RuleError::BadName { number });
    }
    Ok(())
}

fn check_scope(rule: &Rule) -> Result<(), RuleError> {
    let name = || rule.name.clone();
    let mut ports = [&rule.port, &rule.from_port, &rule.to_port].into_iter().flatten();
    match rule.vlan {
        Some(vlan @ 4095..) => return Err(RuleError::BadVlan { name: name(), vlan }),
        _ if ports.any(|ports| !ports.is_right()) => return Err(RuleError::PortZero { name: name() }),
        _ => {}
    }
    if (rule.protocol, rule.action) == (RuleProtocol::Udp, RuleAction::Reset) {
        return Err(RuleError::ResetOfUdp { name: name() });
    }
    if (rule.action == RuleAction::Mirror) != rule.mirror_to.is_some() {
        return Err(RuleError::MirrorWhere { name: name() });
    }
    Ok(())
}

impl Compiled {
    const fn verdict(&self) -> Verdict {
        match self.action {
            RuleAction::Alert | RuleAction::Mirror => Verdict::Pass,
            RuleAction::Drop => Verdict::Drop,
            RuleAction::Reset => Verdict::Reset,
        }
    }
}

#[cfg(test)]
mod tests;
