//! Checksums, copies with checksums, segmentation, coalescing and hashing, beside other crates, plain memory passes and DPDK.
//!
//!     cargo bench -p offload --bench offload [-- ROUNDS]
//!
//! All contenders of a table run in turn, a few milliseconds each, round after round. Data is in the caches that its size fits into.
//! Tables show medians over the rounds; a ratio is the median of the rounds' ratios, with the smallest and the largest.
#![allow(unsafe_code)] // Reads memory with code for an instruction set that was found at run time.

mod hashing;
mod peer;
mod timing;

use std::cell::RefCell;
use std::hint::black_box;

use etherparse::checksum::Sum16BitWords;
use offload::coalesce::Coalescer;
use offload::{Checksum, Gso, GsoKind, Offloads, Segmenter, checksum, parse};
use peer::Dpdk;
use timing::{Contender, Result, compare};

const MSS: usize = 1448;
const SEGMENTS: usize = 45;
const HEADERS: usize = 54;
/// Distance of the buffers that segments are written to, as in a pool of packet buffers.
const BUFFER: usize = 2048;

fn main() {
    let rounds = std::env::args()
        .skip(1)
        .find_map(|text| text.parse().ok())
        .unwrap_or(21);
    println!("{rounds} rounds; GB/s are 10^9 octets a second\n");
    checksums(rounds);
    copies(rounds);
    segmentation(rounds);
    coalescing(rounds);
    hashing::hashing(rounds);
}

/// Octets of a frame as large as DPDK's peer cuts: equal to `make_frame` in gso.c.
fn large_frame() -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    frame.extend([
        0x45, 0, 0xfe, 0xb0, 0, 1, 0x40, 0, 64, 6, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2,
    ]);
    frame.extend([
        0, 80, 0x1f, 0x90, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x18, 1, 0, 0, 0, 0, 0,
    ]);
    frame.extend((0..SEGMENTS * MSS).map(|n| (n * 31 % 251) as u8));
    frame
}

fn checksums(rounds: usize) {
    println!(
        "Internet checksum, GB/s; \"+54\" is 54 octets behind an aligned address, where TCP payload starts"
    );
    println!("ratio: time of each to offload's, median (min-max)");
    let data: Vec<u64> = (0..8300_u64)
        .map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15))
        .collect();
    let bytes: Vec<u8> = data.iter().flat_map(|word| word.to_le_bytes()).collect();
    let start = bytes.as_ptr().align_offset(64);
    let columns = [
        ("64", 0, 64),
        ("1500", 0, 1500),
        ("1500+54", 54, 1500),
        ("64 KiB", 0, 65_536),
    ];
    let mut target = vec![0; 65_536];
    let mut table = Vec::new();
    for (name, offset, len) in columns {
        let data = &bytes[start + offset..start + offset + len];
        let target = &mut target[..len];
        let contenders = vec![
            Contender::new("offload", || sink(checksum::internet(black_box(data)))),
            Contender::new("smoltcp", || {
                black_box(!smoltcp::wire::checksum::data(black_box(data)));
            }),
            Contender::new("etherparse", || {
                black_box(Sum16BitWords::new().add_slice(black_box(data)).ones_complement());
            }),
            Contender::new("read u64, baseline", || sink(read(black_box(data)))),
            Contender::new("read u64, widest", || sink(read_wide(black_box(data)))),
            Contender::new("memcpy", || {
                black_box(&mut *target).copy_from_slice(black_box(data));
            }),
        ];
        table.push((name, len, compare(contenders, rounds)));
    }
    print_rates(&table);
}

/// Lets the compiler believe that a value is used.
fn sink<T>(value: T) {
    black_box(value);
}

/// A pass over memory that only reads.
#[inline(always)]
#[allow(clippy::inline_always)] // It has to take on the instruction set of its caller.
fn read(data: &[u8]) -> u64 {
    let (words, rest) = data.as_chunks::<8>();
    let sum = words
        .iter()
        .fold(0_u64, |sum, word| sum.wrapping_add(u64::from_ne_bytes(*word)));
    rest.iter()
        .fold(sum, |sum, octet| sum.wrapping_add((*octet).into()))
}

#[cfg(target_arch = "x86_64")]
fn read_wide(data: &[u8]) -> u64 {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn avx512(data: &[u8]) -> u64 {
        read(data)
    }
    #[target_feature(enable = "avx2")]
    fn avx2(data: &[u8]) -> u64 {
        read(data)
    }
    if is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vl") {
        // SAFETY: found in this processor.
        unsafe { avx512(data) }
    } else if is_x86_feature_detected!("avx2") {
        // SAFETY: found in this processor.
        unsafe { avx2(data) }
    } else {
        read(data)
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn read_wide(data: &[u8]) -> u64 {
    read(data)
}

fn copies(rounds: usize) {
    println!("Copy and checksum, GB/s of source, from 54 octets behind an aligned address to an aligned one");
    let source: Vec<u8> = (0..70_000_u32).map(|n| (n * 31 % 251) as u8).collect();
    let start = source.as_ptr().align_offset(64) + HEADERS;
    let mut table = Vec::new();
    for (name, len) in [("64", 64), ("1448", MSS), ("9000", 9000), ("64 KiB", 65_536)] {
        let from = &source[start..start + len];
        let contenders = vec![
            copying("copy_and_sum", from, |to, from| {
                sink(checksum::copy_and_sum(to, from));
            }),
            copying("memcpy, then sum", from, |to, from| {
                to.copy_from_slice(from);
                sink(checksum::sum(black_box(to)));
            }),
            copying("memcpy, then smoltcp", from, |to, from| {
                to.copy_from_slice(from);
                sink(smoltcp::wire::checksum::data(black_box(to)));
            }),
            copying("memcpy alone", from, |to, from| to.copy_from_slice(from)),
        ];
        table.push((name, len, compare(contenders, rounds)));
    }
    print_rates(&table);
}

/// A contender that copies to a place of its own: aligned, and half a page off the source's place in its page, so that no store looks
/// like one to octets that are loaded next.
fn copying<'a>(name: &str, from: &'a [u8], work: impl Fn(&mut [u8], &[u8]) + 'a) -> Contender<'a> {
    let mut target = vec![0; from.len() + 2 * 4096];
    let wanted = (from.as_ptr().addr() + 2048) & !63;
    let start = wanted.wrapping_sub(target.as_ptr().addr()) % 4096;
    Contender::new(name, move || {
        work(black_box(&mut target[start..start + from.len()]), black_box(from));
    })
}

/// Cuts `frame` into buffers as a pool would have them.
fn cut(frame: &[u8], buffers: &mut [u8]) -> usize {
    let meta = parse(frame, frame.len()).expect("a frame");
    let gso = Gso {
        kind: GsoKind::Tcp4,
        size: MSS as u16,
        ecn: false,
    };
    let mut segmenter = Segmenter::new(frame, &meta, gso).expect("a large send");
    let mut count = 0;
    for buffer in buffers.chunks_exact_mut(BUFFER) {
        let Some(_) = segmenter.next_into(buffer) else {
            break;
        };
        count += 1;
    }
    count
}

/// FNV-1a over all segments, as in gso.c.
fn digest(buffers: &[u8]) -> String {
    let mut digest = 0xcbf2_9ce4_8422_2325_u64;
    for octet in buffers
        .chunks_exact(BUFFER)
        .flat_map(|buffer| &buffer[..HEADERS + MSS])
    {
        digest = (digest ^ u64::from(*octet)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("{digest:016x} {SEGMENTS}")
}

fn segmentation(rounds: usize) {
    println!(
        "Segmentation of a TCP frame of {} octets into {SEGMENTS} segments with all checksums",
        HEADERS + SEGMENTS * MSS
    );
    println!(
        "offload parses, copies payload and sums; librte_gso makes indirect mbufs, which are linearized (a copy) or not,"
    );
    println!(
        "and rte_ipv4_cksum and rte_ipv4_udptcp_cksum sum (peer: cc {}, libdpdk as packaged)",
        peer::FLAGS
    );
    let frame = large_frame();
    let mut buffers = vec![0; SEGMENTS * BUFFER];
    assert_eq!(cut(&frame, &mut buffers), SEGMENTS);
    let expected = digest(&buffers);
    let dpdk = Dpdk::start("gso").map(|mut dpdk| {
        assert_eq!(dpdk.digest("d"), expected, "both make the same segments");
        RefCell::new(dpdk)
    });
    let mut contenders = vec![Contender::new("offload", || {
        assert_eq!(
            black_box(cut(black_box(&frame), black_box(&mut buffers))),
            SEGMENTS
        );
    })];
    if let Ok(dpdk) = &dpdk {
        for (name, command) in [("DPDK, linearized", "l"), ("DPDK, indirect: no copy", "i")] {
            contenders.push(Contender::timed(name, move |times| {
                dpdk.borrow_mut().run(command, times)
            }));
        }
    }
    print_frames(&compare(contenders, rounds));
    if let Err(reason) = dpdk {
        println!("  DPDK: {reason}");
    }
    println!();
}

fn coalescing(rounds: usize) {
    println!("Coalescing of those {SEGMENTS} segments into one frame, with parsing");
    let frame = large_frame();
    let mut buffers = vec![0; SEGMENTS * BUFFER];
    cut(&frame, &mut buffers);
    let segments: Vec<&[u8]> = buffers
        .chunks_exact(BUFFER)
        .map(|buffer| &buffer[..HEADERS + MSS])
        .collect();
    let coalescer = RefCell::new(Coalescer::new(8));
    let merge = |checksum: Checksum| {
        let offloads = Offloads { checksum, gso: None };
        let mut count = 0;
        let mut coalescer = coalescer.borrow_mut();
        for segment in black_box(&segments) {
            let meta = parse(segment, segment.len()).expect("a frame");
            coalescer.push(segment, &meta, &offloads, &mut |out| {
                count += black_box(out).parts.map_or(1, offload::coalesce::Parts::len);
            });
        }
        coalescer.flush(&mut |out| count += black_box(out).parts.map_or(1, offload::coalesce::Parts::len));
        assert_eq!(count, SEGMENTS);
    };
    let contenders = vec![
        Contender::new("checksums known to be right", || merge(Checksum::Valid)),
        Contender::new("checksums verified here", || merge(Checksum::Complete)),
    ];
    print_frames(&compare(contenders, rounds));
}

fn print_rates(table: &[(&str, usize, Vec<Result>)]) {
    print!("  {:22}", "");
    for (name, ..) in table {
        print!("{name:>10}{:>22}", "ratio");
    }
    println!();
    for row in 0..table.first().map_or(0, |(.., results)| results.len()) {
        print!("  {:22}", table[0].2[row].name);
        for (_, len, results) in table {
            let Result {
                nanoseconds, ratio, ..
            } = &results[row];
            let spread = format!("{:.2} ({:.2}-{:.2})", ratio.median, ratio.min, ratio.max);
            print!("{:10.1}{spread:>22}", *len as f64 / nanoseconds.median);
        }
        println!();
    }
    println!();
}

fn print_frames(results: &[Result]) {
    for Result {
        name,
        nanoseconds,
        ratio,
    } in results
    {
        let rate = (SEGMENTS * MSS) as f64 / nanoseconds.median;
        println!(
            "  {name:28} {:6.2} us a frame ({:.2}-{:.2})  {rate:5.1} GB/s of payload  ratio {:.2} ({:.2}-{:.2})",
            nanoseconds.median / 1000.0,
            nanoseconds.min / 1000.0,
            nanoseconds.max / 1000.0,
            ratio.median,
            ratio.min,
            ratio.max,
        );
    }
}
