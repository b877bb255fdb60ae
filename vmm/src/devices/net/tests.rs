mod commands;

use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::*;
use crate::devices::virtio::VirtioFunction;
use crate::memory;
use crate::testing::driver::{BASE, DEVICE, Driver, SIZE, make_available, ring_address, used_index};
use crate::testing::switch::{
    self, GET_INFLIGHT_FD, GET_VRING_BASE, OFFERED, SET_INFLIGHT_FD, SET_MEM_TABLE, TestSwitch,
};
use crate::testing::{FakeWiring, Wire};

const VERSION_1: u64 = 1 << 32;
const BUFFER: u64 = 0x8_0000;

struct Bench {
    ram: Arc<GuestRam>,
    function: VirtioFunction<Net>,
    wiring: Arc<FakeWiring>,
}

fn config(switch: &TestSwitch, queue_pairs: u8) -> NicConfig {
    let mac = MacAddr([2, 0, 0, 0, 0, 1]);
    NicConfig {
        socket: switch.path.clone(),
        mac,
        queue_pairs,
        mtu: 1500,
        reconnect: Duration::ZERO,
        packed: false,
    }
}

fn bench(switch: &TestSwitch, pairs: u8) -> Bench {
    bench_of(&config(switch, pairs))
}

fn bench_of(config: &NicConfig) -> Bench {
    let ram = Arc::new(memory::allocate(2 << 20).expect("2 MiB"));
    let wiring = Arc::new(FakeWiring::default());
    let net = Net::connect(config, (*ram).clone()).expect("the switch answers");
    let function = VirtioFunction::new(net, (*ram).clone(), wiring.clone(), BASE as u32).expect("eventfds");
    Bench {
        ram,
        function,
        wiring,
    }
}

impl Bench {
    fn start(&mut self, features: u64, queues: &[u16]) {
        let mut driver = Driver(&mut self.function);
        assert!(driver.negotiate(features));
        for queue in queues {
            driver.enable_queue(*queue, *queue);
        }
        driver.set_status(15);
        assert_eq!(driver.status(), 15);
    }

    /// Sends a control command on queue `queue` and returns the answer.
    fn command(&mut self, queue: u16, command: &[u8]) -> u8 {
        self.ram
            .write_slice(command, GuestAddress(BUFFER))
            .expect("in memory");
        self.ram
            .write_obj(0x77_u8, GuestAddress(BUFFER + 0x100))
            .expect("in memory");
        let parts = [(BUFFER, command.len() as u32, false), (BUFFER + 0x100, 1, true)];
        make_available(&self.ram, queue, &parts);
        Driver(&mut self.function).notify(queue);
        self.ram
            .read_obj(GuestAddress(BUFFER + 0x100))
            .expect("in memory")
    }

    fn host_base(&self) -> u64 {
        self.ram.iter().next().expect("a region").as_ptr() as u64
    }
}

#[test]
fn driver_sees_what_switch_and_device_can() {
    let switch = TestSwitch::start();
    let mut bench = bench(&switch, 1);
    let mut driver = Driver(&mut bench.function);
    let offered = driver.offered();
    assert_eq!(offered & OFFERED, OFFERED & !(1 << 30), "not the vhost-user bit");
    assert_ne!(offered & 1 << 5, 0, "MAC");
    assert_eq!(driver.read::<6>(DEVICE), [2, 0, 0, 0, 0, 1]);
    assert_eq!(driver.read::<2>(DEVICE + 6), [1, 0], "link is up");
    assert_eq!(u16::from_le_bytes(driver.read(DEVICE + 10)), 1500);
    assert_eq!(driver.read::<8>(DEVICE + 0xffc), [0; 8], "behind the end");
    assert!(
        !driver.negotiate(1 << 40 | VERSION_1),
        "a feature that was not offered"
    );
}

#[test]
fn driver_ok_hands_memory_and_rings_to_the_switch() {
    let switch = TestSwitch::start();
    let mut bench = bench(&switch, 1);
    bench.start(VERSION_1 | 1 | 1 << 17, &[0, 1]);
    let base = bench.host_base();
    switch.look(|said| {
        assert_eq!(
            said.features,
            VERSION_1 | 1 | 1 << 30,
            "no control queue bit: the switch did not offer it"
        );
        assert_eq!(said.region, [0, 2 << 20, base, 0]);
        assert!(said.memory.is_some());
        for (index, ring) in &said.rings {
            let at = base + ring_address(*index as u16);
            assert_eq!((ring.size, ring.base), (SIZE.into(), 0));
            assert_eq!(ring.addresses, [at, at + 0x200, at + 0x100]);
            assert!(
                ring.enabled && ring.kick.is_some() && ring.call.is_some(),
                "ring {index}"
            );
        }
        assert_eq!(said.rings.len(), 2);
    });
    Driver(&mut bench.function).notify(1);
    let kicked = switch.look(|said| said.rings[&1].kick.as_ref().and_then(|kick| kick.read().ok()));
    assert_eq!(kicked, Some(1), "the first notification is passed on");
    assert_eq!(
        bench.wiring.count(|wire| wire == Wire::Doorbell(BASE + 0x3004)),
        1
    );
    assert!(bench.function.device().first_kick().is_some());
}

#[test]
fn reset_takes_the_rings_back() {
    let switch = TestSwitch::start();
    let mut bench = bench(&switch, 1);
    bench.start(VERSION_1, &[0, 1]);
    Driver(&mut bench.function).set_status(0);
    assert_eq!(Driver(&mut bench.function).status(), 0);
    switch.look(|said| {
        assert_eq!(said.count(GET_VRING_BASE), 2);
        assert!(said.rings.values().all(|ring| !ring.enabled));
    });
    bench.start(VERSION_1, &[0, 1]);
    assert_eq!(switch.look(|said| said.count(SET_MEM_TABLE)), 2);
}

#[test]
fn control_queue_is_served_here() {
    let switch = TestSwitch::start();
    let mut bench = bench(&switch, 1);
    let features = VERSION_1 | 1 << 17 | 1 << 18 | 1 << 23;
    bench.start(features, &[0, 1, 2]);
    assert_eq!(bench.command(2, &[0, 0, 1]), 0, "promiscuous");
    assert_eq!(bench.command(2, &[1, 1, 2, 0, 0, 0, 0, 9]), 0, "new MAC");
    assert_eq!(Driver(&mut bench.function).read::<6>(DEVICE), [2, 0, 0, 0, 0, 9]);
    assert_eq!(
        bench.command(2, &[4, 0, 1, 0]),
        1,
        "multiqueue was not negotiated"
    );
    assert_eq!(bench.command(2, &[9, 9]), 1, "unknown class");
    assert_eq!(bench.command(2, &[]), 1, "nothing");
    assert_eq!(used_index(&bench.ram, 2), 5);
    let counts = bench.function.device().counts();
    assert_eq!((counts.commands, counts.refused_commands), (2, 3));
}

#[test]
fn hostile_control_rings_end_without_harm() {
    let switch = TestSwitch::start();
    let mut bench = bench(&switch, 1);
    bench.start(VERSION_1 | 1 << 17 | 1 << 18, &[0, 1, 2]);
    let at = ring_address(2);
    // A chain that points at itself, with buffers outside memory.
    bench
        .ram
        .write_obj([u64::MAX - 4, 0x0000_0001_ffff_ffff], GuestAddress(at))
        .expect("in memory");
    for available in [1_u16, 5, 0xffff] {
        bench
            .ram
            .write_obj(available, GuestAddress(at + 0x102))
            .expect("in memory");
        Driver(&mut bench.function).notify(2);
    }
    let counts = bench.function.device().counts();
    assert_eq!(counts.commands, 0);
}

#[test]
fn endless_commands_end() {
    let switch = TestSwitch::start();
    let mut bench = bench(&switch, 1);
    bench.start(VERSION_1 | 1 << 17 | 1 << 18, &[0, 1, 2]);
    // An indirect table of 65535 descriptors without octets, then the room for an answer.
    let table = 0x10_0000_u64;
    for index in 0..u16::MAX {
        let flags = [1_u64, 2][usize::from(index == u16::MAX - 1)];
        let descriptor = GuestAddress(table + 16 * u64::from(index));
        let written = bench
            .ram
            .write_obj([BUFFER, flags << 32 | u64::from(index + 1) << 48], descriptor);
        written.expect("in memory");
    }
    bench
        .ram
        .write_obj(0x77_u8, GuestAddress(BUFFER))
        .expect("in memory");
    let chain = [(table, 16 * u32::from(u16::MAX), false)];
    make_available(&bench.ram, 2, &chain);
    let flags = GuestAddress(ring_address(2) + 12);
    bench.ram.write_obj(4_u16, flags).expect("in memory");
    Driver(&mut bench.function).notify(2);
    let counts = bench.function.device().counts();
    assert_eq!((counts.commands, counts.refused_commands), (0, 1));
    assert_eq!(used_index(&bench.ram, 2), 1, "given back");
    let answer: u8 = bench.ram.read_obj(GuestAddress(BUFFER)).expect("in memory");
    assert_eq!(answer, 0x77, "without an answer, whose place was not looked for");
    assert_eq!(bench.command(2, &[0, 0, 1]), 0, "the next one is served");
}

/// A driver with several queue pairs, then one with a single pair, whose control queue is where a data queue was.
#[test]
fn the_next_driver_has_its_control_queue_elsewhere() {
    let switch = TestSwitch::start();
    let mut bench = bench(&switch, 2);
    bench.start(VERSION_1 | 1 << 17 | 1 << 22, &[0, 1, 2, 3, 4]);
    Driver(&mut bench.function).notify(2);
    let doorbells = |bench: &Bench| bench.wiring.count(|wire| matches!(wire, Wire::Doorbell(_)));
    assert_eq!(doorbells(&bench), 1, "queue 2 is the switch's");
    Driver(&mut bench.function).set_status(0);
    bench.start(VERSION_1 | 1 << 17 | 1 << 18, &[0, 1, 2]);
    assert_eq!(doorbells(&bench), 0, "queue 2 is this process's");
    bench
        .ram
        .write_obj(0_u32, GuestAddress(ring_address(2) + 0x100))
        .expect("in memory");
    assert_eq!(bench.command(2, &[0, 0, 1]), 0);
}

#[test]
fn multiqueue_enables_as_many_pairs_as_the_driver_uses() {
    let switch = TestSwitch::start();
    let mut bench = bench(&switch, 2);
    bench.start(VERSION_1 | 1 << 17 | 1 << 22, &[0, 1, 2, 3, 4]);
    let enabled =
        |switch: &TestSwitch| switch.look(|said| said.rings.values().filter(|ring| ring.enabled).count());
    assert_eq!(enabled(&switch), 2);
    assert_eq!(bench.command(4, &[4, 0, 2, 0]), 0);
    assert_eq!(enabled(&switch), 4);
    assert_eq!(bench.command(4, &[4, 0, 3, 0]), 1, "more than there are");
    assert_eq!(bench.command(4, &[4, 0, 0, 0]), 1);
    assert_eq!(bench.command(4, &[4, 0, 1, 0]), 0);
    assert_eq!(enabled(&switch), 2);
}

#[test]
fn more_queues_than_the_switch_has_are_refused() {
    let switch = TestSwitch::start();
    let ram = memory::allocate(1 << 20).expect("1 MiB");
    let error = Net::connect(&config(&switch, 3), ram).err().expect("refused");
    assert!(
        matches!(
            error,
            SessionError::TooFewQueues {
                offered: 2,
                wanted: 3,
                ..
            }
        ),
        "{error}"
    );
    assert!(error.to_string().contains("lower queues="), "{error}");
}

#[test]
fn old_and_absent_switches_are_refused() {
    let ram = memory::allocate(1 << 20).expect("1 MiB");
    let switch = TestSwitch::start();
    switch.offer(1 << 30);
    let error = Net::connect(&config(&switch, 1), ram.clone())
        .err()
        .expect("refused");
    assert!(matches!(error, SessionError::TooOld(_)), "{error}");
    std::fs::remove_file(&switch.path).expect("the socket");
    let error = Net::connect(&config(&switch, 1), ram).err().expect("refused");
    assert!(error.to_string().contains("start the switch"), "{error}");
}

#[test]
fn rings_outside_memory_need_a_reset() {
    let switch = TestSwitch::start();
    let mut bench = bench(&switch, 1);
    let mut driver = Driver(&mut bench.function);
    assert!(driver.negotiate(VERSION_1));
    driver.enable_queue(1, 0);
    driver.write(BASE + 0x16, &0_u16.to_le_bytes());
    driver.write(BASE + 0x20, &0xffff_ffff_ffff_fff0_u64.to_le_bytes());
    driver.write(BASE + 0x1c, &1_u16.to_le_bytes());
    driver.set_status(15);
    assert_eq!(driver.status(), 15 | 64);
    assert_eq!(switch.look(|said| said.count(SET_MEM_TABLE)), 0);
    driver.set_status(0);
    bench.start(VERSION_1, &[0, 1]);
}

#[test]
fn a_restarted_switch_gets_the_rings_where_they_stopped() {
    let switch = TestSwitch::start();
    let mut bench = bench(&switch, 1);
    bench.start(VERSION_1 | 1 << 16 | 1 << 21, &[0, 1]);
    bench
        .ram
        .write_obj(7_u16, GuestAddress(ring_address(1) + 0x202))
        .expect("in memory");
    let switch = switch.restart();
    bench.function.device_mut().disconnected();
    assert_eq!(
        Driver(&mut bench.function).read::<2>(DEVICE + 6),
        [0, 0],
        "link is down"
    );
    bench
        .function
        .device_mut()
        .reconnect()
        .expect("the switch is back");
    switch.look(|said| {
        assert_eq!((said.rings[&0].base, said.rings[&1].base), (0, 7));
        assert!(said.rings.values().all(|ring| ring.enabled));
        assert_eq!(said.features & VERSION_1, VERSION_1);
    });
    assert_eq!(
        Driver(&mut bench.function).read::<2>(DEVICE + 6),
        [3, 0],
        "up, and to be announced"
    );
    let counts = bench.function.device().counts();
    assert_eq!((counts.disconnects, counts.reconnects), (1, 1));
}

/// What the switch notes chains in hand in, and where it was told that both rings start.
fn log_and_bases(switch: &TestSwitch) -> (u64, [u64; 2]) {
    switch.look(|said| {
        let (file, about) = said.log.as_ref().expect("memory for chains in hand");
        // Padding follows.
        assert_eq!(about[2] as u32, u32::from(SIZE) << 16 | 2, "two rings");
        let inode = file.metadata().expect("a file").ino();
        (inode, [0, 1].map(|index| said.rings[&index].base))
    })
}

#[test]
fn packed_rings_go_on_where_the_switch_knows_that_they_stopped() {
    const PACKED: u64 = 1 << 34;
    let switch = TestSwitch::start();
    switch.offer(OFFERED | PACKED);
    let mut bench = bench_of(&NicConfig {
        packed: true,
        ..config(&switch, 1)
    });
    let offered = Driver(&mut bench.function).offered();
    assert_eq!(
        offered & (PACKED | 1 << 17 | 1 << 18 | 1 << 21),
        PACKED,
        "and no control queue"
    );
    bench.start(VERSION_1 | PACKED, &[0, 1]);
    assert_eq!(switch.look(|said| said.features & PACKED), PACKED);
    let (log, bases) = log_and_bases(&switch);
    assert_eq!(bases, [0x8000; 2]);
    // Where they stopped when they were taken back, the switch says: here, at the start of an even round.
    bench.function.device_mut().pause();
    bench.function.device_mut().resume();
    assert_eq!(log_and_bases(&switch), (log, [0; 2]));
    // Another process gets the memory of the one that vanished.
    let switch = switch.restart();
    switch.offer(OFFERED | PACKED);
    bench.function.device_mut().disconnected();
    bench
        .function
        .device_mut()
        .reconnect()
        .expect("the switch is back");
    assert_eq!(log_and_bases(&switch).0, log);
    switch.look(|said| assert_eq!((said.count(GET_INFLIGHT_FD), said.count(SET_INFLIGHT_FD)), (0, 1)));
    // Another driver has rings of its own.
    Driver(&mut bench.function).set_status(0);
    bench.start(VERSION_1 | PACKED, &[0, 1]);
    let (other, bases) = log_and_bases(&switch);
    assert_ne!(other, log);
    assert_eq!(bases, [0x8000; 2]);
}

#[test]
fn packed_rings_are_not_offered_where_nobody_else_knows_their_position() {
    let switch = TestSwitch::start();
    switch.offer(OFFERED);
    let mut bench = bench_of(&NicConfig {
        packed: true,
        ..config(&switch, 1)
    });
    assert_eq!(Driver(&mut bench.function).offered() & 1 << 34, 0);
    let switch = TestSwitch::start();
    switch.offer(OFFERED | 1 << 34);
    let mut bench = bench_of(&config(&switch, 1));
    assert_eq!(
        Driver(&mut bench.function).offered() & 1 << 34,
        0,
        "it was not asked for"
    );
}

#[test]
fn a_switch_that_forgot_features_is_not_used() {
    let switch = TestSwitch::start();
    let mut bench = bench(&switch, 1);
    bench.start(VERSION_1 | 1, &[0, 1]);
    let switch = switch.restart();
    switch.offer(VERSION_1 | 1 << 30);
    bench.function.device_mut().disconnected();
    let error = bench
        .function
        .device_mut()
        .reconnect()
        .expect_err("checksum offload is gone");
    assert!(
        matches!(error, SessionError::FeaturesLost { missing: 1, .. }),
        "{error}"
    );
}

#[test]
fn a_switch_that_leaves_during_activation_does_not_hurt_the_driver() {
    let switch = TestSwitch::start();
    let mut bench = bench(&switch, 1);
    switch.hang_up();
    bench.start(VERSION_1, &[0, 1]);
    bench.function.device_mut().disconnected();
    bench
        .function
        .device_mut()
        .reconnect()
        .expect("a new conversation");
    switch.look(|said| {
        assert_eq!(said.conversations, 2);
        assert_eq!(said.count(switch::SET_VRING_KICK), 2);
    });
}
