//! The control queue of the peer's guest, passed on by the peer: what its commands change at the port.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::net_control::{self, Command, CommandError, Limits, feature};
use crate::port::Capabilities;
use crate::port::receive::ReceivePolicy;

use super::features;

/// What a peer's guest has asked for. It lasts from one agreement on features to the next.
#[derive(Debug, Default)]
pub(super) struct NetControl {
    /// Whether the peer passes commands on.
    passes_on: AtomicBool,
    policy: Mutex<Arc<ReceivePolicy>>,
    /// The features agreed on, less the offloads that the guest has switched off.
    features: AtomicU64,
}

impl NetControl {
    /// Begins anew with the features that were agreed on.
    pub(super) fn begin(&self, features: u64, passes_on: bool) {
        *self.policy.lock() = Arc::new(ReceivePolicy::new(features));
        self.features.store(features, Ordering::Relaxed);
        self.passes_on.store(passes_on, Ordering::Release);
    }

    /// Carries a command out.
    pub(super) fn carry_out(&self, command: &[u8], limits: Limits) -> Result<(), CommandError> {
        let command = net_control::decode(command, limits)?;
        if let Command::GuestOffloads(offloads) = command {
            let others = limits.features & !feature::GUEST_OFFLOADS;
            self.features.store(others | offloads, Ordering::Relaxed);
        }
        Arc::make_mut(&mut self.policy.lock()).apply(command);
        Ok(())
    }

    /// What the guest receives without help now.
    pub(super) fn capabilities(&self) -> Capabilities {
        features::capabilities(self.features.load(Ordering::Relaxed))
    }

    /// What the guest has asked for; `None` of a peer that does not say.
    pub(super) fn policy(&self) -> Option<Arc<ReceivePolicy>> {
        self.passes_on
            .load(Ordering::Acquire)
            .then(|| Arc::clone(&self.policy.lock()))
    }
}
