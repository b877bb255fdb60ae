use alloc::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Configuration space of one device with the layout of this project's, and a memory that remembers.
#[derive(Debug, Default)]
struct Fake {
    address: u32,
    ports: Vec<(u16, u8, u32)>,
    registers: Vec<(u64, u8, u64)>,
    memory: BTreeMap<u64, u8>,
}

const BARS: [u32; 2] = [0xe100_0000, 0xe100_8000];

impl Fake {
    fn config(&self) -> u32 {
        let (slot, offset) = (self.address >> 11 & 31, self.address & 0xfc);
        match (slot, offset) {
            (1, 0) => 0x1044_1af4,
            (1, 0x10) => BARS[0],
            (1, 0x14) => BARS[1],
            (1, 0x34) => 0x40,
            (1, 0x40) => 0x0114_5009,
            (1, 0x50) => 0x0514_6409,
            (1, 0x64) => 0x0001_0011,
            (1, _) => 0,
            _ => u32::MAX,
        }
    }
}

impl Machine for Fake {
    fn read_port(&mut self, port: u16, _: u8) -> u32 {
        if port == 0xcfc { self.config() } else { 0 }
    }

    fn write_port(&mut self, port: u16, width: u8, value: u32) {
        if (port, width) == (0xcf8, 4) {
            self.address = value;
        }
        self.ports.push((port, width, value));
    }

    fn read_memory(&mut self, address: u64, width: u8) -> u64 {
        (0..width).rev().fold(0, |value, at| {
            let octet = self.memory.get(&(address + u64::from(at))).copied();
            value << 8 | u64::from(octet.unwrap_or(0))
        })
    }

    fn write_memory(&mut self, address: u64, width: u8, value: u64) {
        if address >= 0xc000_0000 {
            self.registers.push((address, width, value));
            return;
        }
        for (at, octet) in value.to_le_bytes().into_iter().take(width.into()).enumerate() {
            self.memory.insert(address + at as u64, octet);
        }
    }
}

fn run(line: &str) -> Chaos<Fake> {
    let orders = Orders::parse(line).expect("chaos").expect("valid");
    let mut chaos = Chaos::new(orders, Fake::default());
    assert_eq!(chaos.devices(), 1);
    for _ in 0..orders.rounds {
        chaos.round();
    }
    chaos
}

#[test]
fn the_command_line_is_read() {
    assert_eq!(Orders::parse("role=server seed=1"), None);
    let orders =
        Orders::parse("role=chaos seed=7 rounds=3 memory=64 wild=1 others=1 end=triple-fault tsc_khz=1");
    let expected = Orders {
        seed: 7,
        rounds: 3,
        memory: 64,
        wild: true,
        others: true,
        end: Ending::TripleFault,
    };
    assert_eq!(orders, Some(Ok(expected)));
    for (word, key) in [
        ("rounds=0", "rounds"),
        ("memory=23", "memory"),
        ("wild=2", "wild"),
        ("end=x", "end"),
    ] {
        let line = alloc::format!("role=chaos {word}");
        assert_eq!(
            Orders::parse(&line),
            Some(Err(ParameterError::Invalid(key))),
            "{word}"
        );
    }
}

#[test]
fn a_seed_decides_everything() {
    let done = |line| {
        let chaos = run(line);
        (chaos.tally(), chaos.machine.ports, chaos.machine.registers)
    };
    assert_eq!(
        done("role=chaos seed=5 rounds=20"),
        done("role=chaos seed=5 rounds=20")
    );
    assert_ne!(
        done("role=chaos seed=5 rounds=20"),
        done("role=chaos seed=6 rounds=20")
    );
}

#[test]
fn every_window_is_reached_with_every_width() {
    let machine = run("role=chaos seed=1 rounds=200").machine;
    for window in [
        0xe100_0000_u64,
        0xe100_1000,
        0xe100_2000,
        0xe100_3000,
        0xe100_8000,
        0xe000_8000,
    ] {
        for width in [1, 2, 4, 8] {
            let reached = machine
                .registers
                .iter()
                .filter(|(address, seen, _)| (window..window + 0x1000).contains(address) && *seen == width);
            assert!(reached.count() > 5, "{window:#x} with {width}");
        }
    }
    for port in [0x3f8, 0x3ff, 0x404, 0x600, 0x604, 0x64, 0xcf8, 0xcfc, 0xcff] {
        assert!(
            machine.ports.iter().any(|(seen, _, _)| *seen == port),
            "{port:#x}"
        );
    }
}

/// Low words of the descriptors in the rings and tables.
fn descriptors(machine: &Fake) -> impl Iterator<Item = u64> {
    let octet = |address| machine.memory.get(&address).copied().unwrap_or(0);
    let starts = machine.memory.keys().copied().filter(|address| {
        address % 16 == 0 && (0x100_8000..0x104_0000).contains(address) && address % 0x8000 < 0x4000
    });
    let starts: Vec<u64> = starts.collect();
    starts
        .into_iter()
        .map(move |address| u64::from_le_bytes(core::array::from_fn(|at| octet(address + at as u64))))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn nothing_ends_the_machine_or_the_guest(seed: u32) {
        let line = alloc::format!("role=chaos seed={seed} rounds=60");
        let machine = run(&line).machine;
        for (port, width, value) in &machine.ports {
            prop_assert!((*port, *width) != (0x604, 2) || value & 0x2000 == 0, "soft-off");
            prop_assert!((*port, *width) != (0x64, 1) || value & 0xff != 0xfe, "reset");
            prop_assert!((*port, *width) != (0xcf9, 1) || value & 4 == 0, "reset");
            let controllers = [0x20, 0x21, 0xa0, 0xa1];
            prop_assert!(controllers.iter().all(|taken| !(*port..port + u16::from(*width)).contains(taken)));
        }
        for (address, width, value) in &machine.registers {
            prop_assert!(!(0xfec0_0000..0xff00_0000).contains(address), "an interrupt controller");
            let data = (0xe100_8000..0xe100_8800).contains(address) && address % 16 == 8 && *width >= 4;
            prop_assert!(!data || (value & 0x700 == 0 && (0x41..0x4f).contains(&(value & 0xff))), "{value:#x}");
        }
        for address in descriptors(&machine) {
            prop_assert!(!(0x8_0000..16 << 20).contains(&address), "a device may write to {address:#x}");
        }
    }
}
