//! From a path to an image: what it is, in which format, and that nobody else uses it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

use super::error::DiskError;
use super::format::{Image, Raw, qcow2, vhd};
use super::lock;
use super::request::SECTOR;
use crate::config::{DiskConfig, DiskFormat};

/// Opens, recognises and locks the image that `config` names.
pub(super) fn open(config: &DiskConfig) -> Result<Image, DiskError> {
    let path = config.path.as_path();
    let file = open_file(path, config.read_only)?;
    let format = match config.format {
        Some(format) => format,
        None => recognise(path, &file)?,
    };
    lock::lock(&file, path, config.read_only)?;
    match format {
        DiskFormat::Raw => open_raw(path, file),
        DiskFormat::Qcow2 => qcow2::open(file, config.read_only).map_err(image_error(path, "qcow2")),
        DiskFormat::Vhd => {
            let end = size(&file).unwrap_or(0);
            vhd::open(file, end).map_err(image_error(path, "vhd"))
        }
    }
}

fn image_error(path: &Path, format: &'static str) -> impl FnOnce(String) -> DiskError {
    let path = path.to_owned();
    move |reason| DiskError::Image { path, format, reason }
}

fn open_file(path: &Path, read_only: bool) -> Result<File, DiskError> {
    let failed = |source: io::Error| DiskError::Open {
        path: path.to_owned(),
        remedy: remedy(&source, read_only),
        source,
    };
    // Looked at before it is opened, which has effects on some devices, and again afterwards, when it cannot change.
    check_kind(path, &fs::metadata(path).map_err(failed)?)?;
    let file = OpenOptions::new()
        .read(true)
        .write(!read_only)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(failed)?;
    check_kind(path, &file.metadata().map_err(failed)?)?;
    Ok(file)
}

fn remedy(error: &io::Error, read_only: bool) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "; make it first, such as with truncate -s 1G",
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem if !read_only => {
            "; give this user access to it, or give the disk read-only (ro)"
        }
        io::ErrorKind::PermissionDenied => "; give this user access to it",
        _ => "",
    }
}

fn check_kind(path: &Path, metadata: &fs::Metadata) -> Result<(), DiskError> {
    let kind = metadata.file_type();
    let kind = match () {
        () if kind.is_file() || kind.is_block_device() => return Ok(()),
        () if kind.is_dir() => "directory",
        () if kind.is_fifo() => "pipe",
        () if kind.is_socket() => "socket",
        () => "character device",
    };
    Err(DiskError::Kind {
        path: path.to_owned(),
        kind,
    })
}

/// The format that the file's name says, raw when it says none. A guest that owns a raw disk can write the first
/// octets of any format there and so choose how the next machine reads it; therefore what is there never decides.
fn recognise(path: &Path, file: &File) -> Result<DiskFormat, DiskError> {
    let extension = path
        .extension()
        .map(|extension| extension.to_string_lossy().to_lowercase());
    let path = path.to_owned();
    match extension.as_deref().unwrap_or_default() {
        "qcow2" => return Ok(DiskFormat::Qcow2),
        "vhd" | "vpc" => return Ok(DiskFormat::Vhd),
        "vhdx" => return Err(DiskError::Unsupported { path, found: "VHDX" }),
        "vmdk" => return Err(DiskError::Unsupported { path, found: "VMDK" }),
        "vdi" => return Err(DiskError::Unsupported { path, found: "VDI" }),
        _ => {}
    }
    match magic(file) {
        Some(found) => Err(DiskError::Ambiguous { path, found }),
        None => Ok(DiskFormat::Raw),
    }
}

/// The format that the file begins, or in the case of VHD ends, like.
fn magic(file: &File) -> Option<&'static str> {
    let looks = |offset: u64, magic: &[u8]| {
        let mut octets = [0; 8];
        let octets = octets.get_mut(..magic.len()).unwrap_or_default();
        file.read_exact_at(octets, offset).is_ok() && octets == magic
    };
    let vhd = b"conectix";
    let end = size(file).unwrap_or(0);
    if looks(0, b"QFI\xfb") {
        Some("qcow2")
    } else if looks(0, vhd) || looks(end.saturating_sub(SECTOR), vhd) {
        Some("vhd")
    } else {
        None
    }
}

/// Octets in a file or on a block device.
fn size(mut file: &File) -> io::Result<u64> {
    file.seek(SeekFrom::End(0))
}

fn open_raw(path: &Path, file: File) -> Result<Image, DiskError> {
    let path = path.to_owned();
    match size(&file) {
        Err(source) => Err(DiskError::Open {
            path,
            source,
            remedy: "",
        }),
        Ok(0) => Err(DiskError::Empty(path)),
        Ok(size) if !size.is_multiple_of(SECTOR) => Err(DiskError::NotSectors { path, size }),
        Ok(size) => Ok(Image::raw(Raw::new(file), size)),
    }
}
