//! What the assembly offers to ring 3: halting, and where it notes interrupts.

use core::arch::global_asm;
use core::ptr::addr_of;
use core::sync::atomic::{AtomicU8, Ordering};

use crate::ports;

global_asm!(include_str!("boot.s"));
global_asm!(include_str!("memory.s"));

/// Power management control: ACPI's soft-off is bit 13, "sleep enable" (ACPI 6.4, 4.8.3.2.1).
const PM_CONTROL: [u16; 2] = [0x604, 0xb004];
const SLEEP_ENABLE: u16 = 1 << 13;
/// QEMU's isa-debug-exit, where the machine has it.
const DEBUG_EXIT: u16 = 0xf4;
/// The keyboard controller's reset line: the last resort.
const KEYBOARD_COMMAND: u16 = 0x64;
const RESET: u8 = 0xfe;

unsafe extern "C" {
    static guest_entry_tsc: u64;
    static guest_interrupted: AtomicU8;
    safe fn guest_halt();
}

/// The time-stamp counter when the machine entered the image.
pub(crate) fn entry_ticks() -> u64 {
    // SAFETY: the stub wrote it once, before ring 3 began.
    unsafe { addr_of!(guest_entry_tsc).read() }
}

/// Forgets past interrupts: [`halt`] will return at once if one comes from now on.
pub(crate) fn clear_interrupted() {
    // SAFETY: defined in boot.s as one octet; an atomic may change under us.
    unsafe { &guest_interrupted }.store(0, Ordering::SeqCst);
}

/// Halts until an interrupt comes, or has come since [`clear_interrupted`].
pub(crate) fn halt() {
    guest_halt();
}

/// Switches the machine off, by whatever way it knows.
pub(crate) fn power_off() -> ! {
    for port in PM_CONTROL {
        ports::write16(port, SLEEP_ENABLE);
    }
    ports::write8(DEBUG_EXIT, 0);
    ports::write8(KEYBOARD_COMMAND, RESET);
    loop {
        clear_interrupted();
        halt();
    }
}
