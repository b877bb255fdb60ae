//! A guest with a driver, for tests, fuzzing and benchmarks.
//!
//! [`MockGuest`] is a file in memory with guest physical and peer addresses that differ from each other and from ours.
//! [`MockQueue`] is the driver's side of one virtqueue in it, of either format.
//!
//! `unsafe` is needed because both sides access one piece of memory at the same time.
#![allow(unsafe_code)]

mod packed;
mod queue;
mod split;

use std::fs::File;
use std::os::fd::FromRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

pub use self::queue::MockQueue;
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

/// A descriptor as a driver writes it: address, length, flags, and the next descriptor or the buffer's identifier.
#[derive(Clone, Copy, Debug)]
struct Piece {
    address: u64,
    len: u32,
    flags: u16,
    tag: u16,
}

/// Entries of a mock's indirect table.
pub const TABLE: usize = 32;
