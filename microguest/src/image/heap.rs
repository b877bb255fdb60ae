//! The allocator: a bump through a fixed region that takes back only what was allocated last.
//!
//! The guest allocates when it starts, and later only short-lived lines, one at a time. Memory above the highest
//! address ever given out is still zero, so large buffers need not be touched to be zeroed.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr;
use core::sync::atomic::{AtomicUsize, Ordering};

/// Queues and buffers for jumbo frames, socket buffers and histograms need less.
const SIZE: usize = 8 << 20;

#[global_allocator]
static HEAP: Heap = Heap {
    memory: Region(UnsafeCell::new([0; SIZE])),
    next: AtomicUsize::new(0),
    touched: AtomicUsize::new(0),
};

#[repr(align(4096))]
struct Region(UnsafeCell<[u8; SIZE]>);

struct Heap {
    memory: Region,
    /// Offset of the first free octet.
    next: AtomicUsize,
    /// Offset of the first octet that was never given out.
    touched: AtomicUsize,
}

// SAFETY: there is one processor, and interrupts run no Rust code: nothing is concurrent.
unsafe impl Sync for Heap {}

impl Heap {
    fn start(&self) -> *mut u8 {
        self.memory.0.get().cast()
    }

    fn offset(&self, block: *mut u8) -> usize {
        block as usize - self.start() as usize
    }

    /// Reserves a block and tells how many of its octets were given out before.
    fn reserve(&self, layout: Layout) -> Option<(*mut u8, usize)> {
        let start = self.start() as usize;
        let free = start + self.next.load(Ordering::Relaxed);
        let offset = free.checked_next_multiple_of(layout.align())? - start;
        let end = offset.checked_add(layout.size())?;
        if end > SIZE {
            return None;
        }
        self.next.store(end, Ordering::Relaxed);
        let touched = self.touched.fetch_max(end, Ordering::Relaxed);
        // SAFETY: `offset` is at most SIZE.
        let block = unsafe { self.start().add(offset) };
        Some((block, touched.saturating_sub(offset).min(layout.size())))
    }
}

// SAFETY: `reserve` hands out disjoint, aligned blocks of HEAP's memory; `dealloc` takes back only the last of them.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.reserve(layout).map_or(ptr::null_mut(), |(block, _)| block)
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let Some((block, dirty)) = self.reserve(layout) else {
            return ptr::null_mut();
        };
        // SAFETY: `dirty` is at most the block's size.
        unsafe { block.write_bytes(0, dirty) };
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let offset = self.offset(block);
        if offset + layout.size() == self.next.load(Ordering::Relaxed) {
            self.next.store(offset, Ordering::Relaxed);
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let offset = self.offset(block);
        let last = offset + layout.size() == self.next.load(Ordering::Relaxed);
        if last && offset + size <= SIZE {
            self.next.store(offset + size, Ordering::Relaxed);
            self.touched.fetch_max(offset + size, Ordering::Relaxed);
            return block;
        }
        // SAFETY: the caller guarantees a valid alignment and size.
        let moved = unsafe { self.alloc(Layout::from_size_align_unchecked(size, layout.align())) };
        if !moved.is_null() {
            // SAFETY: both blocks are at least so long, and disjoint.
            unsafe { ptr::copy_nonoverlapping(block, moved, layout.size().min(size)) };
        }
        moved
    }
}
