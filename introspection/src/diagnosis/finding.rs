//! What a diagnosis says.

use core::fmt;

use serde::{Deserialize, Serialize};

use super::trace::Tap;
use crate::flow::FlowKey;
use crate::{Direction, Instant};

/// What caused a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// The sender kept a small segment back until an earlier one was acknowledged (Nagle's algorithm, RFC 9293, 3.7.4), and
    /// its receiver delayed that acknowledgement.
    NagleDelayedAck,
    /// The sender's next send waited for the acknowledgement of the last one, which its receiver delayed.
    DelayedAck,
    /// The filter kept a frame, or the acknowledgement that something waited for.
    FilterHold,
    /// The filter kept a frame until the one before it was acknowledged.
    FilterSerialised,
    /// Segments were merged on their way, so that their receiver counted too few to acknowledge at once.
    Coalescing,
    /// A loss, ended by a tail-loss probe (RFC 8985, 7) or the retransmission timer (RFC 6298).
    Retransmission,
    /// The receiver's window was closed.
    ZeroWindow,
    /// Data waited for an acknowledgement that its receiver was not entitled to delay, and nothing seen says why.
    Unknown,
}

impl Cause {
    /// Every cause, in the order of the documentation.
    pub const ALL: [Self; 8] = [
        Self::NagleDelayedAck,
        Self::DelayedAck,
        Self::FilterHold,
        Self::FilterSerialised,
        Self::Coalescing,
        Self::Retransmission,
        Self::ZeroWindow,
        Self::Unknown,
    ];

    /// Its name in output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NagleDelayedAck => "nagle-delayed-ack",
            Self::DelayedAck => "delayed-ack",
            Self::FilterHold => "filter-hold",
            Self::FilterSerialised => "filter-serialised",
            Self::Coalescing => "coalescing",
            Self::Retransmission => "retransmission",
            Self::ZeroWindow => "zero-window",
            Self::Unknown => "unknown",
        }
    }

    /// The cause as the end of a sentence that begins with "because".
    pub const fn because(self) -> &'static str {
        match self {
            Self::NagleDelayedAck => {
                "a sender kept a small segment back until an earlier one was acknowledged (Nagle), and its receiver delayed that ACK"
            }
            Self::DelayedAck => {
                "a sender's next send waited for the acknowledgement of the last one, which its receiver delayed"
            }
            Self::FilterHold => "the filter kept a frame, or the acknowledgement that a sender waited for",
            Self::FilterSerialised => {
                "the filter let a frame go only after the one before it was acknowledged, and the receiver was entitled to delay \
                 that ACK"
            }
            Self::Coalescing => {
                "segments were merged on their way, so that their receiver counted too few to acknowledge at once"
            }
            Self::Retransmission => "a frame was lost, and the sender waited for its timer",
            Self::ZeroWindow => "the receiver's window was closed",
            Self::Unknown => {
                "an acknowledgement came later than any policy entitles its sender to, and nothing that was seen says why"
            }
        }
    }

    /// Whether it is the filter that makes flows stand still.
    pub const fn is_of_filter(self) -> bool {
        matches!(self, Self::FilterHold | Self::FilterSerialised)
    }

    /// What to do about it.
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::NagleDelayedAck => {
                "set TCP_NODELAY in the sender, or write each message with one call; else let the receiver acknowledge at \
                 once (TCP_QUICKACK, TcpAckFrequency = 1)"
            }
            Self::DelayedAck => {
                "let the sender have several sends under way instead of waiting for each; else let the receiver acknowledge \
                 at once (TCP_QUICKACK, TcpAckFrequency = 1)"
            }
            Self::FilterHold => {
                "use a profile that holds nothing (`enlight filter set PORT inspect`), or a shorter deadline (`--deadline MS`)"
            }
            Self::FilterSerialised => {
                "use a profile that does not wait for acknowledgements (`enlight filter set PORT inspect`); TCP_NODELAY in \
                 the sender does not help"
            }
            Self::Coalescing => {
                "switch the merging of segments off (LRO, RSC), or pass the segment size (gso_size) on with merged frames"
            }
            Self::Retransmission => {
                "look for what drops frames on the path (full queues, a policer, a rule of a filter); the waiting itself is \
                 the sender's timer"
            }
            Self::ZeroWindow => {
                "look at the receiving application: it does not read, or its buffer (SO_RCVBUF) is too small"
            }
            Self::Unknown => {
                "capture nearer to the receiver, on both sides of whatever is in the path, to see where the delay arises"
            }
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// What a frame has to do with a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// Data that the receiver had.
    Data,
    /// A frame as it came to the filter, to be kept there.
    Held,
    /// The same as it left the filter.
    Released,
    /// The acknowledgement that was waited for.
    Acknowledgement,
    /// What the sender sent as soon as it could.
    Continuation,
    /// Data that was sent before.
    Repetition,
    /// The window is closed.
    WindowClosed,
    /// The window is open again.
    WindowOpened,
}

/// A frame that proves something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exhibit {
    /// Its number in the capture, from 1, as Wireshark counts.
    pub frame: u64,
    /// The tap that saw it.
    pub tap: Tap,
    /// What it shows.
    pub part: Part,
    /// When it was seen.
    pub at: Instant,
    /// Which way it went.
    pub direction: Direction,
    /// Its sequence number, counted from the start of its stream.
    pub seq: u32,
    /// Its payload in octets.
    pub len: u32,
    /// Its acknowledgement number, counted from the start of the other stream.
    pub ack: u32,
}

/// A stretch in which a flow stood still, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// The flow.
    pub flow: FlowKey,
    /// Which way what waited went.
    pub direction: Direction,
    /// Why it stood still.
    pub cause: Cause,
    /// From when on something waited.
    pub start: Instant,
    /// For how long, in nanoseconds.
    pub gap_ns: u64,
    /// How sure this is, from 0 to 1.
    pub confidence: f32,
    /// The frames that prove it, by time; at most four.
    pub evidence: Vec<Exhibit>,
    /// What to do about it.
    pub remedy: String,
}

impl Finding {
    /// When the gap ended.
    pub const fn end(&self) -> Instant {
        Instant(self.start.0.saturating_add(self.gap_ns))
    }

    /// The finding in one line of English.
    pub fn explain(&self) -> String {
        let gap = Millis(self.gap_ns);
        let sender = self.flow.sender(self.direction);
        let receiver = self.flow.sender(match self.direction {
            Direction::Tx => Direction::Rx,
            Direction::Rx => Direction::Tx,
        });
        let range = |part| self.exhibit(part).map_or_else(String::new, range);
        let late = match (self.exhibit(Part::Data), self.exhibit(Part::Acknowledgement)) {
            (Some(data), Some(ack)) => format!(
                "the ACK of {} left {receiver} {} after that data",
                range(Part::Data),
                Millis(ack.at.since(data.at))
            ),
            _ => format!("the ACK of {receiver} came late"),
        };
        match self.cause {
            Cause::NagleDelayedAck => format!(
                "{gap}: {sender} kept small segment {} back (Nagle), and {late}",
                range(Part::Continuation)
            ),
            Cause::DelayedAck => format!(
                "{gap}: {sender} waited to send {}, and {late}",
                range(Part::Continuation)
            ),
            Cause::FilterHold if self.exhibit(Part::Continuation).is_some() => {
                format!(
                    "{gap}: the filter kept the ACK of {receiver} that {} waited for",
                    range(Part::Continuation)
                )
            }
            Cause::FilterHold => format!("{gap}: the filter kept {} of {sender}", range(Part::Held)),
            Cause::FilterSerialised => format!(
                "{gap}: the filter kept {} of {sender} until {receiver} acknowledged {}",
                range(Part::Held),
                range(Part::Data)
            ),
            Cause::Coalescing => {
                format!("{gap}: segments of {sender} were merged into one frame, and {late}")
            }
            Cause::Retransmission => {
                format!(
                    "{gap}: {sender} got no answer and sent {} again",
                    range(Part::Repetition)
                )
            }
            Cause::ZeroWindow => format!("{gap}: the window of {receiver} was closed"),
            Cause::Unknown => format!("{gap}: {late}, which no policy of ACKs entitles it to"),
        }
    }

    fn exhibit(&self, part: Part) -> Option<&Exhibit> {
        self.evidence.iter().find(|exhibit| exhibit.part == part)
    }
}

/// A frame's sequence numbers, first and behind the last.
fn range(exhibit: &Exhibit) -> String {
    format!("seq {}..{}", exhibit.seq, exhibit.seq.wrapping_add(exhibit.len))
}

/// Nanoseconds, written in milliseconds.
struct Millis(u64);

impl fmt::Display for Millis {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} ms", self.0.saturating_add(500_000) / 1_000_000)
    }
}
