use proptest::prelude::*;

use super::*;

const ALL: Limits = Limits {
    features: u64::MAX,
    queue_pairs: 4,
};

fn refused(octets: &[u8]) -> &'static str {
    decode(octets, ALL).expect_err("refused").label()
}

/// An RSS command with this table.
fn rss_command(types: u32, mask: u16, unclassified: u16, table: &[u16], pairs: u16, key: &[u8]) -> Vec<u8> {
    let mut octets = vec![4, 1];
    octets.extend(types.to_le_bytes());
    for half in [&[mask, unclassified], table, &[pairs]].concat() {
        octets.extend(half.to_le_bytes());
    }
    octets.push(key.len() as u8);
    octets.extend(key);
    octets
}

#[test]
fn receive_modes_and_addresses() {
    for (number, mode) in [
        ReceiveMode::Promiscuous,
        ReceiveMode::AllMulticast,
        ReceiveMode::AllUnicast,
        ReceiveMode::NoMulticast,
        ReceiveMode::NoUnicast,
        ReceiveMode::NoBroadcast,
    ]
    .into_iter()
    .enumerate()
    {
        let command = decode(&[0, number as u8, 1], ALL);
        assert_eq!(command, Ok(Command::ReceiveMode(mode, true)));
    }
    let mac = MacAddr([2, 0, 0, 0, 0, 9]);
    let command = decode(&[1, 1, 2, 0, 0, 0, 0, 9], ALL);
    assert_eq!(command, Ok(Command::MacAddress(mac)));
    let mut table = vec![1, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 9, 2, 0, 0, 0];
    table.extend([1; 12]);
    let group = MacAddr([1; 6]);
    let command = decode(&table, ALL);
    let expected = Command::MacTable {
        unicast: MacList::Some(vec![mac]),
        multicast: MacList::Some(vec![group, group]),
    };
    assert_eq!(command, Ok(expected));
    assert_eq!(refused(&table[..table.len() - 1]), "control_length");
    assert_eq!(refused(&[1, 1, 3, 0, 0, 0, 0, 9]), "control_address");
}

#[test]
fn a_table_that_is_too_long_is_all_addresses() {
    let list = |count: u32| {
        let mut octets = count.to_le_bytes().to_vec();
        octets.resize(4 + 6 * count as usize, 2);
        octets
    };
    let cut = [vec![1, 0], list(65), vec![0xff; 4]].concat();
    let all = Command::MacTable {
        unicast: MacList::Overflow,
        multicast: MacList::Overflow,
    };
    assert_eq!(decode(&cut, ALL), Ok(all));
    let most = [vec![1, 0], list(64), list(0)].concat();
    let Ok(Command::MacTable { unicast, .. }) = decode(&most, ALL) else {
        panic!("refused")
    };
    assert!(matches!(unicast, MacList::Some(list) if list.len() == 64));
    assert_eq!(refused(&[1, 0, 0xfe, 0xff, 0xff, 0xff, 0, 0]), "control_length");
}

#[test]
fn queue_pairs_vlans_and_offloads() {
    assert_eq!(decode(&[4, 0, 4, 0], ALL), Ok(Command::QueuePairs(4)));
    assert_eq!(refused(&[4, 0, 5, 0]), "control_queue");
    assert_eq!(refused(&[4, 0, 0, 0]), "control_queue");
    let vlan = |id, receive| Ok(Command::Vlan { id, receive });
    assert_eq!(decode(&[2, 0, 0xff, 0x0f], ALL), vlan(4095, true));
    assert_eq!(decode(&[2, 1, 1, 0], ALL), vlan(1, false));
    assert_eq!(refused(&[2, 0, 0, 0x10]), "control_vlan");
    let limits = Limits {
        features: feature::CTRL_GUEST_OFFLOADS | 0x82,
        ..ALL
    };
    let offloads = |low: u8| decode(&[5, 0, low, 0, 0, 0, 0, 0, 0, 0], limits);
    assert_eq!(offloads(0x82), Ok(Command::GuestOffloads(0x82)));
    assert_eq!(offloads(0), Ok(Command::GuestOffloads(0)));
    assert_eq!(offloads(0x86), Err(CommandError::Offloads(4)));
    assert_eq!(decode(&[3, 0], ALL), Ok(Command::Announced));
}

#[test]
fn receive_side_scaling() {
    let key = [7; 40];
    let good = rss_command(0x3f, 3, 2, &[0, 1, 2, 3], 4, &key);
    let Ok(Command::Rss { hasher, indirection }) = decode(&good, ALL) else {
        panic!("refused")
    };
    assert_eq!(hasher, Hasher::new(&key, HashTypes(0x3f)));
    assert_eq!(indirection, Indirection::new([0, 1, 2, 3].into(), 2).unwrap());
    let bad = |command: Vec<u8>| refused(&command);
    assert_eq!(
        bad(rss_command(0x3f, 3, 0, &[0, 1, 2, 4], 4, &key)),
        "control_queue"
    );
    assert_eq!(bad(rss_command(0x3f, 0, 4, &[0], 4, &key)), "control_queue");
    assert_eq!(bad(rss_command(0x3f, 0, 0, &[0], 5, &key)), "control_queue");
    assert_eq!(bad(rss_command(0x3f, 0, 0, &[0], 0, &key)), "control_queue");
    assert_eq!(bad(rss_command(0x3f, 2, 0, &[0, 1, 2], 4, &key)), "control_table");
    assert_eq!(
        bad(rss_command(0x3f, 255, 0, &[0; 256], 4, &key)),
        "control_table"
    );
    assert_eq!(bad(rss_command(0x3f, u16::MAX, 0, &[], 4, &key)), "control_table");
    assert_eq!(bad(rss_command(0x3f, 0, 0, &[0], 4, &[7; 41])), "control_key");
    assert_eq!(bad(rss_command(0x200, 0, 0, &[0], 4, &key)), "control_hash_types");
    for len in 0..good.len() {
        assert_eq!(refused(&good[..len]), "control_length");
    }
    let mut hash = vec![4, 2, 0x3f, 0, 0, 0, 9, 9, 9, 9, 9, 9, 9, 9, 40];
    hash.extend(key);
    assert_eq!(decode(&hash, ALL), Ok(Command::Hash(hasher)));
}

#[test]
fn what_does_not_exist_or_was_not_agreed_on() {
    for octets in [&[9, 0][..], &[0, 6, 1], &[6, 0], &[2, 2, 0, 0], &[3, 1], &[5, 1]] {
        assert_eq!(refused(octets), "control_unknown");
    }
    assert_eq!(refused(&[]), "control_length");
    assert_eq!(refused(&[0, 0, 1, 1]), "control_length");
    let none = Limits {
        features: 0,
        queue_pairs: 4,
    };
    for octets in [
        &[0, 0, 1][..],
        &[0, 2, 1],
        &[1, 0],
        &[2, 0],
        &[3, 0],
        &[4, 0],
        &[4, 1],
        &[4, 2],
        &[5, 0],
    ] {
        let error = decode(octets, none).expect_err("refused");
        assert_eq!(error.label(), "control_feature");
    }
    assert!(decode(&[1, 1, 2, 0, 0, 0, 0, 1], none).is_ok());
}

proptest! {
    #[test]
    fn any_command_is_answered(
        class in 0..8_u8,
        number in 0..4_u8,
        data in prop::collection::vec(prop_oneof![Just(0), 0..8_u8, any::<u8>()], 0..400),
        features: u64,
        queue_pairs in 1..17_u16,
    ) {
        let limits = Limits { features, queue_pairs };
        let octets = [&[class, number][..], &data].concat();
        match decode(&octets, limits) {
            Ok(Command::Rss { indirection, .. }) => prop_assert!(indirection.highest() < queue_pairs),
            Ok(Command::GuestOffloads(offloads)) => prop_assert_eq!(offloads & !features, 0),
            Ok(_) => {}
            Err(error) => prop_assert!(error.label().starts_with("control_")),
        }
    }
}
