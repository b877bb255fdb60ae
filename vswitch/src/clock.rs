//! The switch's clock: nanoseconds since the process first asked.

use std::sync::OnceLock;
use std::time::{Duration, Instant as StdInstant, SystemTime};

use introspection::Instant;

static EPOCH: OnceLock<(StdInstant, SystemTime)> = OnceLock::new();

fn epoch() -> &'static (StdInstant, SystemTime) {
    EPOCH.get_or_init(|| (StdInstant::now(), SystemTime::now()))
}

/// The present, on the monotonic clock.
pub fn now() -> Instant {
    #[cfg(test)]
    if let Some(at) = SET.get() {
        return at;
    }
    Instant(u64::try_from(epoch().0.elapsed().as_nanos()).unwrap_or(u64::MAX))
}

/// The wall-clock time of an instant of [`now`]; steps of the system's clock since the start are left out, so
/// that captures stay monotonic.
pub fn wall(at: Instant) -> SystemTime {
    epoch().1 + Duration::from_nanos(at.0)
}

#[cfg(test)]
thread_local! {
    static SET: std::cell::Cell<Option<Instant>> = const { std::cell::Cell::new(None) };
}

/// Has the calling thread live at this instant, or in real time again.
#[cfg(test)]
pub(crate) fn set(at: Option<Instant>) {
    SET.set(at);
}
