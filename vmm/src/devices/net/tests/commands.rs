//! Control commands that the switch carries out.

use super::*;
use crate::testing::switch::CONTROLLED;

const ADDRESS: [u8; 8] = [1, 1, 2, 0, 0, 0, 0, 1];
/// Where long commands lie.
const LONG: u64 = 0x9_0000;

/// A driver that accepted all that takes commands, with `pairs` queue pairs, on a switch that takes them.
fn controlled(switch: &TestSwitch, pairs: u8) -> Bench {
    switch.take_commands();
    let mut bench = bench(switch, pairs);
    let rings: Vec<u16> = (0..=2 * u16::from(pairs)).collect();
    let features = Driver(&mut bench.function).offered();
    bench.start(features, &rings);
    bench
}

/// Sends a command in parts of these lengths, and what is left in one more.
fn send(bench: &mut Bench, queue: u16, command: &[u8], lens: &[usize]) -> u8 {
    let mut parts = Vec::new();
    let mut at = 0;
    for len in lens.iter().copied().chain([command.len()]) {
        let end = command.len().min(at + len);
        parts.push((LONG + at as u64, (end - at) as u32, false));
        at = end;
    }
    let written = bench.ram.write_slice(command, GuestAddress(LONG));
    written.expect("in memory");
    parts.push((BUFFER, 1, true));
    bench
        .ram
        .write_obj(0x77_u8, GuestAddress(BUFFER))
        .expect("in memory");
    make_available(&bench.ram, queue, &parts);
    Driver(&mut bench.function).notify(queue);
    bench.ram.read_obj(GuestAddress(BUFFER)).expect("in memory")
}

fn said(switch: &TestSwitch) -> Vec<Vec<u8>> {
    switch.look(|said| said.commands.clone())
}

/// Steers by a table of `table` to two queue pairs, with a key of 40 octets.
fn steer(table: &[u16], pairs: u16) -> Vec<u8> {
    let halves = [&[table.len() as u16 - 1, 0], table, &[pairs]].concat();
    let mut command = vec![4, 1, 0x3f, 0, 0, 0];
    command.extend(halves.iter().flat_map(|half| half.to_le_bytes()));
    command.push(40);
    command.extend([7; 40]);
    command
}

#[test]
fn what_takes_commands_is_offered_with_a_switch_that_takes_them() {
    let switch = TestSwitch::start();
    let mut without = bench(&switch, 2);
    let own = CONTROLLED & (0x3 << 17 | 1 << 23);
    assert_eq!(Driver(&mut without.function).offered() & CONTROLLED, own);
    assert_eq!(Driver(&mut without.function).read::<8>(DEVICE + 16), [0; 8]);
    drop(without);
    let switch = TestSwitch::start();
    let mut with = controlled(&switch, 2);
    assert_eq!(Driver(&mut with.function).offered() & CONTROLLED, CONTROLLED);
    assert_eq!(
        Driver(&mut with.function).read::<8>(DEVICE + 16),
        [0, 40, 128, 0, 0xff, 1, 0, 0]
    );
    switch.look(|said| {
        assert_eq!(said.features & CONTROLLED, CONTROLLED);
        assert_eq!(said.commands, [ADDRESS]);
    });
}

#[test]
fn commands_reach_the_switch_as_they_are() {
    let switch = TestSwitch::start();
    let mut bench = controlled(&switch, 2);
    let table: Vec<u16> = (0..128).map(|entry| entry % 2).collect();
    let macs = [
        vec![1, 0, 2, 0, 0, 0],
        vec![2; 12],
        vec![50, 0, 0, 0],
        vec![3; 300],
    ]
    .concat();
    let commands: [(&[u8], &[usize]); 6] = [
        (&[0, 0, 0], &[2]),
        (&[0, 5, 1], &[2]),
        (&macs, &[2, 16]),
        (&[2, 0, 5, 0], &[2, 1]),
        (&steer(&table, 2), &[2, 8, 256, 3]),
        (&[5, 0, 2, 0, 0, 0, 0, 0, 0, 0], &[]),
    ];
    for (command, lens) in commands {
        assert_eq!(send(&mut bench, 4, command, lens), 0, "{command:?}");
    }
    let sent: Vec<_> = commands.iter().map(|(command, _)| command.to_vec()).collect();
    assert_eq!(said(&switch)[1..], sent);
    let counts = bench.function.device().counts();
    assert_eq!((counts.commands, counts.refused_commands), (6, 0));
}

#[test]
fn the_switch_judges_commands() {
    let switch = TestSwitch::start();
    let mut bench = controlled(&switch, 2);
    switch.carry_out(false);
    let enabled =
        |switch: &TestSwitch| switch.look(|said| said.rings.values().filter(|ring| ring.enabled).count());
    for command in [
        &[0, 0, 0][..],
        &[1, 1, 2, 0, 0, 0, 0, 9],
        &[9, 9],
        &[4, 0, 2, 0],
        &steer(&[0, 1], 2),
    ] {
        assert_eq!(send(&mut bench, 4, command, &[]), 1, "{command:?}");
        assert_eq!(said(&switch).last().expect("passed on"), command);
    }
    assert_eq!(Driver(&mut bench.function).read::<6>(DEVICE), ADDRESS[2..]);
    assert_eq!(enabled(&switch), 2);
    assert_eq!(bench.function.device().counts().refused_commands, 5);
    switch.carry_out(true);
    assert_eq!(send(&mut bench, 4, &steer(&[0, 1], 1), &[]), 0);
    assert_eq!(enabled(&switch), 4, "the highest pair in the table counts");
    assert_eq!(send(&mut bench, 4, &[4, 0, 1, 0], &[]), 0);
    assert_eq!(enabled(&switch), 2);
}

#[test]
fn tables_without_an_end_stand_for_all_addresses() {
    let switch = TestSwitch::start();
    let mut bench = controlled(&switch, 1);
    let mut macs = vec![1, 0, 0xff, 0xff, 0, 0];
    macs.resize(0x4000, 2);
    assert_eq!(send(&mut bench, 2, &macs, &[2, 0x2000]), 0);
    assert_eq!(said(&switch)[1], [1, 0, 255, 255, 255, 255, 255, 255, 255, 255]);
    macs[0] = 4;
    assert_eq!(
        send(&mut bench, 2, &macs, &[2, 0x2000]),
        1,
        "nothing else is so long"
    );
    assert_eq!(said(&switch).len(), 2);
}

#[test]
fn a_restarted_switch_hears_what_is_in_force() {
    let switch = TestSwitch::start();
    let mut bench = controlled(&switch, 2);
    for command in [
        &[0, 0, 1][..],
        &[2, 0, 5, 0],
        &[2, 0, 6, 0],
        &steer(&[0, 1], 2),
        &[0, 0, 0],
        &[2, 1, 5, 0],
    ] {
        assert_eq!(send(&mut bench, 4, command, &[]), 0);
    }
    let switch = switch.restart();
    switch.take_commands();
    bench.function.device_mut().disconnected();
    assert_eq!(
        send(&mut bench, 4, &[0, 1, 1], &[]),
        0,
        "kept for the next switch"
    );
    assert_eq!(send(&mut bench, 4, &[1, 1, 2, 0, 0, 0, 0, 9], &[]), 0);
    assert_eq!(
        send(&mut bench, 4, &steer(&[1, 0], 2), &[]),
        1,
        "nobody can judge it"
    );
    bench
        .function
        .device_mut()
        .reconnect()
        .expect("the switch is back");
    let expected = [
        vec![1, 1, 2, 0, 0, 0, 0, 9],
        vec![2, 0, 6, 0],
        steer(&[0, 1], 2),
        vec![0, 0, 0],
        vec![0, 1, 1],
    ];
    assert_eq!(said(&switch), expected);
    switch.look(|said| assert!(said.rings.values().all(|ring| ring.enabled)));
    Driver(&mut bench.function).set_status(0);
    let features = Driver(&mut bench.function).offered();
    bench.start(features, &[0, 1, 2, 3, 4]);
    assert_eq!(
        said(&switch)[expected.len()..],
        expected[..1],
        "the next driver has asked for nothing"
    );
}

#[test]
fn a_switch_that_takes_no_commands_any_more_is_not_used() {
    let switch = TestSwitch::start();
    let mut bench = controlled(&switch, 1);
    let switch = switch.restart();
    bench.function.device_mut().disconnected();
    let error = bench
        .function
        .device_mut()
        .reconnect()
        .expect_err("features are gone");
    assert!(matches!(error, SessionError::FeaturesLost { .. }), "{error}");
    drop(switch);
}
