//! Rules of Suricata, as far as they say no more than rules here can: `content`, `nocase`, `pcre` and `flow`, with addresses and ports.
//!
//! The format is described in Suricata's user guide, "Rules Format" and "Payload Keywords". A rule that says more is refused with the
//! word that is too much.

mod header;
mod options;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use serde::Serialize;

use super::{MAX_NAME, Rule, RuleAction, RulePart, RuleProtocol, RuleSet, Towards};
use header::Header;
use options::Parts;

/// Octets of one rule at most.
const MAX_LINE: usize = 64 << 10;

/// What came of a text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Import {
    /// Rules that were taken.
    pub rules: Vec<Rule>,
    /// Those that were not.
    pub refused: Vec<Refused>,
}

/// A rule that was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// The line that it begins in, counted from 1.
    pub line: usize,
    /// Its `sid`, if it could be read.
    pub sid: Option<String>,
    /// Why, and what would do.
    pub reason: String,
}

/// Names and values, without their `$`, that addresses and ports may be written as.
#[derive(Clone, Debug)]
pub struct Variables(HashMap<String, String>);

impl Default for Variables {
    /// `HOME_NET` and `EXTERNAL_NET`, which stand for any address until told otherwise.
    fn default() -> Self {
        let any = |name: &str| (name.to_owned(), "any".to_owned());
        Self(HashMap::from([any("HOME_NET"), any("EXTERNAL_NET")]))
    }
}

impl Variables {
    /// Gives a variable a value, as it would be written in a rule.
    pub fn set(&mut self, name: &str, value: &str) {
        self.0.insert(name.to_owned(), value.to_owned());
    }

    /// What stands for `word`.
    fn resolve<'a>(&'a self, word: &'a str) -> Result<&'a str, String> {
        let Some(name) = word.strip_prefix('$') else {
            return Ok(word);
        };
        self.0.get(name).map(String::as_str).ok_or_else(|| {
            format!(
                "the variable ${} has no value; give it one with --var",
                short(name)
            )
        })
    }
}

/// Reads rules, one a line; a line that ends in a backslash goes on in the next. Comments and empty lines are passed over.
pub fn import(text: &str, variables: &Variables) -> Import {
    let mut import = Import::default();
    let mut names = HashMap::new();
    for (line, rule) in lines(text) {
        match read(&rule, line, variables) {
            Ok(rule) => match names.insert(rule.name.clone(), line) {
                None => import.rules.push(rule),
                Some(first) => import.refused.push(Refused {
                    line,
                    sid: options::sid(rule.name.as_str()),
                    reason: format!("line {first} has the same sid and msg; give it a sid of its own"),
                }),
            },
            Err(reason) => import.refused.push(Refused {
                line,
                sid: options::find_sid(&rule),
                reason,
            }),
        }
    }
    import
}

/// Lines joined where a backslash says so, with the number of the first.
fn lines(text: &str) -> Vec<(usize, String)> {
    let mut joined = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (line, number) in text.lines().zip(1..) {
        let (start, mut whole) = open.take().unwrap_or((number, String::new()));
        let (part, more) = line.strip_suffix('\\').map_or((line, false), |part| (part, true));
        whole.push_str(part);
        if more {
            open = Some((start, whole));
        } else {
            joined.push((start, whole));
        }
    }
    joined.extend(open);
    joined.retain(|(_, rule)| !rule.trim().is_empty() && !rule.trim_start().starts_with('#'));
    joined
}

fn read(text: &str, line: usize, variables: &Variables) -> Result<Rule, String> {
    if text.len() > MAX_LINE {
        return Err(format!("the rule has more than {MAX_LINE} octets"));
    }
    let (head, rest) = text.split_once('(').ok_or(
        "it has no options in parentheses; a rule is: alert tcp any any -> any 80 (content:\"x\"; sid:1;)",
    )?;
    let body = rest
        .trim_end()
        .strip_suffix(')')
        .ok_or("the parenthesis around its options is not closed")?;
    let header = Header::read(head, variables)?;
    let parts = Parts::read(body)?;
    let rule = rule(header, parts, line)?;
    RuleSet::compile(std::slice::from_ref(&rule)).map_err(|error| error.to_string())?;
    Ok(rule)
}

fn rule(header: Header, parts: Parts, line: usize) -> Result<Rule, String> {
    if header.protocol == RuleProtocol::Udp && header.action == RuleAction::Reset {
        return Err("UDP has no reset; use the action drop".to_owned());
    }
    let name = match (&parts.sid, &parts.msg) {
        (Some(sid), Some(msg)) => format!("{sid} {msg}"),
        (Some(sid), None) => sid.clone(),
        (None, Some(msg)) => format!("line {line} {msg}"),
        (None, None) => format!("line {line}"),
    };
    let mut found = parts.found.into_iter();
    let first = found
        .next()
        .ok_or("it has neither content nor pcre, so there is nothing to find in the payload")?;
    Ok(Rule {
        name: fit(&name),
        pattern: first.pattern,
        regex: first.regex,
        nocase: first.nocase,
        also: found.collect(),
        towards: parts.towards,
        ..header.into_rule()
    })
}

/// A name as rules may have it.
fn fit(name: &str) -> String {
    let mut fitting = String::new();
    for letter in name.chars().filter(|letter| !letter.is_control()) {
        if fitting.len() + letter.len_utf8() > MAX_NAME {
            break;
        }
        fitting.push(letter);
    }
    fitting
}

/// A word from the rule, short enough for a message.
fn short(word: &str) -> String {
    word.chars()
        .filter(|letter| !letter.is_control())
        .take(40)
        .collect()
}
