//! What a kernel turned out to be.

use std::fmt;

use serde::{Deserialize, Serialize};
pub use unpack::Compression;

/// The names of compressions that kernels come in and that only they undo.
pub(super) fn foreign_compression(start: &[u8]) -> Option<&'static str> {
    [
        (&b"BZh"[..], "bzip2"),
        (b"\x5d\0\0", "lzma"),
        (b"\x89LZO\0", "lzo"),
    ]
    .into_iter()
    .find_map(|(magic, name)| start.starts_with(magic).then_some(name))
}

/// How a kernel is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// An ELF executable, such as vmlinux.
    Elf,
    /// A Linux image with a setup header, such as vmlinuz.
    BzImage,
}

/// How a kernel is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// In 32-bit protected mode with a start of day structure (Xen, x86/HVM direct boot ABI).
    Pvh,
    /// In long mode with a zero page (Linux, Documentation/arch/x86/boot.rst, "64-bit boot protocol").
    Linux64,
}

impl fmt::Display for Protocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Pvh => "PVH",
            Self::Linux64 => "64-bit boot protocol",
        })
    }
}

/// What a kernel image is and how it is booted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelInfo {
    /// How it is packed.
    pub format: Format,
    /// How the file as a whole is compressed.
    pub file: Option<Compression>,
    /// How a bzImage's payload is compressed, when it was unpacked here; else the kernel unpacks itself.
    pub payload: Option<Compression>,
    /// How it is entered.
    pub protocol: Protocol,
}

impl fmt::Display for KernelInfo {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.format, self.payload) {
            (Format::Elf, _) => formatter.write_str("ELF")?,
            (Format::BzImage, Some(compression)) => write!(formatter, "bzImage ({compression})")?,
            (Format::BzImage, None) => formatter.write_str("bzImage (unpacks itself)")?,
        }
        if let Some(compression) = self.file {
            write!(formatter, " in a {compression} file")?;
        }
        write!(formatter, ", {}", self.protocol)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_told_in_words() {
        let elf = KernelInfo {
            format: Format::Elf,
            file: None,
            payload: None,
            protocol: Protocol::Pvh,
        };
        assert_eq!(elf.to_string(), "ELF, PVH");
        let file = Some(Compression::Gzip);
        assert_eq!(KernelInfo { file, ..elf }.to_string(), "ELF in a gzip file, PVH");
        let bzimage = KernelInfo {
            format: Format::BzImage,
            payload: Some(Compression::Xz),
            ..elf
        };
        assert_eq!(bzimage.to_string(), "bzImage (xz), PVH");
        let own = KernelInfo {
            payload: None,
            protocol: Protocol::Linux64,
            ..bzimage
        };
        assert_eq!(own.to_string(), "bzImage (unpacks itself), 64-bit boot protocol");
    }
}
