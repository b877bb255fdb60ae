//! Which frames are stamped, and what that costs.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use introspection::flow::{FlowCost, TopFlow, TopFlows};
use introspection::stall::FlowStalls;
use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// One frame of so many at least.
const MAX_ONE_OF: u32 = 1_000_000_000;

/// Which frames are stamped on their way: `"off"`, `"auto"`, `"full"`, or a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Attribution {
    /// None.
    Off,
    /// Up to four frames of a burst, of as many bursts as can be had for a 400th of the time: all of them where little happens.
    #[default]
    Auto,
    /// Every frame.
    Full,
    /// One frame of so many, counted by each worker.
    OneOf(NonZeroU32),
}

impl fmt::Display for Attribution {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => out.write_str("off"),
            Self::Auto => out.write_str("auto"),
            Self::Full => out.write_str("full"),
            Self::OneOf(frames) => frames.fmt(out),
        }
    }
}

/// A word that says of no frames that they be stamped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "attribution is off, auto, full, or a number from 1 to {MAX_ONE_OF} for one frame of so many; not {0}"
)]
pub struct ParseAttributionError(String);

impl FromStr for Attribution {
    type Err = ParseAttributionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "off" => Ok(Self::Off),
            "auto" => Ok(Self::Auto),
            "full" => Ok(Self::Full),
            _ => text.parse().ok().and_then(Self::one_of).ok_or_else(|| {
                let text: String = text.chars().take(40).collect();
                ParseAttributionError(format!("{text:?}"))
            }),
        }
    }
}

impl Attribution {
    fn one_of(frames: u64) -> Option<Self> {
        let frames = u32::try_from(frames)
            .ok()
            .filter(|frames| *frames <= MAX_ONE_OF)?;
        NonZeroU32::new(frames).map(Self::OneOf)
    }
}

impl Serialize for Attribution {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::OneOf(frames) => to.serialize_u32(frames.get()),
            word => to.collect_str(word),
        }
    }
}

impl<'de> Deserialize<'de> for Attribution {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(WordOrNumber)
    }
}

struct WordOrNumber;

impl Visitor<'_> for WordOrNumber {
    type Value = Attribution;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "\"off\", \"auto\", \"full\" or a number from 1 to {MAX_ONE_OF}"
        )
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Attribution, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_u64<E: Error>(self, frames: u64) -> Result<Attribution, E> {
        Attribution::one_of(frames).ok_or_else(|| E::invalid_value(Unexpected::Unsigned(frames), &self))
    }

    fn visit_i64<E: Error>(self, frames: i64) -> Result<Attribution, E> {
        let known = u64::try_from(frames).ok().and_then(Attribution::one_of);
        known.ok_or_else(|| E::invalid_value(Unexpected::Signed(frames), &self))
    }
}

/// What attribution does at the moment, and what it costs by its own measure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AttributionStats {
    /// Which frames are stamped.
    pub mode: Attribution,
    /// What reading the clock takes, in nanoseconds; a stamped burst needs four stamps that others do not.
    pub stamp_ns: f64,
    /// What recording a burst in the histograms takes, in nanoseconds.
    pub record_ns: f64,
    /// What noting a frame in the list of flows takes, in nanoseconds.
    pub flow_ns: f64,
    /// Nanoseconds that workers were busy with queues that exist now, attribution with it.
    pub busy_ns: u64,
    /// What of that attribution took: recording as it was measured, and the stamps by the price above.
    pub spent_ns: u64,
}

impl AttributionStats {
    /// What attribution took of busy workers' time, from 0 to 1.
    pub fn share(&self) -> f64 {
        self.spent_ns as f64 / self.busy_ns.max(1) as f64
    }
}

/// The flows that cost most, and what others did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FlowList {
    /// The most costly first.
    pub flows: Vec<TopFlow<FlowCost>>,
    /// Flows for which there was no place any more when another came.
    pub replaced: u64,
    /// Frames that belong to no flow of TCP or UDP, and IP fragments of which the first one was not stamped.
    pub other: FlowCost,
}

impl FlowList {
    pub(crate) fn of(flows: &TopFlows<FlowCost>, top: usize) -> Self {
        Self {
            flows: flows.top(top),
            replaced: flows.replaced(),
            other: *flows.other(),
        }
    }
}

/// The flows of a port that cost most. Only stamped frames count.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PortFlows {
    /// The port.
    pub port: String,
    /// Which frames are stamped.
    pub attribution: Attribution,
    /// Stamped frames that its guest sent, and all frames that it sent meanwhile.
    pub stamped: u64,
    /// See `stamped`.
    pub frames: u64,
    /// By the time that frames from its guest spent in the switch.
    pub residence: FlowList,
    /// By what its filter added, in both directions.
    pub filter: FlowList,
    /// By how long they stood still, as far as somebody watches: a port with a filter is watched.
    pub stalls: Vec<TopFlow<FlowStalls>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_numbers_are_read_as_they_are_written() {
        for text in ["off", "auto", "full", "1", "1000"] {
            let mode: Attribution = text.parse().expect(text);
            assert_eq!(mode.to_string(), text);
        }
    }

    #[test]
    fn what_is_neither_is_told_with_what_would_do() {
        for text in ["", "0", "-1", "on", "1000000001", "99999999999999999999"] {
            let error = text.parse::<Attribution>().expect_err(text).to_string();
            assert!(
                error.contains("off, auto, full") && error.contains(&format!("{text:?}")),
                "{error}"
            );
        }
    }
}
