//! What a frame costs between two guests: taken off one ring, copied into the other's buffers, given back.
//!
//! The guests' drivers are mocks whose work is outside of the measured time. The steady state must allocate nothing,
//! which is asserted. `cargo bench -p vswitch --bench ring`
#![allow(unsafe_code)] // to count allocations

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use vswitch::frame::{BURST, Burst, Outgoing};
use vswitch::ring::mock::{MockGuest, MockQueue, Shape};
use vswitch::ring::{Ring, feature};

/// Counts allocations.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: passes everything on to the system's allocator and only counts.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SPLIT: u64 = feature::VERSION_1 | feature::MRG_RXBUF | feature::INDIRECT_DESC | feature::EVENT_IDX;
const PACKED: u64 = SPLIT | feature::RING_PACKED;

/// Two guests and what lies between them.
struct Pair {
    sender: MockQueue,
    from: Ring,
    receiver: MockQueue,
    to: Ring,
    burst: Burst,
    frame: Vec<u8>,
    buffers: usize,
    shape: Shape,
    steady: bool,
}

const RECEIVE_BUFFER: u32 = 4096;

impl Pair {
    fn new(features: u64, len: usize, shape: Shape) -> Self {
        let guest = MockGuest::new(32 << 20);
        let buffer = (len as u64 + 12).next_multiple_of(64);
        let sender = MockQueue::new(&guest, 256, buffer, features, 0);
        let from = Ring::new(guest.memory(), &sender.setup()).expect("the mock's ring is good");
        let guest = MockGuest::new(32 << 20);
        let receiver = MockQueue::new(&guest, 1024, RECEIVE_BUFFER.into(), features, 0);
        let to = Ring::new(guest.memory(), &receiver.setup()).expect("the mock's ring is good");
        let buffers = (len + 12).div_ceil(RECEIVE_BUFFER as usize);
        let frame = vec![7; len + 12];
        Self {
            sender,
            from,
            receiver,
            to,
            burst: Burst::default(),
            frame,
            buffers,
            shape,
            steady: false,
        }
    }

    /// Carries a burst; returns the time that the device's side took.
    fn carry(&mut self) -> Duration {
        for _ in 0..BURST {
            assert!(self.sender.send(&self.frame, self.shape));
            (0..self.buffers).for_each(|_| assert!(self.receiver.post(RECEIVE_BUFFER, Shape::Chain(1))));
        }
        let allocations = ALLOCATIONS.load(Ordering::Relaxed);
        let start = Instant::now();
        self.from.take(0, &mut self.burst);
        let frames: [Outgoing<'_>; BURST] =
            std::array::from_fn(|index| self.burst.outgoing(index, 0).expect("a whole burst"));
        assert_eq!(self.to.deliver(black_box(&frames)).accepted, BURST);
        self.from.complete();
        black_box(self.to.needs_notification() | self.from.needs_notification());
        self.burst.clear();
        let spent = start.elapsed();
        if self.steady {
            assert_eq!(
                ALLOCATIONS.load(Ordering::Relaxed),
                allocations,
                "the steady state allocates nothing"
            );
        }
        self.steady = true;
        while self.sender.used().is_some() {}
        while self.receiver.used().is_some() {}
        spent
    }
}

fn between_guests(criterion: &mut Criterion) {
    for (format, features) in [
        ("split", SPLIT),
        ("packed", PACKED),
        ("packed, in order", PACKED | feature::IN_ORDER),
    ] {
        let mut group = criterion.benchmark_group(format!("guest to guest, {format}"));
        group.throughput(Throughput::Elements(BURST as u64));
        for (name, len, shape) in [
            ("64 octets", 64, Shape::Chain(1)),
            ("64 octets, indirect", 64, Shape::Indirect(2)),
            ("1500 octets", 1500, Shape::Chain(1)),
            ("64 KiB in 17 pieces", 65_000, Shape::Indirect(17)),
        ] {
            let mut pair = Pair::new(features, len, shape);
            group.bench_function(name, |bencher| {
                bencher.iter_custom(|turns| (0..turns).map(|_| pair.carry()).sum());
            });
        }
        group.finish();
    }
}

criterion_group! {
    name = rings;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    targets = between_guests
}
criterion_main!(rings);
