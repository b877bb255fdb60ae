//! Which gaps of a recorded trace some policy caused, whose policy that was, and what to do about it.
//!
//! A [`Trace`] takes the TCP frames of a capture, seen at one tap or at two with a filter between them, and judges each
//! connection as a whole: a habit of an end (it sends small segments regardless, it answers what waits) is known before its
//! first gap is judged. [`crate::stall::StallWatcher`], which remembers a few frames of each connection, has those judged in
//! the same way.
//!
//! What a finding rests on:
//! - a frame's time between the taps tells what the filter held, and what came just before it left tells why;
//! - new data that follows a pure acknowledgement at once waited for it; whose lateness that was is seen where the
//!   acknowledgement left its sender, and whether its sender was entitled to be late follows from what it acknowledges
//!   (RFC 9293, 3.8.6.3: every second full-sized segment at least);
//! - a window of zero explains what its opening lets go;
//! - repeated data was lost, unless the filter still has it, or has its acknowledgement.
//!
//! What none of this explains is think time, and no stall.

mod counterfactual;
mod evidence;
mod finding;
mod habits;
mod judge;
mod limits;
mod pairing;
mod trace;
mod window;

pub use counterfactual::{ASSUMPTIONS, Counterfactual};
pub use finding::{Cause, Exhibit, Finding, Part};
pub use trace::{DiagnosisOptions, FlowDiagnosis, Tap, Trace, TraceFrame};
pub(crate) use window::Window;

#[cfg(test)]
mod tests;
