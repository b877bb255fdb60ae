//! Byte-pattern rules.

mod escape;
mod machine;

use std::collections::HashSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::flow::FlowKey;
use crate::{Direction, Instant};
pub(crate) use machine::State;
use machine::{BuildError, Machine};

/// Rules in one set at most.
pub const MAX_RULES: usize = 4096;
/// Octets of one pattern at most.
pub const MAX_PATTERN: usize = 1024;
/// Octets of all patterns of a set at most.
pub const MAX_PATTERNS_TOTAL: usize = 256 * 1024;
/// Octets of a rule's name at most.
pub const MAX_NAME: usize = 64;

const UDP: u8 = 17;

/// A rules file: `[[rule]]` tables in TOML.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleFile {
    /// The rules, in the file's order.
    #[serde(default)]
    pub rule: Vec<Rule>,
}

/// One rule as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Its name, unique in its set.
    pub name: String,
    /// The octets to find: text, in which `\xNN` stands for an octet in hexadecimal, and `\\`, `\n`, `\r`, `\t` and `\0` for
    /// what they do in C.
    pub pattern: String,
    /// The transport to look into.
    #[serde(default)]
    pub protocol: RuleProtocol,
    /// Look only into flows with this port at either end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// What to do.
    pub action: RuleAction,
}

/// The transport that a rule looks into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuleProtocol {
    /// TCP streams, whatever their segments' boundaries are.
    Tcp,
    /// UDP, one datagram at a time.
    Udp,
    /// Both.
    #[default]
    Any,
}

/// What happens when a rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuleAction {
    /// It is counted and reported.
    Alert,
    /// The frame that completes the match is dropped, and so is everything that would fill its place in the stream: the
    /// sender retransmits in vain and the connection stalls until it gives up.
    Drop,
    /// The frame is dropped and both ends of the connection get a RST. A UDP datagram is only dropped.
    Reset,
}

/// Why rules cannot be used.
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
    #[error("rule \"{name}\" has an empty pattern, which would match everywhere")]
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
    /// A reset for a transport that has none.
    #[error("rule \"{name}\": UDP has no reset; use the action \"drop\"")]
    ResetOfUdp {
        /// The rule.
        name: String,
    },
    /// Port 0.
    #[error("rule \"{name}\": port 0 is no port; leave it out to look at all ports")]
    PortZero {
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

impl From<BuildError> for RuleError {
    fn from(error: BuildError) -> Self {
        Self::Automaton {
            reason: error.to_string(),
        }
    }
}

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
}

#[derive(Debug)]
struct Compiled {
    name: Arc<str>,
    protocol: RuleProtocol,
    port: Option<u16>,
    action: RuleAction,
}

/// The ports that some rule looks at.
#[derive(Debug, Default)]
struct Reach {
    every_port: bool,
    ports: HashSet<u16>,
}

/// Rules ready for use.
#[derive(Debug)]
pub struct RuleSet {
    rules: Vec<Compiled>,
    machine: Machine,
    enforces: bool,
    tcp: Reach,
    udp: Reach,
}

impl RuleSet {
    /// Checks and compiles rules.
    pub fn compile(rules: &[Rule]) -> Result<Self, RuleError> {
        if rules.len() > MAX_RULES {
            return Err(RuleError::TooMany { count: rules.len() });
        }
        let mut names = HashSet::new();
        let mut patterns = Vec::with_capacity(rules.len());
        let mut total = 0;
        for (rule, number) in rules.iter().zip(1..) {
            check_name(rule, number)?;
            let name = || rule.name.clone();
            if !names.insert(rule.name.as_str()) {
                return Err(RuleError::DuplicateName { name: name() });
            }
            let pattern = check_pattern(rule)?;
            total += pattern.len();
            if total > MAX_PATTERNS_TOTAL {
                return Err(RuleError::PatternsTooLong {
                    name: name(),
                    len: total,
                });
            }
            patterns.push(pattern);
        }
        Ok(Self {
            machine: Machine::new(&patterns, total)?,
            enforces: rules.iter().any(|rule| rule.action != RuleAction::Alert),
            tcp: Reach::of(rules, RuleProtocol::Udp),
            udp: Reach::of(rules, RuleProtocol::Tcp),
            rules: rules.iter().map(Compiled::from).collect(),
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

    /// Whether some rule does more than alert.
    pub(crate) const fn enforces(&self) -> bool {
        self.enforces
    }

    /// Whether some rule looks at the flow at all.
    pub(crate) fn concerns(&self, flow: &FlowKey) -> bool {
        let reach = if flow.protocol == UDP {
            &self.udp
        } else {
            &self.tcp
        };
        reach.every_port || reach.ports.contains(&flow.local.port) || reach.ports.contains(&flow.remote.port)
    }

    /// The state before the first octet.
    pub(crate) const fn start(&self) -> State {
        self.machine.start()
    }

    /// Scans `octets` of `flow`, which stand behind those that led to `state`. Each match is given to `found`; the scan
    /// stops behind a match that denies.
    pub(crate) fn scan(
        &self,
        flow: &FlowKey,
        state: &mut State,
        octets: &[u8],
        mut found: impl FnMut(&Arc<str>, RuleAction),
    ) -> Scanned {
        let mut verdict = Verdict::Pass;
        let scanned = self.machine.scan(state, octets, |pattern| {
            if let Some(rule) = self.rules.get(pattern)
                && rule.applies(flow)
            {
                found(&rule.name, rule.action);
                verdict = verdict.max(rule.verdict());
            }
            verdict != Verdict::Pass
        });
        Scanned {
            octets: scanned,
            verdict,
        }
    }
}

fn check_name(rule: &Rule, number: usize) -> Result<(), RuleError> {
    let name = &rule.name;
    if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
        return Err(RuleError::BadName { number });
    }
    Ok(())
}

fn check_pattern(rule: &Rule) -> Result<Vec<u8>, RuleError> {
    let name = || rule.name.clone();
    let pattern =
        escape::octets(&rule.pattern).map_err(|offset| RuleError::BadEscape { name: name(), offset })?;
    match (pattern.len(), rule.protocol, rule.action) {
        (0, ..) => Err(RuleError::EmptyPattern { name: name() }),
        (len, ..) if len > MAX_PATTERN => Err(RuleError::PatternTooLong { name: name(), len }),
        (_, RuleProtocol::Udp, RuleAction::Reset) => Err(RuleError::ResetOfUdp { name: name() }),
        _ if rule.port == Some(0) => Err(RuleError::PortZero { name: name() }),
        _ => Ok(pattern),
    }
}

impl Reach {
    /// The ports of all rules but those for `other` alone.
    fn of(rules: &[Rule], other: RuleProtocol) -> Self {
        let concerned = || rules.iter().filter(move |rule| rule.protocol != other);
        Self {
            every_port: concerned().any(|rule| rule.port.is_none()),
            ports: concerned().filter_map(|rule| rule.port).collect(),
        }
    }
}

impl From<&Rule> for Compiled {
    fn from(rule: &Rule) -> Self {
        Self {
            name: rule.name.as_str().into(),
            protocol: rule.protocol,
            port: rule.port,
            action: rule.action,
        }
    }
}

impl Compiled {
    fn applies(&self, flow: &FlowKey) -> bool {
        let transport = match self.protocol {
            RuleProtocol::Any => true,
            RuleProtocol::Tcp => flow.protocol != UDP,
            RuleProtocol::Udp => flow.protocol == UDP,
        };
        transport
            && self
                .port
                .is_none_or(|port| port == flow.local.port || port == flow.remote.port)
    }

    const fn verdict(&self) -> Verdict {
        match self.action {
            RuleAction::Alert => Verdict::Pass,
            RuleAction::Drop => Verdict::Drop,
            RuleAction::Reset => Verdict::Reset,
        }
    }
}

#[cfg(test)]
mod tests;
