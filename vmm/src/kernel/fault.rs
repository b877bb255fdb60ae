//! What can be wrong with a kernel.

use std::io;

use super::info::Compression;

/// A kernel image that cannot be booted, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("kernel {image}: {reason}")]
pub struct KernelError {
    /// The file's path, or the name of the embedded image.
    pub image: String,
    /// What is wrong with it.
    #[source]
    pub reason: KernelFault,
}

/// What is wrong with a kernel image.
#[derive(Debug, thiserror::Error)]
pub enum KernelFault {
    /// The file cannot be opened or read.
    #[error("cannot be read: {0}; check the path and its permissions")]
    Unreadable(#[from] io::Error),
    /// A directory, device or pipe.
    #[error("is not a regular file; name a kernel such as vmlinuz or vmlinux")]
    NotAFile,
    /// Nothing in it.
    #[error("is empty; name a kernel such as vmlinuz or vmlinux")]
    Empty,
    /// Something else altogether.
    #[error(
        "is neither an ELF image nor a bzImage, compressed or not (it starts with {0}); name a kernel such as \
         vmlinuz or vmlinux"
    )]
    NotAKernel(String),
    /// A compressed file that holds no kernel.
    #[error(
        "unpacks with {compression} to neither an ELF image nor a bzImage (it starts with {start}); name a kernel \
         such as vmlinuz or vmlinux"
    )]
    NoKernelInside {
        /// How the file is compressed.
        compression: Compression,
        /// The first octets of what is in it.
        start: String,
    },
    /// A file in a compression that is not read here.
    #[error("is compressed with {0}, which is not supported for whole files; unpack it first")]
    OtherCompression(&'static str),
    /// An ELF image for another machine.
    #[error(
        "is an ELF image, but not a little-endian 64-bit x86 executable ({0}); use a kernel built for x86-64"
    )]
    WrongMachine(&'static str),
    /// An executable that wants a dynamic linker.
    #[error("is a program that runs under Linux, not a kernel; name a kernel such as vmlinuz or vmlinux")]
    Program,
    /// The file ends before its headers or segments do.
    #[error("is truncated: {what} ends at octet {end}, the file at {len}; copy or build it again")]
    Truncated {
        /// Which part is cut off.
        what: &'static str,
        /// Where that part should end.
        end: u64,
        /// Where the file ends.
        len: u64,
    },
    /// Headers that contradict themselves.
    #[error("has a malformed ELF header: {0}; build it again")]
    Malformed(&'static str),
    /// A setup header that contradicts itself.
    #[error("has a malformed bzImage header: {0}; build it again")]
    MalformedSetup(&'static str),
    /// A bzImage that can neither be unpacked here nor entered in 64-bit mode.
    #[error(
        "is a bzImage that unpacks itself ({0}) and has no 64-bit entry point; use a kernel built for x86-64, or \
         one compressed with gzip, xz, lz4 or zstd"
    )]
    NoLongModeEntry(&'static str),
    /// A compressed stream that is damaged.
    #[error("holds a corrupt {compression} stream ({reason}); copy or build it again")]
    Corrupt {
        /// How it is compressed.
        compression: Compression,
        /// What the decoder found.
        reason: String,
    },
    /// A compressed stream that ends in its middle.
    #[error("holds a {0} stream that ends too early; copy or build it again")]
    CutOff(Compression),
    /// What it unpacks to is not as large as it says.
    #[error("unpacks to {found} octets, its last field says {said}; copy or build it again")]
    ShorterThanSaid {
        /// Octets that its size field names.
        said: u64,
        /// Octets that it unpacks to.
        found: u64,
    },
    /// It unpacks to more than it says.
    #[error("unpacks to more than the {0} octets that its last field says; copy or build it again")]
    LongerThanSaid(u64),
    /// It unpacks to more than the guest has memory.
    #[error(
        "unpacks to more octets than the {0} of memory that the guest has below 3 GiB; give the guest more memory, \
         or strip the kernel of its symbols"
    )]
    TooLarge(u64),
    /// What is compressed is more than the guest has memory already, so that it is not even read.
    #[error(
        "has {len} octets compressed, more than the {limit} of memory that the guest has below 3 GiB; name a kernel such as \
         vmlinuz or vmlinux, or give the guest more memory"
    )]
    PackedTooLarge {
        /// Octets that are compressed.
        len: u64,
        /// Octets of memory.
        limit: u64,
    },
    /// The stream asks for more memory to unpack it than any kernel needs.
    #[error("needs more than {limit} octets of memory to unpack its {compression} stream; compress it again")]
    Greedy {
        /// How it is compressed.
        compression: Compression,
        /// The most that it may take.
        limit: u64,
    },
    /// A segment does not fit.
    #[error(
        "needs physical memory {start:#x} to {end:#x}, the guest has {low:#x} to {top:#x} for it; \
         give the guest more memory or link the kernel elsewhere"
    )]
    OutsideMemory {
        /// First address of the segment.
        start: u64,
        /// One past its last address.
        end: u64,
        /// Where kernels may begin.
        low: u64,
        /// Where memory ends.
        top: u64,
    },
    /// The entry point is in no loaded segment.
    #[error("enters at {0:#x}, where nothing is loaded; build it again")]
    EntryOutside(u64),
    /// The loader itself refused.
    #[error("cannot be loaded: {0}")]
    Loader(String),
}
