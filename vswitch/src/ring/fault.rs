//! Why a ring stopped.

/// What a driver did that makes its ring's state untrustworthy. The queue stops until the peer sets it up anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingFault {
    /// The size is not from 1 to 32768, or a split ring's no power of two.
    #[error("a queue of {0} entries: 1 to 32768 are possible, and in a split ring only powers of two")]
    Size(u32),
    /// A part of the ring is not in the guest's memory, or not in one piece.
    #[error("the {part} at {address:#x} is not inside of the shared memory")]
    Outside {
        /// Which part.
        part: &'static str,
        /// Its address, as the peer gave it.
        address: u64,
    },
    /// A part of the ring is not aligned.
    #[error("the {part} at {address:#x} is not aligned")]
    Misaligned {
        /// Which part.
        part: &'static str,
        /// Its address, as the peer gave it.
        address: u64,
    },
    /// The available index is further ahead than the queue is long.
    #[error("the available index jumped from {next} to {index}")]
    AvailIndex {
        /// The entry expected next.
        next: u16,
        /// The index found.
        index: u16,
    },
    /// A packed ring's position is not in the ring.
    #[error("slot {0} is not in the ring")]
    Position(u16),
    /// A descriptor's number is not below the queue's size.
    #[error("descriptor {0} does not exist")]
    DescriptorIndex(u16),
    /// A chain has more descriptors than the queue or [`crate::ring::CHAIN_LIMIT`], which a loop has.
    #[error("the chain from descriptor {0} is too long or a loop")]
    ChainTooLong(u16),
    /// An indirect descriptor without the feature.
    #[error("an indirect descriptor that was not negotiated")]
    IndirectUnexpected,
    /// An indirect descriptor inside an indirect table, or one with a successor.
    #[error("an indirect descriptor inside of a table or with a successor")]
    IndirectNested,
    /// An indirect table that is empty, too long or no multiple of 16 octets.
    #[error("an indirect table of {0} octets")]
    IndirectLength(u32),
    /// An indirect table outside of the guest's memory.
    #[error("an indirect table at {0:#x}, outside of the guest's memory")]
    IndirectAddress(u64),
    /// A buffer outside of the guest's memory.
    #[error("a buffer of {len} octets at {address:#x}, outside of the guest's memory")]
    Buffer {
        /// Guest physical address.
        address: u64,
        /// Length in octets.
        len: u32,
    },
    /// A buffer to be written in a transmit chain.
    #[error("a write-only buffer in a transmit queue")]
    WriteOnly,
    /// A buffer to be read in a receive chain.
    #[error("a read-only buffer in a receive queue")]
    ReadOnly,
    /// The memory for chains in hand is for smaller queues.
    #[error("a queue of {size} entries, and memory to note its chains in hand for {entries}")]
    Untracked {
        /// The queue's size.
        size: u16,
        /// The size that there is room for.
        entries: u16,
    },
    /// A receive chain without room for an octet.
    #[error("a receive buffer without any room")]
    EmptyBuffer,
}

impl RingFault {
    /// A word for counters.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Size(_) => "ring_size",
            Self::Outside { .. } => "ring_outside_memory",
            Self::Misaligned { .. } => "ring_misaligned",
            Self::AvailIndex { .. } => "ring_avail_index",
            Self::Position(_) => "ring_position",
            Self::DescriptorIndex(_) => "ring_descriptor_index",
            Self::ChainTooLong(_) => "ring_chain_too_long",
            Self::IndirectUnexpected => "ring_indirect_unexpected",
            Self::IndirectNested => "ring_indirect_nested",
            Self::IndirectLength(_) => "ring_indirect_length",
            Self::IndirectAddress(_) => "ring_indirect_address",
            Self::Buffer { .. } => "ring_buffer_address",
            Self::WriteOnly => "ring_write_only",
            Self::ReadOnly => "ring_read_only",
            Self::Untracked { .. } => "ring_untracked",
            Self::EmptyBuffer => "ring_empty_buffer",
        }
    }
}
