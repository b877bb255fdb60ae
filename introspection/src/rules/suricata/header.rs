//! What stands before the parenthesis: action, protocol, addresses, ports and direction.

use super::{Rule, RuleAction, RuleProtocol, Variables, short};
use crate::rules::{Ports, Prefix};

pub(super) struct Header {
    pub(super) action: RuleAction,
    pub(super) protocol: RuleProtocol,
    from: (Option<Prefix>, Option<Ports>),
    to: (Option<Prefix>, Option<Ports>),
    both_ways: bool,
}

impl Header {
    pub(super) fn read(text: &str, variables: &Variables) -> Result<Self, String> {
        let words = words(text);
        let [action, protocol, from, from_port, arrow, to, to_port] = words.as_slice() else {
            return Err(format!(
                "before its parenthesis stand {} words and not 7: action, protocol, address, port, ->, address, port",
                words.len()
            ));
        };
        let header = Self {
            action: read_action(action)?,
            protocol: read_protocol(protocol)?,
            from: (address(from, variables)?, ports(from_port, variables)?),
            to: (address(to, variables)?, ports(to_port, variables)?),
            both_ways: match arrow.as_str() {
                "->" => false,
                "<>" => true,
                other => return Err(format!("\"{}\" is no direction; write -> or <>", short(other))),
            },
        };
        let ends = [&header.from, &header.to].map(|end| end.0.is_some() || end.1.is_some());
        if header.both_ways && ends == [true, true] {
            return Err("it names both ends of <>; write one rule for each direction with ->".to_owned());
        }
        Ok(header)
    }

    pub(super) fn into_rule(self) -> Rule {
        let rule = Rule {
            action: self.action,
            protocol: self.protocol,
            ..Rule::default()
        };
        let ((from, from_port), (to, to_port)) = (self.from, self.to);
        if self.both_ways {
            return Rule {
                address: from.or(to),
                port: from_port.or(to_port),
                ..rule
            };
        }
        Rule {
            from,
            from_port,
            to,
            to_port,
            ..rule
        }
    }
}

/// Words at white space, of which there may be some within brackets.
fn words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut depth = 0_usize;
    for letter in text.chars() {
        match letter {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if !letter.is_whitespace() {
            if let Some(word) = words.last_mut() {
                word.push(letter);
            }
        } else if depth == 0 && words.last().is_some_and(|word| !word.is_empty()) {
            words.push(String::new());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

fn read_action(word: &str) -> Result<RuleAction, String> {
    match word {
        "alert" => Ok(RuleAction::Alert),
        "drop" => Ok(RuleAction::Drop),
        "reject" | "rejectboth" => Ok(RuleAction::Reset),
        "pass" => {
            Err("there is no action pass; narrow the other rules' addresses and ports instead".to_owned())
        }
        _ => Err(format!(
            "the action \"{}\" is not alert, drop, reject or rejectboth",
            short(word)
        )),
    }
}

fn read_protocol(word: &str) -> Result<RuleProtocol, String> {
    match word {
        "tcp" | "tcp-stream" => Ok(RuleProtocol::Tcp),
        "udp" => Ok(RuleProtocol::Udp),
        "ip" => Ok(RuleProtocol::Any),
        _ => Err(format!(
            "the protocol \"{}\" would need a parser of its own; write tcp, udp or ip if the octets alone will do",
            short(word)
        )),
    }
}

fn address(word: &str, variables: &Variables) -> Result<Option<Prefix>, String> {
    let word = plain(variables.resolve(word)?);
    if word == "any" {
        return Ok(None);
    }
    if word.contains(['!', '[', ',', '$']) {
        return Err(format!(
            "\"{}\" is not one address or prefix; write a rule for each, or any",
            short(word)
        ));
    }
    word.parse().map(Some).map_err(|error| format!("{error}"))
}

fn ports(word: &str, variables: &Variables) -> Result<Option<Ports>, String> {
    let word = plain(variables.resolve(word)?);
    if word == "any" {
        return Ok(None);
    }
    if word.contains(['!', '[', '$']) {
        return Err(format!(
            "\"{}\" is no plain list of ports; write the ports that are meant",
            short(word)
        ));
    }
    let range = |part: &str| match part.split_once(':') {
        Some((first, last)) => {
            let first = if first.is_empty() { "1" } else { first };
            let last = if last.is_empty() { "65535" } else { last };
            format!("{first}-{last}")
        }
        None => part.to_owned(),
    };
    let ranges: Vec<String> = word.split(',').map(|part| range(part.trim())).collect();
    ranges
        .join(",")
        .parse()
        .map(Some)
        .map_err(|error| format!("{error}"))
}

/// Without brackets around all of it.
fn plain(word: &str) -> &str {
    let inner = word.strip_prefix('[').and_then(|word| word.strip_suffix(']'));
    inner.unwrap_or(word)
}
