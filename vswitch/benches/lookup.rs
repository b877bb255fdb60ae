//! What a look at the forwarding table costs, by how many addresses it has learned: of destinations (`lookup`) and of sources
//! that are known (`learn`). A time stands for 32 frames, each with another address, picked in no order.
//!
//! `cargo bench -p vswitch --bench lookup`
#![allow(missing_docs)]

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use offload::MacAddr;
use vswitch::frame::BURST;
use vswitch::port::PortId;
use vswitch::table::{ForwardingTable, Learned, TableConfig};

/// Room for the largest number of addresses at a load at which few sets are full.
const CAPACITY: usize = 262_144;
const PORTS: u32 = 256;
const NOW: u32 = 100;

/// Address number `number` of virtual machines as a hypervisor deals them out.
fn mac(number: u32) -> MacAddr {
    let [_, a, b, c] = number.to_be_bytes();
    MacAddr([0x52, 0x54, 0, a, b, c])
}

fn port(number: u32) -> PortId {
    PortId((number % PORTS) as u16)
}

fn table(addresses: u32) -> ForwardingTable {
    let table = ForwardingTable::new(&TableConfig {
        capacity: CAPACITY,
        ..TableConfig::default()
    });
    for number in 0..addresses {
        table.learn(mac(number), 0, port(number), NOW);
    }
    // A set that is full lets its oldest address go, which few sets are.
    assert!(
        table.len() * 1000 >= addresses as usize * 999,
        "{} learned",
        table.len()
    );
    table
}

/// Numbers below `below` that come in no order.
struct Picks {
    next: u32,
    below: u32,
}

impl Picks {
    fn next(&mut self) -> u32 {
        self.next = self.next.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((u64::from(self.next) * u64::from(self.below)) >> 32) as u32
    }
}

fn lookups(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("forwarding table");
    group.throughput(Throughput::Elements(BURST as u64));
    for addresses in [10, 1_000, 100_000] {
        let table = table(addresses);
        let mut picks = Picks {
            next: 1,
            below: addresses,
        };
        group.bench_function(BenchmarkId::new("lookup", addresses), |bencher| {
            bencher.iter(|| {
                for _ in 0..BURST {
                    black_box(table.lookup(mac(picks.next()), 0, NOW));
                }
            });
        });
        group.bench_function(BenchmarkId::new("learn, known", addresses), |bencher| {
            bencher.iter(|| {
                for _ in 0..BURST {
                    let number = picks.next();
                    let learned = table.learn(mac(number), 0, port(number), NOW);
                    debug_assert_ne!(learned, Learned::Refused);
                    black_box(learned);
                }
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = lookups
}
criterion_main!(benches);
