//! The four rings of an AF_XDP socket (Documentation/networking/af_xdp.rst): single producer, single consumer, in memory
//! shared with the kernel.
//!
//! `unsafe` is for that memory.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::net::xdp::XdpRingOffset;

/// Memory that is shared with the kernel. Unmapped when dropped.
#[derive(Debug)]
pub(super) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping is an address range that belongs to the process and stays mapped until the value is dropped; which
// thread uses or drops it makes no difference. What is in it is accessed by `Ring` and `Umem`, under their own rules.
unsafe impl Send for Mapping {}
// SAFETY: as above; the value itself never changes.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Memory of the process's own, all zero.
    pub(super) fn anonymous(len: usize) -> io::Result<Self> {
        Self::map(len, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
    }

    /// A ring of a socket.
    pub(super) fn of_socket(socket: &OwnedFd, offset: u64, len: usize) -> io::Result<Self> {
        let offset = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        Self::map(len, flags, socket.as_raw_fd(), offset)
    }

    fn map(len: usize, flags: libc::c_int, fd: libc::c_int, offset: libc::off_t) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: no address is asked for, so that the kernel chooses one where nothing is mapped yet.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, fd, offset) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, len })
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `map`, and nothing points into it any more: rings and UMEM keep the mapping
        // that they point into.
        unsafe { libc::munmap(self.as_ptr().cast(), self.len) };
    }
}

/// A ring's parts, seen from our side, which is either the producer's or the consumer's.
#[derive(Debug)]
struct Ring<T> {
    /// Keeps the pointers valid.
    _mapping: Arc<Mapping>,
    ours: NonNull<AtomicU32>,
    theirs: NonNull<AtomicU32>,
    flags: Option<NonNull<AtomicU32>>,
    entries: NonNull<T>,
    size: u32,
    /// The next entry of ours, published or not.
    next: u32,
}

// SAFETY: the pointers lead into the mapping that is kept beside them, and only methods that take `&mut self` access entries.
unsafe impl<T: Send> Send for Ring<T> {}

/// The side that fills a ring.
#[derive(Debug)]
pub(super) struct Producer<T>(Ring<T>);

/// The side that empties a ring.
#[derive(Debug)]
pub(super) struct Consumer<T>(Ring<T>);

impl<T: Copy> Ring<T> {
    /// `None` when a part would lie outside of the mapping, or out of alignment. `size` is a power of two.
    fn new(mapping: Arc<Mapping>, at: &XdpRingOffset, ours: u64, theirs: u64, size: u32) -> Option<Self> {
        let part = |offset: u64, len: usize, align: usize| {
            let offset = usize::try_from(offset).ok()?;
            let inside = offset.checked_add(len)? <= mapping.len() && offset.is_multiple_of(align);
            // SAFETY: the offset was just checked to be inside the mapping.
            inside.then(|| unsafe { mapping.start.add(offset) })
        };
        let index = |offset| part(offset, size_of::<u32>(), align_of::<u32>()).map(NonNull::cast);
        let entries = part(at.desc, size as usize * size_of::<T>(), align_of::<T>())?.cast();
        let (ours, theirs) = (index(ours)?, index(theirs)?);
        let flags = at.flags.and_then(index);
        if !size.is_power_of_two() {
            return None;
        }
        let mut ring = Self {
            _mapping: mapping,
            ours,
            theirs,
            flags,
            entries,
            size,
            next: 0,
        };
        ring.next = ring.ours().load(Ordering::Relaxed);
        Some(ring)
    }

    fn ours(&self) -> &AtomicU32 {
        // SAFETY: it was checked to lie in the mapping, aligned, and the kernel accesses it atomically as well.
        unsafe { self.ours.as_ref() }
    }

    fn theirs(&self) -> u32 {
        // SAFETY: as above.
        unsafe { self.theirs.as_ref() }.load(Ordering::Acquire)
    }

    /// Makes everything up to `next` the other side's.
    fn publish(&self) {
        self.ours().store(self.next, Ordering::Release);
    }

    fn entry(&self) -> *mut T {
        // SAFETY: the index is below the size, and so many entries were checked to lie in the mapping.
        unsafe { self.entries.as_ptr().add((self.next & (self.size - 1)) as usize) }
    }

    fn wants_wakeup(&self) -> bool {
        self.flags.is_some_and(|flags| {
            // SAFETY: as for the indices.
            let flags = unsafe { flags.as_ref() };
            flags.load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
        })
    }
}

impl<T: Copy> Producer<T> {
    /// The producer's side of a ring that is mapped so.
    pub(super) fn new(mapping: Arc<Mapping>, at: &XdpRingOffset, size: u32) -> Option<Self> {
        Ring::new(mapping, at, at.producer, at.consumer, size).map(Self)
    }

    /// Entries that were filled, and that the other side has not taken yet.
    pub(super) fn pending(&self) -> u32 {
        self.0.next.wrapping_sub(self.0.theirs())
    }

    /// Fills the next entry; false when the ring is full. The other side sees it after [`Producer::publish`].
    #[must_use]
    pub(super) fn push(&mut self, value: T) -> bool {
        if self.pending() >= self.0.size {
            return false;
        }
        // SAFETY: the entry lies in the mapping and is ours: the other side's index is not past it, and it will read it
        // only after `publish`.
        unsafe { self.0.entry().write(value) };
        self.0.next = self.0.next.wrapping_add(1);
        true
    }

    pub(super) fn publish(&self) {
        self.0.publish();
    }

    /// Whether the kernel wants to be told of new entries.
    pub(super) fn wants_wakeup(&self) -> bool {
        self.0.wants_wakeup()
    }
}

impl<T: Copy> Consumer<T> {
    /// The consumer's side of a ring that is mapped so.
    pub(super) fn new(mapping: Arc<Mapping>, at: &XdpRingOffset, size: u32) -> Option<Self> {
        Ring::new(mapping, at, at.consumer, at.producer, size).map(Self)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.theirs() == self.0.next
    }

    /// Takes the next entry. The other side may use its place again after [`Consumer::publish`].
    pub(super) fn pop(&mut self) -> Option<T> {
        if self.is_empty() {
            return None;
        }
        // SAFETY: the entry lies in the mapping and is ours: the other side's index, read with acquire ordering, is past it.
        let value = unsafe { self.0.entry().read() };
        self.0.next = self.0.next.wrapping_add(1);
        Some(value)
    }

    pub(super) fn publish(&self) {
        self.0.publish();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const AT: XdpRingOffset = XdpRingOffset {
        producer: 0,
        consumer: 64,
        desc: 128,
        flags: Some(4),
    };

    fn memory() -> Arc<Mapping> {
        Arc::new(Mapping::anonymous(4096).unwrap())
    }

    /// Both sides of one ring.
    fn ring(size: u32) -> (Producer<u64>, Consumer<u64>) {
        let memory = memory();
        let near = Producer::new(Arc::clone(&memory), &AT, size).unwrap();
        (near, Consumer::new(memory, &AT, size).unwrap())
    }

    #[test]
    fn a_ring_that_does_not_fit_its_memory_is_refused() {
        let new = |at: &XdpRingOffset, size| Producer::<u64>::new(memory(), at, size).is_some();
        assert!(new(&AT, 256));
        assert!(!new(&AT, 512), "too many entries");
        assert!(!new(&AT, 3), "no power of two");
        for offset in [4093, 4096, u64::MAX, 2] {
            assert!(
                !new(
                    &XdpRingOffset {
                        consumer: offset,
                        ..AT
                    },
                    4
                ),
                "{offset}"
            );
        }
        assert!(!new(
            &XdpRingOffset {
                desc: u64::MAX - 8,
                ..AT
            },
            4
        ));
    }

    proptest! {
        /// Whatever is pushed and published comes out once, in order, over the indices' wrap too.
        #[test]
        fn what_goes_in_comes_out_in_order(steps in proptest::collection::vec((0_u8..12, 0_u8..12), 1..200)) {
            let (mut near, mut far) = ring(8);
            for end in [&mut near.0, &mut far.0] {
                end.next = u32::MAX - 5;
                end.publish();
            }
            let (mut pushed, mut popped) = (0, 0);
            for (push, pop) in steps {
                for _ in 0..push {
                    if near.push(pushed) {
                        pushed += 1;
                    } else {
                        prop_assert_eq!(near.pending(), 8);
                    }
                }
                near.publish();
                for _ in 0..pop {
                    if let Some(value) = far.pop() {
                        prop_assert_eq!(value, popped);
                        popped += 1;
                    } else {
                        prop_assert_eq!(pushed, popped);
                    }
                }
                far.publish();
                prop_assert_eq!(u64::from(near.pending()), pushed - popped);
                prop_assert_eq!(far.is_empty(), pushed == popped);
            }
        }
    }
}
