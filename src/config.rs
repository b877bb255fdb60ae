//! The configuration file of `enlight switch run`.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::ops::Range;
use std::path::{Path, PathBuf};

use introspection::rules::FaultyRule;
use introspection::{RuleFile, RuleSet};
use serde::Deserialize;
use toml::de::{DeTable, DeValue};
use vswitch::control::{Attribution, PortConfig, PortKind, WorkerConfig};

use crate::spec::{PortSpec, SpecError};

/// Largest file that is read, in octets.
const MAX_SIZE: u64 = 4 << 20;

/// What a switch is started with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The control socket; `None` for the default one.
    pub control: Option<PathBuf>,
    /// Which frames are stamped on their way.
    pub attribution: Attribution,
    /// Workers; none means one adaptive worker.
    pub workers: Vec<WorkerConfig>,
    /// Ports from the start.
    pub ports: Vec<PortConfig>,
}

/// Why a file is no configuration. Each is one line that names the file.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("{}: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is longer than any configuration.
    #[error("{}: longer than {} MiB; this is no configuration", file.display(), MAX_SIZE >> 20)]
    TooLong {
        /// The file.
        file: PathBuf,
    },
    /// Its text is wrong.
    #[error("{}:{line}:{column}: {message}", file.display())]
    Invalid {
        /// The file.
        file: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// The column in that line, in characters counted from 1.
        column: usize,
        /// The key, the reason and the remedy.
        message: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    switch: SwitchTable,
    #[serde(default)]
    worker: Vec<WorkerConfig>,
    #[serde(default)]
    port: Vec<PortSpec>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct SwitchTable {
    control: Option<PathBuf>,
    #[serde(default)]
    attribution: Attribution,
}

impl Config {
    /// Reads a file.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        Self::parse(&read(file)?, file)
    }

    /// Reads a text; `file` is its name in errors.
    pub fn parse(text: &str, file: &Path) -> Result<Self, ConfigError> {
        let source = Source { text, file };
        let document: Document = toml::from_str(text).map_err(|error| source.syntax(&error))?;
        let places = Places::of(text);
        let mut ports = Vec::with_capacity(document.port.len());
        let mut seen = HashMap::new();
        for (index, spec) in document.port.into_iter().enumerate() {
            let fault = |error: &SpecError| {
                source.at(
                    places.of_port(index, error.key),
                    format!("{}: {}", error.key, error.message),
                )
            };
            let port = spec.check().map_err(|error| fault(&error))?;
            refuse_repeated(&mut seen, &port, index).map_err(|error| fault(&error))?;
            ports.push(port);
        }
        Ok(Self {
            control: document.switch.control,
            attribution: document.switch.attribution,
            workers: document.worker,
            ports,
        })
    }
}

/// Reads a file of rules: `[[rule]]` tables.
pub fn load_rules(file: &Path) -> Result<RuleFile, ConfigError> {
    parse_rules(&read(file)?, file)
}

/// Reads the text of a file of rules, and sees whether they can be used; `file` is its name in errors.
pub fn parse_rules(text: &str, file: &Path) -> Result<RuleFile, ConfigError> {
    let source = Source { text, file };
    let rules: RuleFile = toml::from_str(text).map_err(|error| source.syntax(&error))?;
    RuleSet::compile(&rules.rule).map_err(|error| {
        let place = error.place().and_then(|(rule, key)| {
            let index = match rule {
                FaultyRule::Number(number) => number.checked_sub(1),
                FaultyRule::Name(name) => rules.rule.iter().rposition(|rule| rule.name == name),
            };
            Places::of(text).of_rule(index?, key)
        });
        source.at(place, error.to_string())
    })?;
    Ok(rules)
}

/// Reads a text file of a sane length.
pub(crate) fn read(file: &Path) -> Result<String, ConfigError> {
    let failed = |source| ConfigError::Read {
        file: file.to_owned(),
        source,
    };
    let mut text = String::new();
    File::open(file)
        .and_then(|open| open.take(MAX_SIZE + 1).read_to_string(&mut text))
        .map_err(failed)?;
    if text.len() as u64 > MAX_SIZE {
        return Err(ConfigError::TooLong {
            file: file.to_owned(),
        });
    }
    Ok(text)
}

/// A text and its file's name, for errors.
struct Source<'a> {
    text: &'a str,
    file: &'a Path,
}

impl Source<'_> {
    /// Puts the parser's words into one line.
    fn syntax(&self, error: &toml::de::Error) -> ConfigError {
        let span = error.span().unwrap_or_default();
        let message = error.message().replace('\n', ", ");
        let message = match self.key_at(span.start) {
            _ if message.starts_with("unknown field") => message
                .replace("unknown field", "unknown key")
                .replace(", expected one of", "; the keys here are")
                .replace(", expected `", "; the only key here is `"),
            Some(key) if message.starts_with("invalid") || message.starts_with("unknown") => {
                format!("{key}: {message}")
            }
            _ => message,
        };
        self.at(Some(span), message)
    }

    /// The key of the line at an offset, as far as it can be told without a parser.
    fn key_at(&self, offset: usize) -> Option<&str> {
        let before = self.text.get(..offset)?;
        let line = before.rsplit('\n').next().unwrap_or(before);
        let (key, _) = line.split_once('=')?;
        let key = key.trim();
        (!key.is_empty() && !key.starts_with('#')).then_some(key)
    }

    fn at(&self, span: Option<Range<usize>>, message: String) -> ConfigError {
        let offset = span.unwrap_or_default().start;
        let before = self.text.get(..offset).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|letter| *letter != '\n').count() + 1;
        ConfigError::Invalid {
            file: self.file.to_owned(),
            line,
            column,
            message,
        }
    }
}

/// Refuses a name, socket or interface that an earlier port has.
fn refuse_repeated(
    seen: &mut HashMap<(&'static str, String), usize>,
    port: &PortConfig,
    index: usize,
) -> Result<(), SpecError> {
    let thing = match &port.kind {
        PortKind::VhostUser(path) => Some(("vhost-user", path.display().to_string())),
        PortKind::Tap(interface) => Some(("tap", interface.clone())),
        PortKind::Uplink(uplink) => Some(("uplink", uplink.interface.clone())),
        PortKind::PcapRecord(file) => Some(("pcap-record", file.display().to_string())),
        PortKind::Endpoint(_) | PortKind::PcapReplay(_) => None,
    };
    for (key, value) in [Some(("name", port.name.clone())), thing].into_iter().flatten() {
        let message = if key == "name" {
            format!("port \"{value}\" is there twice; rename or remove one of them")
        } else {
            format!(
                "port \"{}\": {key} \"{value}\" belongs to an earlier port already; give each its own",
                port.name
            )
        };
        if seen.insert((key, value), index).is_some() {
            return Err(SpecError { key, message });
        }
    }
    Ok(())
}

/// Where things stand in a text.
struct Places<'a>(Option<DeTable<'a>>);

impl<'a> Places<'a> {
    fn of(text: &'a str) -> Self {
        Self(DeTable::parse(text).ok().map(toml::Spanned::into_inner))
    }

    /// The place of a key of a port, or of the port when it lacks the key.
    fn of_port(&self, index: usize, key: &str) -> Option<Range<usize>> {
        self.place("port", index, key)
    }

    /// The place of a key of a rule, or of the rule when it lacks the key.
    fn of_rule(&self, index: usize, key: &str) -> Option<Range<usize>> {
        self.place("rule", index, key)
    }

    fn place(&self, list: &str, index: usize, key: &str) -> Option<Range<usize>> {
        let DeValue::Array(tables) = self.0.as_ref()?.get(list)?.get_ref() else {
            return None;
        };
        let one = tables.get(index)?;
        let DeValue::Table(table) = one.get_ref() else {
            return None;
        };
        Some(
            table
                .get_key_value(key)
                .map_or_else(|| one.span(), |(key, _)| key.span()),
        )
    }
}
