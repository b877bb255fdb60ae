//! Rules as they are written.

use serde::{Deserialize, Serialize};

use super::scope::{Ports, Prefix, Towards};
use crate::Direction;

/// A rules file: `[[rule]]` tables in TOML.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleFile {
    /// The rules, in the file's order.
    #[serde(default)]
    pub rule: Vec<Rule>,
}

/// One rule as it is written. It matches when the pattern, the expression and all parts of `also` that it has were seen in one
/// direction of a TCP connection, in any order, or in one UDP datagram.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Rule {
    /// Its name, unique in its set.
    pub name: String,
    /// The octets to find: text, in which `\xNN` stands for an octet in hexadecimal, and `\\`, `\n`, `\r`, `\t` and `\0` for
    /// what they do in C.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pattern: String,
    /// A regular expression over octets, in the syntax of the crate `regex`, without anchors and word boundaries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regex: Option<String>,
    /// Letters of ASCII match in either case, in `pattern` and `regex`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub nocase: bool,
    /// More to be found.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<RulePart>,
    /// The transport to look into.
    #[serde(default)]
    pub protocol: RuleProtocol,
    /// Look only into flows with such a port at either end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<Ports>,
    /// Look only into flows with such an address at either end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Prefix>,
    /// Look only at what such an address sends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Prefix>,
    /// Look only at what such a port sends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_port: Option<Ports>,
    /// Look only at what such an address receives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Prefix>,
    /// Look only at what such a port receives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_port: Option<Ports>,
    /// Look only into flows of this VLAN; 0 for those without a tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// Look only at what leaves the guest (`tx`) or enters it (`rx`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
    /// Look only at what goes to the server, or to the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub towards: Option<Towards>,
    /// What to do.
    pub action: RuleAction,
    /// The port of the switch that gets a copy, for the action `mirror`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror_to: Option<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // as serde calls it
const fn is_false(value: &bool) -> bool {
    !*value
}

/// One more thing for a rule to find: a pattern or an expression.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RulePart {
    /// As [`Rule::pattern`].
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pattern: String,
    /// As [`Rule::regex`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regex: Option<String>,
    /// As [`Rule::nocase`], for this part.
    #[serde(default, skip_serializing_if = "is_false")]
    pub nocase: bool,
}

impl Rule {
    /// All that the rule has to find.
    pub(super) fn parts(&self) -> impl Iterator<Item = RulePart> + '_ {
        let first = RulePart {
            pattern: self.pattern.clone(),
            regex: self.regex.clone(),
            nocase: self.nocase,
        };
        core::iter::once(first).chain(self.also.iter().cloned())
    }
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuleAction {
    /// It is counted and reported.
    #[default]
    Alert,
    /// The frame that completes the match is dropped, and so is everything that would fill its place in the stream: the
    /// sender retransmits in vain and the connection stalls until it gives up.
    Drop,
    /// The frame is dropped and both ends of the connection get a RST. A UDP datagram is only dropped.
    Reset,
    /// As alert, and the frame that completes the match and all later ones of its flow are copied to a port.
    Mirror,
}
