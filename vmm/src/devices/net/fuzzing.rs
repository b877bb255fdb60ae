//! What the fuzz target of the control queue calls.

use std::sync::Arc;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::control::{COMMAND_MAX, ControlQueue, decode};
use super::remembered::Remembered;
use crate::devices::virtio::ActiveQueue;
use crate::memory::GuestRam;
use crate::testing::driver::{SIZE, ring_address};

/// Commands that one notification carries out at most.
const BATCH: u64 = 256;
/// Kinds of commands beside VLANs.
const KINDS: usize = 16;

/// Serves a control ring in memory that was filled before, for a driver with the features that `choice` stands for.
pub(crate) fn control(ram: &GuestRam, choice: u8) {
    let event = || Arc::new(EventFd::new(EFD_NONBLOCK).expect("a descriptor"));
    let at = ring_address(0);
    let active = ActiveQueue {
        index: 0,
        size: SIZE,
        descriptors: at,
        driver: at + 0x100,
        device: at + 0x200,
        kick: event(),
        call: event(),
    };
    let features = if choice & 2 == 0 {
        u64::MAX
    } else {
        u64::from(choice) << 16
    };
    let mut remembered = Remembered::default();
    let mut queue = ControlQueue::new(&active, choice & 1 == 1).expect("a ring");
    for _ in 0..=choice % 3 {
        let mut carried_out = 0;
        queue.serve(ram, |command| {
            carried_out += 1;
            assert!(command.len() <= COMMAND_MAX);
            let carry_out = decode(command, features).is_some();
            if carry_out {
                remembered.note(command);
            }
            carry_out
        });
        assert!(carried_out + queue.take_broken() <= BATCH + 1);
    }
    assert!(remembered.commands().len() <= KINDS + 4096);
}
