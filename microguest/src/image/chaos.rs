//! The guest that breaks every rule, on its machine.

use microguest::chaos::{Chaos, Ending, Machine, Orders};
use microguest::report::Line;

use crate::{lapic, ports, serial, stub};

/// The real machine.
struct Hardware;

impl Machine for Hardware {
    fn read_port(&mut self, port: u16, width: u8) -> u32 {
        match width {
            1 => ports::read8(port).into(),
            2 => ports::read16(port).into(),
            _ => ports::read32(port),
        }
    }

    fn write_port(&mut self, port: u16, width: u8, value: u32) {
        match width {
            1 => ports::write8(port, value as u8),
            2 => ports::write16(port, value as u16),
            _ => ports::write32(port, value),
        }
    }

    fn read_memory(&mut self, address: u64, width: u8) -> u64 {
        let at = address as *const u8;
        // SAFETY: all of the first 4 GiB is mapped for ring 3. What is read is either no memory of this program's, whose
        // image ends below the rings, or a device's register.
        unsafe {
            match width {
                1 => read(at).into(),
                2 => read(at.cast::<u16>()).into(),
                4 => read(at.cast::<u32>()).into(),
                _ => read(at.cast::<u64>()),
            }
        }
    }

    fn write_memory(&mut self, address: u64, width: u8, value: u64) {
        let at = address as *mut u8;
        // SAFETY: as for reading.
        unsafe {
            match width {
                1 => write(at, value as u8),
                2 => write(at.cast(), value as u16),
                4 => write(at.cast(), value as u32),
                _ => write(at.cast(), value),
            }
        }
    }
}

/// One access, aligned or not, of exactly this width: the compiler may split neither.
macro_rules! access {
    ($($width:ty, $register:tt, $pattern:literal);+) => {
        $(impl Access for $width {
            unsafe fn read(at: *const Self) -> Self {
                let value: Self;
                // SAFETY: the caller vouches for the address.
                unsafe { core::arch::asm!(concat!("mov {0", $pattern, "}, [{1}]"), out($register) value, in(reg) at) }
                value
            }

            unsafe fn write(at: *mut Self, value: Self) {
                // SAFETY: the caller vouches for the address.
                unsafe { core::arch::asm!(concat!("mov [{1}], {0", $pattern, "}"), in($register) value, in(reg) at) }
            }
        })+
    };
}

trait Access {
    unsafe fn read(at: *const Self) -> Self;
    unsafe fn write(at: *mut Self, value: Self);
}

access!(u8, reg_byte, ""; u16, reg, ":x"; u32, reg, ":e"; u64, reg, ":r");

unsafe fn read<T: Access>(at: *const T) -> T {
    // SAFETY: the caller vouches for the address.
    unsafe { T::read(at) }
}

unsafe fn write<T: Access>(at: *mut T, value: T) {
    // SAFETY: the caller vouches for the address.
    unsafe { T::write(at, value) }
}

/// Everything, to the end of the machine.
pub(crate) fn run(orders: Orders) -> ! {
    lapic::enable();
    stub::open_ports();
    if orders.others {
        stub::start_others();
    }
    let mut chaos = Chaos::new(orders, Hardware);
    for n in 0..orders.rounds {
        chaos.round();
        // What was printed before is no whole line.
        serial::end_line();
        serial::line(&Line::Round { n });
    }
    let recovered = chaos.recovers();
    let tally = chaos.tally();
    serial::end_line();
    serial::line(&Line::Chaos {
        devices: chaos.devices() as u64,
        reads: tally.reads,
        writes: tally.writes,
        setups: tally.setups,
        recovered,
    });
    match orders.end {
        Ending::Off => stub::power_off(),
        Ending::Keyboard => stub::reset_by_keyboard(),
        Ending::ResetControl => stub::reset_by_control(),
        Ending::TripleFault => stub::triple_fault(),
    }
}
