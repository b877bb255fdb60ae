//! Loading a kernel image into guest memory.
//!
//! What a file is, its octets tell: an ELF executable, a bzImage, or one of these compressed. A bzImage's payload is
//! unpacked here, in native code, and the ELF image in it is loaded; only when its compression is unknown does the
//! kernel unpack itself. An image is judged before it is copied, so a file that is no kernel ends in one clear
//! [`KernelError`] and never in a machine that runs garbage.

mod bzimage;
mod elf;
mod fault;
mod inflate;
mod info;
mod source;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::path::Path;
use std::time::Instant;

use linux_loader::bootparam::setup_header;

use crate::config::Kernel;
use crate::memory::GuestRam;
use bzimage::BzImage;
pub use fault::{KernelError, KernelFault};
use info::foreign_compression;
pub use info::{Compression, Format, KernelInfo, Protocol};
use source::Source;

/// A kernel that was opened once and can be loaded any number of times, by a process that may open no files.
#[derive(Debug)]
pub(crate) struct Opened {
    name: String,
    image: Image,
}

#[derive(Debug)]
enum Image {
    File(File),
    Embedded(&'static [u8]),
}

/// A kernel in guest memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LoadedKernel {
    /// Physical address of the entry point.
    pub(crate) entry: u64,
    /// One past the last octet that the kernel occupies until it has read its boot information.
    pub(crate) end: u64,
    /// What the image was, and how the kernel is entered.
    pub(crate) info: KernelInfo,
    /// A bzImage's setup header.
    pub(crate) header: Option<setup_header>,
    /// When the image was unpacked, if it had to be.
    pub(crate) unpacked: Option<Instant>,
}

impl Opened {
    /// Opens what `kernel` names.
    pub(crate) fn open(kernel: &Kernel) -> Result<Self, KernelError> {
        match kernel {
            Kernel::File(path) => {
                let name = path.display().to_string();
                match open_file(path) {
                    Ok(file) => Ok(Self {
                        name,
                        image: Image::File(file),
                    }),
                    Err(reason) => Err(KernelError { image: name, reason }),
                }
            }
            Kernel::Embedded(octets) => Ok(Self {
                name: "(embedded image)".to_owned(),
                image: Image::Embedded(octets),
            }),
        }
    }

    /// Loads the kernel below `top`, the end of the memory that begins at address 0. That memory must hold zeros
    /// wherever the kernel expects them, as new memory does.
    pub(crate) fn load(&self, ram: &GuestRam, top: u64) -> Result<LoadedKernel, KernelError> {
        let result = match &self.image {
            Image::File(file) => load_file(file, ram, top),
            Image::Embedded(octets) => load_octets(octets, ram, top),
        };
        result.map_err(|reason| KernelError {
            image: self.name.clone(),
            reason,
        })
    }
}

fn open_file(path: &Path) -> Result<File, KernelFault> {
    // Asked before opening: opening a pipe would wait for its writer.
    if !std::fs::metadata(path)?.is_file() {
        return Err(KernelFault::NotAFile);
    }
    Ok(File::open(path)?)
}

fn load_file(file: &File, ram: &GuestRam, top: u64) -> Result<LoadedKernel, KernelFault> {
    let len = file.metadata()?.len();
    load(Source::File(file, len), ram, top)
}

/// Loads an image that is in memory.
pub(crate) fn load_octets(octets: &[u8], ram: &GuestRam, top: u64) -> Result<LoadedKernel, KernelFault> {
    load(Source::Octets(octets), ram, top)
}

fn load(source: Source<'_>, ram: &GuestRam, top: u64) -> Result<LoadedKernel, KernelFault> {
    if source.len() == 0 {
        return Err(KernelFault::Empty);
    }
    let (start, len) = source.start::<{ bzimage::START }>()?;
    let start = &start[..len];
    if let Some(loaded) = load_plain(source, start, ram, top) {
        return loaded;
    }
    let Some(compression) = Compression::of(start) else {
        return Err(foreign_compression(start).map_or_else(
            || KernelFault::NotAKernel(shown(start)),
            KernelFault::OtherCompression,
        ));
    };
    let len = source.len();
    if len > top {
        return Err(KernelFault::PackedTooLarge { len, limit: top });
    }
    let (image, used) = inflate::at_most(compression, &source.part(0, len)?, top)?;
    let unpacked = Instant::now();
    let image = &image[..used];
    let mut loaded = load_plain(Source::Octets(image), image, ram, top).unwrap_or_else(|| {
        Err(KernelFault::NoKernelInside {
            compression,
            start: shown(image),
        })
    })?;
    loaded.info.file = Some(compression);
    loaded.unpacked.get_or_insert(unpacked);
    Ok(loaded)
}

/// Loads an image that is not compressed as a whole; `None` when it is none that is known.
fn load_plain(
    source: Source<'_>,
    start: &[u8],
    ram: &GuestRam,
    top: u64,
) -> Option<Result<LoadedKernel, KernelFault>> {
    if start.starts_with(b"\x7fELF") {
        Some(load_elf(source, Format::Elf, ram, top))
    } else if bzimage::is_bzimage(start) {
        Some(load_bzimage(source, ram, top))
    } else {
        None
    }
}

fn load_elf(
    source: Source<'_>,
    format: Format,
    ram: &GuestRam,
    top: u64,
) -> Result<LoadedKernel, KernelFault> {
    let elf::Loaded { entry, end, protocol } = elf::load(source, ram, top)?;
    Ok(LoadedKernel {
        entry,
        end,
        info: KernelInfo {
            format,
            file: None,
            payload: None,
            protocol,
        },
        header: None,
        unpacked: None,
    })
}

fn load_bzimage(source: Source<'_>, ram: &GuestRam, top: u64) -> Result<LoadedKernel, KernelFault> {
    let mut image = BzImage::new(source)?;
    let Some((compression, payload)) = image.payload(top)? else {
        let (entry, end) = image.load(ram, top)?;
        return Ok(LoadedKernel {
            entry,
            end,
            info: KernelInfo {
                format: Format::BzImage,
                file: None,
                payload: None,
                protocol: Protocol::Linux64,
            },
            header: Some(*image.header()),
            unpacked: None,
        });
    };
    let unpacked = Some(Instant::now());
    if !payload.starts_with(b"\x7fELF") {
        return Err(KernelFault::NoKernelInside {
            compression,
            start: shown(&payload),
        });
    }
    let mut loaded = load_elf(Source::Octets(&payload), Format::BzImage, ram, top)?;
    loaded.info.payload = Some(compression);
    Ok(LoadedKernel {
        header: Some(*image.header()),
        unpacked,
        ..loaded
    })
}

/// The first octets of a file, as text on one line.
fn shown(start: &[u8]) -> String {
    format!("\"{}\"", start[..start.len().min(8)].escape_ascii())
}
