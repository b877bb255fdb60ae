//! Filters as people describe them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use introspection::{Profile, Rule};
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use vswitch::control::{FilterConfig, FilterStage};

use super::{Checked, refuse};

/// Longest that a filter may be told to hold a frame, in milliseconds.
const MAX_DEADLINE_MS: i64 = 60_000;
/// Flows that a filter may be told to keep track of; about 600 octets each when rules look at them.
const MAX_FLOWS: i64 = 4 << 20;
/// Profiles behind each other at most.
const MAX_STAGES: usize = 8;

/// A filter: the body of `PUT /v1/ports/NAME/filter`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct FilterSpec {
    /// Its profile, or several in the order in which they see frames.
    pub profile: Profiles,
    /// The longest that each of them may hold a frame, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<i64>,
    /// `thin-acks`: one acknowledgement of so many passes at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio: Option<i64>,
    /// `coalesce`: payload octets of a merged frame at most. `serialize`: octets that may be unacknowledged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk: Option<i64>,
    /// Flows that it keeps track of at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flows: Option<i64>,
    /// What it may take for a burst, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget_ms: Option<i64>,
    /// Its rules.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rule: Vec<Rule>,
}

/// Profiles behind each other: `"inspect"`, `"inspect,thin-acks:rx"` or a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profiles(Vec<String>);

impl Default for Profiles {
    fn default() -> Self {
        Profile::Off.into()
    }
}

impl From<Profile> for Profiles {
    fn from(profile: Profile) -> Self {
        Self(vec![profile.name().to_owned()])
    }
}

impl FromStr for Profiles {
    type Err = std::convert::Infallible;

    /// Takes any text; [`FilterSpec::check`] says what is wrong with it.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.split(',').map(|word| word.trim().to_owned()).collect()))
    }
}

impl Serialize for Profiles {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [one] => to.serialize_str(one),
            several => several.serialize(to),
        }
    }
}

impl<'de> Deserialize<'de> for Profiles {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(ProfilesVisitor)
    }
}

struct ProfilesVisitor;

impl<'de> Visitor<'de> for ProfilesVisitor {
    type Value = Profiles;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a profile or a list of profiles")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Profiles, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Profiles, A::Error> {
        let mut profiles = Vec::new();
        while let Some(profile) = list.next_element()? {
            profiles.push(profile);
            if profiles.len() > MAX_STAGES {
                return Err(serde::de::Error::invalid_length(profiles.len(), &self));
            }
        }
        Ok(Profiles(profiles))
    }
}

impl FilterSpec {
    /// What the switch is to be told.
    pub fn check(self) -> Checked<FilterConfig> {
        let (first, then) = self.stages()?;
        let ms = |key, value| -> Checked<Option<Duration>> {
            Ok(number(key, value, 1, MAX_DEADLINE_MS)?.map(|ms| Duration::from_millis(ms.unsigned_abs())))
        };
        let config = FilterConfig {
            profile: first.profile,
            direction: first.direction,
            then,
            deadline: ms("deadline-ms", self.deadline_ms)?,
            ratio: number("ratio", self.ratio, 1, 64)?.map(|ratio| ratio as u16),
            chunk: number("chunk", self.chunk, 1, 65_535)?.map(|chunk| chunk as u32),
            flows: number("flows", self.flows, 1, MAX_FLOWS)?.map(|flows| flows as usize),
            budget: ms("budget-ms", self.budget_ms)?,
            rules: self.rule,
        };
        if !config.rules.is_empty()
            && let Err(error) = introspection::RuleSet::compile(&config.rules)
        {
            return refuse("rule", error.to_string());
        }
        Ok(config)
    }

    fn stages(&self) -> Checked<(FilterStage, Vec<FilterStage>)> {
        let words = &self.profile.0;
        if words.len() > MAX_STAGES {
            return refuse(
                "profile",
                format!(
                    "{} profiles are more than the {MAX_STAGES} that a filter may have",
                    words.len()
                ),
            );
        }
        let mut stages = Vec::new();
        for word in words {
            match word.parse::<FilterStage>() {
                Ok(stage) => stages.push(stage),
                Err(reason) => return refuse("profile", reason),
            }
        }
        if stages.len() > 1 {
            stages.retain(|stage| stage.profile != Profile::Off);
        }
        let off = FilterStage {
            profile: Profile::Off,
            direction: None,
        };
        let mut stages = stages.into_iter();
        Ok((stages.next().unwrap_or(off), stages.collect()))
    }
}

/// A number within its limits, if there is one.
fn number(key: &'static str, value: Option<i64>, low: i64, high: i64) -> Checked<Option<i64>> {
    match value {
        Some(value) if !(low..=high).contains(&value) => {
            refuse(key, format!("{key} is {value}; it must be {low} to {high}"))
        }
        value => Ok(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(json: &str) -> Checked<FilterConfig> {
        serde_json::from_str::<FilterSpec>(json).unwrap().check()
    }

    #[test]
    fn profiles_stand_behind_each_other() {
        let config =
            checked(r#"{"profile": ["inspect", "thin-acks:rx"], "ratio": 8, "chunk": 4096, "budget-ms": 5}"#)
                .unwrap();
        let stages: Vec<String> = config.stages().iter().map(ToString::to_string).collect();
        assert_eq!(stages, ["inspect", "thin-acks:rx"]);
        assert_eq!((config.ratio, config.chunk), (Some(8), Some(4096)));
        assert_eq!(config.budget, Some(Duration::from_millis(5)));
        let same =
            checked(r#"{"profile": "inspect, thin-acks:rx", "ratio": 8, "chunk": 4096, "budget-ms": 5}"#);
        assert_eq!(same, Ok(config));
        for off in [r#""off""#, "[]", r#"["off", "off"]"#] {
            let config = checked(&format!(r#"{{"profile": {off}}}"#)).unwrap();
            assert_eq!((config.profile, config.then.len()), (Profile::Off, 0), "{off}");
        }
    }

    #[test]
    fn what_is_out_of_range_is_told() {
        for (json, key, needle) in [
            (r#"{"profile": "hold:up"}"#, "profile", "tx for what leaves"),
            (r#"{"profile": "inspect,no"}"#, "profile", "thin-acks"),
            (
                r#"{"profile": "hold,hold,hold,hold,hold,hold,hold,hold,hold"}"#,
                "profile",
                "8",
            ),
            (r#"{"profile": "thin-acks", "ratio": 0}"#, "ratio", "1 to 64"),
            (
                r#"{"profile": "coalesce", "chunk": 70000}"#,
                "chunk",
                "1 to 65535",
            ),
            (
                r#"{"profile": "hold", "budget-ms": -1}"#,
                "budget-ms",
                "1 to 60000",
            ),
        ] {
            let error = checked(json).expect_err("refused");
            assert_eq!(error.key, key, "{json}");
            assert!(error.message.contains(needle), "{json}: {error}");
        }
    }
}
