//! Why a disk cannot be used.

use std::io;
use std::path::PathBuf;

/// A disk that cannot be used. Its text is one line that names the file, the reason and, where known, the remedy.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The file cannot be opened.
    #[error("cannot open disk {path}: {source}{remedy}", path = .path.display())]
    Open {
        /// The image.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
        /// What to do about it, if that is known.
        remedy: &'static str,
    },
    /// Neither a file nor a block device.
    #[error("disk {path} is a {kind}; give a file or a block device", path = .path.display())]
    Kind {
        /// What was to be the image.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// No octets at all.
    #[error("disk {path} is empty; make it as large as the disk is to be, such as truncate -s 1G {path}", path = .0.display())]
    Empty(PathBuf),
    /// Not whole sectors.
    #[error("disk {path} has {size} octets, which are no whole sectors of 512; say which format it has, or pad it with truncate -s %512 {path}", path = .path.display())]
    NotSectors {
        /// The image.
        path: PathBuf,
        /// Its size in octets.
        size: u64,
    },
    /// The file may be written by somebody else.
    #[error("disk {path} is in use by another process{who}; {remedy}", path = .path.display())]
    InUse {
        /// The image.
        path: PathBuf,
        /// Its process number in words, if that could be found out.
        who: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// The file system has no locks.
    #[error("cannot lock disk {path}: {source}; copy it to a file system that has locks", path = .path.display())]
    Lock {
        /// The image.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A raw disk whose first octets are those of an image format.
    #[error("disk {path} begins like a {found} image but its name does not say so; say format={found}, or format=raw if the guest wrote that", path = .path.display())]
    Ambiguous {
        /// The image.
        path: PathBuf,
        /// What it looks like.
        found: &'static str,
    },
    /// A format that is not read here.
    #[error("disk {path} is in the format {found}, which is not supported; convert it with qemu-img convert -O qcow2, or say format=raw", path = .path.display())]
    Unsupported {
        /// The image.
        path: PathBuf,
        /// What it looks like.
        found: &'static str,
    },
    /// An image that breaks the rules of its format, or uses what is not supported.
    #[error("disk {path} is no usable {format} image: {reason}", path = .path.display())]
    Image {
        /// The image.
        path: PathBuf,
        /// Its format.
        format: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The host is out of threads or descriptors.
    #[error("cannot serve disk {path}: {source}", path = .path.display())]
    Host {
        /// The image.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}
