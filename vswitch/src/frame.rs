//! Frames on their way through a worker.
//!
//! A frame's headers are copied once, when it is taken off its ring, and everything that the switch decides is
//! decided on that copy; the copy is also what the receiver gets. The rest of the frame stays where its sender
//! put it until it is copied, once, into the receiver's pages.

use offload::VnetHeader;
use offload::rss::HashReport;

/// Frames handled together.
pub const BURST: usize = 32;

/// Octets at a frame's start that are copied before they are judged: enough for Ethernet, two VLAN tags, IPv4
/// and TCP with all their options, or IPv6 with some extension headers.
pub const HEADER_COPY: usize = 192;

/// The largest frame that the switch carries: a 64 KiB IP packet behind an Ethernet header and two VLAN tags.
pub const MAX_FRAME: usize = 65_535 + 14 + 8;

/// A run of octets in memory that is shared with a guest.
///
/// The guest may write it at any time, so it is only ever copied out of, never borrowed as a slice.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// First octet.
    pub ptr: *const u8,
    /// Length in octets.
    pub len: u32,
}

/// One frame of a [`Burst`].
#[derive(Debug)]
pub struct Frame {
    /// The sender's offload requests, as they stood on the ring.
    pub vnet: VnetHeader,
    /// Length of the whole frame in octets, `vnet` left out.
    pub len: u32,
    /// The backend's name for the frame's buffer: a virtqueue's descriptor head.
    pub token: u16,
    /// The queue pair that it came from.
    pub queue: u16,
    pub(crate) body: Body,
}

/// Where a frame's octets are.
#[derive(Debug)]
pub(crate) enum Body {
    /// Headers in the burst's private copy for this frame, the rest in segments of the burst's list.
    Shared { header_len: u16, first: u32, count: u32 },
    /// All of it in a private buffer.
    Owned(Vec<u8>),
}

/// Up to [`BURST`] frames that were taken off one port together.
///
/// Owned by a worker and used again and again, so that the steady state allocates nothing.
#[derive(Debug)]
pub struct Burst {
    pub(crate) frames: Vec<Frame>,
    /// Private copies of headers, by the frames' places. Apart from them, so that nothing of a frame is copied twice.
    headers: Box<[[u8; HEADER_COPY]; BURST]>,
    pub(crate) segments: Vec<Segment>,
    pub(crate) pool: BufferPool,
}

impl Default for Burst {
    fn default() -> Self {
        Self {
            frames: Vec::with_capacity(BURST),
            headers: Box::new([[0; HEADER_COPY]; BURST]),
            segments: Vec::with_capacity(4 * BURST),
            pool: BufferPool::default(),
        }
    }
}

impl Burst {
    /// Frames that it still takes.
    pub fn room(&self) -> usize {
        BURST.saturating_sub(self.frames.len())
    }

    /// The frames taken so far.
    pub fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// A frame as it would go to a receiver unchanged; `None` if there is no such frame.
    pub fn outgoing(&self, index: usize, flow_hash: u32) -> Option<Outgoing<'_>> {
        let frame = self.frames.get(index)?;
        Some(Outgoing {
            vnet: frame.vnet,
            len: frame.len,
            flow_hash,
            hash_report: HashReport::None,
            head: self.head(index),
            tail: self.tail(index),
        })
    }

    /// A frame's first octets, which are private.
    #[inline]
    pub(crate) fn head(&self, index: usize) -> &[u8] {
        match self.frames.get(index).map(|frame| &frame.body) {
            Some(Body::Shared { header_len, .. }) => self
                .headers
                .get(index)
                .and_then(|header| header.get(..usize::from(*header_len)))
                .unwrap_or(&[]),
            Some(Body::Owned(buffer)) => buffer,
            None => &[],
        }
    }

    /// What follows them, in the sender's memory.
    #[inline]
    pub(crate) fn tail(&self, index: usize) -> &[Segment] {
        match self.frames.get(index).map(|frame| &frame.body) {
            Some(Body::Shared { first, count, .. }) => {
                let first = *first as usize;
                self.segments.get(first..first + *count as usize).unwrap_or(&[])
            }
            _ => &[],
        }
    }

    /// Where the headers of the next frame go, and all segments; `None` if the burst is full.
    #[inline]
    pub(crate) fn next_header(&mut self) -> Option<(&mut [u8; HEADER_COPY], &mut [Segment])> {
        let header = self.headers.get_mut(self.frames.len())?;
        Some((header, &mut self.segments))
    }

    /// A buffer of `len` zero octets, from the pool when it has one, to pass to [`Burst::push_owned`].
    pub fn buffer(&mut self, len: usize) -> Vec<u8> {
        self.pool.take(len)
    }

    /// Adds a frame that lies in a private buffer.
    pub fn push_owned(&mut self, vnet: VnetHeader, frame: Vec<u8>) {
        let len = frame.len() as u32;
        self.frames.push(Frame {
            vnet,
            len,
            token: 0,
            queue: 0,
            body: Body::Owned(frame),
        });
    }

    /// Adds a frame whose first octets were copied; the rest, which may be nothing, stays where it is until the burst is
    /// complete.
    pub(crate) fn push_shared(
        &mut self,
        vnet: VnetHeader,
        header: [u8; HEADER_COPY],
        len: usize,
        rest: Segment,
    ) {
        let Some((place, _)) = self.next_header() else {
            return;
        };
        *place = header;
        let first = self.segments.len() as u32;
        let count = u32::from(rest.len > 0);
        self.segments.extend((rest.len > 0).then_some(rest));
        self.frames.push(Frame {
            vnet,
            len: len as u32 + rest.len,
            token: 0,
            queue: 0,
            body: Body::Shared {
                header_len: len as u16,
                first,
                count,
            },
        });
    }

    /// Forgets all frames; private buffers go back to the pool.
    pub fn clear(&mut self) {
        for frame in self.frames.drain(..) {
            if let Body::Owned(buffer) = frame.body {
                self.pool.give(buffer);
            }
        }
        self.segments.clear();
    }
}

/// A frame ready for a receiver that is able to take it as it is.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// Offload requests towards the receiver; `num_buffers` is the backend's to fill in.
    pub vnet: VnetHeader,
    /// Length of the whole frame in octets: `head` and all of `tail`.
    pub len: u32,
    /// A hash of the frame's flow, to choose among queues.
    pub flow_hash: u32,
    /// What the hash was taken over, if it is the one that the receiver's guest asked for.
    pub hash_report: HashReport,
    /// The frame's first octets, private.
    pub head: &'a [u8],
    /// What follows them, in memory shared with the sender's guest.
    pub tail: &'a [Segment],
}

/// Buffers of two sizes that come back after use.
#[derive(Debug, Default)]
pub(crate) struct BufferPool {
    small: Vec<Vec<u8>>,
    large: Vec<Vec<u8>>,
}

const SMALL: usize = 2048;
const POOLED: usize = 64;

impl BufferPool {
    /// A buffer of exactly `len` octets, all zero.
    pub(crate) fn take(&mut self, len: usize) -> Vec<u8> {
        let mut buffer = self.empty(len);
        buffer.resize(len, 0);
        buffer
    }

    /// An empty buffer with room for `len` octets.
    pub(crate) fn empty(&mut self, len: usize) -> Vec<u8> {
        let (shelf, capacity) = if len <= SMALL {
            (&mut self.small, SMALL)
        } else {
            (&mut self.large, MAX_FRAME + 32)
        };
        let mut buffer = shelf
            .pop()
            .unwrap_or_else(|| Vec::with_capacity(capacity.max(len)));
        buffer.reserve(len);
        buffer
    }

    /// Takes a buffer back.
    pub(crate) fn give(&mut self, mut buffer: Vec<u8>) {
        buffer.clear();
        let shelf = if buffer.capacity() <= SMALL {
            &mut self.small
        } else {
            &mut self.large
        };
        if shelf.len() < POOLED && buffer.capacity() >= SMALL {
            shelf.push(buffer);
        }
    }
}
