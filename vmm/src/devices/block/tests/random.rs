//! Random requests in random pieces, against a model of the disk.

use proptest::prelude::*;

use super::*;
use crate::testing::driver::SIZE;

const SECTORS: u8 = 32;

#[derive(Clone, Debug)]
enum Step {
    Transfer {
        write: bool,
        sector: u64,
        cuts: Vec<u32>,
        fill: u8,
    },
    Clear {
        kind: u32,
        sector: u64,
        sectors: u32,
    },
    Garbage {
        parts: Vec<(u64, u32, bool)>,
        header: Vec<u8>,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let sector = 0..u64::from(SECTORS) + 4;
    prop_oneof![
        4 => (any::<bool>(), sector.clone(), prop::collection::vec(1_u32..1500, 1..4), any::<u8>())
            .prop_map(|(write, sector, cuts, fill)| Step::Transfer { write, sector, cuts, fill }),
        1 => (prop::sample::select(vec![11_u32, 13]), sector, 0_u32..12)
            .prop_map(|(kind, sector, sectors)| Step::Clear { kind, sector, sectors }),
        2 => (
            prop::collection::vec((any_address(), prop_oneof![0_u32..1100, any::<u32>()], any::<bool>()), 1..usize::from(SIZE)),
            prop::collection::vec(0_u8..14, 16),
        )
            .prop_map(|(parts, header)| Step::Garbage { parts, header }),
    ]
}

/// Anywhere but where the rings are, for their content is checked.
fn any_address() -> impl Strategy<Value = u64> {
    prop_oneof![0x8_0000_u64..0x20_0100, (1_u64 << 32)..]
}

fn ends(cuts: &[u32]) -> Vec<(u64, u32)> {
    let mut at = DATA;
    cuts.iter()
        .map(|len| {
            let here = at;
            // With gaps, so that pieces do not join.
            at += u64::from(*len) + 64;
            (here, *len)
        })
        .collect()
}

/// A transfer as a driver asks for it, checked against the model.
fn transfer(bench: &mut Bench, model: &mut [u8], write: bool, sector: u64, cuts: &[u32], fill: u8) {
    let pieces = ends(cuts);
    let len: u32 = cuts.iter().sum();
    let mut parts = vec![(HEADER, 16, false)];
    for (address, len) in &pieces {
        bench.put(*address, &vec![fill; *len as usize]);
        parts.push((*address, *len, !write));
    }
    parts.push((STATUS, 1, true));
    let status = bench.send(u32::from(write), sector, &parts);
    let start = sector as usize * 512;
    let valid = len.is_multiple_of(512) && start + len as usize <= model.len();
    assert_eq!(status, u8::from(!valid));
    if !valid {
        return;
    }
    let there = &mut model[start..start + len as usize];
    if write {
        there.fill(fill);
    } else {
        let read: Vec<u8> = pieces
            .iter()
            .flat_map(|(address, len)| bench.get(*address, *len as usize))
            .collect();
        assert_eq!(read, there);
    }
}

fn run(steps: Vec<Step>) {
    let directory = TempDir::new().expect("a directory");
    let path = image(&directory, SECTORS);
    let mut model = std::fs::read(&path).expect("the image");
    let mut bench = started(open(&path));
    for step in steps {
        match step {
            Step::Transfer {
                write,
                sector,
                mut cuts,
                fill,
            } => {
                // Most transfers are made whole sectors, so that they do something.
                let odd = cuts.iter().sum::<u32>() % 512;
                if fill % 4 != 0 && odd != 0 {
                    cuts.push(512 - odd);
                }
                transfer(&mut bench, &mut model, write, sector, &cuts, fill);
            }
            Step::Clear {
                kind,
                sector,
                sectors,
            } => {
                bench.put(DATA, &range(sector, sectors, 0));
                let status = bench.request(kind, 0, 16, false);
                let valid = sector + u64::from(sectors) <= SECTORS.into();
                assert_eq!(status, u8::from(!valid));
                if valid {
                    let start = sector as usize * 512;
                    model[start..start + sectors as usize * 512].fill(0);
                }
            }
            Step::Garbage { parts, header } => {
                let before = used_index(&bench.ram, 0);
                bench.put(HEADER, &header);
                make_available(&bench.ram, 0, &parts);
                Driver(&mut bench.function).notify(0);
                bench.wait(before.wrapping_add(1));
                // What it may have written validly is known to the file alone.
                model = std::fs::read(&path).expect("the image");
            }
        }
        assert_eq!(model.len(), usize::from(SECTORS) * 512);
    }
    drop(bench);
    assert_eq!(std::fs::read(&path).expect("the image"), model);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_disk_is_what_the_model_is(steps in prop::collection::vec(step(), 1..24)) {
        run(steps);
    }
}
