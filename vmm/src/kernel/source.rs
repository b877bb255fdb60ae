//! Where an image's octets are, and memory to unpack it in.

use std::fs::File;
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::FileExt;

use memmap2::{MmapMut, MmapOptions};

/// An image that is read any number of times, always from its beginning.
#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    /// An open file of that many octets.
    File(&'a File, u64),
    /// Octets in memory.
    Octets(&'a [u8]),
}

impl<'a> Source<'a> {
    pub(super) fn len(self) -> u64 {
        match self {
            Self::File(_, len) => len,
            Self::Octets(octets) => octets.len() as u64,
        }
    }

    /// Up to `N` octets from the beginning, zeros behind them, and how many they are.
    pub(super) fn start<const N: usize>(self) -> io::Result<([u8; N], usize)> {
        let mut start = [0; N];
        let len = self.len().min(N as u64) as usize;
        match self {
            Self::File(file, _) => file.read_exact_at(&mut start[..len], 0)?,
            Self::Octets(octets) => start[..len].copy_from_slice(&octets[..len]),
        }
        Ok((start, len))
    }

    /// The `len` octets at `offset`, which lie inside the image.
    pub(super) fn part(self, offset: u64, len: u64) -> io::Result<Part<'a>> {
        match self {
            Self::File(file, _) => {
                let mut octets = Scratch::in_place(len)?;
                file.read_exact_at(&mut octets, offset)?;
                Ok(Part::Read(octets))
            }
            Self::Octets(octets) => octets
                .get(offset as usize..)
                .and_then(|rest| rest.get(..len as usize))
                .map(Part::Borrowed)
                .ok_or_else(|| io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// Octets of an image.
pub(super) enum Part<'a> {
    Borrowed(&'a [u8]),
    Read(Scratch),
}

impl Deref for Part<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Borrowed(octets) => octets,
            Self::Read(octets) => octets,
        }
    }
}

/// Zeroed memory that goes back to the system when it is dropped, whatever the allocator would keep. Pages cost
/// nothing until they are touched. Huge pages are not asked for: making them can stall for longer than they save.
pub(super) struct Scratch(Option<MmapMut>);

impl Scratch {
    pub(super) fn new(len: u64) -> io::Result<Self> {
        Self::make(len, MmapOptions::new().no_reserve_swap())
    }

    /// The same with all its pages in place, which is cheaper than a fault for each when all will be written.
    pub(super) fn in_place(len: u64) -> io::Result<Self> {
        Self::make(len, MmapOptions::new().no_reserve_swap().populate())
    }

    fn make(len: u64, options: &mut MmapOptions) -> io::Result<Self> {
        if len == 0 {
            return Ok(Self(None));
        }
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
        Ok(Self(Some(options.len(len).map_anon()?)))
    }
}

impl Deref for Scratch {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.0.as_deref_mut().unwrap_or_default()
    }
}
