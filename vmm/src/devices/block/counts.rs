//! What happened to a disk.

use serde::{Deserialize, Serialize};

/// Requests that were carried out, that failed, and that broke the rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskCounts {
    /// Reads that were carried out.
    pub reads: u64,
    /// Octets that they read.
    pub read_octets: u64,
    /// Writes that were carried out.
    pub writes: u64,
    /// Octets that they wrote.
    pub written_octets: u64,
    /// Flushes that were carried out.
    pub flushes: u64,
    /// Discards that were carried out.
    pub discards: u64,
    /// Requests to write zeros that were carried out.
    pub zeroes: u64,
    /// Requests that the host failed to carry out; the guest was told.
    pub errors: u64,
    /// Requests that were refused.
    pub refusals: DiskRefusals,
}

/// Requests that were refused, by the first rule that they broke. A guest that does what Virtio 1.2 says causes
/// none of them but `unsupported`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskRefusals {
    /// The ring itself: its index ran ahead, or an entry is no descriptor.
    pub ring: u64,
    /// The chain does not end, ends nowhere, or has more descriptors than the ring allows.
    pub chain: u64,
    /// A descriptor points outside guest memory.
    pub address: u64,
    /// A descriptor describes no octets.
    pub empty: u64,
    /// A part that the device reads comes after one that it writes.
    pub order: u64,
    /// Fewer than 16 octets of header.
    pub header: u64,
    /// No room for the status, so that the guest cannot even be told.
    pub status: u64,
    /// No data, no whole sectors, or more than one request may carry.
    pub size: u64,
    /// Sectors behind the end of the disk.
    pub range: u64,
    /// A change of a read-only disk.
    pub read_only: u64,
    /// A kind of request, or a flag of it, that this device does not know.
    pub unsupported: u64,
}

/// A rule that a request breaks; the fields of [`DiskRefusals`] say which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Ring,
    Chain,
    Address,
    Empty,
    Order,
    Header,
    Status,
    Size,
    Range,
    ReadOnly,
    Unsupported,
}

impl DiskRefusals {
    /// Counts one refusal.
    pub(super) fn count(&mut self, refusal: Refusal) {
        let counter = match refusal {
            Refusal::Ring => &mut self.ring,
            Refusal::Chain => &mut self.chain,
            Refusal::Address => &mut self.address,
            Refusal::Empty => &mut self.empty,
            Refusal::Order => &mut self.order,
            Refusal::Header => &mut self.header,
            Refusal::Status => &mut self.status,
            Refusal::Size => &mut self.size,
            Refusal::Range => &mut self.range,
            Refusal::ReadOnly => &mut self.read_only,
            Refusal::Unsupported => &mut self.unsupported,
        };
        *counter += 1;
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.ring
            + self.chain
            + self.address
            + self.empty
            + self.order
            + self.header
            + self.status
            + self.size
            + self.range
            + self.read_only
            + self.unsupported
    }
}
