//! The shared memory for all queues of a device: made here, kept by the front end, handed over by it again.

use std::fs::File;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

use super::{Region, region_len};
use crate::memory::{GuestMemory, MemoryError, RegionSpec};
use crate::ring::MAX_QUEUE_SIZE;

/// What front and back end tell each other of the memory (vhost-user, "Inflight description").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Description {
    /// Octets.
    pub size: u64,
    /// The first one's offset in the file.
    pub offset: u64,
    /// Queues.
    pub queues: u16,
    /// Entries that each queue may have.
    pub entries: u16,
}

/// Why memory for chains in hand was not made or not accepted.
#[derive(Debug, thiserror::Error)]
pub enum AreaError {
    /// Not a number of queues and entries that a device can have.
    #[error(
        "memory for the chains in hand of {queues} queues of {entries} entries: up to {most} of 1 to 32768 are possible"
    )]
    Shape {
        /// Queues asked for.
        queues: u16,
        /// Entries asked for.
        entries: u16,
        /// Queues of the device.
        most: u16,
    },
    /// The queues' parts are larger than the whole.
    #[error("{size} octets for chains in hand, where {need} are needed")]
    TooSmall {
        /// Octets that are there.
        size: u64,
        /// Octets needed.
        need: u64,
    },
    /// A queue's part does not start at a multiple of 8 octets.
    #[error("memory for chains in hand at offset {0:#x} of its file, which is no multiple of 8")]
    Misaligned(u64),
    /// It cannot be made.
    #[error("no memory for chains in hand: {0}")]
    Create(#[from] rustix::io::Errno),
    /// It cannot be mapped.
    #[error("memory for chains in hand: {0}")]
    Map(#[from] MemoryError),
}

/// The memory, mapped.
#[derive(Debug)]
pub struct Area {
    memory: Arc<GuestMemory>,
    description: Description,
}

impl Area {
    /// Makes memory for `queues` queues of up to `entries` entries; a device has `most` queues. The file is for the
    /// front end; its size cannot be changed.
    pub fn create(queues: u16, entries: u16, most: u16) -> Result<(Self, File), AreaError> {
        let description = Description {
            size: u64::from(queues) * region_len(entries),
            offset: 0,
            queues,
            entries,
        };
        check(&description, most)?;
        let file = memfd_create("inflight", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&file, description.size)?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let file = File::from(file);
        let kept = file.try_clone().map_err(|_| rustix::io::Errno::MFILE)?;
        Ok((Self::map(description, file, most)?, kept))
    }

    /// Maps what a front end hands over.
    pub fn map(description: Description, file: File, most: u16) -> Result<Self, AreaError> {
        check(&description, most)?;
        let spec = RegionSpec {
            guest: 0,
            size: description.size,
            user: 0,
            offset: description.offset,
        };
        Ok(Self {
            memory: Arc::new(GuestMemory::map(vec![(spec, file)])?),
            description,
        })
    }

    /// What to tell the front end.
    pub fn description(&self) -> Description {
        self.description
    }

    /// The part of a queue; `None` beyond the last.
    pub fn region(&self, index: usize) -> Option<Region> {
        (index < self.description.queues.into())
            .then(|| Region::find(&self.memory, index, self.description.entries))
            .flatten()
    }
}

fn check(description: &Description, most: u16) -> Result<(), AreaError> {
    let Description {
        size,
        offset,
        queues,
        entries,
    } = *description;
    if !(1..=most).contains(&queues) || !(1..=MAX_QUEUE_SIZE).contains(&entries) {
        return Err(AreaError::Shape {
            queues,
            entries,
            most,
        });
    }
    let need = u64::from(queues) * region_len(entries);
    if size < need {
        return Err(AreaError::TooSmall { size, need });
    }
    if !offset.is_multiple_of(8) {
        return Err(AreaError::Misaligned(offset));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_is_accepted_again() {
        let (area, file) = Area::create(4, 256, 4).unwrap();
        let again = Area::map(area.description(), file, 4).unwrap();
        for index in 0..4 {
            assert_eq!(again.region(index).unwrap().entries(), 256);
        }
        assert!(again.region(4).is_none());
    }

    #[test]
    fn its_size_cannot_be_changed() {
        let (_area, file) = Area::create(1, 1, 1).unwrap();
        file.set_len(0).unwrap_err();
    }

    #[test]
    fn descriptions_that_lie_are_refused() {
        let (area, file) = Area::create(2, 64, 2).unwrap();
        let good = area.description();
        let map = |change: fn(&mut Description)| {
            let mut description = good;
            change(&mut description);
            Area::map(description, file.try_clone().unwrap(), 2).unwrap_err()
        };
        for change in [
            (|d| d.queues = 0) as fn(&mut Description),
            |d| d.queues = 3,
            |d| d.entries = 0,
            |d| d.entries = 32_769,
        ] {
            assert!(matches!(map(change), AreaError::Shape { .. }));
        }
        assert!(matches!(map(|d| d.entries = 128), AreaError::TooSmall { .. }));
        assert!(matches!(map(|d| d.size -= 1), AreaError::TooSmall { .. }));
        assert!(matches!(map(|d| d.offset = 4), AreaError::Misaligned(4)));
        assert!(matches!(map(|d| d.offset = 64), AreaError::Map(_)));
        assert!(matches!(map(|d| d.size = u64::MAX), AreaError::Map(_)));
    }
}
