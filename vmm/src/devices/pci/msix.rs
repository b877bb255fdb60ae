//! MSI-X: the vector table, the pending bits, and who may raise which vector (PCI 3.0, 6.8.2).
//!
//! An interrupt source is an eventfd. While its vector is unmasked the eventfd is attached to the vector's
//! line, and a signal on it reaches the guest without this process. While the vector is masked the eventfd
//! just counts: that count is the pending bit, and attaching it again delivers the interrupt.

use std::io;
use std::sync::Arc;

use serde::Serialize;
use vmm_sys_util::eventfd::EventFd;

use crate::wiring::{Line, MsiMessage, Wiring};

/// Octets of one vector table entry.
pub(crate) const MSIX_ENTRY_LEN: usize = 16;
/// The vector number that stands for none (Virtio 1.2, 4.1.5.1.2).
pub(crate) const NO_VECTOR: u16 = 0xffff;

const ENABLE: u16 = 1 << 15;
const MASK_ALL: u16 = 1 << 14;
const ENTRY_MASKED: u32 = 1;

/// A function's MSI-X state.
pub(crate) struct Msix {
    enabled: bool,
    all_masked: bool,
    entries: Vec<Entry>,
    sources: Vec<Source>,
    wiring: Arc<dyn Wiring>,
    failures: u64,
}

/// One vector: what the guest wrote, and the line that sends it.
struct Entry {
    words: [u32; 4],
    line: Option<(Line, MsiMessage)>,
}

/// One interrupt source and the vector that the driver chose for it.
struct Source {
    event: Arc<EventFd>,
    vector: u16,
    attached: Option<Line>,
}

impl Msix {
    /// `vectors` masked vectors and one source for each of `events`, none with a vector yet.
    pub(crate) fn new(vectors: u16, events: Vec<Arc<EventFd>>, wiring: Arc<dyn Wiring>) -> Self {
        let entry = || Entry {
            words: [0, 0, 0, ENTRY_MASKED],
            line: None,
        };
        let source = |event| Source {
            event,
            vector: NO_VECTOR,
            attached: None,
        };
        Self {
            enabled: false,
            all_masked: false,
            entries: (0..vectors).map(|_| entry()).collect(),
            sources: events.into_iter().map(source).collect(),
            wiring,
            failures: 0,
        }
    }

    /// Times that the host refused a line or an attachment.
    pub(crate) fn failures(&self) -> u64 {
        self.failures
    }

    /// The guest wrote the message control register of the capability.
    pub(crate) fn set_control(&mut self, control: u16) {
        let (enabled, all_masked) = (control & ENABLE != 0, control & MASK_ALL != 0);
        if (enabled, all_masked) != (self.enabled, self.all_masked) {
            (self.enabled, self.all_masked) = (enabled, all_masked);
            self.rewire();
        }
    }

    /// Gives source `index` a vector; answers what the driver reads back, [`NO_VECTOR`] when there is no such one.
    pub(crate) fn set_vector(&mut self, index: usize, vector: u16) -> u16 {
        let vector = if usize::from(vector) < self.entries.len() {
            vector
        } else {
            NO_VECTOR
        };
        match self.sources.get_mut(index) {
            Some(source) if source.vector != vector => {
                source.vector = vector;
                self.rewire();
                vector
            }
            Some(_) => vector,
            None => NO_VECTOR,
        }
    }

    /// The vector of source `index`.
    pub(crate) fn vector(&self, index: usize) -> u16 {
        self.sources.get(index).map_or(NO_VECTOR, |source| source.vector)
    }

    /// The table and the sources, for those who save them.
    pub(crate) fn export(&self) -> SavedMsix {
        let source = |source: &Source| {
            (
                source.vector,
                source.attached.is_none() && is_signalled(&source.event),
            )
        };
        SavedMsix {
            table: self.entries.iter().map(|entry| entry.words).collect(),
            sources: self.sources.iter().map(source).collect(),
        }
    }

    /// Everything as at power-on; lines that the machine gave stay, for later use.
    pub(crate) fn reset(&mut self) {
        (self.enabled, self.all_masked) = (false, false);
        for entry in &mut self.entries {
            entry.words = [0, 0, 0, ENTRY_MASKED];
        }
        self.reset_sources();
    }

    /// Takes the vectors from all sources, as a device reset does. The table stays.
    pub(crate) fn reset_sources(&mut self) {
        for source in &mut self.sources {
            source.vector = NO_VECTOR;
        }
        self.rewire();
        for source in &self.sources {
            // Fails only when there is no stale interrupt to forget.
            let _ = source.event.read();
        }
    }

    /// A guest's read of the vector table.
    pub(crate) fn read_table(&self, offset: u64, data: &mut [u8]) {
        for (octet, at) in data.iter_mut().zip(offset as usize..) {
            let entry = self.entries.get(at / MSIX_ENTRY_LEN);
            let word = entry.map_or(0, |entry| entry.words[at % MSIX_ENTRY_LEN / 4]);
            *octet = word.to_le_bytes()[at % 4];
        }
    }

    /// A guest's write to the vector table: aligned, of 4 or 8 octets; others are undefined and ignored.
    pub(crate) fn write_table(&mut self, offset: u64, data: &[u8]) {
        if !matches!(data.len(), 4 | 8) || !offset.is_multiple_of(data.len() as u64) {
            return;
        }
        for (octets, at) in data.chunks_exact(4).zip((offset as usize..).step_by(4)) {
            let Some(entry) = self.entries.get_mut(at / MSIX_ENTRY_LEN) else {
                return;
            };
            let word = octets
                .iter()
                .rev()
                .fold(0, |word, octet| word << 8 | u32::from(*octet));
            entry.words[at % MSIX_ENTRY_LEN / 4] = word;
        }
        self.rewire();
    }

    /// A guest's read of the pending bits.
    pub(crate) fn read_pending(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        for source in self
            .sources
            .iter()
            .filter(|source| source.attached.is_none() && is_signalled(&source.event))
        {
            let vector = usize::from(source.vector);
            let octet = (vector / 8)
                .checked_sub(offset as usize)
                .and_then(|at| data.get_mut(at));
            if let (Some(octet), true) = (octet, vector < self.entries.len()) {
                *octet |= 1 << (vector % 8);
            }
        }
    }

    /// Whether a source that cannot reach the guest by MSI-X has been signalled; forgets the signal.
    pub(crate) fn take_polled(&mut self, index: usize) -> bool {
        let unattached = |source: &&Source| source.attached.is_none() && source.vector == NO_VECTOR;
        self.sources
            .get(index)
            .filter(unattached)
            .is_some_and(|source| source.event.read().is_ok())
    }

    /// Makes the attachments what registers say they should be.
    fn rewire(&mut self) {
        for index in 0..self.sources.len() {
            if let Err(error) = self.rewire_source(index) {
                self.failures += 1;
                tracing::debug!(%error, index, "interrupt source not wired");
            }
        }
    }

    fn rewire_source(&mut self, index: usize) -> io::Result<()> {
        let vector = self.vector(index);
        let wanted = if self.enabled && !self.all_masked {
            self.line_of(vector)?
        } else {
            None
        };
        let source = &mut self.sources[index];
        if source.attached == wanted {
            return Ok(());
        }
        if let Some(line) = source.attached.take() {
            self.wiring.detach_interrupt(&source.event, line)?;
        }
        if let Some(line) = wanted {
            self.wiring.attach_interrupt(&source.event, line)?;
            source.attached = Some(line);
        }
        Ok(())
    }

    /// The line of an unmasked vector, sending what the table says now.
    fn line_of(&mut self, vector: u16) -> io::Result<Option<Line>> {
        let Some(entry) = self.entries.get_mut(usize::from(vector)) else {
            return Ok(None);
        };
        let [low, high, data, control] = entry.words;
        if control & ENTRY_MASKED != 0 {
            return Ok(None);
        }
        let message = MsiMessage {
            address: u64::from(high) << 32 | u64::from(low),
            data,
        };
        match entry.line {
            Some((line, sent)) if sent == message => return Ok(Some(line)),
            Some((line, _)) => {
                self.wiring.set_message(line, message)?;
                entry.line = Some((line, message));
            }
            None => entry.line = self.wiring.add_line(message)?.map(|line| (line, message)),
        }
        Ok(entry.line.map(|(line, _)| line))
    }
}

/// A function's MSI-X state as it is exported.
#[derive(Serialize)]
pub(crate) struct SavedMsix {
    table: Vec<[u32; 4]>,
    /// The vector of each source, and whether it has a signal that the guest has not been told of.
    sources: Vec<(u16, bool)>,
}

/// Whether the eventfd counts a signal; leaves the count as it is.
fn is_signalled(event: &EventFd) -> bool {
    // Whoever signals in between only adds to the count, so nothing is lost.
    event.read().is_ok_and(|count| event.write(count).is_ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    use super::*;
    use crate::testing::{FakeWiring, Wire};

    fn msix(sources: usize) -> (Msix, Arc<FakeWiring>) {
        let wiring = Arc::new(FakeWiring::default());
        let event = || Arc::new(EventFd::new(EFD_NONBLOCK).expect("an eventfd"));
        (
            Msix::new(4, (0..sources).map(|_| event()).collect(), wiring.clone()),
            wiring,
        )
    }

    fn entry(address: u32, data: u32, control: u32) -> [[u8; 4]; 4] {
        [address, 0, data, control].map(u32::to_le_bytes)
    }

    fn write_entry(msix: &mut Msix, vector: u64, words: [[u8; 4]; 4]) {
        for (word, at) in words.iter().zip(0..) {
            msix.write_table(vector * 16 + at * 4, word);
        }
    }

    #[test]
    fn a_source_is_attached_only_while_enabled_and_unmasked() {
        let (mut msix, wiring) = msix(2);
        assert_eq!(msix.set_vector(1, 2), 2);
        write_entry(&mut msix, 2, entry(0xfee0_0000, 0x51, 0));
        assert_eq!(wiring.attached(), 0);
        msix.set_control(ENABLE);
        assert_eq!(wiring.attached(), 1);
        assert_eq!(
            wiring.message(0),
            Some(MsiMessage {
                address: 0xfee0_0000,
                data: 0x51
            })
        );
        msix.set_control(ENABLE | MASK_ALL);
        assert_eq!(wiring.attached(), 0);
        msix.set_control(ENABLE);
        msix.write_table(2 * 16 + 12, &1_u32.to_le_bytes());
        assert_eq!(wiring.attached(), 0);
    }

    #[test]
    fn a_signal_under_a_mask_is_pending() {
        let (mut msix, _) = msix(1);
        msix.set_vector(0, 3);
        msix.set_control(ENABLE);
        let mut bits = [0; 8];
        msix.read_pending(0, &mut bits);
        assert_eq!(bits, [0; 8]);
        msix.sources[0].event.write(1).expect("signalled");
        for _ in 0..2 {
            msix.read_pending(0, &mut bits);
            assert_eq!(bits, [8, 0, 0, 0, 0, 0, 0, 0]);
        }
        write_entry(&mut msix, 3, entry(0xfee0_0000, 0x30, 0));
        msix.read_pending(0, &mut bits);
        assert_eq!(bits, [0; 8], "the line has it now");
    }

    #[test]
    fn a_changed_message_keeps_its_line() {
        let (mut msix, wiring) = msix(1);
        msix.set_control(ENABLE);
        msix.set_vector(0, 0);
        write_entry(&mut msix, 0, entry(0xfee0_0000, 0x40, 0));
        write_entry(&mut msix, 0, entry(0xfee0_1000, 0x41, 0));
        assert_eq!(wiring.lines(), 1);
        assert_eq!(
            wiring.message(0),
            Some(MsiMessage {
                address: 0xfee0_1000,
                data: 0x41
            })
        );
    }

    #[test]
    fn vectors_that_do_not_exist_are_refused() {
        let (mut msix, _) = msix(1);
        assert_eq!(msix.set_vector(0, 4), NO_VECTOR);
        assert_eq!(msix.set_vector(1, 0), NO_VECTOR);
        assert_eq!(msix.vector(9), NO_VECTOR);
    }

    #[test]
    fn a_host_without_lines_is_counted() {
        let (mut msix, wiring) = msix(1);
        wiring.refuse(true);
        msix.set_control(ENABLE);
        msix.set_vector(0, 0);
        write_entry(&mut msix, 0, entry(0xfee0_0000, 0x40, 0));
        assert!(msix.failures() > 0);
        assert_eq!(wiring.count(|wire| matches!(wire, Wire::Interrupt(_))), 0);
    }

    proptest! {
        #[test]
        fn any_access_is_harmless(accesses in prop::collection::vec(
            (0_u64..10_000, prop::collection::vec(any::<u8>(), 0..20), 0_u8..5), 1..60)) {
            let (mut msix, wiring) = msix(3);
            for (offset, mut data, kind) in accesses {
                match kind {
                    0 => msix.write_table(offset, &data),
                    1 => msix.read_table(offset, &mut data),
                    2 => msix.read_pending(offset, &mut data),
                    3 => msix.set_control((offset as u16).wrapping_mul(7)),
                    _ => { msix.set_vector(offset as usize % 4, offset as u16 % 6); }
                }
            }
            prop_assert!(wiring.lines() <= 4, "at most a line per vector");
            prop_assert!(wiring.attached() <= 3, "each source at most once");
        }
    }
}
