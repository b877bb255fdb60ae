//! Filters of ports: what a switch is told of them, and what it tells.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use introspection::{Direction, FilterCounters, Profile};
use serde::{Deserialize, Serialize};

/// A port's filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterConfig {
    /// The profile.
    pub profile: Profile,
    /// The only direction that it acts on; `None` for both.
    pub direction: Option<Direction>,
    /// The profiles that see frames behind it, each with its direction.
    pub then: Vec<FilterStage>,
    /// The longest that one of them may hold a frame; `None` for the profile's own choice.
    pub deadline: Option<Duration>,
    /// See [`introspection::FilterOptions::ratio`].
    pub ratio: Option<u16>,
    /// See [`introspection::FilterOptions::chunk`].
    pub chunk: Option<u32>,
    /// Flows that it keeps track of at most; `None` for 65,536.
    pub flows: Option<usize>,
    /// What it may take for a burst; a filter that takes more again and again is taken out of the path.
    pub budget: Option<Duration>,
    /// Rules for the profiles that look at payload.
    pub rules: Vec<introspection::Rule>,
}

impl Default for FilterConfig {
    fn default() -> Self {
        Self {
            profile: Profile::Off,
            direction: None,
            then: Vec::new(),
            deadline: None,
            ratio: None,
            chunk: None,
            flows: None,
            budget: None,
            rules: Vec::new(),
        }
    }
}

impl FilterConfig {
    /// All profiles in their order, with their directions.
    pub fn stages(&self) -> Vec<FilterStage> {
        let first = FilterStage {
            profile: self.profile,
            direction: self.direction,
        };
        std::iter::once(first).chain(self.then.iter().copied()).collect()
    }

    /// The names of the parts that see frames, in their order.
    pub(crate) fn parts(&self) -> Vec<String> {
        let parts = self.stages().into_iter();
        parts
            .filter(|part| part.profile != Profile::Off)
            .map(|part| part.to_string())
            .collect()
    }

    /// Whether the other is the same filter with, perhaps, other rules.
    pub(crate) fn differs_in_rules_only(&self, other: &Self) -> bool {
        let with = Self {
            rules: other.rules.clone(),
            ..self.clone()
        };
        with == *other
    }
}

/// A profile and the only direction that it acts on, written as `thin-acks` or `thin-acks:rx`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilterStage {
    /// The profile.
    pub profile: Profile,
    /// The direction; `None` for both.
    pub direction: Option<Direction>,
}

impl fmt::Display for FilterStage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.profile.name())?;
        match self.direction {
            None => Ok(()),
            Some(Direction::Tx) => out.write_str(":tx"),
            Some(Direction::Rx) => out.write_str(":rx"),
        }
    }
}

impl FromStr for FilterStage {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (profile, direction) = match text.split_once(':') {
            None => (text, None),
            Some((profile, "tx")) => (profile, Some(Direction::Tx)),
            Some((profile, "rx")) => (profile, Some(Direction::Rx)),
            Some((profile, _)) => {
                let profile: String = profile.chars().take(40).collect();
                return Err(format!(
                    "behind \"{profile}:\" stands a direction: tx for what leaves the guest, rx for what enters it"
                ));
            }
        };
        let profile = profile.parse::<Profile>().map_err(|mut error| {
            error.0 = error.0.chars().take(64).collect();
            error.to_string()
        })?;
        Ok(Self { profile, direction })
    }
}

/// A port's filter as it stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FilterInfo {
    /// The port.
    pub port: String,
    /// The profile.
    pub profile: Profile,
    /// All profiles in the order in which they see frames, with their directions.
    #[serde(default)]
    pub stages: Vec<String>,
    /// The longest that it may hold a frame, in milliseconds.
    pub deadline_ms: Option<u64>,
    /// One acknowledgement of so many passes at once.
    #[serde(default)]
    pub ratio: Option<u16>,
    /// Octets of a chunk.
    #[serde(default)]
    pub chunk: Option<u32>,
    /// Rules in force.
    pub rules: usize,
    /// Times that it was set.
    pub changes: u64,
    /// What the filter in force has counted.
    pub counters: FilterCounters,
    /// Bursts for which it took longer than it may.
    #[serde(default)]
    pub over_budget: u64,
    /// Why it is out of the path, if it failed.
    #[serde(default)]
    pub failure: Option<String>,
}
