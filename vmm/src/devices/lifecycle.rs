//! What every device can be asked while the guest does not run.
//!
//! The machine pauses its processors first, then its devices in any order, and resumes them the other way round.
//! Between the two a device's state can be exported, which is what snapshots and migration build on.

use serde::Serialize;
use serde_json::Value;

/// The contract between a machine and each of its devices.
pub(crate) trait Lifecycle {
    /// Finishes or puts back what is under way, then neither touches guest memory nor raises interrupts until
    /// [`Lifecycle::resume`]. Does nothing when paused already.
    fn pause(&mut self);

    /// Goes on where [`Lifecycle::pause`] stopped: what the driver asked for meanwhile is served, what it has not seen
    /// yet is signalled. Does nothing when not paused.
    fn resume(&mut self);

    /// Forgets the driver and everything that it set, as at power-on. Counters stay. Works paused or not, and leaves
    /// that as it is.
    fn reset(&mut self);

    /// Everything that the guest can observe of a paused device, or why that cannot be had.
    fn export(&self) -> Result<SavedState, CannotExport>;
}

/// A device's state in a form that outlives the process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct SavedState {
    /// Which kind of device, such as `virtio-blk`.
    pub(crate) kind: &'static str,
    /// The layout of `state`; a device that changes the layout counts it up.
    pub(crate) version: u32,
    /// The device's own structure.
    pub(crate) state: Value,
}

impl SavedState {
    /// Puts a device's own structure into the common form.
    pub(crate) fn new(kind: &'static str, version: u32, state: impl Serialize) -> Result<Self, CannotExport> {
        let state = serde_json::to_value(state).map_err(|error| CannotExport::Unrepresentable {
            kind,
            reason: error.to_string(),
        })?;
        Ok(Self { kind, version, state })
    }
}

/// Why a device's state cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CannotExport {
    /// It would change while it is read.
    #[error("{0} is not paused; pause the machine first")]
    Running(&'static str),
    /// Part of the state is with somebody who does not give it away.
    #[error("{kind} cannot be exported: {reason}")]
    Elsewhere {
        /// Which kind of device.
        kind: &'static str,
        /// Who has it, and why that cannot be asked.
        reason: &'static str,
    },
    /// The state does not fit the common form.
    #[error("the state of {kind} cannot be written down: {reason}")]
    Unrepresentable {
        /// Which kind of device.
        kind: &'static str,
        /// What the serialiser said.
        reason: String,
    },
}
