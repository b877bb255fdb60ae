//! Hashes of flows.

use std::cell::RefCell;
use std::hint::black_box;

use offload::rss::Toeplitz;

use super::peer::Dpdk;
use super::timing::{Contender, Result, compare};

/// Tuples that are hashed together: a burst of frames.
const TUPLES: usize = 32;
/// Addresses and ports of IPv6.
const WORDS: usize = 9;

/// Equal to `tuples` in thash.c.
fn tuples() -> [[u32; WORDS]; TUPLES] {
    let mut next = 0_u32;
    [(); TUPLES].map(|()| {
        [(); WORDS].map(|()| {
            next += 1;
            next.wrapping_mul(0x9e37_79b9)
        })
    })
}

/// FNV-1a, an octet at a time, folded to 32 bits: what spreads flows where nobody asks for a certain hash.
fn fnv(input: &[u32]) -> u32 {
    let octets = input.iter().flat_map(|word| word.to_be_bytes());
    let hash = octets.fold(0xcbf2_9ce4_8422_2325_u64, |hash, octet| {
        (hash ^ u64::from(octet)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    (hash ^ hash >> 32) as u32
}

pub(crate) fn hashing(rounds: usize) {
    println!(
        "Toeplitz hash, ns a tuple: IPv4 addresses and ports (12 octets), IPv6 addresses and ports (36)"
    );
    let toeplitz = Toeplitz::new(&Toeplitz::DEFAULT_KEY);
    let tuples = tuples();
    let mut table = Vec::new();
    for words in [3, WORDS] {
        let all =
            |hash: &dyn Fn(&[u32]) -> u32| tuples.iter().fold(0, |sum, tuple| sum ^ hash(&tuple[..words]));
        let expected = format!("{:08x}", all(&|tuple| toeplitz.hash(tuple)));
        let dpdk = Dpdk::start("thash").map(|mut dpdk| {
            let digest = dpdk.digest(&format!("d {words} 0"));
            assert!(
                digest
                    .split(' ')
                    .all(|hash| hash == expected || hash == "00000000"),
                "both make the same hashes"
            );
            (digest.ends_with(&expected), RefCell::new(dpdk))
        });
        let once = |hash: &dyn Fn(&[u32]) -> u32| {
            for tuple in black_box(&tuples) {
                black_box(hash(&tuple[..words]));
            }
        };
        let mut contenders = vec![
            Contender::new("offload", || {
                for tuple in black_box(&tuples) {
                    black_box(toeplitz.hash(&tuple[..words]));
                }
            }),
            Contender::new("FNV-1a (another hash)", || once(&fnv)),
        ];
        match &dpdk {
            Ok((gfni, dpdk)) => {
                let mut add = |name, kind| {
                    let command = format!("{kind} {words}");
                    let run = move |times| dpdk.borrow_mut().run(&command, times);
                    contenders.push(Contender::timed(name, run));
                };
                add("DPDK, rte_softrss_be", 's');
                if *gfni {
                    add("DPDK, rte_thash_gfni", 'g');
                }
            }
            Err(reason) => println!("  DPDK: {reason}"),
        }
        table.push(compare(contenders, rounds));
    }
    print(&table);
}

fn print(table: &[Vec<Result>]) {
    for row in 0..table.first().map_or(0, Vec::len) {
        print!("  {:24}", table[0][row].name);
        for results in table {
            let Result {
                nanoseconds, ratio, ..
            } = &results[row];
            let spread = format!("{:.2} ({:.2}-{:.2})", ratio.median, ratio.min, ratio.max);
            print!("{:8.2}{spread:>22}", nanoseconds.median / TUPLES as f64);
        }
        println!();
    }
    println!();
}
