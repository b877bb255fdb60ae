//! The embedded guest: its driver against this crate's device, interrupts and doorbells included.

use std::io::{self, BufRead, BufReader};
use std::time::Duration;

use super::*;
use crate::config::{Kernel, NicConfig};
use crate::microguest::MICROGUEST;
use crate::testing::switch::TestSwitch;
use crate::testing::without_kvm;

fn config(switch: &TestSwitch, cmdline: &str) -> VmConfig {
    let mac = crate::MacAddr([2, 0, 0, 0, 0, 1]);
    let reconnect = Duration::ZERO;
    VmConfig {
        cmdline: cmdline.to_owned(),
        memory: 16 << 20,
        nics: vec![NicConfig {
            socket: switch.path.clone(),
            mac,
            queue_pairs: 1,
            mtu: 1500,
            reconnect,
            packed: false,
        }],
        ..VmConfig::new(Kernel::Embedded(MICROGUEST))
    }
}

#[test]
fn the_micro_guest_drives_the_interface() {
    if without_kvm("the_micro_guest_drives_the_interface") {
        return;
    }
    let switch = TestSwitch::start();
    let (read, write) = io::pipe().expect("a pipe");
    let console = Console {
        output: Box::new(write),
        input: None,
    };
    let mut vm = Vm::new(config(&switch, "role=server ip=192.0.2.1/24"), console).expect("a machine");
    let stop = vm.stop_handle();
    let runner = std::thread::spawn(move || {
        let reason = vm.run().expect("runs");
        (reason, vm.report())
    });
    let mut lines = BufReader::new(read).lines().map(|line| line.expect("text"));
    let link = lines
        .find(|line| line.contains(" link "))
        .expect("the guest tells of its link");
    assert!(link.contains("mac=02:00:00:00:00:01 msix=1"), "{link}");
    lines
        .find(|line| line.contains(" listening port=7000"))
        .expect("the guest serves");
    let (size, enabled, kicked) = switch.look(|said| {
        let ring = &said.rings[&1];
        (
            ring.size,
            ring.enabled,
            ring.kick.as_ref().and_then(|kick| kick.read().ok()),
        )
    });
    assert!(size > 0 && enabled, "the transmit ring is set up");
    assert!(kicked.is_some(), "the first frame was announced");
    stop.stop();
    let (reason, report) = runner.join().expect("ended");
    assert_eq!(reason, StopReason::Requested);
    assert!(report.boot.first_kick_us.is_some());
    let nic = &report.nics[0];
    assert_eq!((nic.guest_faults, nic.wiring_failures), (0, 0));
}
