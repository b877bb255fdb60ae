//! What stands between the parentheses.

use std::fmt::Write as _;

use super::{RulePart, Towards, short};

/// What the options say.
#[derive(Default)]
pub(super) struct Parts {
    pub(super) sid: Option<String>,
    pub(super) msg: Option<String>,
    pub(super) towards: Option<Towards>,
    pub(super) found: Vec<RulePart>,
    /// Whether the part before is a content, which `nocase` may follow.
    content: bool,
}

impl Parts {
    pub(super) fn read(body: &str) -> Result<Self, String> {
        let mut parts = Self::default();
        for option in split(body)? {
            let (name, value) = option
                .split_once(':')
                .map_or((option.trim(), None), |(name, value)| {
                    (name.trim(), Some(value.trim()))
                });
            parts.option(name, value)?;
        }
        Ok(parts)
    }

    fn option(&mut self, name: &str, value: Option<&str>) -> Result<(), String> {
        match (name, value) {
            ("sid", Some(value)) => self.sid = Some(sid(value).ok_or("its sid is no number")?),
            ("msg", Some(value)) => self.msg = Some(quoted(value)?.replace('\\', "")),
            ("content", Some(value)) => {
                self.found.push(content(value)?);
                self.content = true;
            }
            ("nocase", None) => match self.found.last_mut().filter(|_| self.content) {
                Some(part) => part.nocase = true,
                None => return Err("nocase stands behind no content".to_owned()),
            },
            ("pcre", Some(value)) => {
                self.found.push(pcre(value)?);
                self.content = false;
            }
            ("flow", Some(value)) => self.flow(value)?,
            // What tells people something, or how to search, changes nothing that is found.
            (
                "rev" | "gid" | "classtype" | "reference" | "priority" | "metadata" | "target" | "threshold"
                | "fast_pattern" | "rawbytes" | "requires",
                _,
            ) => {}
            _ => {
                return Err(format!(
                    "the keyword \"{}\" is not taken; the keywords are content, nocase, pcre, flow, msg and sid",
                    short(name)
                ));
            }
        }
        Ok(())
    }

    fn flow(&mut self, value: &str) -> Result<(), String> {
        for word in value.split(',').map(str::trim) {
            match word {
                "established" | "stateless" | "only_stream" => {}
                "to_server" | "from_client" => self.towards = Some(Towards::Server),
                "to_client" | "from_server" => self.towards = Some(Towards::Client),
                _ => {
                    return Err(format!(
                        "flow:{} is not taken; use established, to_server or to_client",
                        short(word)
                    ));
                }
            }
        }
        Ok(())
    }
}

/// Options at semicolons that are not quoted.
fn split(body: &str) -> Result<Vec<&str>, String> {
    let mut options = Vec::new();
    let (mut start, mut is_quoted, mut is_escaped) = (0, false, false);
    for (at, octet) in body.bytes().enumerate() {
        match octet {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => is_quoted = !is_quoted,
            b';' if !is_quoted => {
                options.push(body.get(start..at).unwrap_or_default().trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    if is_quoted {
        return Err("a quotation mark is not closed".to_owned());
    }
    let rest = body.get(start..).unwrap_or_default().trim();
    if !rest.is_empty() {
        return Err(format!("no semicolon stands behind \"{}\"", short(rest)));
    }
    options.retain(|option| !option.is_empty());
    Ok(options)
}

fn quoted(value: &str) -> Result<&str, String> {
    value
        .strip_prefix('"')
        .and_then(|value| value.strip_suffix('"'))
        .ok_or_else(|| match value.strip_prefix('!') {
            Some(_) => "what must not be there cannot be told; leave the negated part out".to_owned(),
            None => format!("\"{}\" does not stand in quotation marks", short(value)),
        })
}

/// A content: text, octets in hexadecimal between bars, and escapes.
fn content(value: &str) -> Result<RulePart, String> {
    let text = quoted(value)?;
    let mut pattern = String::new();
    let mut hex: Option<String> = None;
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match (letter, hex.as_mut()) {
            ('|', None) => hex = Some(String::new()),
            ('|', Some(digits)) => {
                octets(digits, &mut pattern)?;
                hex = None;
            }
            (_, Some(digits)) => digits.push(letter),
            ('\\', None) => match letters.next() {
                Some(escaped @ ('"' | ';' | ':' | '\\' | '|')) => push(&mut pattern, escaped),
                _ => return Err("a backslash in a content stands before none of \" ; : \\ |".to_owned()),
            },
            (_, None) => push(&mut pattern, letter),
        }
    }
    if hex.is_some() {
        return Err("a bar in a content is not closed".to_owned());
    }
    Ok(RulePart {
        pattern,
        ..RulePart::default()
    })
}

fn octets(digits: &str, pattern: &mut String) -> Result<(), String> {
    let digits: String = digits.chars().filter(|letter| !letter.is_whitespace()).collect();
    if digits.is_empty()
        || !digits.len().is_multiple_of(2)
        || !digits.bytes().all(|digit| digit.is_ascii_hexdigit())
    {
        return Err(format!("\"{}\" are no octets in hexadecimal", short(&digits)));
    }
    for pair in digits.as_bytes().chunks_exact(2) {
        let pair: String = pair.iter().copied().map(char::from).collect();
        let _ = write!(pattern, "\\x{}", pair.to_ascii_lowercase());
    }
    Ok(())
}

/// Writes a character as patterns are written.
fn push(pattern: &mut String, letter: char) {
    match letter {
        '\\' => pattern.push_str("\\\\"),
        _ if letter.is_control() => {
            for octet in letter.encode_utf8(&mut [0; 4]).bytes() {
                let _ = write!(pattern, "\\x{octet:02x}");
            }
        }
        _ => pattern.push(letter),
    }
}

/// An expression between slashes, with flags.
fn pcre(value: &str) -> Result<RulePart, String> {
    let text = quoted(value)?;
    let (expression, flags) = text
        .strip_prefix('/')
        .and_then(|text| text.rsplit_once('/'))
        .ok_or("a pcre is written \"/expression/flags\"")?;
    let (mut inline, mut nocase) = (String::new(), false);
    for flag in flags.chars() {
        match flag {
            'i' => nocase = true,
            's' | 'm' | 'x' => inline.push(flag),
            _ => {
                return Err(format!(
                    "the flag {} of its pcre is not taken; i, m, s and x are",
                    flag.escape_default()
                ));
            }
        }
    }
    let regex = if inline.is_empty() {
        expression.to_owned()
    } else {
        // A line end keeps a comment of flag x from swallowing the parenthesis.
        format!("(?{inline}:{expression}\n)")
    };
    let regex = if inline.contains('x') {
        regex
    } else {
        regex.replace("\n)", ")")
    };
    Ok(RulePart {
        regex: Some(regex),
        nocase,
        ..RulePart::default()
    })
}

/// A rule's number.
pub(super) fn sid(text: &str) -> Option<String> {
    let digits: String = text.chars().take_while(char::is_ascii_digit).take(20).collect();
    (!digits.is_empty()).then_some(digits)
}

/// The number of a rule that could not be read.
pub(super) fn find_sid(rule: &str) -> Option<String> {
    rule.rsplit_once("sid:")
        .and_then(|(_, behind)| sid(behind.trim_start()))
}
