//! Marks by which a guest tells how far its start has come, so that the times can be shown beside the host's phases.
//!
//! They come in through a port, which takes an instruction, and through the host bridge's configuration space, which Linux
//! shows as a file.

use std::time::Instant;

use parking_lot::Mutex;

/// Writing an octet of 1 to 15 here records the time of the first such write. 1 stands for: user space has begun.
pub(crate) const MARK_PORT: u16 = 0x404;
/// The mark that a guest's init sets.
pub(crate) const INIT: u8 = 1;

/// When each mark was set for the first time.
#[derive(Default)]
pub(crate) struct Marks(Mutex<[Option<Instant>; 16]>);

impl Marks {
    /// A guest's write to one of the two places. Other values than those of marks mean nothing.
    pub(crate) fn write(&self, data: &[u8]) {
        if let [mark @ 1..=15] = *data
            && let Some(time) = self.0.lock().get_mut(usize::from(mark))
        {
            time.get_or_insert_with(Instant::now);
        }
    }

    /// When `mark` was set.
    pub(crate) fn time(&self, mark: u8) -> Option<Instant> {
        self.0.lock().get(usize::from(mark)).copied().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_time_counts_and_nonsense_does_not() {
        let marks = Marks::default();
        assert_eq!(marks.time(INIT), None);
        marks.write(&[INIT]);
        let first = marks.time(INIT);
        assert!(first.is_some());
        marks.write(&[INIT]);
        assert_eq!(marks.time(INIT), first);
        for nonsense in [&[][..], &[0], &[16], &[255], &[2, 2]] {
            marks.write(nonsense);
        }
        assert!((0..=255).all(|mark| mark == INIT || marks.time(mark).is_none()));
    }
}
