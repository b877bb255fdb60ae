//! What a driver asks for and gets, over the PCI transport.

use super::*;
use crate::devices::block::counts::Refusal;
use crate::testing::driver::{DEVICE, ring_address};

const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;

fn prepared(sectors: u8) -> (TempDir, std::path::PathBuf, Bench) {
    let directory = TempDir::new().expect("a directory");
    let path = image(&directory, sectors);
    let bench = started(open(&path));
    (directory, path, bench)
}

#[test]
fn driver_reads_size_and_limits() {
    let directory = TempDir::new().expect("a directory");
    let mut bench = bench(open(&image(&directory, 16)));
    let mut driver = Driver(&mut bench.function);
    let offered = driver.offered();
    for feature in [
        VERSION_1,
        FLUSH,
        BLK_SIZE,
        SEG_MAX,
        DISCARD,
        WRITE_ZEROES,
        EVENT_IDX,
    ] {
        assert_ne!(offered & feature, 0, "{feature:#x}");
    }
    assert_eq!(offered & RO, 0);
    assert_eq!(u64::from_le_bytes(driver.read(DEVICE)), 16);
    assert_eq!(u32::from_le_bytes(driver.read(DEVICE + 12)), SEGMENTS);
    assert_eq!(u32::from_le_bytes(driver.read(DEVICE + 20)), 512);
    assert_eq!(
        driver.read::<1>(DEVICE + 24),
        [3],
        "eight sectors are a physical block"
    );
    assert_eq!(driver.read::<8>(DEVICE + 0xff8), [0; 8], "behind the end");
}

#[test]
fn sectors_are_read_and_written() {
    let (_directory, path, mut bench) = prepared(16);
    assert_eq!(bench.request(0, 3, 1024, true), OK);
    assert_eq!(bench.get(DATA, 1024), [[3; 512], [4; 512]].concat());
    bench.put(DATA, &[0xee; 512]);
    assert_eq!(bench.request(1, 15, 512, false), OK);
    assert_eq!(bench.request(4, 0, 0, false), OK);
    let file = std::fs::read(path).expect("the image");
    assert_eq!(&file[15 * 512..], [0xee; 512]);
    assert_eq!(&file[14 * 512..15 * 512], [14; 512], "nothing else changed");
    let counts = bench.disk.counts();
    assert_eq!((counts.reads, counts.read_octets), (1, 1024));
    assert_eq!(
        (counts.writes, counts.written_octets, counts.flushes),
        (1, 512, 1)
    );
    assert_eq!((counts.errors, counts.refusals.total()), (0, 0));
}

#[test]
fn header_data_and_status_may_be_split_anywhere() {
    let (_directory, path, mut bench) = prepared(8);
    // The header in three parts, the last of which holds data too.
    bench.put(HEADER + 16, &[0xab; 500]);
    bench.put(DATA, &[0xcd; 524]);
    let parts = [
        (HEADER, 3, false),
        (HEADER + 3, 9, false),
        (HEADER + 12, 504, false),
        (DATA, 524, false),
        (STATUS, 1, true),
    ];
    assert_eq!(bench.send(1, 2, &parts), OK);
    let file = std::fs::read(path).expect("the image");
    assert_eq!(file[1024..1524], [0xab; 500]);
    assert_eq!(file[1524..2048], [0xcd; 524]);
    // Data and status in one part.
    bench.put(DATA + 512, &[UNTOUCHED]);
    bench.send(
        0,
        1,
        &[(HEADER, 16, false), (DATA, 100, true), (DATA + 100, 413, true)],
    );
    assert_eq!(bench.get(DATA, 513), [vec![1; 512], vec![OK]].concat());
}

#[test]
fn the_disk_has_a_name() {
    let (_directory, _, mut bench) = prepared(1);
    assert_eq!(bench.request(8, 0, 20, true), OK);
    assert_eq!(bench.get(DATA, 20), b"disk.img\0\0\0\0\0\0\0\0\0\0\0\0");
    assert_eq!(bench.request(8, 0, 19, true), IOERR);
}

#[test]
fn discarded_and_zeroed_ranges_read_as_zeros() {
    let (_directory, path, mut bench) = prepared(64);
    bench.put(DATA, &[range(8, 8, 0), range(24, 8, 0)].concat());
    assert_eq!(bench.request(11, 0, 32, false), OK);
    bench.put(DATA, &range(33, 1, 0));
    assert_eq!(bench.request(13, 0, 16, false), OK);
    bench.put(DATA, &range(40, 3, 1));
    assert_eq!(bench.request(13, 0, 16, false), OK);
    let file = std::fs::read(path).expect("the image");
    for (sector, octets) in (0_u8..).zip(file.chunks(512)) {
        let zero = matches!(sector, 0 | 8..=15 | 24..=31 | 33 | 40..=42);
        assert_eq!(octets, [if zero { 0 } else { sector }; 512], "sector {sector}");
    }
    let counts = bench.disk.counts();
    assert_eq!((counts.discards, counts.zeroes), (1, 2));
    assert_eq!(file.len(), 64 * 512, "the size stays");
}

/// Kind, first sector and chain of a request, its status, and which rule it breaks.
type Case = (u32, u64, Vec<(u64, u32, bool)>, u8, Refusal);

const HEAD: (u64, u32, bool) = (HEADER, 16, false);
const END: (u64, u32, bool) = (STATUS, 1, true);

fn to(len: u32) -> (u64, u32, bool) {
    (DATA, len, true)
}

fn from(len: u32) -> (u64, u32, bool) {
    (DATA, len, false)
}

/// Each case changes nothing but one counter.
fn refused(cases: Vec<Case>) {
    let (_directory, path, mut bench) = prepared(16);
    let before = std::fs::read(&path).expect("the image");
    bench.put(DATA, &range(15, 2, 0));
    let mut wanted = DiskRefusals::default();
    for (kind, sector, parts, answer, refusal) in cases {
        assert_eq!(bench.send(kind, sector, &parts), answer, "{refusal:?} {parts:?}");
        wanted.count(refusal);
        assert_eq!(bench.disk.counts().refusals, wanted, "{refusal:?} {parts:?}");
    }
    let others = DiskCounts {
        refusals: wanted,
        ..DiskCounts::default()
    };
    assert_eq!(bench.disk.counts(), others);
    assert_eq!(std::fs::read(&path).expect("the image"), before);
}

#[test]
fn sectors_and_sizes_that_break_a_rule_are_counted_and_answered() {
    refused(vec![
        (0, 16, vec![HEAD, to(512), END], IOERR, Refusal::Range),
        (0, u64::MAX, vec![HEAD, to(512), END], IOERR, Refusal::Range),
        (1, 15, vec![HEAD, from(1024), END], IOERR, Refusal::Range),
        (11, 0, vec![HEAD, from(16), END], IOERR, Refusal::Range),
        (0, 0, vec![HEAD, to(511), END], IOERR, Refusal::Size),
        (0, 0, vec![HEAD, END], IOERR, Refusal::Size),
        (1, 0, vec![HEAD, END], IOERR, Refusal::Size),
        (13, 0, vec![HEAD, from(15), END], IOERR, Refusal::Size),
        (11, 0, vec![HEAD, from(16 * 17), END], IOERR, Refusal::Size),
        (77, 0, vec![HEAD, END], UNSUPP, Refusal::Unsupported),
    ]);
}

#[test]
fn chains_that_break_a_rule_are_counted_and_answered() {
    let far = (1_u64 << 40, 512, true);
    refused(vec![
        (0, 0, vec![(HEADER, 15, false), END], IOERR, Refusal::Header),
        (0, 0, vec![END], IOERR, Refusal::Header),
        (0, 0, vec![HEAD, to(512), from(512), END], IOERR, Refusal::Order),
        (0, 0, vec![HEAD, to(0), END], IOERR, Refusal::Empty),
        (0, 0, vec![HEAD, far, END], IOERR, Refusal::Address),
        (
            1,
            0,
            vec![(1 << 40, 16, false), from(512), END],
            IOERR,
            Refusal::Address,
        ),
        (0, 0, vec![HEAD], UNTOUCHED, Refusal::Status),
        (0, 0, vec![HEAD, far], UNTOUCHED, Refusal::Address),
    ]);
}

#[test]
fn chains_without_an_end_are_refused() {
    let (_directory, _, mut bench) = prepared(4);
    let at = ring_address(0);
    let entry = |address: u64, len: u32, flags: u16, next: u16| {
        let mut octets = address.to_le_bytes().to_vec();
        octets.extend(len.to_le_bytes());
        octets.extend(flags.to_le_bytes());
        octets.extend(next.to_le_bytes());
        octets
    };
    // To itself, behind the table, an indirect table that is none, and one outside memory.
    let loops = entry(STATUS, 1, 3, 0);
    let beyond = entry(STATUS, 1, 3, 999);
    let indirect = entry(DATA, 15, 4, 0);
    let nowhere = entry(1 << 50, 16, 4, 0);
    for (count, first) in (1_u16..).zip([loops, beyond, indirect, nowhere]) {
        bench.put(at, &first);
        bench.put(at + 0x104 + 2 * u64::from((count - 1) % 8), &[0, 0]);
        bench.put(at + 0x102, &count.to_le_bytes());
        Driver(&mut bench.function).notify(0);
        bench.wait(count);
        assert_eq!(bench.disk.counts().refusals.chain, u64::from(count));
    }
    // A head behind the table, then an index that ran ahead.
    for available in [5_u16, 500] {
        bench.put(at + 0x104 + 2 * 4, &[200, 0]);
        bench.put(at + 0x102, &available.to_le_bytes());
        let before = bench.disk.counts().refusals.ring;
        Driver(&mut bench.function).notify(0);
        let deadline = Instant::now() + Duration::from_secs(20);
        while bench.disk.counts().refusals.ring == before {
            assert!(Instant::now() < deadline, "not counted");
            std::thread::yield_now();
        }
    }
    let mut driver = Driver(&mut bench.function);
    driver.set_status(0);
    bench.put(at + 0x102, &[0, 0]);
    bench.put(at + 0x202, &[0, 0]);
    bench.start(VERSION_1);
    assert_eq!(bench.request(0, 1, 512, true), OK, "after a reset all is well");
}

#[test]
fn a_read_only_disk_is_not_changed() {
    let directory = TempDir::new().expect("a directory");
    let path = image(&directory, 4);
    let read_only = DiskConfig {
        read_only: true,
        ..config(&path)
    };
    let mut bench = bench(begun(&read_only));
    let offered = Driver(&mut bench.function).offered();
    assert_eq!(offered & (RO | DISCARD | WRITE_ZEROES), RO);
    bench.start(VERSION_1 | RO);
    bench.put(DATA, &range(0, 1, 0));
    for (kind, len) in [(1, 512), (11, 16), (13, 16)] {
        assert_eq!(bench.request(kind, 0, len, false), IOERR);
    }
    assert_eq!(bench.disk.counts().refusals.read_only, 3);
    assert_eq!(bench.request(4, 0, 0, false), OK, "there is nothing to flush");
    assert_eq!(bench.request(0, 3, 512, true), OK);
    assert_eq!(bench.get(DATA, 512), [3; 512]);
}

#[test]
fn a_file_that_became_shorter_is_an_error_of_the_host() {
    let (_directory, path, mut bench) = prepared(8);
    let file = std::fs::File::options()
        .write(true)
        .open(path)
        .expect("the image");
    file.set_len(1024).expect("shorter");
    assert_eq!(bench.request(0, 4, 512, true), IOERR);
    assert_eq!(bench.request(0, 1, 1024, true), IOERR, "half of it is there");
    assert_eq!(bench.request(0, 1, 512, true), OK);
    assert_eq!(bench.disk.counts().errors, 2);
}

#[test]
fn a_paused_disk_does_nothing_until_resumed() {
    let (_directory, _, mut bench) = prepared(4);
    assert_eq!(bench.request(0, 0, 512, true), OK);
    assert!(bench.function.export().is_err(), "it runs");
    bench.function.pause();
    bench.put(HEADER, &header(0, 1));
    make_available(
        &bench.ram,
        0,
        &[(HEADER, 16, false), (DATA, 512, true), (STATUS, 1, true)],
    );
    Driver(&mut bench.function).notify(0);
    bench.function.pause();
    let state = bench.function.export().expect("paused").state;
    assert_eq!(state["device"]["state"]["ring"], serde_json::json!([1, 1]));
    assert_eq!(used_index(&bench.ram, 0), 1);
    bench.function.resume();
    bench.wait(2);
    assert_eq!(bench.get(DATA, 512), [1; 512]);
}

#[test]
fn a_reset_gives_the_ring_up_paused_or_not() {
    let (_directory, _, mut bench) = prepared(4);
    bench.function.pause();
    Driver(&mut bench.function).set_status(0);
    make_available(&bench.ram, 0, &[(HEADER, 16, false), (STATUS, 1, true)]);
    bench.function.resume();
    Driver(&mut bench.function).notify(0);
    bench.function.pause();
    assert_eq!(used_index(&bench.ram, 0), 0);
    bench.put(ring_address(0) + 0x102, &[0, 0]);
    bench.start(VERSION_1);
    make_available(
        &bench.ram,
        0,
        &[(HEADER, 16, false), (DATA, 512, true), (STATUS, 1, true)],
    );
    assert_eq!(used_index(&bench.ram, 0), 0, "activated, but paused");
    bench.function.resume();
    bench.wait(1);
}

#[test]
fn the_next_machine_is_given_the_same_disk() {
    let (_directory, path, mut bench) = prepared(4);
    bench.put(DATA, &[0x55; 512]);
    assert_eq!(bench.request(1, 2, 512, false), OK);
    bench.function.pause();
    let disk = Arc::clone(&bench.disk);
    drop(bench);
    assert!(matches!(Disk::open(&config(&path)), Err(DiskError::InUse { .. })));
    let mut next = started(disk);
    assert_eq!(next.request(0, 2, 512, true), OK);
    assert_eq!(next.get(DATA, 512), [0x55; 512]);
    assert_eq!(next.disk.counts().writes, 1, "counters go on");
    drop(next);
    // Nobody uses it any more.
    drop(opened(&config(&path)));
}

/// A request may take as long as it takes to write 256 MiB of zeros.
#[test]
fn the_machine_comes_before_the_next_request() {
    let directory = TempDir::new().expect("a directory");
    let ram = memory::allocate(1 << 20).expect("1 MiB");
    let mut server = fuzzing::server(image(&directory, 64), false);
    let mut ring = fuzzing::ring(false);
    // Three chains of one descriptor each, behind flags and index of the available ring.
    ram.write_obj([0_u16, 3, 0, 1, 2], GuestAddress(0x100))
        .expect("in memory");
    let used = || ram.read_obj::<u16>(GuestAddress(0x202)).expect("in memory");
    let asked = Arc::clone(&server.asked);
    asked.store(1, std::sync::atomic::Ordering::SeqCst);
    for answered in 1..3 {
        assert!(server.serve(&mut ring, &ram), "there is more");
        assert_eq!(used(), answered);
    }
    asked.store(0, std::sync::atomic::Ordering::SeqCst);
    assert!(!server.serve(&mut ring, &ram));
    assert_eq!(used(), 3);
}
