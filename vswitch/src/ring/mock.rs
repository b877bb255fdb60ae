//! A guest with a driver, for tests, fuzzing and benchmarks.
//!
//! [`MockGuest`] is a file in memory with guest physical and peer addresses that differ from each other and from ours.
//! [`MockQueue`] is the driver's side of one split virtqueue in it.
//!
//! `unsafe` is needed because both sides access one piece of memory at the same time.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::FromRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering, fence};

use super::{RingAddresses, RingSetup, feature};
use crate::memory::{GuestMemory, RegionSpec};

/// Where the guest's memory starts in its physical address space.
pub const GUEST_BASE: u64 = 0x4000_0000;
/// Where it starts in the address space that the guest's VMM pretends to have.
pub const USER_BASE: u64 = 0x7e00_0000_0000;

/// Memory that a guest would share.
#[derive(Debug)]
pub struct MockGuest {
    file: File,
    memory: Arc<GuestMemory>,
    size: u64,
    next: AtomicU64,
}

impl MockGuest {
    /// A guest with `size` octets, a multiple of the page size.
    pub fn new(size: u64) -> Arc<Self> {
        // SAFETY: the name is a C string, and the descriptor is new and owned by nobody else.
        let file =
            unsafe { File::from_raw_fd(libc::memfd_create(c"mock-guest".as_ptr(), libc::MFD_CLOEXEC)) };
        file.set_len(size).expect("a file in memory can be enlarged");
        let spec = RegionSpec {
            guest: GUEST_BASE,
            size,
            user: USER_BASE,
            offset: 0,
        };
        let shared = file.try_clone().expect("a descriptor can be duplicated");
        let memory = Arc::new(GuestMemory::map(vec![(spec, shared)]).expect("a new file can be mapped"));
        Arc::new(Self {
            file,
            memory,
            size,
            next: AtomicU64::new(0),
        })
    }

    /// Its memory, as the device's side sees it.
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// The file behind it.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Its only region.
    pub fn region(&self) -> RegionSpec {
        RegionSpec {
            guest: GUEST_BASE,
            size: self.size,
            user: USER_BASE,
            offset: 0,
        }
    }

    /// Sets memory aside; returns its guest physical address.
    pub fn alloc(&self, len: u64, align: u64) -> u64 {
        let mut at = 0;
        self.next
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| {
                at = next.next_multiple_of(align);
                Some(at + len)
            })
            .expect("the closure always answers");
        assert!(at + len <= self.size, "the mock guest has too little memory");
        GUEST_BASE + at
    }

    /// Writes octets.
    pub fn write(&self, guest: u64, octets: &[u8]) {
        let at = self.at(guest, octets.len());
        // SAFETY: `at` was checked to be followed by as many octets of mapped memory.
        unsafe { std::ptr::copy_nonoverlapping(octets.as_ptr(), at, octets.len()) };
    }

    /// Reads octets.
    pub fn read(&self, guest: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        // SAFETY: `at` checks that as many octets of mapped memory follow; `out` was made as long.
        unsafe { std::ptr::copy_nonoverlapping(self.at(guest, len), out.as_mut_ptr(), len) };
        out
    }

    /// Loads a 16-bit field.
    pub fn load(&self, guest: u64) -> u16 {
        self.field(guest).load(Ordering::Acquire)
    }

    /// Stores a 16-bit field.
    pub fn store(&self, guest: u64, value: u16) {
        self.field(guest).store(value, Ordering::Release);
    }

    fn field(&self, guest: u64) -> &AtomicU16 {
        assert_eq!(guest % 2, 0);
        // SAFETY: two octets of mapped memory, aligned to 2, that are accessed atomically.
        unsafe { AtomicU16::from_ptr(self.at(guest, 2).cast()) }
    }

    fn at(&self, guest: u64, len: usize) -> *mut u8 {
        self.memory
            .translate(guest, len as u64)
            .expect("the mock accesses its own memory")
    }
}

/// How a buffer is described.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A chain of up to this many descriptors.
    Chain(usize),
    /// An indirect table of up to this many.
    Indirect(usize),
}

/// The driver's side of a split virtqueue.
#[derive(Debug)]
pub struct MockQueue {
    guest: Arc<MockGuest>,
    size: u16,
    features: u64,
    start: u16,
    descriptors: u64,
    available: u64,
    used: u64,
    tables: u64,
    buffers: u64,
    buffer_len: u64,
    free: Vec<u16>,
    /// The descriptors of the chain that starts at each head, and the buffer's length.
    chains: Vec<(Vec<u16>, u32)>,
    next_avail: u16,
    kicked: u16,
    next_used: u16,
}

/// Entries of a mock's indirect table.
pub const TABLE: usize = 32;

impl MockQueue {
    /// A queue whose indices start at `start`, with a buffer of `buffer_len` octets a descriptor.
    pub fn new(guest: &Arc<MockGuest>, size: u16, buffer_len: u64, features: u64, start: u16) -> Self {
        let entries = u64::from(size);
        let mut queue = Self {
            guest: Arc::clone(guest),
            size,
            features,
            start,
            descriptors: guest.alloc(16 * entries, 16),
            available: guest.alloc(6 + 2 * entries, 2),
            used: guest.alloc(6 + 8 * entries, 4),
            tables: guest.alloc(entries * 16 * TABLE as u64, 16),
            buffers: guest.alloc(entries * buffer_len, 64),
            buffer_len,
            free: (0..size).rev().collect(),
            chains: vec![(Vec::with_capacity(TABLE), 0); usize::from(size)],
            next_avail: start,
            kicked: start,
            next_used: start,
        };
        queue.guest.store(queue.available + 2, start);
        queue.guest.store(queue.used + 2, start);
        queue.want_interrupts(true);
        queue
    }

    /// What the device's side needs to know.
    pub fn setup(&self) -> RingSetup {
        let user = |guest: u64| guest - GUEST_BASE + USER_BASE;
        RingSetup {
            size: self.size,
            addresses: RingAddresses {
                descriptors: user(self.descriptors),
                available: user(self.available),
                used: user(self.used),
            },
            features: self.features,
            base: self.start,
        }
    }

    /// The guest that it is in.
    pub fn guest(&self) -> &Arc<MockGuest> {
        &self.guest
    }

    /// Guest physical addresses of the descriptor table, the available and the used ring.
    pub fn parts(&self) -> (u64, u64, u64) {
        (self.descriptors, self.available, self.used)
    }

    /// Makes a buffer with `octets` available for reading; false when too few descriptors are free.
    pub fn send(&mut self, octets: &[u8], shape: Shape) -> bool {
        assert!(octets.len() as u64 <= self.buffer_len);
        let Some(head) = self.describe(octets.len() as u32, shape, false) else {
            return false;
        };
        self.guest.write(self.buffer(head), octets);
        self.offer(head);
        true
    }

    /// Makes an empty buffer of `len` octets available for writing; false when too few descriptors are free.
    pub fn post(&mut self, len: u32, shape: Shape) -> bool {
        assert!(u64::from(len) <= self.buffer_len);
        let Some(head) = self.describe(len, shape, true) else {
            return false;
        };
        self.offer(head);
        true
    }

    /// The next used buffer: its head and the octets that the device says it wrote.
    pub fn used(&mut self) -> Option<(u16, u32)> {
        if self.guest.load(self.used + 2) == self.next_used {
            return None;
        }
        let entry = self.used + 4 + 8 * u64::from(self.next_used & (self.size - 1));
        let word = |at| u32::from(self.guest.load(at)) | u32::from(self.guest.load(at + 2)) << 16;
        let (head, len) = (word(entry) as u16, word(entry + 4));
        self.next_used = self.next_used.wrapping_add(1);
        let chain = &mut self.chains[usize::from(head)];
        assert!(
            !chain.0.is_empty(),
            "the device used buffer {head}, which is not available"
        );
        self.free.append(&mut chain.0);
        Some((head, len))
    }

    /// The next received frame with its header of `header_len` octets in front, put together from as many buffers as the
    /// header says.
    pub fn receive(&mut self, header_len: usize) -> Option<Vec<u8>> {
        let (head, len) = self.used()?;
        let mut frame = self.guest.read(self.buffer(head), len as usize);
        let buffers = if header_len == 12 {
            u16::from_le_bytes([frame[10], frame[11]])
        } else {
            1
        };
        for _ in 1..buffers {
            let (head, len) = self.used().expect("as many buffers as the header says");
            frame.extend(self.guest.read(self.buffer(head), len as usize));
        }
        Some(frame)
    }

    /// Says whether the driver wants to be interrupted, from the next used buffer on.
    pub fn want_interrupts(&mut self, on: bool) {
        if self.features & feature::EVENT_IDX == 0 {
            self.guest.store(self.available, u16::from(!on));
        } else {
            let event = if on {
                self.next_used
            } else {
                self.next_used.wrapping_sub(1)
            };
            self.guest
                .store(self.available + 4 + 2 * u64::from(self.size), event);
        }
        fence(Ordering::SeqCst);
    }

    /// Whether the driver has to ring for what it made available since the last call.
    pub fn must_kick(&mut self) -> bool {
        fence(Ordering::SeqCst);
        let old = std::mem::replace(&mut self.kicked, self.next_avail);
        if self.features & feature::EVENT_IDX == 0 {
            return old != self.next_avail && self.guest.load(self.used) & 1 == 0;
        }
        let event = self.guest.load(self.used + 4 + 8 * u64::from(self.size));
        super::passed(event, self.next_avail, old)
    }

    /// Free descriptors.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Writes a descriptor as it is, good or bad.
    pub fn write_descriptor(&self, index: u16, address: u64, len: u32, flags: u16, next: u16) {
        write_descriptor(
            &self.guest,
            self.descriptors + 16 * u64::from(index),
            address,
            len,
            flags,
            next,
        );
    }

    /// Makes any descriptor available, good or bad.
    pub fn offer(&mut self, head: u16) {
        let slot = u64::from(self.next_avail & (self.size - 1));
        self.guest.store(self.available + 4 + 2 * slot, head);
        self.next_avail = self.next_avail.wrapping_add(1);
        self.guest.store(self.available + 2, self.next_avail);
    }

    /// The address of the buffer that belongs to a descriptor.
    pub fn buffer(&self, head: u16) -> u64 {
        self.buffers + u64::from(head) * self.buffer_len
    }

    fn describe(&mut self, len: u32, shape: Shape, write: bool) -> Option<u16> {
        let (pieces, indirect) = match shape {
            Shape::Chain(pieces) => (pieces.max(1), false),
            Shape::Indirect(pieces) => (pieces.clamp(1, TABLE), true),
        };
        let pieces = pieces.min(len.max(1) as usize);
        let wanted = if indirect { 1 } else { pieces };
        if self.free.len() < wanted {
            return None;
        }
        let keep = self.free.len() - wanted;
        let head = *self.free.last()?;
        let mut chain = std::mem::take(&mut self.chains[usize::from(head)].0);
        chain.extend(self.free.drain(keep..).rev());
        let access = if write { 2 } else { 0 };
        let step = len.div_ceil(pieces as u32);
        let table = self.tables + u64::from(head) * 16 * TABLE as u64;
        let mut done = 0;
        for piece in 0..pieces {
            let last = piece + 1 == pieces;
            let now = if last { len - done } else { step.min(len - done) };
            let address = self.buffer(head) + u64::from(done);
            let flags = access | u16::from(!last);
            if indirect {
                let at = table + 16 * piece as u64;
                write_descriptor(&self.guest, at, address, now, flags, piece as u16 + 1);
            } else {
                let next = chain.get(piece + 1).copied().unwrap_or(0);
                self.write_descriptor(chain[piece], address, now, flags, next);
            }
            done += now;
        }
        if indirect {
            self.write_descriptor(head, table, 16 * pieces as u32, 4, 0);
        }
        self.chains[usize::from(head)] = (chain, len);
        Some(head)
    }
}

fn write_descriptor(guest: &MockGuest, at: u64, address: u64, len: u32, flags: u16, next: u16) {
    let mut raw = [0; 16];
    raw[..8].copy_from_slice(&address.to_le_bytes());
    raw[8..12].copy_from_slice(&len.to_le_bytes());
    raw[12..14].copy_from_slice(&flags.to_le_bytes());
    raw[14..].copy_from_slice(&next.to_le_bytes());
    guest.write(at, &raw);
}
