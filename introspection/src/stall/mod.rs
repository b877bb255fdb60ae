//! Which gaps of a flow some policy caused, and whose.
//!
//! [`StallWatcher`] sees every frame of a port on both sides of the port's filter, whatever the filter is, and names the
//! cause of each stretch in which a flow stood still although something was outstanding:
//! - *delayed acknowledgement*: payload waited, in the filter or still with its sender, for a pure acknowledgement
//!   that its receiver sent late;
//! - *filter hold*: a frame sat between the two sides, or the acknowledgement that its receiver waited for did;
//! - *retransmission*: the stretch ended with repeated data.
//!
//! A stretch in which neither end had anything to send is think time and no stall: a late acknowledgement is one only if
//! payload that had waited for it follows at once.
//!
//! A flow that stood still is then judged once more, by what it did last and in the way of [`crate::diagnosis`], which
//! tells more causes apart: [`StallWatcher::summary`].

mod cause;
mod lane;
mod review;
mod watcher;

use core::fmt;
use core::time::Duration;

use serde::{Deserialize, Serialize};

use crate::diagnosis::Cause;
use crate::flow::FlowKey;
use crate::{Direction, Instant};
pub use cause::{CauseTable, FlowStalls, Gaps, StallSummary};
pub use watcher::{StallOptions, StallWatcher};

/// A side of a port's filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Point {
    /// The guest's side.
    Near,
    /// The switch's side.
    Far,
}

impl Point {
    /// Where a frame that goes `direction` enters the filter.
    pub const fn entry(direction: Direction) -> Self {
        match direction {
            Direction::Tx => Self::Near,
            Direction::Rx => Self::Far,
        }
    }

    /// Where it leaves the filter.
    pub const fn exit(direction: Direction) -> Self {
        match direction {
            Direction::Tx => Self::Far,
            Direction::Rx => Self::Near,
        }
    }
}

/// What caused a stall.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StallCause {
    /// The receiver's policy not to acknowledge at once.
    DelayedAck,
    /// The filter's policy.
    FilterHold,
    /// A loss, and the sender's retransmission timer.
    Retransmission,
}

/// Stalls counted by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StallCounts {
    /// Delayed acknowledgements that payload waited for.
    pub delayed_ack: u64,
    /// Frames that sat in the filter.
    pub filter_hold: u64,
    /// Gaps that ended with repeated data.
    pub retransmission: u64,
}

/// Time that flows stood still, in nanoseconds, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StallTotals {
    /// For delayed acknowledgements.
    pub delayed_ack_ns: u64,
    /// For the filter.
    pub filter_hold_ns: u64,
    /// For retransmissions.
    pub retransmission_ns: u64,
}

/// What a frame has to do with a stall.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Payload on its way to the receiver, which the late acknowledgement was for, or which was lost.
    Delivered,
    /// A frame as it entered the filter, to sit there.
    Held,
    /// The same frame as it left the filter.
    Released,
    /// The acknowledgement that was waited for, as its sender sent it.
    Acknowledgement,
    /// What the sender sent as soon as it could.
    Continuation,
    /// Data that was sent before.
    Repetition,
}

/// A frame as it was seen on one side of the filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// What it has to do with the stall.
    pub role: Role,
    /// When it was seen.
    pub at: Instant,
    /// Where it was seen.
    pub point: Point,
    /// Which way it went.
    pub direction: Direction,
    /// Its sequence number.
    pub seq: u32,
    /// Sequence numbers that it takes: payload octets, and one each for SYN and FIN.
    pub len: u32,
    /// Its acknowledgement number.
    pub ack: u32,
    /// Its flags, as in [`offload::TcpFlags`].
    pub flags: u8,
}

/// A stretch in which a flow stood still, its cause, and the frames that prove it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stall {
    /// The flow.
    pub flow: FlowKey,
    /// Why it stood still.
    pub cause: StallCause,
    /// The same in the terms of the diagnosis, once that has judged it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<Cause>,
    /// From when on something waited.
    pub start: Instant,
    /// When what it waited for came.
    pub end: Instant,
    /// From `start` to `end` in nanoseconds.
    pub gap_ns: u64,
    /// The frames that prove it, by time; at most four.
    pub evidence: Vec<Evidence>,
    /// The sequence numbers before the first octet seen of what the guest sends and of what it receives:
    /// [`Stall::explain`] counts from these, as Wireshark does.
    pub bases: [u32; 2],
}

impl Stall {
    /// The stall in one line of English.
    pub fn explain(&self) -> String {
        Explanation(self).to_string()
    }

    /// For a delayed acknowledgement: from the data being on its way to the receiver to the acknowledgement's leaving it, in
    /// nanoseconds. What waited may have begun to wait later, so the gap may be shorter.
    pub fn ack_delay_ns(&self) -> Option<u64> {
        let data = self.role(Role::Delivered)?;
        let ack = self.role(Role::Acknowledgement)?;
        (self.cause == StallCause::DelayedAck).then(|| ack.at.since(data.at))
    }

    fn role(&self, role: Role) -> Option<&Evidence> {
        self.evidence.iter().find(|frame| frame.role == role)
    }
}

/// Writes [`Stall::explain`].
struct Explanation<'a>(&'a Stall);

impl Explanation<'_> {
    /// A frame's sequence numbers, first and behind the last, from the start of its stream.
    fn range(&self, frame: &Evidence) -> String {
        let [tx, rx] = self.0.bases;
        let base = match frame.direction {
            Direction::Tx => tx,
            Direction::Rx => rx,
        };
        let first = frame.seq.wrapping_sub(base);
        format!("{first}..{}", first.wrapping_add(frame.len))
    }

    fn delayed_ack(&self, out: &mut fmt::Formatter<'_>, gap: Millis) -> fmt::Result {
        let stall = self.0;
        let (Some(data), Some(ack)) = (stall.role(Role::Delivered), stall.role(Role::Acknowledgement)) else {
            return write!(out, "{gap}: delayed ACK");
        };
        let sender = stall.flow.sender(data.direction);
        let receiver = stall.flow.sender(ack.direction).addr;
        if let Some(held) = stall.role(Role::Held) {
            write!(out, "{gap}: the filter kept segment seq {}", self.range(held))?;
        } else if let Some(next) = stall.role(Role::Continuation) {
            write!(out, "{gap}: {sender} kept back seq {}", self.range(next))?;
        }
        let late = Millis(ack.at.since(data.at));
        write!(
            out,
            " until {receiver} acknowledged seq {}; that ACK came {late} late (delayed ACK)",
            self.range(data)
        )
    }

    fn filter_hold(&self, out: &mut fmt::Formatter<'_>, gap: Millis) -> fmt::Result {
        let stall = self.0;
        let Some(held) = stall.role(Role::Held) else {
            return write!(out, "{gap}: held by the filter");
        };
        let sender = stall.flow.sender(held.direction);
        match stall.role(Role::Continuation) {
            Some(next) => write!(
                out,
                "{gap}: the filter kept the ACK of {sender} that seq {} waited for",
                self.range(next)
            ),
            None => write!(
                out,
                "{gap}: the filter kept segment seq {} of {sender}, and no late ACK was awaited",
                self.range(held)
            ),
        }
    }
}

impl fmt::Display for Explanation<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stall = self.0;
        let gap = Millis(stall.gap_ns);
        match stall.cause {
            StallCause::DelayedAck => self.delayed_ack(out, gap),
            StallCause::FilterHold => self.filter_hold(out, gap),
            StallCause::Retransmission => match stall.role(Role::Repetition) {
                Some(again) => write!(
                    out,
                    "{gap}: {} got no answer and sent seq {} again (retransmission)",
                    stall.flow.sender(again.direction),
                    self.range(again)
                ),
                None => write!(out, "{gap}: retransmission"),
            },
        }
    }
}

/// Nanoseconds, written in whole milliseconds.
#[derive(Clone, Copy)]
struct Millis(u64);

impl fmt::Display for Millis {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rounded = Duration::from_nanos(self.0.saturating_add(500_000)).as_millis();
        write!(out, "{rounded} ms")
    }
}

impl StallCounts {
    /// All of them.
    pub const fn total(&self) -> u64 {
        self.delayed_ack + self.filter_hold + self.retransmission
    }

    const fn count(&mut self, cause: StallCause) {
        match cause {
            StallCause::DelayedAck => self.delayed_ack += 1,
            StallCause::FilterHold => self.filter_hold += 1,
            StallCause::Retransmission => self.retransmission += 1,
        }
    }
}

impl StallTotals {
    const fn add(&mut self, cause: StallCause, ns: u64) {
        let total = match cause {
            StallCause::DelayedAck => &mut self.delayed_ack_ns,
            StallCause::FilterHold => &mut self.filter_hold_ns,
            StallCause::Retransmission => &mut self.retransmission_ns,
        };
        *total = total.saturating_add(ns);
    }
}

#[cfg(test)]
mod tests;
