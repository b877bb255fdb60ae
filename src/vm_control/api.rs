//! What clients and machines say to each other, as JSON.

use serde::{Deserialize, Serialize};
use vmm::VmInfo;

/// What `Upgrade:` names when a connection becomes a console.
pub const CONSOLE_PROTOCOL: &str = "enlight-console";

/// How long a guest has to switch itself off when nobody says, in milliseconds.
pub const DEFAULT_STOP_MS: u64 = 30_000;
/// The longest time that it may be given.
pub const MAX_STOP_MS: u64 = 24 * 60 * 60 * 1000;

/// `GET /v1/info`: a machine as it is now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Info {
    /// Its name.
    pub name: String,
    /// Everything else.
    #[serde(flatten)]
    pub machine: VmInfo,
}

/// `POST /v1/stop`: how to stop.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StopRequest {
    /// How long the guest may take to switch itself off before that is done for it.
    pub timeout_ms: Option<u64>,
    /// Do not ask the guest.
    pub force: bool,
    /// Answer with [`Ended`] when the machine has ended, not with [`Stopping`] at once.
    pub wait: bool,
}

/// The answer to one that does not wait, which comes at once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stopping {
    /// When the machine will be switched off if its guest does not do it, in milliseconds from now.
    pub forced_in_ms: u64,
    /// Whether the guest has heard its power button. It is pressed again until then.
    pub guest_asked: bool,
    /// Why it has not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `GET /v1/wait`, or a stop that waits: how the machine ended, answered when it has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ended {
    /// In words.
    pub stopped: String,
    /// Whether it was switched off over its guest's head by [`StopRequest`].
    pub forced: bool,
    /// Why the guest of a machine that was to be stopped could not be asked to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether it ended as somebody wanted, not by a fault.
    pub success: bool,
}

/// Every refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// One line.
    pub error: String,
}

/// The answer where there is nothing to say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {}
