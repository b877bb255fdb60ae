//! A guest that breaks every rule: it writes anything into every register that a virtual machine monitor decodes, and
//! makes devices read and write memory that is none.
//!
//! What it does depends on its [seed](Orders::seed) alone. Each [round](Chaos::round) is a few steps of different kinds;
//! some begin as a correct driver would and go wrong then, so that the parts behind the first check are reached. Two
//! things are never done unless the orders say [`wild`](Orders::wild), because they would end the guest instead of trying
//! the monitor: devices are not told to write into the guest's own image, and interrupts have a vector that the guest
//! takes. Registers that end the machine are left for the [end](Ending).
//!
//! Registers are where this project's monitor has them: base address register 0 has the four virtio windows, register 1
//! the vectors.

mod draw;
mod driver;
mod function;
mod ports;
#[cfg(test)]
mod tests;

use alloc::vec::Vec;
use core::fmt;

use crate::cmdline::{ParameterError, in_range};
use draw::Draw;
use function::Function;

/// What the guest reaches of its machine.
pub trait Machine {
    /// Reads 1, 2 or 4 octets from a port.
    fn read_port(&mut self, port: u16, width: u8) -> u32;
    /// Writes 1, 2 or 4 octets to a port.
    fn write_port(&mut self, port: u16, width: u8, value: u32);
    /// Reads 1, 2, 4 or 8 octets of memory or of a device's registers, aligned or not.
    fn read_memory(&mut self, address: u64, width: u8) -> u64;
    /// Writes 1, 2, 4 or 8 octets of memory or of a device's registers, aligned or not.
    fn write_memory(&mut self, address: u64, width: u8, value: u64);
}

/// What the last step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// ACPI's soft-off.
    Off,
    /// The keyboard controller's reset line.
    Keyboard,
    /// The chipset's reset control register.
    ResetControl,
    /// An exception that no handler takes, three times over.
    TripleFault,
}

/// What the command line says: `role=chaos`, and what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Orders {
    /// `seed`: what everything depends on.
    pub seed: u32,
    /// `rounds`: how many.
    pub rounds: u32,
    /// `memory`: the machine's memory in MiB, 24 or more; the guest has no other way to know.
    pub memory: u32,
    /// `wild`: do what may end the guest, too.
    pub wild: bool,
    /// `others`: 1 has the machine's other processors read ports all the while.
    pub others: bool,
    /// `end`: `off`, `keyboard`, `reset-control` or `triple-fault`.
    pub end: Ending,
}

impl Orders {
    /// Reads a command line; `None` when its role is another one.
    pub fn parse(line: &str) -> Option<Result<Self, ParameterError>> {
        let words = || {
            line.split_ascii_whitespace()
                .filter_map(|word| word.split_once('='))
        };
        words()
            .any(|word| word == ("role", "chaos"))
            .then(|| Self::read(words()))
    }

    fn read<'a>(words: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Self, ParameterError> {
        let mut orders = Self {
            seed: 0,
            rounds: 100,
            memory: 32,
            wild: false,
            others: false,
            end: Ending::Off,
        };
        for (key, value) in words {
            match key {
                "seed" => orders.seed = in_range("seed", value, 0, u32::MAX)?,
                "rounds" => orders.rounds = in_range("rounds", value, 1, u32::MAX)?,
                "memory" => orders.memory = in_range("memory", value, 24, 3072)?,
                "wild" => orders.wild = in_range("wild", value, 0, 1)? == 1,
                "others" => orders.others = in_range("others", value, 0, 1)? == 1,
                "end" => orders.end = Ending::from_word(value)?,
                _ => {}
            }
        }
        Ok(orders)
    }
}

impl Ending {
    fn from_word(word: &str) -> Result<Self, ParameterError> {
        Ok(match word {
            "off" => Self::Off,
            "keyboard" => Self::Keyboard,
            "reset-control" => Self::ResetControl,
            "triple-fault" => Self::TripleFault,
            _ => return Err(ParameterError::Invalid("end")),
        })
    }
}

/// What was done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Reads of ports and registers.
    pub reads: u64,
    /// Writes to ports and registers, doorbells included.
    pub writes: u64,
    /// Devices that were set up as a correct driver does it.
    pub setups: u64,
}

/// The guest at work.
pub struct Chaos<M> {
    machine: M,
    draw: Draw,
    functions: Vec<Function>,
    tally: Tally,
}

impl<M: fmt::Debug> fmt::Debug for Chaos<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chaos")
            .field("tally", &self.tally)
            .finish_non_exhaustive()
    }
}

/// Steps of a round.
const STEPS: usize = 6;

impl<M: Machine> Chaos<M> {
    /// Looks for the machine's virtio devices.
    pub fn new(orders: Orders, machine: M) -> Self {
        let mut chaos = Self {
            machine,
            draw: Draw::new(orders),
            functions: Vec::new(),
            tally: Tally::default(),
        };
        chaos.functions = chaos.find_functions();
        chaos
    }

    /// How many virtio devices there are.
    pub fn devices(&self) -> usize {
        self.functions.len()
    }

    /// What was done so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// One round. Afterwards the devices' registers are where they were, the serial port works, and no other console has
    /// something to print.
    pub fn round(&mut self) {
        for _ in 0..STEPS {
            match self.draw.below(10) {
                0 => self.disturb_ports(),
                1 => self.disturb_configuration(),
                2 => self.disturb_configuration_window(),
                3 => self.move_registers(),
                4 => self.disturb_nowhere(),
                5 | 6 => self.disturb_registers(),
                _ => self.drive(),
            }
        }
        self.restore_serial();
        self.quieten();
    }

    /// Resets all devices, and uses the entropy device as a correct driver does; whether it answers as it should.
    pub fn recovers(&mut self) -> bool {
        for index in 0..self.functions.len() {
            self.reset(index);
        }
        self.restore_serial();
        self.draws_entropy()
    }

    fn read_port(&mut self, port: u16, width: u8) -> u32 {
        self.tally.reads += 1;
        self.machine.read_port(port, width)
    }

    fn write_port(&mut self, port: u16, width: u8, value: u32) {
        self.tally.writes += 1;
        self.machine.write_port(port, width, value);
    }

    /// Reads a register.
    fn read(&mut self, address: u64, width: u8) -> u64 {
        self.tally.reads += 1;
        self.machine.read_memory(address, width)
    }

    /// Writes a register.
    fn write(&mut self, address: u64, width: u8, value: u64) {
        self.tally.writes += 1;
        self.machine.write_memory(address, width, value);
    }
}
