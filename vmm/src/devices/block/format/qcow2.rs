//! QEMU's qcow2, versions 2 and 3: this module judges the header, the crate `imago` does the rest.
//!
//! Source: QEMU's `docs/interop/qcow2.txt`. An image may name other files (backing file, external data file); none is
//! ever opened because an image says so. Such images are refused, as is what a guest could use to make this process
//! spend time or memory without bound.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use imago::file::File as Storage;
use imago::qcow2::Qcow2 as Driver;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder};

use super::{Format, Image, ZEROS};
use crate::devices::block::request::SECTOR;

const MAGIC: &[u8] = b"QFI\xfb";
/// Octets of a version 3 header that are looked at.
const HEADER_LEN: usize = 104;
/// The largest tables that QEMU makes.
const MAX_L1: u64 = 32 << 20;
const MAX_REFCOUNT_TABLE: u64 = 8 << 20;
/// The largest disk: what a maximal first level table describes with clusters of 64 KiB.
const MAX_SIZE: u64 = 1 << 51;
/// Bits of a table entry that are an offset, and those of a first level entry.
const REFCOUNT_OFFSET: u64 = !0x1ff;
const L1_OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

/// What is wrong with an image that uses each of the incompatible features from bit 0 on.
const FEATURES: [&str; 5] = [
    "it was not closed properly; repair it with qemu-img check -r all",
    "it is marked corrupt; repair it with qemu-img check -r all",
    "its data are in another file; convert it with qemu-img convert -O qcow2",
    "it is not compressed with zlib; convert it with qemu-img convert -O qcow2",
    "it has subclusters; convert it with qemu-img convert -O qcow2 -o extended_l2=off",
];

/// An opened image.
struct Qcow2(FormatAccess<Storage>);

/// Opens an image that keeps the rules.
pub(in crate::devices::block) fn open(file: File, read_only: bool) -> Result<Image, String> {
    let size = judge(&file, read_only)?;
    let opened = catch_unwind(AssertUnwindSafe(|| open_judged(file, read_only)));
    let access = opened.unwrap_or_else(|_| Err("it is corrupt".to_owned()))?;
    if access.size() != size {
        return Err("its size cannot be told".to_owned());
    }
    Ok(Image::converted(Box::new(Qcow2(access)), size))
}

fn open_judged(file: File, read_only: bool) -> Result<FormatAccess<Storage>, String> {
    let text = |error: io::Error| error.to_string();
    let driver = Driver::<Storage>::builder(Storage::try_from(file).map_err(text)?)
        .write(!read_only)
        .backing(None)
        .data_file(None)
        .open(DenyImplicitOpenGate::default())
        .map_err(text)?;
    Ok(FormatAccess::new(driver))
}

impl Format for Qcow2 {
    fn read(&mut self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.0.read(into, offset)
    }

    fn write(&mut self, offset: u64, from: &[u8]) -> io::Result<()> {
        self.0.write(from, offset)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()?;
        self.0.sync()
    }

    fn discard(&mut self, offset: u64, len: u64) -> io::Result<()> {
        self.0.discard_to_any(offset, len)
    }

    fn write_zeroes(&mut self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        let done = if unmap {
            self.0.discard_to_zero(offset, len)
        } else {
            self.0.write_zeroes(offset, len)
        };
        match done {
            // Version 2 has no mark for it.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => self.write_zeros(offset, len),
            done => done,
        }
    }
}

impl Qcow2 {
    /// Zeros as data.
    fn write_zeros(&self, mut offset: u64, mut len: u64) -> io::Result<()> {
        while len > 0 {
            let count = len.min(ZEROS.len() as u64);
            self.0
                .write(ZEROS.get(..count as usize).unwrap_or_default(), offset)?;
            offset += count;
            len -= count;
        }
        Ok(())
    }
}

/// Reads the header and the two top tables; the size of the disk, or what is wrong.
fn judge(file: &File, read_only: bool) -> Result<u64, String> {
    let text = |error: io::Error| error.to_string();
    let end = file.metadata().map_err(text)?.len();
    let mut octets = [0; HEADER_LEN];
    let part = octets.get_mut(..HEADER_LEN.min(end as usize)).unwrap_or_default();
    file.read_exact_at(part, 0).map_err(text)?;
    if !octets.starts_with(MAGIC) {
        return Err("it does not begin like one; say which format it has".to_owned());
    }
    let header = Header(octets);
    header.judge_features(read_only)?;
    let cluster = header.cluster()?;
    let size = header.u64(24);
    if size == 0 || !size.is_multiple_of(SECTOR) || size > MAX_SIZE {
        return Err(format!("a disk of {size} octets is not possible"));
    }
    // One entry describes a cluster of second level entries, eight octets each.
    let (l1_at, l1_len) = (header.u64(40), 8 * u64::from(header.u32(36)));
    let needed = 8 * size.div_ceil(cluster * cluster / 8);
    if l1_len < needed || l1_len > MAX_L1 {
        return Err(format!(
            "its first level table of {l1_len} octets does not fit the disk"
        ));
    }
    let place = Place { file, end, cluster };
    place.judge("first level table", l1_at, l1_len, l1_len, L1_OFFSET)?;
    let (table_at, table_len) = (header.u64(48), cluster.saturating_mul(header.u32(56).into()));
    if table_len > MAX_REFCOUNT_TABLE {
        return Err(format!(
            "a reference count table of {table_len} octets is too large"
        ));
    }
    // What an entry describes: a cluster of counts. More entries than the file needs would be searched for nothing.
    let order = if header.u32(4) == 2 { 4 } else { header.u32(96) };
    let counted = (cluster * 8).checked_shr(order).unwrap_or(0) * cluster;
    if order > 6 || counted == 0 {
        return Err(format!("reference counts of 2^{order} bits are not possible"));
    }
    let used = 8 * end.div_ceil(counted);
    place.judge(
        "reference count table",
        table_at,
        table_len,
        used,
        REFCOUNT_OFFSET,
    )?;
    Ok(size)
}

struct Header([u8; HEADER_LEN]);

impl Header {
    fn u32(&self, at: usize) -> u32 {
        let field = self.0.get(at..).and_then(|rest| rest.first_chunk());
        field.map_or(0, |field| u32::from_be_bytes(*field))
    }

    fn u64(&self, at: usize) -> u64 {
        let field = self.0.get(at..).and_then(|rest| rest.first_chunk());
        field.map_or(0, |field| u64::from_be_bytes(*field))
    }

    /// Refuses what would need other files, keys or abilities.
    fn judge_features(&self, read_only: bool) -> Result<(), String> {
        let version = self.u32(4);
        let incompatible = if version == 2 { 0 } else { self.u64(72) };
        let reason = match () {
            () if !(2..=3).contains(&version) => format!("version {version} is not supported"),
            () if self.u64(8) != 0 => {
                "it has a backing file, which is not opened; flatten it with qemu-img convert -O qcow2".to_owned()
            }
            () if self.u32(32) != 0 => "it is encrypted; convert it with qemu-img convert -O qcow2".to_owned(),
            () if self.u32(60) != 0 && !read_only => {
                "it has snapshots inside; give it read-only (ro), or convert it with qemu-img convert -O qcow2".to_owned()
            }
            () if incompatible != 0 => {
                let bit = incompatible.trailing_zeros() as usize;
                let unknown = || format!("it uses the unknown feature {bit}; convert it with qemu-img convert -O qcow2");
                FEATURES.get(bit).map_or_else(unknown, |text| (*text).to_owned())
            }
            () => return Ok(()),
        };
        Err(reason)
    }

    fn cluster(&self) -> Result<u64, String> {
        match self.u32(20) {
            bits @ 9..=21 => Ok(1 << bits),
            bits => Err(format!("clusters of 2^{bits} octets are not possible")),
        }
    }
}

/// Where tables may be.
struct Place<'f> {
    file: &'f File,
    end: u64,
    cluster: u64,
}

impl Place<'_> {
    /// Whether a table lies in the file, and each of its first `used` octets' entries too, and the rest is empty.
    fn judge(&self, what: &str, at: u64, len: u64, used: u64, mask: u64) -> Result<(), String> {
        let inside = |at: u64, len: u64| at.checked_add(len).is_some_and(|end| end <= self.end);
        if at == 0 || !at.is_multiple_of(self.cluster) || !inside(at, len) {
            return Err(format!("its {what} is not inside the file"));
        }
        let mut piece = [0; 4096];
        for start in (0..len).step_by(piece.len()) {
            let count = (len - start).min(piece.len() as u64) as usize;
            let piece = piece.get_mut(..count).unwrap_or_default();
            let read = self.file.read_exact_at(piece, at + start);
            read.map_err(|error| error.to_string())?;
            for (entry, place) in piece.as_chunks().0.iter().zip((start..).step_by(8)) {
                let target = u64::from_be_bytes(*entry) & mask;
                // Tables are written when they are needed, so the last one may end with the file.
                let sound = target.is_multiple_of(self.cluster) && inside(target, SECTOR) && place < used;
                if target != 0 && !sound {
                    return Err(format!("entry {} of its {what} is corrupt", place / 8));
                }
            }
        }
        Ok(())
    }
}
