//! Pausing, restarting, looking into and typing into machines on the real KVM.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::Duration;

use super::*;
use crate::config::Kernel;
use crate::testing::{PvhImage, without_kvm};

/// Prints "up\n", then waits for an octet: `r` resets, `o` switches off, others are echoed.
const OBEDIENT: [&[u8]; 9] = [
    &[0xba, 0xf8, 0x03, 0, 0],                                  // mov edx, 0x3f8
    &[0xb0, b'u', 0xee, 0xb0, b'p', 0xee, 0xb0, b'\n', 0xee],   // mov al, octet; out dx, al
    &[0xba, 0xfd, 0x03, 0, 0, 0xec, 0xa8, 1, 0x74, 0xfb], // wait until the line status tells of an octet
    &[0xba, 0xf8, 0x03, 0, 0, 0xec],                      // mov edx, 0x3f8; in al, dx
    &[0x3c, b'o', 0x74, 7, 0x3c, b'r', 0x74, 18],         // cmp al, 'o'; je off; cmp al, 'r'; je reset
    &[0xee, 0xeb, 0xe5],                                  // out dx, al; jmp wait
    &[0xba, 0x04, 0x06, 0, 0, 0x66, 0xb8, 0, 0x20, 0x66, 0xef], // off: mov edx, 0x604; mov ax, 0x2000; out dx, ax
    &[0xfa, 0xf4, 0xeb, 0xfc],                                  // cli; hlt; jmp cli
    &[0xb0, 0xfe, 0xe6, 0x64, 0xeb, 0xfe],                      // reset: mov al, 0xfe; out 0x64, al; jmp $
];

/// A machine that runs in a thread of its own.
struct Running {
    handle: VmHandle,
    screen: BufReader<io::PipeReader>,
    keys: io::PipeWriter,
    thread: JoinHandle<(StopReason, VmReport)>,
}

impl Running {
    fn start(change: impl FnOnce(&mut VmConfig)) -> Self {
        let code = OBEDIENT.concat();
        let mut config = VmConfig::new(Kernel::Embedded(PvhImage::new(&code).build().leak()));
        config.memory = 16 << 20;
        change(&mut config);
        let (screen, output) = io::pipe().expect("a pipe");
        let (input, keys) = io::pipe().expect("a pipe");
        let console = Console {
            output: Box::new(output),
            input: Some(input.into()),
        };
        let mut vm = Vm::new(config, console).expect("a machine");
        let handle = vm.handle();
        let thread = std::thread::spawn(move || {
            let reason = vm.run().expect("runs");
            (reason, vm.report())
        });
        let mut running = Self {
            handle,
            screen: BufReader::new(screen),
            keys,
            thread,
        };
        running.wait_until_up();
        running
    }

    fn wait_until_up(&mut self) {
        let mut line = String::new();
        self.screen.read_line(&mut line).expect("the guest prints");
        assert_eq!(line, "up\n");
    }

    fn echo(&mut self, octet: u8) {
        self.keys.write_all(&[octet]).expect("typed");
        let mut seen = [0];
        self.screen.read_exact(&mut seen).expect("echoed");
        assert_eq!(seen, [octet]);
    }

    fn end(mut self) -> (StopReason, VmReport) {
        self.keys.write_all(b"o").expect("typed");
        self.thread.join().expect("ended")
    }
}

#[test]
fn a_paused_machine_stands_still_and_goes_on() {
    if without_kvm("a_paused_machine_stands_still_and_goes_on") {
        return;
    }
    let mut running = Running::start(|config| config.vcpus = 2);
    let handle = running.handle.clone();
    running.echo(b'x');
    let polls = |handle: &VmHandle| handle.info().expect("answers").report.exits.port;
    handle.pause().expect("pauses");
    handle.pause().expect("is paused already");
    assert_eq!(handle.info().expect("answers").state, VmState::Paused);
    let still = polls(&handle);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(polls(&handle), still, "nothing runs");
    let states = handle.export().expect("exported");
    assert_eq!(states[0]["kind"], "serial");
    handle.resume().expect("goes on");
    running.echo(b'y');
    assert!(polls(&handle) > still);
    let (reason, _) = running.end();
    assert_eq!(reason, StopReason::GuestPowerOff);
    assert!(matches!(handle.pause(), Err(RequestError::Stopped)));
}

#[test]
fn a_guest_that_resets_starts_again_in_the_same_machine() {
    if without_kvm("a_guest_that_resets_starts_again_in_the_same_machine") {
        return;
    }
    let mut running = Running::start(|config| config.reboot = true);
    for resets in 1..=3 {
        running.keys.write_all(b"r").expect("typed");
        running.wait_until_up();
        running.echo(b'z');
        let info = running.handle.info().expect("answers");
        assert_eq!((info.report.resets, info.state), (resets, VmState::Running));
        assert!(info.report.boot.first_output_us.is_some());
    }
    let (reason, report) = running.end();
    assert_eq!((reason, report.resets), (StopReason::GuestPowerOff, 3));
    assert!(
        report.memory.guest_kib < 8 << 10,
        "one guest's memory: {:?}",
        report.memory
    );
}

#[test]
fn processors_are_accounted_for_one_by_one() {
    if without_kvm("processors_are_accounted_for_one_by_one") {
        return;
    }
    let running = Running::start(|config| config.vcpus = 3);
    let info = running.handle.info().expect("answers");
    assert_eq!(info.vcpus.len(), 3);
    assert_eq!(info.overcommitted, info.host_cpus < 3);
    assert_eq!((info.pid, info.memory_size_kib), (std::process::id(), 16 << 10));
    for vcpu in &info.vcpus {
        assert!(
            vcpu.halted_ms
                .is_none_or(|halted| halted <= vcpu.elapsed_ms + 1000),
            "{vcpu:?}"
        );
    }
    running.handle.stop();
    assert_eq!(running.thread.join().expect("ended").0, StopReason::Requested);
}

#[test]
fn attached_consoles_see_the_past_and_may_type() {
    if without_kvm("attached_consoles_see_the_past_and_may_type") {
        return;
    }
    let running = Running::start(|_| {});
    let (ours, mut theirs) = UnixStream::pair().expect("a pair");
    running.handle.attach_console(ours, "hello ").expect("attached");
    let mut seen = [0; 9];
    theirs.read_exact(&mut seen).expect("shown");
    assert_eq!(&seen, b"hello up\n");
    theirs.write_all(b"k").expect("typed");
    theirs.read_exact(&mut seen[..1]).expect("echoed");
    assert_eq!(seen[0], b'k');
    drop(theirs);
    let (reason, _) = running.end();
    assert_eq!(reason, StopReason::GuestPowerOff);
}
