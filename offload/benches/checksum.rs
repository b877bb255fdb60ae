//! Throughput of the Internet checksum beside two other crates, data in cache.
//!
//! `cargo bench -p offload --bench checksum`

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use etherparse::checksum::Sum16BitWords;

fn checksums(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("checksum");
    group
        .measurement_time(Duration::from_secs(1))
        .warm_up_time(Duration::from_millis(300))
        .sample_size(20);
    for len in [20, 64, 256, 1500, 9000, 65_536] {
        let data: Vec<u8> = (0..len).map(|n: u32| (n * 31 % 251) as u8).collect();
        group.throughput(Throughput::Bytes(u64::from(len)));
        group.bench_with_input(BenchmarkId::new("offload", len), &data, |bencher, data| {
            bencher.iter(|| offload::checksum::internet(black_box(data)));
        });
        group.bench_with_input(BenchmarkId::new("smoltcp", len), &data, |bencher, data| {
            bencher.iter(|| !smoltcp::wire::checksum::data(black_box(data)));
        });
        group.bench_with_input(BenchmarkId::new("etherparse", len), &data, |bencher, data| {
            bencher.iter(|| Sum16BitWords::new().add_slice(black_box(data)).ones_complement());
        });
    }
    group.finish();
}

criterion_group!(benches, checksums);
criterion_main!(benches);
