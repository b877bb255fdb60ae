mod confined;
mod corrupt;
mod files;
mod formats;
mod random;
mod requests;

use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::config::{DiskConfig, DiskFormat};
use crate::devices::virtio::VirtioFunction;
use crate::memory;
use crate::testing::FakeWiring;
use crate::testing::driver::{BASE, Driver, make_available, used_index};

const VERSION_1: u64 = 1 << 32;
const HEADER: u64 = 0x8_0000;
const STATUS: u64 = 0x8_1000;
const DATA: u64 = 0x9_0000;
/// What the status octet is before the device writes it.
const UNTOUCHED: u8 = 0x77;

/// A driver, a device and a disk.
struct Bench {
    ram: Arc<GuestRam>,
    function: VirtioFunction<Block>,
    disk: Arc<Disk>,
}

fn config(path: &Path) -> DiskConfig {
    DiskConfig {
        path: path.to_owned(),
        read_only: false,
        format: None,
    }
}

/// Opens what nobody uses. A test beside this one may be about to start a program: until that begins, its process has everything
/// open that this one had, locks included.
fn when_unused<T>(open: impl Fn() -> Result<T, DiskError>) -> Result<T, DiskError> {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        match open() {
            Err(DiskError::InUse { .. }) if Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(5));
            }
            outcome => return outcome,
        }
    }
}

fn opened(config: &DiskConfig) -> Disk {
    when_unused(|| Disk::open(config)).expect("a usable image")
}

fn begun(config: &DiskConfig) -> Arc<Disk> {
    let disk = opened(config);
    disk.begin(|| {}).expect("a thread");
    Arc::new(disk)
}

fn open(path: &Path) -> Arc<Disk> {
    begun(&config(path))
}

/// A raw image of `sectors` sectors, each filled with its number.
fn image(directory: &TempDir, sectors: u8) -> std::path::PathBuf {
    let path = directory.path().join("disk.img");
    let octets: Vec<u8> = (0..sectors).flat_map(|sector| [sector; 512]).collect();
    std::fs::write(&path, octets).expect("a file");
    path
}

fn bench(disk: Arc<Disk>) -> Bench {
    let ram = Arc::new(memory::allocate(2 << 20).expect("2 MiB"));
    let wiring = Arc::new(FakeWiring::default());
    let block = Block::new(Arc::clone(&disk), (*ram).clone());
    let function = VirtioFunction::new(block, (*ram).clone(), wiring, BASE as u32).expect("eventfds");
    Bench { ram, function, disk }
}

fn started(disk: Arc<Disk>) -> Bench {
    let mut bench = bench(disk);
    bench.start(VERSION_1 | FLUSH);
    bench
}

impl Bench {
    fn start(&mut self, features: u64) {
        let mut driver = Driver(&mut self.function);
        assert!(driver.negotiate(features));
        driver.enable_queue(0, 1);
        driver.set_status(15);
        assert_eq!(driver.status(), 15);
    }

    fn put(&self, address: u64, octets: &[u8]) {
        self.ram
            .write_slice(octets, GuestAddress(address))
            .expect("in memory");
    }

    fn get(&self, address: u64, len: usize) -> Vec<u8> {
        let mut octets = vec![0; len];
        self.ram
            .read_slice(&mut octets, GuestAddress(address))
            .expect("in memory");
        octets
    }

    /// Makes a chain available, tells the device and waits until it is used; the status octet.
    fn send(&mut self, kind: u32, sector: u64, parts: &[(u64, u32, bool)]) -> u8 {
        self.put(HEADER, &header(kind, sector));
        self.put(STATUS, &[UNTOUCHED]);
        let before = used_index(&self.ram, 0);
        make_available(&self.ram, 0, parts);
        Driver(&mut self.function).notify(0);
        self.wait(before.wrapping_add(1));
        self.get(STATUS, 1)[0]
    }

    /// A request with one data part, which the device writes if `writes`.
    fn request(&mut self, kind: u32, sector: u64, len: u32, writes: bool) -> u8 {
        let (header, status) = ((HEADER, 16, false), (STATUS, 1, true));
        let data = (DATA, len, writes);
        if len == 0 {
            self.send(kind, sector, &[header, status])
        } else {
            self.send(kind, sector, &[header, data, status])
        }
    }

    fn wait(&self, used: u16) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while used_index(&self.ram, 0) != used {
            assert!(Instant::now() < deadline, "the request is not answered");
            std::thread::yield_now();
        }
    }
}

fn header(kind: u32, sector: u64) -> Vec<u8> {
    let mut octets = kind.to_le_bytes().to_vec();
    octets.extend([0; 4]);
    octets.extend(sector.to_le_bytes());
    octets
}

/// A `virtio_blk_discard_write_zeroes` structure.
fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    let mut octets = sector.to_le_bytes().to_vec();
    octets.extend(sectors.to_le_bytes());
    octets.extend(flags.to_le_bytes());
    octets
}
