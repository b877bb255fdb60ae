use proptest::prelude::*;
use vm_memory::GuestAddress;

use super::*;
use crate::devices::Terminal;
use crate::devices::virtio::VirtioFunction;
use crate::memory;
use crate::testing::driver::{BASE, Driver, make_available, ring_address, used_index};
use crate::testing::{FakeWiring, Screen};

struct Setup {
    function: VirtioFunction<VirtioConsole>,
    ram: Arc<GuestRam>,
    screen: Screen,
    receiver: Arc<Receiver>,
}

fn set_up() -> Setup {
    let ram = Arc::new(memory::allocate(2 << 20).expect("2 MiB"));
    let screen = Screen::default();
    let console = VirtioConsole::new((*ram).clone(), Box::new(screen.clone())).expect("an eventfd");
    let receiver = console.receiver();
    let wiring = Arc::new(FakeWiring::default());
    let mut function = VirtioFunction::new(console, (*ram).clone(), wiring, BASE as u32).expect("eventfds");
    let mut driver = Driver(&mut function);
    assert!(driver.negotiate(F_VERSION_1));
    driver.enable_queue(RECEIVE, 0xffff);
    driver.enable_queue(TRANSMIT, 0xffff);
    driver.set_status(15);
    Setup {
        function,
        ram,
        screen,
        receiver,
    }
}

#[test]
fn what_the_guest_prints_arrives_in_order() {
    let Setup {
        mut function,
        ram,
        screen,
        ..
    } = set_up();
    ram.write_slice(b"hello, ", GuestAddress(0x1000))
        .expect("in memory");
    ram.write_slice(b"world\n", GuestAddress(0x2000))
        .expect("in memory");
    make_available(&ram, TRANSMIT, &[(0x1000, 7, false), (0x2000, 6, false)]);
    Driver(&mut function).notify(TRANSMIT);
    assert_eq!(
        (screen.text().as_str(), used_index(&ram, TRANSMIT)),
        ("hello, world\n", 1)
    );
    ram.write_slice(b"login: ", GuestAddress(0x1000))
        .expect("in memory");
    make_available(&ram, TRANSMIT, &[(0x1000, 7, false)]);
    Driver(&mut function).notify(TRANSMIT);
    assert_eq!(screen.text(), "hello, world\n", "waits for the end of its line");
    function.device_mut().flush();
    assert_eq!(screen.text(), "hello, world\nlogin: ");
    make_available(&ram, TRANSMIT, &[(0x1000, 2000, false)]);
    Driver(&mut function).notify(TRANSMIT);
    assert_eq!(function.device().counts().printed, 2020);
}

#[test]
fn nonsense_to_print_is_refused_and_given_back() {
    let Setup {
        mut function, ram, ..
    } = set_up();
    for part in [(0x1000, 8, true), (1 << 40, 8, false), (0x1000, u32::MAX, false)] {
        make_available(&ram, TRANSMIT, &[part]);
        Driver(&mut function).notify(TRANSMIT);
    }
    let counts = function.device().counts();
    assert_eq!(
        (counts.refusals, counts.printed, used_index(&ram, TRANSMIT)),
        (3, 0, 3)
    );
}

#[test]
fn what_is_typed_waits_for_buffers() {
    let Setup {
        mut function,
        ram,
        receiver,
        ..
    } = set_up();
    receiver.receive(b"typed");
    assert_eq!(used_index(&ram, RECEIVE), 0);
    make_available(&ram, RECEIVE, &[(0x1000, 3, true)]);
    Driver(&mut function).notify(RECEIVE);
    make_available(&ram, RECEIVE, &[(0x1003, 64, true)]);
    Driver(&mut function).notify(RECEIVE);
    let mut seen = [0; 5];
    ram.read_slice(&mut seen, GuestAddress(0x1000))
        .expect("in memory");
    assert_eq!((&seen, used_index(&ram, RECEIVE)), (b"typed", 2));
    assert_eq!(function.device().counts().typed, 5);
}

#[test]
fn a_full_store_tells_once_when_it_has_room() {
    let Setup {
        mut function,
        ram,
        receiver,
        ..
    } = set_up();
    receiver.receive(&vec![b'x'; receiver.room()]);
    assert_eq!(receiver.room(), 0);
    receiver.receive(b"too much");
    make_available(&ram, RECEIVE, &[(0x1000, 100, true)]);
    Driver(&mut function).notify(RECEIVE);
    assert_eq!(receiver.room(), 100);
    receiver.clear_room();
    make_available(&ram, RECEIVE, &[(0x1000, 100, true)]);
    Driver(&mut function).notify(RECEIVE);
    assert_eq!(receiver.room(), 200);
}

#[test]
fn a_paused_console_keeps_what_comes() {
    let Setup {
        mut function,
        ram,
        receiver,
        ..
    } = set_up();
    make_available(&ram, RECEIVE, &[(0x1000, 8, true)]);
    Driver(&mut function).notify(RECEIVE);
    function.pause();
    receiver.receive(b"later");
    assert_eq!(used_index(&ram, RECEIVE), 0);
    assert!(function.export().is_ok());
    function.resume();
    assert_eq!(used_index(&ram, RECEIVE), 1);
}

#[test]
fn output_that_nobody_takes_is_counted() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let Setup {
        mut function, ram, ..
    } = set_up();
    function.device_mut().output = LineBuffer::new(Box::new(Closed)).expect("a timer");
    ram.write_slice(b"gone\n", GuestAddress(0x1000))
        .expect("in memory");
    for _ in 0..2 {
        make_available(&ram, TRANSMIT, &[(0x1000, 5, false)]);
        Driver(&mut function).notify(TRANSMIT);
    }
    let counts = function.device().counts();
    assert_eq!((counts.printed, counts.lost), (10, 10));
}

proptest! {
    #[test]
    fn any_rings_are_harmless(octets in prop::collection::vec(any::<u8>(), 0x300), typed in 0_usize..5000) {
        let Setup { mut function, ram, receiver, .. } = set_up();
        for queue in [RECEIVE, TRANSMIT] {
            ram.write_slice(&octets, GuestAddress(ring_address(queue))).expect("in memory");
        }
        receiver.receive(&vec![b't'; typed]);
        for queue in [RECEIVE, TRANSMIT, RECEIVE] {
            Driver(&mut function).notify(queue);
        }
        let counts = function.device().counts();
        prop_assert!(counts.printed <= (usize::from(RING_SIZE) * BUFFER_MAX) as u64);
        prop_assert!(counts.typed <= typed as u64);
    }
}
