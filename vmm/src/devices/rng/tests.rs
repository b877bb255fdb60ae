use std::sync::Arc;

use proptest::prelude::*;

use super::Rng;
use super::*;
use crate::devices::virtio::VirtioFunction;
use crate::memory;
use crate::testing::FakeWiring;
use crate::testing::driver::{BASE, Driver, SIZE, make_available, ring_address, used_index};

fn function() -> (VirtioFunction<Rng>, Arc<GuestRam>) {
    let ram = Arc::new(memory::allocate(2 << 20).expect("2 MiB"));
    let rng = Rng::new((*ram).clone());
    let wiring = Arc::new(FakeWiring::default());
    let mut function = VirtioFunction::new(rng, (*ram).clone(), wiring, BASE as u32).expect("eventfds");
    let mut driver = Driver(&mut function);
    assert!(driver.negotiate(F_VERSION_1));
    driver.enable_queue(0, 0xffff);
    driver.set_status(15);
    (function, ram)
}

#[test]
fn buffers_are_filled_with_something_new_each_time() {
    let (mut function, ram) = function();
    let mut seen = Vec::new();
    for round in 1..=3 {
        make_available(&ram, 0, &[(0x1000, 40, true), (0x2000, 24, true)]);
        Driver(&mut function).notify(0);
        assert_eq!(used_index(&ram, 0), round);
        let mut octets = [0; 64];
        ram.read_slice(&mut octets[..40], vm_memory::GuestAddress(0x1000))
            .expect("in memory");
        ram.read_slice(&mut octets[40..], vm_memory::GuestAddress(0x2000))
            .expect("in memory");
        assert!(!seen.contains(&octets), "the same twice");
        assert!(octets.iter().any(|octet| *octet != octets[0]));
        seen.push(octets);
    }
    let counts = function.device().counts();
    assert_eq!((counts.requests, counts.octets, counts.refusals), (3, 192, 0));
}

#[test]
fn a_request_has_an_end_and_nonsense_is_refused() {
    let (mut function, ram) = function();
    make_available(&ram, 0, &[(0x1000, u32::MAX, true)]);
    Driver(&mut function).notify(0);
    assert_eq!(function.device().counts().octets, REQUEST_MAX as u64);
    for part in [(0x1000, 64, false), (1 << 40, 64, true), (0x1000, 0, true)] {
        make_available(&ram, 0, &[part]);
        Driver(&mut function).notify(0);
    }
    assert_eq!((function.device().counts().refusals, used_index(&ram, 0)), (3, 4));
}

#[test]
fn a_paused_device_leaves_memory_alone_until_it_goes_on() {
    let (mut function, ram) = function();
    function.pause();
    assert!(function.export().is_ok());
    make_available(&ram, 0, &[(0x1000, 8, true)]);
    Driver(&mut function).notify(0);
    assert_eq!(used_index(&ram, 0), 0);
    function.resume();
    assert_eq!(used_index(&ram, 0), 1);
    assert!(function.export().is_err());
}

#[test]
fn one_notification_goes_through_a_ring_once() {
    let (mut function, ram) = function();
    for _ in 0..SIZE {
        make_available(&ram, 0, &[(0x1000, 1, true)]);
    }
    Driver(&mut function).notify(0);
    assert_eq!(used_index(&ram, 0), SIZE);
    // One entry more than the ring has breaks the rules.
    for _ in 0..=SIZE {
        make_available(&ram, 0, &[(0x1000, 1, true)]);
    }
    Driver(&mut function).notify(0);
    let counts = function.device().counts();
    assert_eq!((used_index(&ram, 0), counts.refusals), (SIZE, 1));
}

#[test]
fn endless_chains_end() {
    let (mut function, ram) = function();
    // An indirect table of 65535 descriptors without octets.
    for index in 0..u16::MAX {
        let at = 0x10_0000 + 16 * u64::from(index);
        ram.write_obj([3_u16, index + 1], vm_memory::GuestAddress(at + 12))
            .expect("in memory");
    }
    make_available(&ram, 0, &[(0x10_0000, 16 * u32::from(u16::MAX), false)]);
    ram.write_obj(4_u16, vm_memory::GuestAddress(ring_address(0) + 12))
        .expect("in memory");
    Driver(&mut function).notify(0);
    assert_eq!((used_index(&ram, 0), function.device().counts().refusals), (1, 1));
}

proptest! {
    #[test]
    fn any_ring_is_harmless(octets in prop::collection::vec(any::<u8>(), 0x300), notifications in 1_u8..5) {
        let (mut function, ram) = function();
        ram.write_slice(&octets, vm_memory::GuestAddress(ring_address(0))).expect("in memory");
        for _ in 0..notifications {
            Driver(&mut function).notify(0);
        }
        let counts = function.device().counts();
        prop_assert!(counts.octets <= counts.requests * REQUEST_MAX as u64);
        prop_assert!(counts.requests <= u64::from(notifications) * u64::from(RING_SIZE));
    }
}
