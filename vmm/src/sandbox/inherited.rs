//! Descriptors that whoever started the process left open.
#![allow(unsafe_code)] // closing a descriptor that nothing in the program owns

use std::fs;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Descriptors beyond the standard ones that were open when the program began.
#[derive(Debug)]
pub struct Inherited(Vec<RawFd>);

impl Inherited {
    /// Call it first of all, before the program opens anything.
    pub fn find() -> Self {
        let entries = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
        let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let open = numbers.filter(|number| *number > libc::STDERR_FILENO);
        // The directory itself is closed by now, so what is still open was inherited.
        Self(
            open.collect::<Vec<_>>()
                .into_iter()
                .filter(|number| is_open(*number))
                .collect(),
        )
    }

    /// Closes them. A disk or kernel that was named by one of them (`/dev/fd/N`) has been opened anew by then.
    pub fn close(self) {
        for number in self.0 {
            // SAFETY: the descriptor was open when the program began, so nothing in the program owns it; and nothing
            // could take its number since, because it has been open all the time.
            drop(unsafe { OwnedFd::from_raw_fd(number) });
        }
    }
}

fn is_open(number: RawFd) -> bool {
    // SAFETY: F_GETFD takes any number and touches no memory of this process.
    unsafe { libc::fcntl(number, libc::F_GETFD) >= 0 }
}
