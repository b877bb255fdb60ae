//! What the assembly offers to ring 3: halting, and where it notes interrupts.

use core::arch::global_asm;
use core::ptr::addr_of;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crate::{lapic, ports};

global_asm!(include_str!("boot.s"));
global_asm!(include_str!("memory.s"));

/// Power management control: ACPI's soft-off is bit 13, "sleep enable" (ACPI 6.4, 4.8.3.2.1).
const PM_CONTROL: [u16; 2] = [0x604, 0xb004];
const SLEEP_ENABLE: u16 = 1 << 13;
/// Cloud Hypervisor's sleep register (ACPI 6.4, 4.8.3.7): sleep type 5, sleep enable.
const SLEEP_CONTROL: u16 = 0x600;
const SLEEP_S5: u8 = 5 << 2 | 1 << 5;
/// QEMU's isa-debug-exit, where the machine has it.
const DEBUG_EXIT: u16 = 0xf4;
/// The keyboard controller's reset line: the last resort.
const KEYBOARD_COMMAND: u16 = 0x64;
const RESET: u8 = 0xfe;
/// The chipset's reset control register, and its bit that resets.
const RESET_CONTROL: u16 = 0xcf9;
const RESET_CPU: u8 = 6;

/// Page table entries that boot.s leaves free, and the first address that they map.
const DEVICE_PAGES: usize = 4;
const DEVICE_BASE: usize = 0x3f60_0000;
/// Octets of a page.
const PAGE: u64 = 2 << 20;
/// Octets of the I/O bitmap, and words of the interrupt descriptors of exceptions.
const PORT_OCTETS: usize = 0x1_0000 / 8;
const IDT_WORDS: usize = 2 * 32;
/// A page below 1 MiB that nothing else uses.
const OTHERS_PAGE: usize = 0x9_0000;
/// Entry bits: present, writable, ring 3, uncached, large.
const DEVICE_PAGE: u64 = 0x9f;

unsafe extern "C" {
    static guest_entry_tsc: u64;
    static guest_interrupted: AtomicU8;
    static guest_device_pages: [AtomicU64; DEVICE_PAGES];
    static guest_ports: [AtomicU8; PORT_OCTETS];
    static guest_idt: [AtomicU64; IDT_WORDS];
    static guest_others: u8;
    static guest_others_end: u8;
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

/// Maps the 2 MiB around `physical`, device memory above 4 GiB, and returns where it appears. `None` if all pages
/// for that are taken.
pub(crate) fn map_device(physical: u64) -> Option<usize> {
    let (page, offset) = (physical & !(PAGE - 1), physical & (PAGE - 1));
    let entry = page | DEVICE_PAGE;
    // SAFETY: defined in boot.s: four entries that are absent until set here, so no translation can be stale. The
    // addresses that they map are used for nothing else.
    let entries = unsafe { &guest_device_pages };
    let place = entries
        .iter()
        .position(|found| matches!(found.load(Ordering::Relaxed), found if found == 0 || found == entry))?;
    entries.get(place)?.store(entry, Ordering::SeqCst);
    Some(DEVICE_BASE + place * PAGE as usize + offset as usize)
}

/// Opens all ports to ring 3.
pub(crate) fn open_ports() {
    // SAFETY: defined in boot.s as so many octets; the processor reads them at each access.
    for octet in unsafe { &guest_ports } {
        octet.store(0, Ordering::SeqCst);
    }
}

/// Has the machine's other processors read ports for ever.
pub(crate) fn start_others() {
    let (start, end) = (addr_of!(guest_others), addr_of!(guest_others_end));
    let len = end as usize - start as usize;
    // SAFETY: both symbols delimit code in boot.s that names no address; the page is memory, and nothing else uses it.
    unsafe { core::ptr::copy_nonoverlapping(start, OTHERS_PAGE as *mut u8, len) };
    lapic::start_others((OTHERS_PAGE / 4096) as u32);
}

/// Takes all exception handlers away, and makes an exception.
pub(crate) fn triple_fault() -> ! {
    // SAFETY: defined in boot.s as so many words; the processor reads them when it needs them.
    for word in unsafe { &guest_idt } {
        word.store(0, Ordering::SeqCst);
    }
    loop {
        // SAFETY: the instruction does nothing but raise the exception, which ends the machine.
        unsafe { core::arch::asm!("ud2", options(nomem, nostack)) }
    }
}

/// Asks for a reset by way of the keyboard controller, then waits for it.
pub(crate) fn reset_by_keyboard() -> ! {
    ports::write8(KEYBOARD_COMMAND, RESET);
    rest()
}

/// Asks for a reset by way of the reset control register, then waits for it.
pub(crate) fn reset_by_control() -> ! {
    ports::write8(RESET_CONTROL, RESET_CPU);
    rest()
}

/// Halts for good.
fn rest() -> ! {
    loop {
        clear_interrupted();
        halt();
    }
}

/// Switches the machine off, by whatever way it knows.
pub(crate) fn power_off() -> ! {
    for port in PM_CONTROL {
        ports::write16(port, SLEEP_ENABLE);
    }
    ports::write8(SLEEP_CONTROL, SLEEP_S5);
    ports::write8(DEBUG_EXIT, 0);
    ports::write8(KEYBOARD_COMMAND, RESET);
    rest()
}
