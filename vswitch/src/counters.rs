//! Counters of a port, and the reasons for which frames are dropped.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $label:literal,)+) => {
        /// Why a frame was dropped: a counter, a metric label and a word in `enlight stats`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum DropReason {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl DropReason {
            /// Every reason.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The reason's label.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)+ }
            }
        }
    };
}

drop_reasons! {
    /// Shorter than an Ethernet header, or longer than the switch carries.
    BadLength = "bad_length",
    /// A virtio-net header that contradicts the frame.
    BadOffload = "bad_offload",
    /// A ring or descriptor that breaks the rules (the queue stops).
    RingFault = "ring_fault",
    /// The source address is a group address.
    BadSource = "bad_source",
    /// Its VLAN is not allowed on this port.
    Vlan = "vlan",
    /// The destination sits on the port it came from.
    SamePort = "same_port",
    /// Nobody to flood it to.
    NoDestination = "no_destination",
    /// The destination's peer is not there.
    PortDown = "port_down",
    /// The receiver took no frames until its backlog was full.
    ReceiverFull = "receiver_full",
    /// It came by an uplink, and the queue of the VM that it goes to was full: that queue's worker does not keep up.
    VmQueueFull = "vm_queue_full",
    /// Larger than the receiver's MTU and not cuttable.
    Oversize = "oversize",
    /// The receiver's buffers can never hold it.
    BufferTooSmall = "buffer_too_small",
    /// A filter's rule.
    FilterRule = "filter_rule",
    /// Of a flow that a filter reset.
    FilterReset = "filter_reset",
    /// An acknowledgement that the profile `thin-acks` left out.
    FilterThinned = "filter_thinned",
    /// The peer's memory vanished while the frame was being copied.
    MemoryLost = "memory_lost",
    /// The interface's driver refused it.
    DeviceError = "device_error",
}

/// What a port has counted. Relaxed atomics: read by anyone at any time.
#[derive(Debug, Default)]
pub struct PortCounters {
    /// Frames taken from the guest.
    pub tx_frames: AtomicU64,
    /// Octets taken from the guest.
    pub tx_octets: AtomicU64,
    /// Frames delivered to the guest.
    pub rx_frames: AtomicU64,
    /// Octets delivered to the guest.
    pub rx_octets: AtomicU64,
    /// Frames from the guest that were flooded.
    pub flooded: AtomicU64,
    /// Large frames cut in software for this receiver.
    pub segmented: AtomicU64,
    /// Segments from uplinks that were merged into others for this receiver.
    pub coalesced: AtomicU64,
    /// Checksums finished in software for this receiver.
    pub checksummed: AtomicU64,
    /// Frames kept for this receiver until it had room.
    pub backlogged: AtomicU64,
    /// Frames that its guest's receive filters left out: for other addresses or VLANs, so not lost.
    pub filtered: AtomicU64,
    tx_dropped: [AtomicU64; DropReason::ALL.len()],
    rx_dropped: [AtomicU64; DropReason::ALL.len()],
}

impl PortCounters {
    /// Adds to a counter that has one writer at a time or may be shared.
    pub fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    /// Counts a frame from the guest that was dropped.
    pub fn drop_tx(&self, reason: DropReason) {
        Self::add(&self.tx_dropped[reason as usize], 1);
    }

    /// Counts a frame to the guest that was dropped.
    pub fn drop_rx(&self, reason: DropReason) {
        Self::add(&self.rx_dropped[reason as usize], 1);
    }

    /// A copy of all counters.
    pub fn snapshot(&self) -> CounterSnapshot {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let drops = |table: &[AtomicU64]| {
            DropReason::ALL
                .iter()
                .zip(table)
                .map(|(reason, counter)| (*reason, read(counter)))
                .filter(|(_, n)| *n > 0)
                .collect()
        };
        CounterSnapshot {
            tx_frames: read(&self.tx_frames),
            tx_octets: read(&self.tx_octets),
            rx_frames: read(&self.rx_frames),
            rx_octets: read(&self.rx_octets),
            flooded: read(&self.flooded),
            segmented: read(&self.segmented),
            coalesced: read(&self.coalesced),
            checksummed: read(&self.checksummed),
            backlogged: read(&self.backlogged),
            filtered: read(&self.filtered),
            tx_dropped: drops(&self.tx_dropped),
            rx_dropped: drops(&self.rx_dropped),
        }
    }
}

/// Counters of a port at one moment. Directions are the guest's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterSnapshot {
    /// Frames taken from the guest.
    pub tx_frames: u64,
    /// Octets taken from the guest.
    pub tx_octets: u64,
    /// Frames delivered to the guest.
    pub rx_frames: u64,
    /// Octets delivered to the guest.
    pub rx_octets: u64,
    /// Frames from the guest that were flooded.
    pub flooded: u64,
    /// Large frames cut in software for this receiver.
    pub segmented: u64,
    /// Segments from uplinks that were merged into others for this receiver.
    pub coalesced: u64,
    /// Checksums finished in software for this receiver.
    pub checksummed: u64,
    /// Frames kept for this receiver until it had room.
    pub backlogged: u64,
    /// Frames that its guest's receive filters left out: for other addresses or VLANs, so not lost.
    #[serde(default)]
    pub filtered: u64,
    /// Frames from the guest that were dropped, by reason.
    pub tx_dropped: std::collections::BTreeMap<DropReason, u64>,
    /// Frames to the guest that were dropped, by reason.
    pub rx_dropped: std::collections::BTreeMap<DropReason, u64>,
}
