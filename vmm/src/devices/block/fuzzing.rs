//! What the fuzz targets of disks call; each panics when a promise about hostile input is broken.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::counts::DiskCounts;
use super::open;
use super::parts::Parts;
use super::request::{ID_LEN, Limits, Range};
use super::server::{Ring, Server};
use super::sys::GuestSlice;
use crate::config::{DiskConfig, DiskFormat};
use crate::devices::virtio::ActiveQueue;
use crate::memory::{self, GuestRam};

/// Guest memory, and how much of it the input describes.
const MEMORY: u64 = 1 << 20;
const DESCRIBED: usize = 64 << 10;
/// Descriptors of the ring, which is at the beginning of memory.
const SIZE: u16 = 16;
const SECTORS: u64 = 64;
/// The largest disk that is used as a whole.
const MAX_USED: u64 = 1 << 40;

/// A file without a name whose content each run sets, and a name by which it can be opened again.
struct Scratch(Mutex<File>);

impl Scratch {
    fn new(what: &str) -> Self {
        let path = std::env::temp_dir().join(format!("enlight-fuzz-{what}-{}", std::process::id()));
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path);
        let file = file.expect("a temporary file");
        std::fs::remove_file(path).expect("it is there");
        Self(Mutex::new(file))
    }

    fn fill(&self, octets: &[u8]) -> PathBuf {
        let mut file = self.0.lock();
        file.set_len(0).expect("shorter");
        file.seek(SeekFrom::Start(0)).expect("a file");
        file.write_all(octets).expect("room");
        format!("/proc/self/fd/{}", file.as_raw_fd()).into()
    }

    fn content(&self) -> Vec<u8> {
        let mut file = self.0.lock();
        let mut octets = Vec::new();
        file.seek(SeekFrom::Start(0)).expect("a file");
        file.read_to_end(&mut octets).expect("readable");
        octets
    }
}

/// Serves a ring in memory that is filled with `octets`, on a raw disk; an odd first octet makes it read-only.
pub(crate) fn queue(octets: &[u8]) {
    static RAM: OnceLock<GuestRam> = OnceLock::new();
    static DISK: OnceLock<Scratch> = OnceLock::new();
    let Some((choice, described)) = octets.split_first() else {
        return;
    };
    let read_only = choice % 2 == 1;
    let ram = RAM.get_or_init(|| memory::allocate(MEMORY).expect("1 MiB"));
    let mut low = described.get(..DESCRIBED).unwrap_or(described).to_vec();
    low.resize(DESCRIBED, 0);
    ram.write_slice(&low, GuestAddress(0)).expect("in memory");

    let scratch = DISK.get_or_init(|| Scratch::new("queue"));
    let before = vec![0x5a; (SECTORS * 512) as usize];
    let mut server = server(scratch.fill(&before), read_only);
    let mut ring = ring(choice & 2 != 0);
    // The ring cannot hold more than this, and one that stays busy is served again from the outside.
    for _ in 0..4 {
        if !server.serve(&mut ring, ram) {
            break;
        }
    }
    let after = scratch.content();
    assert_eq!(after.len(), before.len(), "the disk's size changed");
    if read_only {
        assert!(after == before, "a read-only disk changed");
    }
    let counts = *server.counts.lock();
    assert_eq!(counts.errors, 0, "{counts:?}");
}

pub(super) fn server(path: PathBuf, read_only: bool) -> Server {
    let config = DiskConfig {
        path,
        read_only,
        format: Some(DiskFormat::Raw),
    };
    Server {
        image: open::open(&config).expect("a raw disk"),
        limits: Limits {
            sectors: SECTORS,
            read_only,
        },
        id: [b'f'; ID_LEN],
        name: "fuzz".to_owned(),
        counts: Arc::new(Mutex::new(DiskCounts::default())),
        asked: Arc::new(AtomicUsize::new(0)),
        told: false,
    }
}

pub(super) fn ring(event_idx: bool) -> Ring {
    let event = || Arc::new(EventFd::new(EFD_NONBLOCK).expect("a descriptor"));
    let queue = ActiveQueue {
        index: 0,
        size: SIZE,
        descriptors: 0,
        driver: 0x100,
        device: 0x200,
        kick: event(),
        call: event(),
    };
    Ring {
        queue: queue.ring(event_idx).expect("a ring"),
        call: queue.call,
        write_through: false,
    }
}

/// Opens `octets` as an image whose format the first octet chooses, and reads, writes and clears it.
pub(crate) fn formats(octets: &[u8]) {
    static DISK: OnceLock<Scratch> = OnceLock::new();
    let Some((choice, content)) = octets.split_first() else {
        return;
    };
    let format = [DiskFormat::Qcow2, DiskFormat::Vhd][usize::from(choice & 1)];
    let config = DiskConfig {
        path: DISK.get_or_init(|| Scratch::new("formats")).fill(content),
        read_only: choice & 2 != 0,
        format: Some(format),
    };
    let mut image = match open::open(&config) {
        Ok(image) => image,
        Err(error) => {
            let text = error.to_string();
            assert!(!text.is_empty() && !text.contains('\n'), "{text:?}");
            return;
        }
    };
    let sectors = image.sectors();
    assert!(sectors > 0);
    let last = (sectors - 1).min(MAX_USED / 512);
    // Errors are the image's; that each call ends, and touches nothing else, is what is tested.
    for sector in [0, last, last / 2, 7.min(last), 129.min(last)] {
        let mut memory = [0xa5; 512];
        let mut parts = Parts::default();
        parts.push(GuestSlice::from(memory.as_mut_slice()));
        let _ = image.read(sector * 512, &mut parts);
        if !config.read_only {
            let mut memory = [0x11; 512];
            let mut parts = Parts::default();
            parts.push(GuestSlice::from(memory.as_mut_slice()));
            let _ = image.write(sector * 512, &mut parts);
        }
    }
    if !config.read_only {
        let len = (sectors * 512).min(256 << 10);
        for unmap in [false, true] {
            let range = Range {
                offset: 0,
                len,
                unmap,
            };
            let _ = image.write_zeroes(range);
            let _ = image.discard(range);
        }
    }
    let _ = image.flush();
}
