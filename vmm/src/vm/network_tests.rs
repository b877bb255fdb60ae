//! Doorbells and interrupts between a guest on the real KVM and a vhost-user back end.
#![allow(unsafe_code)] // the guest's code is assembled here, and its place is known to the linker only

use std::arch::global_asm;
use std::io;
use std::time::Duration;

use super::*;
use crate::config::{Kernel, NicConfig};
use crate::devices::net::Net;
use crate::devices::pci::PciFunction;
use crate::devices::virtio::VirtioFunction;
use crate::layout::PCI_MMIO;
use crate::testing::driver::{BASE, Driver, MSIX_TABLE};
use crate::testing::switch::TestSwitch;
use crate::testing::{PvhImage, Screen, without_kvm};

// A guest that notifies queue 1, waits until the masked vector 2 is pending, unmasks it, and then goes on
// notifying from the interrupt handler: one letter for each step, power-off after the third interrupt.
global_asm!(
    ".pushsection .rodata.vmm_test_guest, \"a\"",
    ".code32",
    "vmm_test_guest:",
    "lgdt [0x100140]",
    "lidt [0x100148]",
    "mov esp, 0x90000",
    "mov dword ptr [0xfee000f0], 0x1ff", // software-enable the local APIC
    "mov ebx, 3",
    "sti",
    "mov word ptr [0xe1003004], 1", // notify: leaves to the monitor, which attaches the doorbell
    "2: test dword ptr [0xe1008800], 4", // pending bit of vector 2
    "jz 2b",
    "mov al, 'p'",
    "mov edx, 0x3f8",
    "out dx, al",
    "mov dword ptr [0xe100802c], 0", // unmask vector 2
    "3: hlt",
    "jmp 3b",
    "vmm_test_handler:",
    "mov al, 'i'",
    "mov edx, 0x3f8",
    "out dx, al",
    "mov dword ptr [0xfee000b0], 0", // end of interrupt
    "dec ebx",
    "jz 4f",
    "mov word ptr [0xe1003004], 1", // notify: taken by the kernel from now on
    "mov esp, 0x90000",             // no return: some KVMs cannot emulate it in protected mode
    "sti",
    "jmp 3b",
    "4: mov edx, 0x604",
    "mov ax, 0x2000",
    "out dx, ax",
    "cli",
    "hlt",
    // The tables, at fixed places behind the code: descriptors, their pointers, interrupt gates.
    ".org vmm_test_guest + 0x120",
    ".quad 0, 0x00cf9a000000ffff, 0x00cf92000000ffff",
    ".org vmm_test_guest + 0x140",
    ".word 0x17, 0x0120, 0x10, 0",
    ".word 0x207, 0x0150, 0x10, 0",
    ".fill 0x40, 8, 0",
    ".word vmm_test_handler - vmm_test_guest, 8, 0x8e00, 0x10",
    "vmm_test_guest_end:",
    ".code64",
    ".popsection",
);

unsafe extern "C" {
    static vmm_test_guest: u8;
    static vmm_test_guest_end: u8;
}

/// The vector of the guest's interrupt descriptor.
const VECTOR: u32 = 0x40;

fn guest_code() -> &'static [u8] {
    let (start, end) = (&raw const vmm_test_guest, &raw const vmm_test_guest_end);
    // SAFETY: both symbols delimit the octets assembled above, which are read-only data of this program.
    unsafe { std::slice::from_raw_parts(start, end as usize - start as usize) }
}

fn config(switch: &TestSwitch, code: &[u8], reconnect: Duration) -> VmConfig {
    let mac = crate::MacAddr([2, 0, 0, 0, 0, 1]);
    let image: &'static [u8] = PvhImage::new(code).build().leak();
    VmConfig {
        memory: 2 << 20,
        nics: vec![NicConfig {
            socket: switch.path.clone(),
            mac,
            queue_pairs: 1,
            mtu: 1500,
            reconnect,
            packed: false,
        }],
        ..VmConfig::new(Kernel::Embedded(image))
    }
}

/// Sets the device up from outside as a driver would: both rings, vector 2 for queue 1 and masked.
fn set_up(function: &mut VirtioFunction<Net>) {
    let mut driver = Driver(function);
    assert!(driver.negotiate(1 << 32));
    driver.enable_queue(0, 0xffff);
    driver.enable_queue(1, 2);
    driver.set_status(15);
    let entry = MSIX_TABLE + 2 * 16;
    driver.write(entry, &0xfee0_0000_u32.to_le_bytes());
    driver.write(entry + 8, &VECTOR.to_le_bytes());
    let mut at = [0];
    function.read_config(0x34, &mut at);
    loop {
        let mut header = [0; 2];
        function.read_config(at[0].into(), &mut header);
        match header {
            [0x11, _] => break function.write_config(usize::from(at[0]) + 2, &[0, 0x80]),
            [_, next] => at = [next],
        }
    }
}

#[test]
fn kicks_reach_the_switch_and_calls_the_guest() {
    if without_kvm("kicks_reach_the_switch_and_calls_the_guest") {
        return;
    }
    let switch = TestSwitch::start();
    let screen = Screen::default();
    let console = Console {
        output: Box::new(screen.clone()),
        input: None,
    };
    let mut vm = Vm::new(config(&switch, guest_code(), Duration::ZERO), console).expect("a machine");
    set_up(&mut vm.board.as_ref().expect("not running").nics[0].function.lock());
    let (kick, call) = switch.look(|said| {
        let ring = said.rings.get_mut(&1).expect("ring 1");
        (
            ring.kick.take().expect("a doorbell"),
            ring.call.take().expect("a doorbell"),
        )
    });
    let answering = std::thread::spawn(move || {
        for _ in 0..3 {
            wait_readable(&kick);
            assert_eq!(kick.read().expect("kicked"), 1);
            call.write(1).expect("called");
        }
    });
    assert_eq!(vm.run().expect("runs"), StopReason::GuestPowerOff);
    answering.join().expect("three kicks");
    assert_eq!(screen.text(), "piii");
    let report = vm.report();
    assert!(
        report
            .boot
            .first_kick_us
            .is_some_and(|kick| kick >= report.boot.started_us.unwrap_or(0))
    );
    assert_eq!(
        (report.nics[0].guest_faults, report.nics[0].wiring_failures),
        (0, 0)
    );
    assert_eq!(BASE, PCI_MMIO);
}

fn wait_readable(event: &vmm_sys_util::eventfd::EventFd) {
    use std::os::fd::AsRawFd;
    let mut poll = libc::pollfd {
        fd: event.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one live structure is passed, and its count.
    let ready = unsafe { libc::poll(&raw mut poll, 1, 10_000) };
    assert_eq!(ready, 1, "no doorbell within 10 s");
}

#[test]
fn a_vanished_switch_stops_the_machine() {
    if without_kvm("a_vanished_switch_stops_the_machine") {
        return;
    }
    let switch = TestSwitch::start();
    let spin = b"\xeb\xfe";
    for reconnect in [Duration::ZERO, Duration::from_millis(120)] {
        let console = Console {
            output: Box::new(io::sink()),
            input: None,
        };
        let mut vm = Vm::new(config(&switch, spin, reconnect), console).expect("a machine");
        let socket = switch.path.clone();
        if reconnect.is_zero() {
            switch.hang_up();
        } else {
            // Gone for good: the last conversation ends, and nobody listens.
            std::fs::remove_file(&socket).expect("the socket");
            switch.hang_up();
        }
        match vm.run().expect("a clean stop") {
            StopReason::SwitchGone { socket: gone, reason } => {
                assert_eq!(gone, socket);
                assert!(!reason.is_empty());
            }
            other => panic!("{other}"),
        }
    }
}

#[test]
fn a_restarted_switch_is_found_again() {
    if without_kvm("a_restarted_switch_is_found_again") {
        return;
    }
    let switch = TestSwitch::start();
    let console = Console {
        output: Box::new(io::sink()),
        input: None,
    };
    let mut vm = Vm::new(config(&switch, b"\xeb\xfe", Duration::from_secs(20)), console).expect("a machine");
    set_up(&mut vm.board.as_ref().expect("not running").nics[0].function.lock());
    let stop = vm.stop_handle();
    let runner = std::thread::spawn(move || {
        let reason = vm.run().expect("runs");
        (reason, vm.report())
    });
    let switch = switch.restart();
    let rings = switch.wait_for(|said| {
        let enabled = said.rings.values().filter(|ring| ring.enabled).count();
        (enabled == 2).then_some(enabled)
    });
    assert_eq!(rings, 2);
    stop.stop();
    let (reason, report) = runner.join().expect("ended");
    assert_eq!(reason, StopReason::Requested);
    assert_eq!(report.nics[0].counts.disconnects, 1);
}
