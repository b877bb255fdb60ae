//! How many files the process may have open, and what to do where those are not enough.

use std::error::Error;
use std::fmt;
use std::io;

use rustix::process::{Resource, getrlimit};

/// The number of files that the process may have open, all of which it has. Shown as reason and remedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileLimit(pub u64);

impl FileLimit {
    /// The limit in force.
    pub(crate) fn now() -> Self {
        Self(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX))
    }

    /// The limit, if it is what caused an error, however deep.
    pub(crate) fn behind(error: &(dyn Error + 'static)) -> Option<Self> {
        std::iter::successors(Some(error), |error| (*error).source())
            .filter_map(|error| error.downcast_ref::<io::Error>())
            .any(|error| error.raw_os_error() == Some(libc::EMFILE))
            .then(Self::now)
    }
}

impl fmt::Display for FileLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the switch has as many files open as it may, {} (RLIMIT_NOFILE), and a port with a guest takes about ten; remove \
             ports, or start it with a higher hard limit (ulimit -Hn in its shell, LimitNOFILE= in its systemd unit)",
            self.0
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::tap::TapError;

    #[test]
    fn the_limit_is_found_behind_other_errors() {
        let behind = |code| TapError::NoTunDevice {
            name: "tap0".into(),
            source: io::Error::from_raw_os_error(code),
        };
        assert_eq!(FileLimit::behind(&behind(libc::EMFILE)), Some(FileLimit::now()));
        assert_eq!(FileLimit::behind(&behind(libc::ENODEV)), None);
    }
}
