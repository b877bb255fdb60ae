//! Why rules cannot be used.

use super::literal::BuildError;
use super::{
    MAX_EXPRESSION, MAX_EXPRESSIONS, MAX_EXPRESSIONS_SIZE, MAX_NAME, MAX_PARTS, MAX_PATTERN,
    MAX_PATTERNS_TOTAL, MAX_RULES,
};

/// Why rules cannot be used. Which rule it is stands in the name; [`RuleError::place`] helps to find it in a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// More rules than a set may have.
    #[error("{count} rules are more than the {MAX_RULES} that a rules file may have")]
    TooMany {
        /// Rules given.
        count: usize,
    },
    /// A name that is empty or too long, or has control characters in it.
    #[error("rule {number}: a rule needs a name of 1 to {MAX_NAME} octets without control characters")]
    BadName {
        /// The rule's place, counted from 1.
        number: usize,
    },
    /// Two rules of one name.
    #[error("rule \"{name}\" is there twice; rename one of the two")]
    DuplicateName {
        /// The name.
        name: String,
    },
    /// Nothing to look for.
    #[error(
        "rule \"{name}\" has an empty pattern, which would match everywhere; give it a pattern or a regex with something to find"
    )]
    EmptyPattern {
        /// The rule.
        name: String,
    },
    /// A backslash that starts no escape.
    #[error(
        "rule \"{name}\": octet {offset} of the pattern starts no escape; write \\xNN, \\\\, \\n, \\r, \\t or \\0"
    )]
    BadEscape {
        /// The rule.
        name: String,
        /// Where the backslash stands, counted from 0.
        offset: usize,
    },
    /// A pattern that is too long.
    #[error("rule \"{name}\": a pattern of {len} octets is longer than {MAX_PATTERN}")]
    PatternTooLong {
        /// The rule.
        name: String,
        /// Octets of the pattern.
        len: usize,
    },
    /// Patterns that are too long together.
    #[error("up to rule \"{name}\" the patterns have {len} octets together, more than {MAX_PATTERNS_TOTAL}")]
    PatternsTooLong {
        /// The rule that went past the limit.
        name: String,
        /// Octets of all patterns up to it.
        len: usize,
    },
    /// More parts than a rule may have.
    #[error("rule \"{name}\" has {count} things to find, more than {MAX_PARTS}; make two rules of it")]
    TooManyParts {
        /// The rule.
        name: String,
        /// Parts given.
        count: usize,
    },
    /// A text that is no regular expression.
    #[error("rule \"{name}\": octet {offset} of the regex: {reason}")]
    BadExpression {
        /// The rule.
        name: String,
        /// Where, counted from 0.
        offset: usize,
        /// What the parser said.
        reason: String,
    },
    /// An anchor or a word boundary.
    #[error(
        "rule \"{name}\": {look} has no meaning in the middle of a stream; leave it out, or write the octets that shall stand there"
    )]
    Anchored {
        /// The rule.
        name: String,
        /// The assertion.
        look: &'static str,
    },
    /// An expression whose text or automaton is too large.
    #[error(
        "rule \"{name}\": its regex needs too large an automaton; shorten it, above all repetitions like {{0,500}} of wide classes"
    )]
    ExpressionTooLarge {
        /// The rule.
        name: String,
    },
    /// More expressions than a set may have.
    #[error(
        "rule \"{name}\" is behind {MAX_EXPRESSIONS} regexes, the most that a set may have; use patterns instead"
    )]
    TooManyExpressions {
        /// The rule that went past the limit.
        name: String,
    },
    /// Expressions whose automata are too large together.
    #[error(
        "the regexes need automata of {size} octets, more than {MAX_EXPRESSIONS_SIZE}; use patterns instead of some"
    )]
    ExpressionsTooLarge {
        /// Octets of all.
        size: usize,
    },
    /// A reset for a transport that has none.
    #[error("rule \"{name}\": UDP has no reset; use the action \"drop\"")]
    ResetOfUdp {
        /// The rule.
        name: String,
    },
    /// Port 0, or no port at all.
    #[error("rule \"{name}\": port 0 is no port; leave it out to look at all ports")]
    PortZero {
        /// The rule.
        name: String,
    },
    /// A VLAN that cannot be.
    #[error("rule \"{name}\": VLAN {vlan} is out of range; use 1 to 4094, or 0 for frames without a tag")]
    BadVlan {
        /// The rule.
        name: String,
        /// The VLAN given.
        vlan: u16,
    },
    /// A mirror without a port, or a port without a mirror.
    #[error("rule \"{name}\": the action \"mirror\" and the key mirror-to go together; give both or neither")]
    MirrorWhere {
        /// The rule.
        name: String,
    },
    /// The search automaton could not be built.
    #[error("the patterns cannot be compiled: {reason}")]
    Automaton {
        /// What the builder said.
        reason: String,
    },
}

impl RuleError {
    /// The rule and the key at fault, where there is one.
    pub fn place(&self) -> Option<(FaultyRule<'_>, &'static str)> {
        let (name, key) = match self {
            Self::TooMany { .. } | Self::ExpressionsTooLarge { .. } | Self::Automaton { .. } => return None,
            Self::BadName { number } => return Some((FaultyRule::Number(*number), "name")),
            Self::DuplicateName { name } => (name, "name"),
            Self::EmptyPattern { name }
            | Self::BadEscape { name, .. }
            | Self::PatternTooLong { name, .. }
            | Self::PatternsTooLong { name, .. } => (name, "pattern"),
            Self::TooManyParts { name, .. } => (name, "also"),
            Self::BadExpression { name, .. }
            | Self::Anchored { name, .. }
            | Self::ExpressionTooLarge { name }
            | Self::TooManyExpressions { name } => (name, "regex"),
            Self::ResetOfUdp { name } | Self::MirrorWhere { name } => (name, "action"),
            Self::PortZero { name } => (name, "port"),
            Self::BadVlan { name, .. } => (name, "vlan"),
        };
        Some((FaultyRule::Name(name), key))
    }
}

/// Which rule it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultyRule<'a> {
    /// The rule at this place, counted from 1.
    Number(usize),
    /// The last one of this name.
    Name(&'a str),
}

impl From<BuildError> for RuleError {
    fn from(error: BuildError) -> Self {
        Self::Automaton {
            reason: error.to_string(),
        }
    }
}

/// An expression of at most [`MAX_EXPRESSION`] octets is read at all.
pub(super) const fn is_too_long(expression: &str) -> bool {
    expression.len() > MAX_EXPRESSION
}
