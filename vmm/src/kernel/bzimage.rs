//! The Linux/x86 image: a setup header, then the protected-mode kernel with its compressed payload.
//!
//! Source: Linux, Documentation/arch/x86/boot.rst.

use std::io::Cursor;

use linux_loader::bootparam::{LOADED_HIGH, XLF_KERNEL_64, setup_header};
use linux_loader::loader::KernelLoader;
use linux_loader::loader::bzimage::BzImage as Loader;
use vm_memory::{ByteValued, GuestAddress};

use super::elf::within_memory;
use super::fault::KernelFault;
use super::inflate;
use super::info::{Compression, foreign_compression};
use super::source::{Scratch, Source};
use crate::memory::GuestRam;

/// Where the setup header is in the file.
const HEADER_AT: usize = 0x1f1;
/// Octets that hold the whole setup header.
pub(super) const START: usize = 1024;
const SECTOR: u64 = 512;
const BOOT_FLAG: u16 = 0xaa55;
/// The 64-bit entry point, from the start of the protected-mode kernel.
const ENTRY_64: u64 = 0x200;
/// Octets behind a payload that tell its unpacked size. In gzip's case they are part of the stream.
const SIZE_FIELD: u64 = 4;

/// Protocol versions that brought a field.
const WITH_PAYLOAD: u16 = 0x0208;
const WITH_64_BIT: u16 = 0x020c;

/// A bzImage whose header was judged.
pub(super) struct BzImage<'a> {
    source: Source<'a>,
    header: setup_header,
    /// Where the protected-mode kernel begins in the file.
    kernel_at: u64,
}

/// Whether a file that starts so is a bzImage, or one that pretends.
pub(super) fn is_bzimage(start: &[u8]) -> bool {
    start.get(0x202..0x206) == Some(b"HdrS")
}

impl<'a> BzImage<'a> {
    /// Judges the header.
    pub(super) fn new(source: Source<'a>) -> Result<Self, KernelFault> {
        let (start, len) = source.start::<START>()?;
        let kept = size_of::<setup_header>();
        let mut header = setup_header::default();
        header
            .as_mut_slice()
            .copy_from_slice(&start[HEADER_AT..HEADER_AT + kept]);
        // The jump behind the boot flag spans the header: its operand tells where the header ends.
        let end = 0x202 + usize::from(start[0x201]);
        if len < end {
            return Err(truncated("the setup header", end as u64, len as u64));
        }
        if let Some(beyond) = header.as_mut_slice().get_mut(end - HEADER_AT..) {
            beyond.fill(0);
        }
        if header.boot_flag != BOOT_FLAG {
            return Err(KernelFault::MalformedSetup("no boot flag"));
        }
        if header.version < 0x200 || header.loadflags & LOADED_HIGH == 0 {
            return Err(KernelFault::MalformedSetup(
                "a zImage, which is loaded below 1 MiB",
            ));
        }
        let sectors = if header.setup_sects == 0 {
            4
        } else {
            header.setup_sects
        };
        let kernel_at = (u64::from(sectors) + 1) * SECTOR;
        if kernel_at >= source.len() {
            return Err(truncated("the setup code", kernel_at, source.len()));
        }
        Ok(Self {
            source,
            header,
            kernel_at,
        })
    }

    pub(super) fn header(&self) -> &setup_header {
        &self.header
    }

    /// The unpacked payload, or `None` when only the kernel itself can unpack it.
    pub(super) fn payload(&self, limit: u64) -> Result<Option<(Compression, Scratch)>, KernelFault> {
        let Some((offset, len)) = self.payload_place()? else {
            return Ok(None);
        };
        if len > limit {
            return Err(KernelFault::PackedTooLarge { len, limit });
        }
        let packed = self.source.part(offset, len)?;
        let (Some(compression), Some((stream, size))) =
            (Compression::of(&packed), packed.split_last_chunk::<4>())
        else {
            return Ok(None);
        };
        let said = u64::from(u32::from_le_bytes(*size));
        if said > limit {
            return Err(KernelFault::TooLarge(limit));
        }
        let stream = if compression == Compression::Gzip {
            &packed
        } else {
            stream
        };
        Ok(Some((compression, inflate::exactly(compression, stream, said)?)))
    }

    /// Offset and length of the payload, when the header tells of one.
    fn payload_place(&self) -> Result<Option<(u64, u64)>, KernelFault> {
        let (offset, len) = (
            u64::from(self.header.payload_offset),
            u64::from(self.header.payload_length),
        );
        if self.header.version < WITH_PAYLOAD || len <= SIZE_FIELD {
            return Ok(None);
        }
        let offset = self.kernel_at + offset;
        if offset + len > self.source.len() {
            return Err(truncated("the payload", offset + len, self.source.len()));
        }
        Ok(Some((offset, len)))
    }

    /// Loads the protected-mode kernel, which unpacks itself. Returns its 64-bit entry point and its end.
    pub(super) fn load(&mut self, ram: &GuestRam, top: u64) -> Result<(u64, u64), KernelFault> {
        if self.header.version < WITH_64_BIT || self.header.xloadflags & XLF_KERNEL_64 == 0 {
            return Err(KernelFault::NoLongModeEntry(self.packing()));
        }
        let file_end = self.kernel_at + u64::from(self.header.syssize) * 16;
        // The size is in units of 16 octets, rounded up.
        if file_end.saturating_sub(15) > self.source.len() {
            return Err(truncated(
                "the protected-mode kernel",
                file_end,
                self.source.len(),
            ));
        }
        let size = (self.source.len() - self.kernel_at).max(self.header.init_size.into());
        let start = self.header.pref_address;
        let end = start
            .checked_add(size)
            .ok_or(KernelFault::MalformedSetup("a kernel that wraps around"))?;
        // A kernel loaded lower would move itself here, and one without a relocation table must be here.
        within_memory(start, end, top)?;
        let address = Some(GuestAddress(start));
        match self.source {
            Source::File(mut file, _) => Loader::load(ram, address, &mut file, None),
            Source::Octets(octets) => Loader::load(ram, address, &mut Cursor::new(octets), None),
        }
        .map_err(|error| KernelFault::Loader(error.to_string()))?;
        self.header.code32_start = start as u32;
        Ok((start + ENTRY_64, end))
    }

    /// How the payload is packed, as far as it is known.
    fn packing(&self) -> &'static str {
        let start = self.payload_place().ok().flatten();
        start
            .and_then(|(offset, _)| self.source.part(offset, SIZE_FIELD).ok())
            .and_then(|start| foreign_compression(&start))
            .unwrap_or("an unknown compression")
    }
}

fn truncated(what: &'static str, end: u64, len: u64) -> KernelFault {
    KernelFault::Truncated { what, end, len }
}
