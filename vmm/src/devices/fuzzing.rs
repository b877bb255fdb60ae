//! What the fuzz targets and the property tests of the bus and the virtio devices call; each panics when a promise about
//! hostile guests is broken.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use vm_memory::{Bytes, GuestAddress};

use super::Terminal;
use super::console::VirtioConsole;
use super::lifecycle::Lifecycle;
use super::net;
use super::pci::{PciFunction, PciRoot};
use super::rng::Rng;
use super::virtio::{BAR_SPAN, F_VERSION_1, VirtioDevice, VirtioFunction};
use crate::layout::ECAM;
use crate::memory::{self, GuestRam};
use crate::testing::driver::{BASE, Driver, ring_address};
use crate::testing::{FakeWiring, Wire};

/// Guest memory, and how much of each ring's surroundings the input describes.
const MEMORY: u64 = 1 << 20;
const DESCRIBED: usize = 0x1000;
/// Slots of the three functions of the bus.
const SLOTS: [u64; 3] = [1, 2, 3];
/// Offsets in configuration space that no guest may change: identity, class, header, capability list.
const FIXED: [u64; 5] = [0x00, 0x08, 0x2c, 0x34, 0x40];

/// Numbers that an input is made of, zeros behind its end.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn octets<const N: usize>(&mut self) -> [u8; N] {
        let (now, rest) = self.0.split_at(self.0.len().min(N));
        self.0 = rest;
        let mut octets = [0; N];
        octets
            .iter_mut()
            .zip(now)
            .for_each(|(place, octet)| *place = *octet);
        octets
    }

    fn octet(&mut self) -> u8 {
        self.octets::<1>()[0]
    }

    fn half(&mut self) -> u16 {
        u16::from_le_bytes(self.octets())
    }
}

/// Guest memory full of zeros; always the same, for mapping costs more than all the rest, and disturbs those who look for a
/// place in the address space.
fn clean_memory() -> GuestRam {
    static RAM: OnceLock<GuestRam> = OnceLock::new();
    let ram = RAM.get_or_init(|| memory::allocate(MEMORY).expect("1 MiB"));
    ram.write_slice(&vec![0; MEMORY as usize], GuestAddress(0))
        .expect("all of it");
    ram.clone()
}

/// A bus with three virtio functions, and what it was wired to.
struct Bus {
    root: PciRoot,
    wiring: Arc<FakeWiring>,
    fixed: Vec<[u8; 4]>,
}

impl Bus {
    fn new() -> Self {
        let ram = clean_memory();
        let wiring = Arc::new(FakeWiring::default());
        let console = || VirtioConsole::new(ram.clone(), Box::new(io::sink())).expect("a timer");
        let functions: Vec<Arc<Mutex<dyn PciFunction>>> = vec![
            Arc::new(Mutex::new(function(Rng::new(ram.clone()), &ram, &wiring, 0))),
            Arc::new(Mutex::new(function(console(), &ram, &wiring, 1))),
            Arc::new(Mutex::new(function(console(), &ram, &wiring, 2))),
        ];
        let root = PciRoot::new(functions);
        let mut bus = Self {
            root,
            wiring,
            fixed: Vec::new(),
        };
        bus.fixed = bus.read_fixed();
        bus
    }

    fn config(&self, slot: u64, offset: u64) -> [u8; 4] {
        let mut octets = [0; 4];
        assert!(self.root.read_memory(ECAM + (slot << 15) + offset, &mut octets));
        octets
    }

    fn read_fixed(&self) -> Vec<[u8; 4]> {
        let places = SLOTS
            .into_iter()
            .flat_map(|slot| FIXED.map(|offset| (slot, offset)));
        places.map(|(slot, offset)| self.config(slot, offset)).collect()
    }

    /// The register and its range, when the function decodes memory.
    fn bar(&self, slot: u64, index: u64) -> Option<(u64, u64)> {
        let size = [0x4000, 0x1000][index as usize];
        let value = u64::from(u32::from_le_bytes(self.config(slot, 0x10 + 4 * index)));
        assert_eq!(value % size, 0, "a register that is not where it can be");
        let on = self.config(slot, 4)[0] & 2 != 0;
        on.then_some((value, value + size))
    }

    fn step(&self, input: &mut Input<'_>) {
        let (kind, width) = (input.octet(), 1 << (input.octet() % 4));
        let mut data = input.octets::<8>();
        let data = &mut data[..width];
        let (slot, place) = (u64::from(input.octet() % 5), u64::from(input.half()));
        match kind % 8 {
            0 => drop(self.root.write_port(0xcf8 + u16::from(kind >> 5), data)),
            1 => drop(self.root.read_port(0xcf8 + u16::from(kind >> 5), data)),
            2 | 3 => drop(self.root.write_memory(ECAM + (slot << 15) + place % 0x104, data)),
            4 => drop(self.root.read_memory(ECAM + (slot << 12) + place, data)),
            more => {
                let Some((start, _)) = self.bar(1 + slot % 3, u64::from(kind >> 7)) else {
                    return;
                };
                let address = start + place % 0x4100;
                if more == 5 {
                    self.root.read_memory(address, data);
                } else {
                    self.root.write_memory(address, data);
                }
            }
        }
    }

    /// Identity and capabilities stay, and memory is answered where registers say, and nowhere else.
    fn check(&self) {
        assert_eq!(self.read_fixed(), self.fixed, "a read-only register changed");
        let bars: Vec<_> = SLOTS
            .iter()
            .flat_map(|slot| [0, 1].map(|index| self.bar(*slot, index)))
            .collect();
        for (start, end) in bars.iter().flatten().copied() {
            for address in [start.wrapping_sub(1), start, end - 1, end] {
                let within = |range: &(u64, u64)| (range.0..range.1).contains(&address);
                let window = (ECAM..ECAM + (1 << 20)).contains(&address);
                let expected = window || bars.iter().flatten().any(within);
                assert_eq!(self.root.read_memory(address, &mut [0]), expected, "{address:#x}");
            }
        }
        // A source each for the configuration and for every queue.
        assert!(self.wiring.attached() <= 2 + 3 + 3);
        assert!(self.wiring.lines() <= 2 + 3 + 3);
        assert!(self.wiring.count(|wire| matches!(wire, Wire::Doorbell(_))) <= 1 + 2 + 2);
    }
}

fn function<D: VirtioDevice>(
    device: D,
    ram: &GuestRam,
    wiring: &Arc<FakeWiring>,
    slot: u32,
) -> VirtioFunction<D> {
    let address = BASE as u32 + slot * BAR_SPAN;
    VirtioFunction::new(device, ram.clone(), Arc::clone(wiring) as _, address).expect("eventfds")
}

/// Any accesses to configuration space and to what it decodes.
pub(crate) fn bus(octets: &[u8]) {
    let bus = Bus::new();
    let mut input = Input(octets);
    while !input.is_empty() {
        bus.step(&mut input);
        bus.check();
    }
}

/// Any accesses to the registers of one device, its queues in memory that they may name.
pub(crate) fn registers(octets: &[u8]) {
    let ram = clean_memory();
    let wiring = Arc::new(FakeWiring::default());
    let mut function = function(Rng::new(ram.clone()), &ram, &wiring, 0);
    let offered = Driver(&mut function).offered();
    let mut input = Input(octets);
    while !input.is_empty() {
        let (place, width) = (input.half(), 1 << (input.octet() % 4));
        let mut data = input.octets::<8>();
        let data = &mut data[..width];
        // The common registers as a rule, else all windows and the gaps between them.
        let offset = u64::from(if place & 0x8000 == 0 { place % 0x40 } else { place });
        let decoded = (0..0x4000).contains(&offset) || (0x8000..0x9000).contains(&offset);
        let before = Driver(&mut function).status();
        if place % 3 == 0 {
            assert_eq!(function.read_memory(BASE + offset, data), decoded);
        } else {
            assert_eq!(function.write_memory(BASE + offset, data), decoded);
        }
        let status = Driver(&mut function).status();
        assert!(status & 4 == 0 || status & 8 != 0, "ready without features");
        assert!(
            status == 0 || status & before == before,
            "a status bit was taken back"
        );
        let accepted = function.device().accepted();
        assert!(accepted.is_none_or(|features| features & !offered == 0 && features & F_VERSION_1 != 0));
        assert!(wiring.attached() <= 2 && wiring.lines() <= 2);
    }
    function.pause();
    assert!(function.export().is_ok());
    function.resume();
    function.reset();
    assert_eq!(Driver(&mut function).status(), 0);
}

/// Fills the memory around ring `index` with the input's next octets.
fn describe(ram: &GuestRam, index: u16, octets: &[u8]) {
    let mut described = octets.get(..DESCRIBED).unwrap_or(octets).to_vec();
    described.resize(DESCRIBED, 0);
    ram.write_slice(&described, GuestAddress(ring_address(index)))
        .expect("in memory");
}

/// A device with its queues enabled, in memory that `octets` describe.
fn at_work<D: VirtioDevice>(device: D, ram: &GuestRam, octets: &[u8]) -> VirtioFunction<D> {
    let queues = device.queue_sizes().len() as u16;
    let mut function = function(device, ram, &Arc::new(FakeWiring::default()), 0);
    for index in 0..queues {
        let start = DESCRIBED * usize::from(index);
        describe(ram, index, octets.get(start..).unwrap_or_default());
    }
    let mut driver = Driver(&mut function);
    assert!(driver.negotiate(F_VERSION_1));
    for index in 0..queues {
        driver.enable_queue(index, 0);
    }
    driver.set_status(15);
    function
}

/// An entropy device's ring; the first octet says how often it is notified.
pub(crate) fn rng(octets: &[u8]) {
    let Some((choice, described)) = octets.split_first() else {
        return;
    };
    let ram = clean_memory();
    let mut function = at_work(Rng::new(ram.clone()), &ram, described);
    for _ in 0..=choice % 4 {
        Driver(&mut function).notify(0);
    }
    let counts = function.device().counts();
    assert!(counts.octets <= 256 * counts.requests, "{counts:?}");
    assert!(counts.requests + counts.refusals <= 4 * 9, "{counts:?}");
}

/// Counts what is printed.
#[derive(Clone, Default)]
struct Paper(Arc<AtomicU64>);

impl Write for Paper {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.0.fetch_add(octets.len() as u64, Ordering::Relaxed);
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A virtio console's rings; the first octet says what is typed and when it is paused.
pub(crate) fn console(octets: &[u8]) {
    let Some((choice, described)) = octets.split_first() else {
        return;
    };
    let ram = clean_memory();
    let paper = Paper::default();
    let device = VirtioConsole::new(ram.clone(), Box::new(paper.clone())).expect("a timer");
    let receiver = device.receiver();
    let mut function = at_work(device, &ram, described);
    let typed = usize::from(*choice) * 20;
    receiver.receive(&vec![b't'; typed]);
    for queue in [0, 1, 0, 1] {
        if choice & 1 == 1 {
            function.pause();
            assert!(function.export().is_ok());
        }
        Driver(&mut function).notify(queue);
        function.resume();
    }
    function.device_mut().flush();
    let counts = function.device().counts();
    assert_eq!(counts.printed, paper.0.load(Ordering::Relaxed), "{counts:?}");
    assert!(counts.typed <= typed as u64, "{counts:?}");
    let room = receiver.room();
    assert!(room <= 4096, "{room}");
}

/// A network device's control ring; the first octet says which features the driver has.
pub(crate) fn control(octets: &[u8]) {
    let Some((choice, described)) = octets.split_first() else {
        return;
    };
    let ram = clean_memory();
    describe(&ram, 0, described);
    net::fuzzing::control(&ram, *choice);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_input_keeps_the_promises(octets in prop::collection::vec(any::<u8>(), 0..2000)) {
            super::bus(&octets);
            super::registers(&octets);
            super::rng(&octets);
            super::console(&octets);
            super::control(&octets);
        }
    }
}
