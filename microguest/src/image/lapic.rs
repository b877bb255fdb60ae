//! The local APIC (Intel SDM, volume 3, chapter 12): accepts message-signalled interrupts, and its timer ends a halt.

use core::sync::atomic::{AtomicU64, Ordering};

/// Where boot.s maps it.
const BASE: usize = 0x3fe0_0000;
/// Where it is: message-signalled interrupts are written there.
pub(crate) const MESSAGE_ADDRESS: u32 = 0xfee0_0000;
/// The vector of the network device.
pub(crate) const NETWORK_VECTOR: u32 = 0x41;

const ID: usize = 0x20;
const SPURIOUS: usize = 0xf0;
const COMMAND: usize = 0x300;
const LVT_TIMER: usize = 0x320;
const INITIAL_COUNT: usize = 0x380;
const CURRENT_COUNT: usize = 0x390;
const DIVIDE: usize = 0x3e0;

/// Enabled, with boot.s's last vector for spurious interrupts.
const ENABLE: u32 = 0x100 | 0x4f;
/// To all processors but this one: INIT, and start-up at a page.
const INIT_OTHERS: u32 = 0xc_4500;
const START_OTHERS: u32 = 0xc_4600;
const TIMER_VECTOR: u32 = 0x40;
const MASKED: u32 = 1 << 16;
const DIVIDE_BY_1: u32 = 0b1011;
/// The longest that the timer is set for, in nanoseconds.
const LONGEST: u64 = 4_000_000_000;

/// When the timer will ring, on the guest's clock; 0 if it is not set.
static ALARM: AtomicU64 = AtomicU64::new(0);

/// Switches it on. KVM's and QEMU's timers count nanoseconds when they divide by 1.
pub(crate) fn enable() {
    write(SPURIOUS, ENABLE);
    write(DIVIDE, DIVIDE_BY_1);
    write(LVT_TIMER, TIMER_VECTOR);
}

/// The processor's APIC number.
pub(crate) fn id() -> u32 {
    read(ID) >> 24
}

/// Makes sure that an interrupt comes at `at` or before: an alarm that is already set for earlier is left alone, since
/// each write is an exit to the host. None is needed without a deadline.
pub(crate) fn wake_at(at: Option<u64>, now: u64) {
    let Some(at) = at else { return };
    let alarm = ALARM.load(Ordering::Relaxed);
    if alarm > now && alarm <= at {
        return;
    }
    let delay = at.saturating_sub(now).clamp(1, LONGEST);
    ALARM.store(now + delay, Ordering::Relaxed);
    write(INITIAL_COUNT, delay as u32);
}

/// Starts all other processors in real mode, at the beginning of `page` below 1 MiB.
pub(crate) fn start_others(page: u32) {
    write(COMMAND, INIT_OTHERS);
    write(COMMAND, START_OTHERS | page);
    write(COMMAND, START_OTHERS | page);
}

/// Runs `measure` and returns how many nanoseconds the timer counted meanwhile, at most four seconds.
pub(crate) fn count(measure: impl FnOnce(&dyn Fn() -> u32)) -> u32 {
    write(LVT_TIMER, TIMER_VECTOR | MASKED);
    write(INITIAL_COUNT, LONGEST as u32);
    let start = read(CURRENT_COUNT);
    let elapsed = || start.wrapping_sub(read(CURRENT_COUNT));
    measure(&elapsed);
    let total = elapsed();
    write(INITIAL_COUNT, 0);
    write(LVT_TIMER, TIMER_VECTOR);
    total
}

fn read(register: usize) -> u32 {
    // SAFETY: boot.s maps the APIC's page at BASE for ring 3, uncached; `register` is one of its registers.
    unsafe { ((BASE + register) as *const u32).read_volatile() }
}

fn write(register: usize, value: u32) {
    // SAFETY: as in `read`.
    unsafe { ((BASE + register) as *mut u32).write_volatile(value) }
}
