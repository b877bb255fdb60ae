use proptest::prelude::*;

use super::*;
use crate::devices::lifecycle::{CannotExport, SavedState};
use crate::devices::pci::PciFunction;
use crate::memory;
use crate::testing::driver::{BASE, DEVICE, Driver, MSIX_TABLE, NOTIFY};
use crate::testing::{FakeWiring, Wire};
use std::sync::Arc;

const OFFERED: u64 = F_VERSION_1 | 0b101;

/// A device that remembers what the transport asked of it.
#[derive(Default)]
struct Probe {
    activations: Vec<(u64, Vec<u16>)>,
    resets: u32,
    paused: bool,
}

impl Lifecycle for Probe {
    fn pause(&mut self) {
        self.paused = true;
    }

    fn resume(&mut self) {
        self.paused = false;
    }

    fn reset(&mut self) {
        self.resets += 1;
    }

    fn export(&self) -> Result<SavedState, CannotExport> {
        if self.paused {
            SavedState::new("probe", 1, self.resets)
        } else {
            Err(CannotExport::Running("probe"))
        }
    }
}

impl VirtioDevice for Probe {
    fn device_id(&self) -> u16 {
        1
    }

    fn class(&self) -> u32 {
        0x02_0000
    }

    fn features(&self) -> u64 {
        OFFERED
    }

    fn queue_sizes(&self) -> &[u16] {
        &[256, 256, 64]
    }

    fn read_config(&self, _: usize, data: &mut [u8]) {
        data.fill(0x5a);
    }

    fn activate(&mut self, features: u64, queues: &[ActiveQueue]) -> Result<(), String> {
        self.activations
            .push((features, queues.iter().map(|queue| queue.index).collect()));
        Ok(())
    }

    fn serve(&mut self, queue: u16) -> bool {
        queue == 2
    }

    fn first_notification(&mut self, _: u16) {}
}

fn function() -> (VirtioFunction<Probe>, Arc<FakeWiring>) {
    let wiring = Arc::new(FakeWiring::default());
    let ram = memory::allocate(1 << 20).expect("1 MiB");
    (
        VirtioFunction::new(Probe::default(), ram, wiring.clone(), BASE as u32).expect("eventfds"),
        wiring,
    )
}

#[test]
fn states_follow_each_other() {
    let (mut function, _) = function();
    let mut driver = Driver(&mut function);
    driver.set_status(15);
    assert_eq!(
        driver.status() & 0b1100,
        0,
        "neither features nor driver are fine"
    );
    driver.set_status(0);
    assert!(
        !driver.negotiate(OFFERED & !F_VERSION_1),
        "the legacy interface is not there"
    );
    driver.set_status(0);
    assert!(driver.negotiate(F_VERSION_1 | 1));
    driver.write(BASE + 12, &0_u32.to_le_bytes());
    driver.enable_queue(0, 0);
    driver.set_status(15);
    driver.set_status(1);
    assert_eq!(driver.status(), 15, "bits are taken back by a reset only");
    driver.set_status(15);
    driver.set_status(0);
    assert_eq!(driver.status(), 0);
    assert_eq!(function.device().activations, [(F_VERSION_1 | 1, vec![0])]);
    assert_eq!(function.device().resets, 3);
    assert!(function.faults().0 >= 3, "{:?}", function.faults());
}

#[test]
fn queue_registers_belong_to_the_selected_queue() {
    let (mut function, _) = function();
    let mut driver = Driver(&mut function);
    assert_eq!(driver.read::<2>(BASE + 0x12), [3, 0]);
    driver.write(BASE + 0x16, &2_u16.to_le_bytes());
    assert_eq!(driver.read::<2>(BASE + 0x18), [64, 0]);
    for refused in [0_u16, 3, 128] {
        driver.write(BASE + 0x18, &refused.to_le_bytes());
        assert_eq!(driver.read::<2>(BASE + 0x18), [64, 0], "{refused}");
    }
    driver.write(BASE + 0x20, &0x1234_5670_u32.to_le_bytes());
    driver.write(BASE + 0x24, &0x9_u32.to_le_bytes());
    assert_eq!(u64::from_le_bytes(driver.read(BASE + 0x20)), 0x9_1234_5670);
    assert_eq!(u32::from_le_bytes(driver.read(BASE + 0x24)), 9);
    driver.write(BASE + 0x16, &3_u16.to_le_bytes());
    assert_eq!(driver.read::<2>(BASE + 0x18), [0, 0], "no such queue");
    driver.enable_queue(1, 9);
    assert_eq!(driver.read::<2>(BASE + 0x1a), [0xff, 0xff], "no such vector");
    assert_eq!(driver.read::<2>(BASE + 0x1e), [1, 0], "notification offset");
    driver.write(BASE + 0x20, &0_u64.to_le_bytes());
    assert_ne!(
        u64::from_le_bytes(driver.read(BASE + 0x20)),
        0,
        "an enabled queue stays where it is"
    );
}

#[test]
fn notifications_take_the_short_way_after_the_first() {
    let (mut function, wiring) = function();
    let doorbells = || wiring.count(|wire| matches!(wire, Wire::Doorbell(_)));
    let mut driver = Driver(&mut function);
    driver.notify(1);
    assert_eq!(doorbells(), 0, "no driver is ready");
    assert!(driver.negotiate(F_VERSION_1));
    driver.set_status(15);
    driver.notify(1);
    driver.notify(2);
    driver.write(NOTIFY + 40, &[0, 0]);
    assert_eq!(
        doorbells(),
        1,
        "queue 2 is served by the device, queue 10 does not exist"
    );
    // Memory decoding goes off, and comes back elsewhere.
    function.write_config(4, &[0, 0]);
    assert_eq!(doorbells(), 0);
    function.write_config(0x10, &0xe200_0000_u32.to_le_bytes());
    function.write_config(4, &[2, 0]);
    assert!(function.write_memory(0xe200_3004, &[1, 0]));
    assert_eq!(wiring.count(|wire| wire == Wire::Doorbell(0xe200_3004)), 1);
    // The next driver may have other queues there.
    assert!(function.write_memory(0xe200_0014, &[0]));
    assert_eq!(doorbells(), 0);
}

#[test]
fn capabilities_lead_to_the_windows() {
    let (mut function, _) = function();
    let mut kinds = Vec::new();
    let mut next = config(&mut function, 0x34) as u8;
    while next != 0 {
        let header = config(&mut function, next.into());
        kinds.push((header as u8, (header >> 24) as u8));
        next = (header >> 8) as u8;
    }
    assert_eq!(&kinds[..5], [(9, 1), (9, 2), (9, 3), (9, 4), (9, 5)]);
    assert_eq!(kinds[5].0, 0x11);
    assert_eq!(Driver(&mut function).read::<4>(DEVICE), [0x5a; 4]);
}

#[test]
fn windows_can_be_reached_through_configuration_space() {
    let (mut function, _) = function();
    let mut at = config(&mut function, 0x34) as usize & 0xff;
    while config(&mut function, at) >> 24 != 5 {
        at = config(&mut function, at) as usize >> 8 & 0xff;
    }
    function.write_config(at + 4, &[0]);
    function.write_config(at + 8, &0x14_u32.to_le_bytes());
    function.write_config(at + 12, &1_u32.to_le_bytes());
    function.write_config(at + 16, &[1]);
    assert_eq!(Driver(&mut function).status(), 1);
    let mut status = [0];
    function.read_config(at + 16, &mut status);
    assert_eq!(status, [1]);
}

#[test]
fn a_change_of_configuration_interrupts_a_driver_at_work() {
    let (mut function, wiring) = function();
    function.signal_config_change();
    let mut driver = Driver(&mut function);
    assert_eq!(driver.read::<1>(BASE + 0x1000), [0], "nobody to tell");
    assert!(driver.negotiate(F_VERSION_1));
    driver.set_status(15);
    let generation = driver.read::<1>(BASE + 0x15);
    function.signal_config_change();
    let mut driver = Driver(&mut function);
    assert_ne!(driver.read::<1>(BASE + 0x15), generation);
    assert_eq!(driver.read::<1>(BASE + 0x1000), [2]);
    assert_eq!(driver.read::<1>(BASE + 0x1000), [0], "reading clears");
    driver.write(MSIX_TABLE + 12, &0_u32.to_le_bytes());
    driver.write(BASE + 0x10, &0_u16.to_le_bytes());
    let capability = capability(&mut function, 0x11);
    function.write_config(capability + 2, &[0, 0x80]);
    assert_eq!(wiring.attached(), 1);
}

fn config(function: &mut VirtioFunction<Probe>, offset: usize) -> u32 {
    let mut octets = [0; 4];
    function.read_config(offset, &mut octets);
    u32::from_le_bytes(octets)
}

fn capability(function: &mut VirtioFunction<Probe>, id: u32) -> usize {
    let mut at = config(function, 0x34) as usize & 0xff;
    while config(function, at) & 0xff != id {
        at = config(function, at) as usize >> 8 & 0xff;
    }
    at
}

proptest! {
    #[test]
    fn any_access_is_harmless(accesses in prop::collection::vec(
        (0_u64..0x9100, prop::collection::vec(any::<u8>(), 1..9), 0_u8..4), 1..80)) {
        let (mut function, wiring) = function();
        for (offset, mut data, kind) in accesses {
            match kind {
                0 => { function.write_memory(BASE + offset, &data); }
                1 => { function.read_memory(BASE + offset, &mut data); }
                2 => function.write_config(offset as usize % 256, &data),
                _ => function.read_config(offset as usize % 300, &mut data),
            }
        }
        prop_assert!(wiring.attached() <= 4);
        prop_assert!(wiring.count(|wire| matches!(wire, Wire::Doorbell(_))) <= 3);
    }

    #[test]
    fn common_registers_keep_their_invariants(writes in prop::collection::vec(
        (0_u64..0x40, prop::collection::vec(any::<u8>(), 1..9)), 1..120)) {
        let (mut function, _) = function();
        for (offset, data) in writes {
            function.write_memory(BASE + offset, &data);
            let status = Driver(&mut function).status();
            prop_assert!(status & 4 == 0 || status & 8 != 0, "DRIVER_OK without FEATURES_OK");
        }
        for (features, _) in &function.device().activations {
            prop_assert_eq!(features & !OFFERED, 0);
            prop_assert_ne!(features & F_VERSION_1, 0);
        }
    }
}
