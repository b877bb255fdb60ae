use std::collections::HashMap;
use std::sync::Barrier;

use proptest::prelude::*;

use super::*;

fn mac(n: u32) -> MacAddr {
    let mut octets = [2, 0, 0, 0, 0, 0];
    octets[2..].copy_from_slice(&n.to_be_bytes());
    MacAddr(octets)
}

fn table(config: TableConfig) -> ForwardingTable {
    ForwardingTable::with_seed(&config, 7)
}

#[test]
fn learns_finds_and_ages() {
    let table = table(TableConfig::default());
    assert_eq!(table.lookup(mac(1), 5, 0), None);
    assert_eq!(table.learn(mac(1), 5, PortId(3), 0), Learned::New);
    assert_eq!(table.learn(mac(1), 5, PortId(3), 0), Learned::Known);
    assert_eq!(table.lookup(mac(1), 5, 299), Some(PortId(3)));
    assert_eq!(
        table.lookup(mac(1), 6, 0),
        None,
        "another VLAN is another address"
    );
    assert_eq!(table.lookup(mac(1), 5, 300), None, "aged out");
    assert_eq!(table.learn(mac(1), 5, PortId(3), 200), Learned::Known);
    assert_eq!(table.lookup(mac(1), 5, 300), Some(PortId(3)), "renewed");
    assert_eq!(table.len(), 1);
}

#[test]
fn an_address_moves_and_is_counted_once() {
    let table = table(TableConfig::default());
    table.learn(mac(1), 0, PortId(1), 0);
    assert_eq!(table.learn(mac(1), 0, PortId(2), 0), Learned::Moved(PortId(1)));
    assert_eq!(table.lookup(mac(1), 0, 0), Some(PortId(2)));
    assert_eq!((table.len_of(PortId(1)), table.len_of(PortId(2))), (0, 1));
    assert_eq!(table.counts().moves, 1);
}

#[test]
fn group_addresses_and_unknown_ports_are_not_learned() {
    let table = table(TableConfig {
        ports: 4,
        ..TableConfig::default()
    });
    assert_eq!(table.learn(MacAddr::BROADCAST, 0, PortId(1), 0), Learned::Refused);
    assert_eq!(
        table.learn(MacAddr([1, 0, 0x5e, 0, 0, 1]), 0, PortId(1), 0),
        Learned::Refused
    );
    assert_eq!(table.learn(mac(1), 0, PortId(4), 0), Learned::Refused);
    assert!(table.is_empty());
    assert_eq!(table.len_of(PortId(9)), 0);
}

#[test]
fn the_largest_numbers_survive() {
    let table = table(TableConfig {
        ports: 65_536,
        ..TableConfig::default()
    });
    let last = MacAddr([0xfe, 0xff, 0xff, 0xff, 0xff, 0xff]);
    assert_eq!(
        table.learn(last, 4095, PortId(u16::MAX - 1), u32::MAX - 1),
        Learned::New
    );
    assert_eq!(
        table.entries(u32::MAX),
        vec![TableEntry {
            mac: last,
            vlan: 4095,
            port: PortId(u16::MAX - 1),
            seen: u32::MAX - 1
        }]
    );
}

#[test]
fn a_flood_stays_within_its_ports_cap_and_spares_the_others() {
    let table = table(TableConfig {
        capacity: 1_024,
        per_port: 128,
        ..TableConfig::default()
    });
    let others: Vec<MacAddr> = (0..100).map(|n| mac(1_000_000 + n)).collect();
    for other in &others {
        table.learn(*other, 0, PortId(1), 0);
    }
    for n in 0..100_000 {
        table.learn(mac(n), 0, PortId(2), 1);
        assert!(table.len_of(PortId(2)) <= 128);
    }
    assert_eq!(table.len_of(PortId(2)), 128);
    let left = others
        .iter()
        .filter(|other| table.lookup(**other, 0, 1) == Some(PortId(1)))
        .count();
    assert_eq!(left, others.len());
    assert!(table.counts().refused > 0);
}

#[test]
fn a_hundred_thousand_addresses_behind_one_port_find_room() {
    let table = table(TableConfig::default());
    table.allow(PortId(1), 200_000);
    for n in 0..100_000 {
        assert_ne!(table.learn(mac(n), 0, PortId(1), 0), Learned::Refused);
    }
    let known = (0..100_000)
        .filter(|n| table.lookup(mac(*n), 0, 0).is_some())
        .count();
    assert!(known >= 99_950, "{known} of 100,000");
    table.allow(PortId(1), 100);
    let before = table.len_of(PortId(1));
    table.learn(mac(100_000), 0, PortId(1), 299);
    assert_eq!(
        table.len_of(PortId(1)),
        before,
        "at most in the place of an older one"
    );
}

#[test]
fn a_port_at_its_cap_learns_again_when_its_addresses_expired() {
    let config = TableConfig {
        capacity: 64,
        per_port: 16,
        ..TableConfig::default()
    };
    let table = table(config);
    for n in 0..200 {
        table.learn(mac(n), 0, PortId(0), 0);
    }
    assert_eq!(table.len_of(PortId(0)), 16);
    for n in 1_000..1_016 {
        // Each refusal sweeps some sets, so that a second try finds room.
        for _ in 0..2 {
            table.learn(mac(n), 0, PortId(0), 300);
        }
    }
    let known = (1_000..1_016)
        .filter(|n| table.lookup(mac(*n), 0, 300).is_some())
        .count();
    assert!(known >= 12, "{known} of 16");
}

#[test]
fn a_full_set_gives_up_the_newcomers_own_oldest_first() {
    let table = table(TableConfig {
        capacity: 8,
        ..TableConfig::default()
    });
    for n in 0..6 {
        table.learn(mac(n), 0, PortId(1), n);
    }
    table.learn(mac(6), 0, PortId(2), 6);
    table.learn(mac(7), 0, PortId(2), 7);
    table.learn(mac(8), 0, PortId(2), 8);
    assert_eq!(table.lookup(mac(6), 0, 8), None, "its own oldest went");
    assert_eq!(table.lookup(mac(0), 0, 8), Some(PortId(1)));
    table.learn(mac(9), 0, PortId(3), 9);
    assert_eq!(
        table.lookup(mac(0), 0, 9),
        None,
        "a port without one takes the oldest"
    );
    assert_eq!(table.counts().evictions, 2);
    assert_eq!(table.len(), 8);
}

#[test]
fn forgetting_a_port_leaves_the_others() {
    let table = table(TableConfig::default());
    for n in 0..500 {
        table.learn(mac(n), 0, PortId((n % 2) as u16), 0);
    }
    table.forget_port(PortId(0));
    assert_eq!((table.len_of(PortId(0)), table.len_of(PortId(1))), (0, 250));
    assert_eq!(table.entries(0).len(), 250);
    assert_eq!(table.lookup(mac(0), 0, 0), None);
    assert_eq!(table.lookup(mac(1), 0, 0), Some(PortId(1)));
}

#[test]
fn sweeping_frees_what_expired() {
    let table = table(TableConfig::default());
    for n in 0..300 {
        table.learn(mac(n), 0, PortId(0), n);
    }
    table.sweep(usize::MAX, 400);
    assert_eq!(table.len(), 199, "heard in seconds 101 to 299");
    assert_eq!(table.entries(400).len(), 199);
}

#[derive(Clone, Debug)]
enum Step {
    Learn(u32, u16, u16),
    Lookup(u32, u16),
    Forget(u16),
    Wait(u32),
    Sweep(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..40_u32, 0..3_u16, 0..5_u16).prop_map(|(m, v, p)| Step::Learn(m, v, p)),
        6 => (0..40_u32, 0..3_u16).prop_map(|(m, v)| Step::Lookup(m, v)),
        1 => (0..5_u16).prop_map(Step::Forget),
        2 => (0..200_u32).prop_map(Step::Wait),
        1 => (0..64_usize).prop_map(Step::Sweep),
    ]
}

proptest! {
    /// With room for all, the table behaves like a map with time stamps.
    #[test]
    fn is_a_map_while_there_is_room(steps in prop::collection::vec(step(), 1..300), seed: u64) {
        // 120 addresses in 2,048 sets of 8: that a set overflows is as good as impossible.
        let config = TableConfig { capacity: 16_384, ..TableConfig::default() };
        let table = ForwardingTable::with_seed(&config, seed);
        let mut model: HashMap<(u32, u16), (u16, u32)> = HashMap::new();
        let mut now = 0;
        for step in steps {
            match step {
                Step::Learn(m, v, p) => {
                    table.learn(mac(m), v, PortId(p), now);
                    model.insert((m, v), (p, now));
                }
                Step::Lookup(m, v) => {
                    let expected = model
                        .get(&(m, v))
                        .filter(|(_, seen)| now - seen < 300)
                        .map(|(port, _)| PortId(*port));
                    prop_assert_eq!(table.lookup(mac(m), v, now), expected);
                }
                Step::Forget(p) => {
                    table.forget_port(PortId(p));
                    model.retain(|_, (port, _)| *port != p);
                }
                Step::Wait(seconds) => now += seconds,
                Step::Sweep(sets) => table.sweep(sets, now),
            }
        }
        model.retain(|_, (_, seen)| now - *seen < 300);
        let mut entries: Vec<_> = table.entries(now).iter().map(|e| (e.mac, e.vlan, e.port, e.seen)).collect();
        let mut expected: Vec<_> =
            model.iter().map(|((m, v), (p, seen))| (mac(*m), *v, PortId(*p), *seen)).collect();
        entries.sort_unstable();
        expected.sort_unstable();
        prop_assert_eq!(entries, expected);
        table.sweep(usize::MAX, now);
        prop_assert_eq!(table.len(), model.len());
    }

    /// In a table far too small nothing is ever wrong, only forgotten, and the counts stay exact.
    #[test]
    fn forgets_but_never_lies(steps in prop::collection::vec(step(), 1..400), per_port in 1..10_u32) {
        let config = TableConfig { capacity: 16, per_port, ports: 5, ageing: 300 };
        let table = ForwardingTable::with_seed(&config, 1);
        let mut last: HashMap<(u32, u16), u16> = HashMap::new();
        let mut now = 0;
        for step in steps {
            match step {
                Step::Learn(m, v, p) => {
                    if table.learn(mac(m), v, PortId(p), now) != Learned::Refused {
                        last.insert((m, v), p);
                    }
                }
                Step::Lookup(m, v) => {
                    if let Some(port) = table.lookup(mac(m), v, now) {
                        prop_assert_eq!(Some(&port.0), last.get(&(m, v)));
                    }
                }
                Step::Forget(p) => table.forget_port(PortId(p)),
                Step::Wait(seconds) => now += seconds,
                Step::Sweep(sets) => table.sweep(sets, now),
            }
            let entries = table.entries(0);
            prop_assert_eq!(entries.len(), table.len());
            for port in 0..5 {
                let owned = entries.iter().filter(|entry| entry.port.0 == port).count();
                prop_assert_eq!(owned, table.len_of(PortId(port)));
                prop_assert!(owned <= per_port as usize);
            }
        }
    }
}

/// Four threads fight over a table that is much too small. Whatever they leave is consistent: no lookup ever
/// answers with a port that never sent from the address, and the counts match the slots.
#[test]
fn threads_leave_a_consistent_table() {
    const THREADS: u16 = 4;
    let table = table(TableConfig {
        capacity: 64,
        per_port: 24,
        ports: 16,
        ageing: 300,
    });
    let start = Barrier::new(usize::from(THREADS));
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (table, start) = (&table, &start);
            scope.spawn(move || {
                start.wait();
                let mut state = u32::from(thread) + 1;
                for round in 0..50_000_u32 {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let address = (state >> 16) % 512;
                    // Two ports per address, so that addresses move, and each thread uses both.
                    let port = (address % 8) as u16 + 8 * (state >> 31) as u16;
                    match round % 16 {
                        0 => table.forget_port(PortId(port)),
                        1..8 => {
                            if let Some(found) = table.lookup(mac(address), 1, round / 100) {
                                assert_eq!(u32::from(found.0) % 8, address % 8);
                            }
                        }
                        _ => {
                            table.learn(mac(address), 1, PortId(port), round / 100);
                        }
                    }
                }
            });
        }
    });
    let entries = table.entries(0);
    assert_eq!(entries.len(), table.len());
    for port in 0..16 {
        let owned = entries.iter().filter(|entry| entry.port.0 == port).count();
        assert_eq!(owned, table.len_of(PortId(port)));
        assert!(owned <= 24);
    }
}
