//! What delivering costs beside the copy that it cannot do without: a burst into a receiver's ring, and the same octets from the
//! same pages into the same pages by plain copies.
//!
//! `cargo bench -p vswitch --bench copy`
#![allow(missing_docs)]
#![allow(unsafe_code)] // copies between two guests' memory, as the switch does

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use vswitch::frame::{BURST, Burst, Outgoing};
use vswitch::ring::mock::{MockGuest, MockQueue, Shape};
use vswitch::ring::{Ring, feature};

const FEATURES: u64 = feature::VERSION_1 | feature::MRG_RXBUF | feature::INDIRECT_DESC | feature::EVENT_IDX;
const VNET: usize = 12;
/// Octets of a receive buffer that takes any frame whole.
const BUFFER: u32 = 65_600;
const ENTRIES: u16 = 64;

/// A burst in a sender's hands, and a receiver.
struct Pair {
    sender: MockQueue,
    from: Ring,
    receiver: MockQueue,
    to: Ring,
    burst: Burst,
    frame: Vec<u8>,
}

impl Pair {
    fn new(features: u64, len: usize) -> Self {
        let side = || {
            let guest = MockGuest::new(16 << 20);
            let queue = MockQueue::new(&guest, ENTRIES, BUFFER.into(), features, 0);
            let ring = Ring::new(guest.memory(), &queue.setup()).expect("the mock's ring is good");
            (queue, ring)
        };
        let ((sender, from), (receiver, to)) = (side(), side());
        Self {
            sender,
            from,
            receiver,
            to,
            burst: Burst::default(),
            frame: vec![7; len + VNET],
        }
    }

    /// Delivers a burst; returns the time that only this took.
    fn deliver(&mut self) -> Duration {
        for _ in 0..BURST {
            assert!(self.sender.send(&self.frame, Shape::Chain(1)));
            assert!(self.receiver.post(BUFFER, Shape::Chain(1)));
        }
        self.from.take(0, &mut self.burst);
        let frames: [Outgoing<'_>; BURST] =
            std::array::from_fn(|index| self.burst.outgoing(index, 0).expect("a whole burst"));
        let start = Instant::now();
        let delivery = self.to.deliver(black_box(&frames));
        let spent = start.elapsed();
        assert_eq!(delivery.accepted, BURST);
        self.from.complete();
        self.burst.clear();
        while self.sender.used().is_some() {}
        while self.receiver.used().is_some() {}
        spent
    }

    /// Copies as many octets between the buffers of both.
    fn copy(&self) -> Duration {
        let at = |queue: &MockQueue, head: usize| {
            let address = queue.buffer(head as u16);
            let memory = queue.guest().memory();
            memory.translate(address, BUFFER.into()).expect("its own buffer")
        };
        let pairs: [(*mut u8, *mut u8); BURST] =
            std::array::from_fn(|head| (at(&self.sender, head), at(&self.receiver, head)));
        let start = Instant::now();
        for (from, to) in black_box(pairs) {
            // SAFETY: `translate` checked that `BUFFER` octets follow each pointer, more than are copied; the two guests'
            // memories are different mappings, and nobody else uses them during this bench.
            unsafe { std::ptr::copy_nonoverlapping(from, to, self.frame.len()) };
        }
        start.elapsed()
    }
}

fn copies(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("copy");
    for len in [64, 512, 1500, 9000, 65_000] {
        group.throughput(Throughput::Bytes((BURST * len) as u64));
        let mut split = Pair::new(FEATURES, len);
        let mut packed = Pair::new(FEATURES | feature::RING_PACKED, len);
        split.deliver();
        group.bench_function(BenchmarkId::new("memcpy", len), |bencher| {
            bencher.iter_custom(|turns| (0..turns).map(|_| split.copy()).sum());
        });
        for (name, pair) in [("deliver, split", &mut split), ("deliver, packed", &mut packed)] {
            group.bench_function(BenchmarkId::new(name, len), |bencher| {
                bencher.iter_custom(|turns| (0..turns).map(|_| pair.deliver()).sum());
            });
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = copies
}
criterion_main!(benches);
