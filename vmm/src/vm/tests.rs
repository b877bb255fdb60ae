//! Machines on the real KVM. Where there is none, each test says so and passes.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use super::*;
use crate::config::Kernel;
use crate::testing::{PvhImage, Screen, without_kvm};

/// `mov edx, port; mov al, octet; out dx, al` for each octet.
fn print(text: &[u8]) -> Vec<u8> {
    let mut code = vec![0xba, 0xf8, 0x03, 0, 0];
    code.extend(text.iter().flat_map(|octet| [0xb0, *octet, 0xee]));
    code
}

/// `mov edx, 0x604; mov ax, 0x2000; out dx, ax`, then halt for ever.
const POWER_OFF: [u8; 15] = [
    0xba, 0x04, 0x06, 0, 0, 0x66, 0xb8, 0x00, 0x20, 0x66, 0xef, 0xfa, 0xf4, 0xeb, 0xfc,
];
/// `jmp $`
const SPIN: [u8; 2] = [0xeb, 0xfe];

fn config(code: &[u8]) -> VmConfig {
    let image: &'static [u8] = PvhImage::new(code).build().leak();
    VmConfig {
        cmdline: "role=test".to_owned(),
        memory: 16 << 20,
        ..VmConfig::new(Kernel::Embedded(image))
    }
}

fn console(screen: &Screen) -> Console {
    Console {
        output: Box::new(screen.clone()),
        input: None,
    }
}

#[test]
fn a_guest_prints_and_switches_itself_off() {
    if without_kvm("a_guest_prints_and_switches_itself_off") {
        return;
    }
    // Memory of a machine in a test beside this one may join this one's in the kernel's account.
    if !crate::testing::is_alone("vm::tests::a_guest_prints_and_switches_itself_off") {
        return;
    }
    let screen = Screen::default();
    let code = [print(b"hello\nworld"), POWER_OFF.to_vec()].concat();
    let mut vm = Vm::new(config(&code), console(&screen)).expect("a machine");
    assert_eq!(vm.run().expect("runs"), StopReason::GuestPowerOff);
    assert_eq!(screen.text(), "hello\nworld");
    let report = vm.report();
    assert_eq!(report.exits.port, 12);
    assert!(report.boot.memory_us <= report.boot.vcpus_us);
    assert!(report.memory.guest_kib > 0 && report.memory.guest_kib < 16 << 10);
}

#[test]
fn a_guest_resets_through_the_keyboard_controller() {
    if without_kvm("a_guest_resets_through_the_keyboard_controller") {
        return;
    }
    // mov al, 0xfe; out 0x64, al
    let code = [&[0xb0, 0xfe, 0xe6, 0x64][..], &SPIN].concat();
    let mut vm = Vm::new(config(&code), console(&Screen::default())).expect("a machine");
    assert_eq!(vm.run().expect("runs"), StopReason::GuestReset);
}

#[test]
fn a_triple_fault_ends_the_machine() {
    if without_kvm("a_triple_fault_ends_the_machine") {
        return;
    }
    // ud2 without an interrupt descriptor table
    let mut vm = Vm::new(config(&[0x0f, 0x0b]), console(&Screen::default())).expect("a machine");
    assert_eq!(vm.run().expect("runs"), StopReason::TripleFault);
}

#[test]
fn a_guest_that_runs_where_no_memory_is_ends_with_one_line() {
    if without_kvm("a_guest_that_runs_where_no_memory_is_ends_with_one_line") {
        return;
    }
    // mov eax, 0xd0000000; jmp eax
    let code = [0xb8, 0, 0, 0, 0xd0, 0xff, 0xe0];
    let mut vm = Vm::new(config(&code), console(&Screen::default())).expect("a machine");
    match vm.run() {
        // Some KVMs give up, others have the processor fault.
        Ok(reason) => assert_eq!(reason, StopReason::TripleFault),
        Err(error) => {
            let text = error.to_string();
            let (place, reason) = ("virtual processor 0 cannot go on at 0x", "KVM cannot carry out");
            assert!(text.starts_with(place) && text.contains(reason), "{text}");
        }
    }
}

#[test]
fn spinning_and_halted_guests_stop_on_request() {
    if without_kvm("spinning_and_halted_guests_stop_on_request") {
        return;
    }
    for ending in [&SPIN[..], &[0xfa, 0xf4]] {
        let (read, write) = io::pipe().expect("a pipe");
        let code = [print(b"up\n"), ending.to_vec()].concat();
        let console = Console {
            output: Box::new(write),
            input: None,
        };
        let config = VmConfig {
            vcpus: 3,
            ..config(&code)
        };
        let mut vm = Vm::new(config, console).expect("a machine");
        let stop = vm.stop_handle();
        let runner = std::thread::spawn(move || vm.run().expect("runs"));
        let mut line = String::new();
        io::BufRead::read_line(&mut io::BufReader::new(read), &mut line).expect("the guest is up");
        assert_eq!(line, "up\n");
        stop.stop();
        assert_eq!(runner.join().expect("ended"), StopReason::Requested);
    }
}

#[test]
fn input_reaches_the_guest_by_pipe_and_by_file() {
    if without_kvm("input_reaches_the_guest_by_pipe_and_by_file") {
        return;
    }
    // Echoes 200 octets, more than the receiver holds: wait for the line status, read, write, count down.
    let code = [
        &[0xb9, 200, 0, 0, 0][..],
        &[0xba, 0xfd, 0x03, 0, 0, 0xec, 0xa8, 1, 0x74, 0xfb],
        &[0xba, 0xf8, 0x03, 0, 0, 0xec, 0xee, 0x49, 0x75, 0xec],
        &POWER_OFF,
    ]
    .concat();
    let typed: String = ('a'..='z').cycle().take(200).collect();
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(typed.as_bytes()).expect("written");
    io::Seek::rewind(&mut file).expect("rewound");
    let (read, mut write) = io::pipe().expect("a pipe");
    write.write_all(typed.as_bytes()).expect("a pipe holds that");
    for input in [OwnedFd::from(file), OwnedFd::from(read)] {
        let screen = Screen::default();
        let console = Console {
            output: Box::new(screen.clone()),
            input: Some(input),
        };
        let mut vm = Vm::new(config(&code), console).expect("a machine");
        assert_eq!(vm.run().expect("runs"), StopReason::GuestPowerOff);
        assert_eq!(screen.text(), typed);
    }
}

#[test]
fn the_kernel_is_told_its_command_line() {
    if without_kvm("the_kernel_is_told_its_command_line") {
        return;
    }
    // mov esi, [ebx+24]; next: lodsb; test al, al; jz off; mov edx, 0x3f8; out dx, al; jmp next
    let code = [
        &[
            0x8b, 0x73, 24, 0xac, 0x84, 0xc0, 0x74, 0x08, 0xba, 0xf8, 0x03, 0, 0, 0xee, 0xeb, 0xf3,
        ][..],
        &POWER_OFF,
    ]
    .concat();
    let screen = Screen::default();
    let mut vm = Vm::new(config(&code), console(&screen)).expect("a machine");
    assert_eq!(vm.run().expect("runs"), StopReason::GuestPowerOff);
    let text = screen.text();
    let khz = text
        .strip_prefix("role=test tsc_khz=")
        .expect("starts with what was asked for");
    assert!(khz.parse::<u32>().is_ok_and(|khz| khz > 100_000), "{text}");
}

#[test]
fn impossible_machines_are_refused_before_anything_is_made() {
    let refused = |config: VmConfig| {
        Vm::new(config, console(&Screen::default()))
            .err()
            .expect("refused")
            .to_string()
    };
    assert!(
        refused(VmConfig {
            vcpus: 0,
            ..config(&SPIN)
        })
        .contains("not between 1 and")
    );
    assert!(
        refused(VmConfig {
            memory: 1 << 60,
            ..config(&SPIN)
        })
        .contains("the host has")
    );
    assert!(
        refused(VmConfig {
            memory: 1 << 20,
            ..config(&SPIN)
        })
        .contains("needs physical memory")
    );
    assert!(
        refused(VmConfig {
            cmdline: "x".repeat(5000),
            ..config(&SPIN)
        })
        .contains("shorten it")
    );
    let kernel = Kernel::File(Path::new("/nonexistent").to_owned());
    assert!(
        refused(VmConfig {
            kernel,
            ..config(&SPIN)
        })
        .contains("/nonexistent")
    );
}
