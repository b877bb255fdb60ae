//! Why a process cannot give up what it has.

use std::io;

/// A sandbox that cannot be had. Its text is one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The kernel refused.
    #[error("cannot {what}: {source}; --no-sandbox goes without the sandbox")]
    System {
        /// What was being done.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A filter does not fit the kernel's limits.
    #[error(
        "cannot make the sandbox' filter for {what} threads: {reason}; --no-sandbox goes without the sandbox"
    )]
    Filter {
        /// Whose filter.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

/// Names what was being done when the kernel refused.
pub(super) fn system<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> SandboxError {
    move |source| SandboxError::System {
        what,
        source: source.into(),
    }
}
