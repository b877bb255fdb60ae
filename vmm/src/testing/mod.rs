//! What several tests of the crate need: hand-written PVH images and a wiring without a KVM behind it.

pub(crate) mod driver;
#[cfg(test)]
pub(crate) mod switch;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use parking_lot::Mutex;
use vmm_sys_util::eventfd::EventFd;

use crate::wiring::{Line, MsiMessage, Wiring};

/// A small ELF image with one segment and, unless left out, a PVH note.
pub(crate) struct PvhImage<'a> {
    code: &'a [u8],
    address: u64,
    entry: Option<u32>,
    memory_size: Option<u64>,
    note: bool,
}

impl<'a> PvhImage<'a> {
    /// An image that loads `code` (32-bit, no paging) at 1 MiB and enters at its first octet.
    pub(crate) fn new(code: &'a [u8]) -> Self {
        Self {
            code,
            address: 0x10_0000,
            entry: None,
            memory_size: None,
            note: true,
        }
    }

    pub(crate) fn at(self, address: u64) -> Self {
        Self { address, ..self }
    }

    pub(crate) fn with_entry(self, entry: u32) -> Self {
        Self {
            entry: Some(entry),
            ..self
        }
    }

    pub(crate) fn with_memory_size(self, size: u64) -> Self {
        Self {
            memory_size: Some(size),
            ..self
        }
    }

    pub(crate) fn without_note(self) -> Self {
        Self { note: false, ..self }
    }

    /// File header, two program headers, the note, the code.
    pub(crate) fn build(&self) -> Vec<u8> {
        let (note_at, code_at) = (64 + 2 * 56_u64, 64 + 2 * 56 + 20_u64);
        let mut image = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        for half in [2_u16, 62] {
            image.extend(half.to_le_bytes());
        }
        image.extend(1_u32.to_le_bytes());
        for word in [self.address, 64, 0] {
            image.extend(word.to_le_bytes());
        }
        image.extend(0_u32.to_le_bytes());
        for half in [64_u16, 56, 2, 0, 0, 0] {
            image.extend(half.to_le_bytes());
        }
        let code_len = self.code.len() as u64;
        let memory_size = self.memory_size.unwrap_or(code_len);
        program_header(
            &mut image,
            1,
            [code_at, self.address, self.address, code_len, memory_size, 1],
        );
        program_header(
            &mut image,
            if self.note { 4 } else { 0 },
            [note_at, 0, 0, 20, 20, 4],
        );
        for word in [4_u32, 4, 18] {
            image.extend(word.to_le_bytes());
        }
        image.extend(b"Xen\0");
        image.extend(self.entry.unwrap_or(self.address as u32).to_le_bytes());
        image.extend(self.code);
        image
    }
}

fn program_header(image: &mut Vec<u8>, kind: u32, fields: [u64; 6]) {
    image.extend(kind.to_le_bytes());
    image.extend(5_u32.to_le_bytes());
    for field in fields {
        image.extend(field.to_le_bytes());
    }
}

/// One attachment that a [`FakeWiring`] holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    /// An interrupt source on a line.
    Interrupt(Line),
    /// A doorbell at an address.
    Doorbell(u64),
}

/// A wiring that only remembers what was asked of it.
#[derive(Default)]
pub(crate) struct FakeWiring(Mutex<FakeWires>);

#[derive(Default)]
struct FakeWires {
    messages: Vec<MsiMessage>,
    wires: Vec<(RawFd, Wire)>,
    levels: BTreeMap<Line, bool>,
    refuse: bool,
}

impl FakeWiring {
    pub(crate) fn lines(&self) -> usize {
        self.0.lock().messages.len()
    }

    pub(crate) fn message(&self, line: usize) -> Option<MsiMessage> {
        self.0.lock().messages.get(line).copied()
    }

    pub(crate) fn attached(&self) -> usize {
        self.count(|wire| matches!(wire, Wire::Interrupt(_)))
    }

    pub(crate) fn count(&self, which: impl Fn(Wire) -> bool) -> usize {
        self.0
            .lock()
            .wires
            .iter()
            .filter(|(_, wire)| which(*wire))
            .count()
    }

    /// What a legacy line was last set to.
    pub(crate) fn level(&self, line: Line) -> Option<bool> {
        self.0.lock().levels.get(&line).copied()
    }

    /// From now on attachments and lines are refused.
    pub(crate) fn refuse(&self, refuse: bool) {
        self.0.lock().refuse = refuse;
    }

    fn attach(&self, event: &EventFd, wire: Wire) -> io::Result<()> {
        let mut wires = self.0.lock();
        if wires.refuse {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        assert!(
            !wires.wires.contains(&(event.as_raw_fd(), wire)),
            "attached twice: {wire:?}"
        );
        wires.wires.push((event.as_raw_fd(), wire));
        Ok(())
    }

    fn detach(&self, event: &EventFd, wire: Wire) -> io::Result<()> {
        let mut wires = self.0.lock();
        let at = wires
            .wires
            .iter()
            .position(|known| *known == (event.as_raw_fd(), wire));
        wires.wires.remove(at.ok_or(io::ErrorKind::NotFound)?);
        Ok(())
    }
}

impl Wiring for FakeWiring {
    fn add_line(&self, message: MsiMessage) -> io::Result<Option<Line>> {
        let mut wires = self.0.lock();
        if wires.refuse {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        wires.messages.push(message);
        Ok(Some(wires.messages.len() as Line - 1))
    }

    fn set_message(&self, line: Line, message: MsiMessage) -> io::Result<()> {
        *self
            .0
            .lock()
            .messages
            .get_mut(line as usize)
            .ok_or(io::ErrorKind::NotFound)? = message;
        Ok(())
    }

    fn attach_interrupt(&self, event: &EventFd, line: Line) -> io::Result<()> {
        self.attach(event, Wire::Interrupt(line))
    }

    fn detach_interrupt(&self, event: &EventFd, line: Line) -> io::Result<()> {
        self.detach(event, Wire::Interrupt(line))
    }

    fn set_line(&self, line: Line, level: bool) -> io::Result<()> {
        self.0.lock().levels.insert(line, level);
        Ok(())
    }

    fn attach_doorbell(&self, event: &EventFd, address: u64) -> io::Result<()> {
        self.attach(event, Wire::Doorbell(address))
    }

    fn detach_doorbell(&self, event: &EventFd, address: u64) -> io::Result<()> {
        self.detach(event, Wire::Doorbell(address))
    }
}

/// Says that a test is skipped, and `true`, when this machine has no KVM.
pub(crate) fn without_kvm(test: &str) -> bool {
    let missing = !std::path::Path::new("/dev/kvm").exists();
    if missing {
        println!("skipped {test}: there is no /dev/kvm");
    }
    missing
}

/// Whether `test` runs in a process of its own. If not, it is run in one here, and has to pass there.
pub(crate) fn is_alone(test: &str) -> bool {
    const ALONE: &str = "ENLIGHT_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let mut alone = std::process::Command::new(std::env::current_exe().expect("this program"));
    let output = alone.args(["--exact", test]).env(ALONE, "1").output();
    let output = output.expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    false
}

/// A console output that remembers what was printed.
#[derive(Clone, Default)]
pub(crate) struct Screen(Arc<Mutex<Vec<u8>>>);

impl Screen {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock()).into_owned()
    }
}

impl io::Write for Screen {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.0.lock().extend(octets);
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
