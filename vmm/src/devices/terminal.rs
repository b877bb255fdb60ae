//! What a machine's event loop needs of a device that the guest reads typed octets from.

use std::os::fd::RawFd;

/// The receiving half of a console device.
pub(crate) trait Terminal: Send + Sync {
    /// Octets that [`Terminal::receive`] takes now; at 0 the caller is told through [`Terminal::room_fd`] when there
    /// is room again.
    fn room(&self) -> usize;

    /// Octets for the guest, as many as [`Terminal::room`] allowed.
    fn receive(&self, octets: &[u8]);

    /// Readable when a terminal that was full has room again.
    fn room_fd(&self) -> RawFd;

    /// Forgets the signal of [`Terminal::room_fd`].
    fn clear_room(&self);
}
