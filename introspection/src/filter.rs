//! The contract between a filter and the switch that owns the frames.
//!
//! A filter sits on one port and sees each frame that leaves the port's guest ([`Direction::Tx`]) or is about
//! to enter it ([`Direction::Rx`]). It never owns a frame: it is shown bursts, and answers with [`Action`]s
//! that the owner carries out in the order in which they stand.
//!
//! Every filter keeps this contract:
//! - each frame of a burst gets exactly one of [`Action::Forward`], [`Action::Hold`] or [`Action::Drop`];
//! - each held frame gets exactly one later [`Action::Release`] or [`Action::Drop`], by its deadline at the latest;
//! - order within a flow and direction is kept across holds, releases, expiry and draining;
//! - past its caps it fails open: it forwards what it cannot track.

use core::fmt;
use core::str::FromStr;
use core::time::Duration;
use std::sync::Arc;

use offload::FrameMeta;
use serde::{Deserialize, Serialize};

use crate::Instant;
use crate::rules::{RuleMatch, RuleSet};

/// The owner's name for a frame; never given twice in a filter's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameId(pub u64);

/// Which way a frame goes, seen from the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Leaves the guest.
    Tx,
    /// Enters the guest.
    Rx,
}

/// One frame as a filter sees it.
#[derive(Clone, Copy, Debug)]
pub struct FrameRef<'a> {
    /// The frame's name in [`Action`]s.
    pub id: FrameId,
    /// Which way it goes.
    pub direction: Direction,
    /// Its headers.
    pub meta: &'a FrameMeta,
    /// The transport payload, when [`Filter::needs`] asked for it; else empty. Of an IP fragment it is the packet, from its network
    /// header to its end. It is a private copy that is later delivered as it was judged.
    pub payload: &'a [u8],
    /// Payload octets of each segment when the frame is a large send that is still to be cut; else 0.
    pub gso_size: u16,
}

/// What a filter has to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Headers are enough.
    Headers,
    /// Headers and transport payload; of IP fragments the whole packet.
    Payload,
}

/// What is to happen to a frame. The owner carries actions out in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A frame of this burst goes on.
    Forward(FrameId),
    /// A frame of this burst is kept by the owner until it is released.
    Hold(FrameId),
    /// A frame held earlier goes on, for this reason.
    Release(FrameId, ReleaseCause),
    /// A held frame goes on as [`Action::Release`] says. The frame that went on just before it is of the same flow, and the owner
    /// makes one large frame of the two where it can.
    Join(FrameId, ReleaseCause),
    /// A frame of this burst, or one held earlier, is discarded.
    Drop(FrameId, DropCause),
    /// A frame of this burst is copied to the port of this name; what becomes of the frame itself follows.
    Mirror(FrameId, Arc<str>),
    /// The connection of the frame, a whole TCP segment, is torn down: the owner sends a RST to both its ends. The frame itself
    /// gets its own `Drop` before.
    Reset(FrameId),
}

/// Why a held frame goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReleaseCause {
    /// What it waited for came: a message boundary, or the acknowledgement of the chunk before it.
    Satisfied,
    /// Its deadline passed.
    Deadline,
    /// The filter was switched off or replaced, or its memory cap was met.
    Drained,
}

/// Why a filter discards a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DropCause {
    /// A rule says so. Also when rules that may drop are in force and the frame carries other octets than were judged
    /// for the same place in its stream or its fragmented datagram, or is a fragment that no datagram can be made of.
    Rule,
    /// The flow was reset by a rule before.
    FlowReset,
    /// A later acknowledgement says as much.
    Thinned,
}

/// A packet-introspection filter on one port. Sans-I/O: it takes the time and frames and returns actions.
pub trait Filter: Send {
    /// The profile that it implements.
    fn profile(&self) -> Profile;

    /// What it has to see of a frame.
    fn needs(&self) -> Needs;

    /// Judges a burst; appends to `actions`.
    fn inspect(&mut self, now: Instant, burst: &[FrameRef<'_>], actions: &mut Vec<Action>);

    /// The earliest deadline of a held frame.
    fn next_deadline(&self) -> Option<Instant>;

    /// Releases what is past its deadline at `now`, and forgets idle flows.
    fn expire(&mut self, now: Instant, actions: &mut Vec<Action>);

    /// Releases every held frame, in order: the filter is about to go.
    fn drain(&mut self, actions: &mut Vec<Action>);

    /// What it has counted so far.
    fn counters(&self) -> FilterCounters;

    /// Goes on with other rules: flows stay known, and what was denied stays denied. False when the filter has no rules to
    /// exchange.
    fn set_rules(&mut self, rules: Option<Arc<RuleSet>>) -> bool {
        let _ = rules;
        false
    }

    /// Measures by this clock, or no more, how long each of its parts judges a burst. A filter of one part has nothing to tell: who
    /// calls it sees as much.
    fn measure(&mut self, clock: Option<fn() -> Instant>) {
        let _ = clock;
    }

    /// What its parts did in the last call of [`Filter::inspect`], [`Filter::expire`] or [`Filter::drain`]; `None` for a filter
    /// of one part.
    fn parts(&self) -> Option<&PartWork> {
        None
    }

    /// Moves the most recent rule matches, at most some hundreds of them, to the end of `matches`. Filters
    /// without rules have none.
    fn take_matches(&mut self, matches: &mut Vec<RuleMatch>) {
        let _ = matches;
    }
}

/// What the parts of a filter did in one call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartWork {
    /// Nanoseconds that each part judged the burst, in the order of the parts; 0 where nobody measures.
    pub judged: Vec<u64>,
    /// Frames that a part let go.
    pub held: Vec<PartHold>,
}

/// A frame that a part of a filter held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartHold {
    /// The frame.
    pub id: FrameId,
    /// The part, by its place.
    pub part: usize,
    /// For how long it held it, in nanoseconds.
    pub ns: u64,
}

/// What a filter has counted since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterCounters {
    /// Frames shown to it.
    pub frames: u64,
    /// Payload octets judged by rules.
    pub inspected_octets: u64,
    /// Flows in its table now.
    pub flows: u64,
    /// Flows evicted because the table was full.
    pub flows_evicted: u64,
    /// Frames held.
    pub held: u64,
    /// Frames released because of what they waited for.
    pub released: u64,
    /// Frames released at their deadline.
    pub deadline_released: u64,
    /// Rule matches.
    pub matches: u64,
    /// Frames dropped.
    pub dropped: u64,
    /// Flows reset.
    pub resets: u64,
    /// Frames forwarded that could not be judged in their stream's context, because a cap was met or their headers go on for longer
    /// than is read (fail open).
    pub failed_open: u64,
    /// Frames that carried other octets than were judged for the same place in their stream or datagram, and IP fragments that no
    /// datagram can be made of.
    #[serde(default)]
    pub conflicts: u64,
    /// Copies made for other ports.
    #[serde(default)]
    pub mirrored: u64,
    /// Frames that were made one with the frame before them.
    #[serde(default)]
    pub joined: u64,
    /// Acknowledgements left out.
    #[serde(default)]
    pub thinned: u64,
    /// IP fragments shown to rules.
    #[serde(default)]
    pub fragments: u64,
    /// Datagrams put together of fragments and judged.
    #[serde(default)]
    pub reassembled: u64,
    /// Datagrams forgotten before they were whole, as nothing more of them came.
    #[serde(default)]
    pub fragments_expired: u64,
    /// Datagrams forgotten before they were whole, to make room: their fragments count in `failed_open`, too.
    #[serde(default)]
    pub fragments_evicted: u64,
}

/// A filter's named behaviour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// Not in the path.
    Off,
    /// Tracks flows, reassembles streams, applies rules; never holds.
    Inspect,
    /// Holds a flow's segments until a message boundary or a deadline.
    Hold,
    /// Lets one unacknowledged chunk per flow and direction through.
    Serialize,
    /// Makes one frame of adjacent segments.
    Coalesce,
    /// Leaves out some of the pure acknowledgements.
    ThinAcks,
}

impl Profile {
    /// Every profile, in the order of the documentation.
    pub const ALL: [Self; 6] = [
        Self::Off,
        Self::Inspect,
        Self::Hold,
        Self::Serialize,
        Self::Coalesce,
        Self::ThinAcks,
    ];

    /// The profile's name on the command line and in configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Inspect => "inspect",
            Self::Hold => "hold",
            Self::Serialize => "serialize",
            Self::Coalesce => "coalesce",
            Self::ThinAcks => "thin-acks",
        }
    }

    /// The longest that the profile holds a frame unless told otherwise; `None` when it never holds.
    ///
    /// `hold`: 50 ms, below the shortest retransmission time-out in use (200 ms) and about what store-and-forward
    /// inspection costs. `serialize`: 1 s, so that no delayed acknowledgement (200 ms at most, 500 ms by RFC 9293,
    /// 3.8.6.3) is cut short by it. `coalesce`: 1 ms, what adapters wait for more. `thin-acks`: 10 ms.
    pub const fn default_deadline(self) -> Option<Duration> {
        match self {
            Self::Off | Self::Inspect => None,
            Self::Hold => Some(Duration::from_millis(50)),
            Self::Serialize => Some(Duration::from_secs(1)),
            Self::Coalesce => Some(Duration::from_millis(1)),
            Self::ThinAcks => Some(Duration::from_millis(10)),
        }
    }

    /// Whether the profile may hold a frame.
    pub const fn holds(self) -> bool {
        self.default_deadline().is_some()
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// A name that is no profile's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is no filter profile; the profiles are off, inspect, hold, serialize, coalesce and thin-acks"
)]
pub struct ParseProfileError(pub String);

impl FromStr for Profile {
    type Err = ParseProfileError;

    fn from_str(text: &str) -> Result<Self, ParseProfileError> {
        Self::ALL
            .into_iter()
            .find(|profile| profile.name() == text)
            .ok_or_else(|| ParseProfileError(text.to_owned()))
    }
}
