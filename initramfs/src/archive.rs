//! A writer of newc cpio archives, the format of Linux' initial RAM disks.
//!
//! Source: Linux' `Documentation/driver-api/early-userspace/buffer-format.rst`. The kernel makes no directory that the archive
//! does not name before what is in it, so [`Archive`] adds parent directories by itself.

use std::collections::HashMap;

/// File types in an entry's mode (`stat(2)`).
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;
const BLOCK_DEVICE: u32 = 0o060_000;
/// The mode's other bits.
const PERMISSIONS: u32 = 0o7777;
/// Mode of a directory that nobody asked for by name.
const PARENT_MODE: u32 = 0o755;
/// The name of the last entry.
const TRAILER: &str = "TRAILER!!!";
/// Longest path that the kernel takes, its zero octet included.
const PATH_MAX: usize = 4096;

/// Why something cannot be put into an archive.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveError {
    /// A path that no file can have.
    #[error("initramfs: \"{0}\" is no path of a file; write it from / on, without . and .. and zero octets")]
    BadPath(String),
    /// A path twice.
    #[error("initramfs: {0} is there already; give each file a path of its own")]
    Twice(String),
    /// Something below a path that is no directory.
    #[error("initramfs: {0} is no directory, so nothing can be put into it")]
    NotADirectory(String),
    /// A file longer than the format can tell.
    #[error("initramfs: {path} has {size} octets, an archive's file at most 4294967295")]
    TooLarge {
        /// The path in the archive.
        path: String,
        /// Its size in octets.
        size: usize,
    },
}

/// What kind of device a device file stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// A character device.
    Character,
    /// A block device.
    Block,
}

/// An archive in memory. Everything in it belongs to root and has the time 0, so equal contents give equal octets.
#[derive(Clone, Debug, Default)]
pub struct Archive {
    octets: Vec<u8>,
    inode: u32,
    /// Paths in the archive, and whether they are directories.
    paths: HashMap<String, bool>,
}

/// Header fields that differ between entries.
#[derive(Clone, Copy, Default)]
struct Header {
    inode: u32,
    mode: u32,
    size: u32,
    device: (u32, u32),
}

impl Archive {
    /// An empty archive.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether `path` is in the archive.
    pub fn contains(&self, path: &str) -> bool {
        self.paths.contains_key(path.trim_matches('/'))
    }

    /// Adds a directory. One that is there, because something was put into it, stays as it is.
    pub fn directory(&mut self, path: &str, mode: u32) -> Result<(), ArchiveError> {
        if self.paths.get(path.trim_matches('/')) == Some(&true) {
            return Ok(());
        }
        self.add(path, DIRECTORY | mode & PERMISSIONS, (0, 0), &[])
    }

    /// Adds a file with these contents.
    pub fn file(&mut self, path: &str, mode: u32, contents: &[u8]) -> Result<(), ArchiveError> {
        self.add(path, REGULAR | mode & PERMISSIONS, (0, 0), contents)
    }

    /// Adds a symbolic link to `target`.
    pub fn symlink(&mut self, path: &str, target: &str) -> Result<(), ArchiveError> {
        if target.is_empty() || target.contains('\0') || target.len() >= PATH_MAX {
            return Err(ArchiveError::BadPath(target.to_owned()));
        }
        self.add(path, SYMLINK | 0o777, (0, 0), target.as_bytes())
    }

    /// Adds a device file with these numbers.
    pub fn device(
        &mut self,
        path: &str,
        kind: DeviceKind,
        mode: u32,
        (major, minor): (u32, u32),
    ) -> Result<(), ArchiveError> {
        let kind = match kind {
            DeviceKind::Character => CHARACTER_DEVICE,
            DeviceKind::Block => BLOCK_DEVICE,
        };
        self.add(path, kind | mode & PERMISSIONS, (major, minor), &[])
    }

    /// The archive's octets. The kernel takes several archives one after the other.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry(TRAILER, Header::default(), &[]);
        self.octets
    }

    fn add(
        &mut self,
        path: &str,
        mode: u32,
        device: (u32, u32),
        contents: &[u8],
    ) -> Result<(), ArchiveError> {
        let name = checked(path)?;
        if self.paths.contains_key(name) {
            return Err(ArchiveError::Twice(path.to_owned()));
        }
        let size = u32::try_from(contents.len()).map_err(|_| ArchiveError::TooLarge {
            path: path.to_owned(),
            size: contents.len(),
        })?;
        for (end, _) in name.match_indices('/') {
            let parent = name.get(..end).unwrap_or_default();
            match self.paths.get(parent) {
                Some(true) => {}
                Some(false) => return Err(ArchiveError::NotADirectory(format!("/{parent}"))),
                None => self.numbered(parent, DIRECTORY | PARENT_MODE, 0, (0, 0), &[]),
            }
        }
        self.numbered(name, mode, size, device, contents);
        Ok(())
    }

    /// Writes an entry with the next inode number. Equal numbers would make hard links.
    fn numbered(&mut self, name: &str, mode: u32, size: u32, device: (u32, u32), contents: &[u8]) {
        self.inode += 1;
        let header = Header {
            inode: self.inode,
            mode,
            size,
            device,
        };
        self.entry(name, header, contents);
        self.paths
            .insert(name.to_owned(), mode & !PERMISSIONS == DIRECTORY);
    }

    fn entry(&mut self, name: &str, header: Header, contents: &[u8]) {
        let links = if header.mode & !PERMISSIONS == DIRECTORY {
            2
        } else {
            1
        };
        let fields = [
            header.inode,
            header.mode,
            0, // owner
            0, // group
            links,
            0, // time
            header.size,
            0, // the device that the file itself is on
            0,
            header.device.0,
            header.device.1,
            name.len() as u32 + 1,
            0, // checksum: none in this format
        ];
        self.octets.extend_from_slice(b"070701");
        for field in fields {
            self.octets.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.octets.extend_from_slice(name.as_bytes());
        self.octets.push(0);
        self.align();
        self.octets.extend_from_slice(contents);
        self.align();
    }

    fn align(&mut self) {
        let len = self.octets.len().next_multiple_of(4);
        self.octets.resize(len, 0);
    }
}

/// The path as it stands in the archive: without slashes around it.
fn checked(path: &str) -> Result<&str, ArchiveError> {
    let name = path.trim_matches('/');
    let sound = |part: &str| !matches!(part, "" | "." | "..") && !part.contains('\0');
    if name.len() < PATH_MAX && name != TRAILER && name.split('/').all(sound) {
        Ok(name)
    } else {
        Err(ArchiveError::BadPath(path.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::io::Write as _;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    use std::process::{Command, Stdio};

    use proptest::prelude::*;

    use super::*;

    /// Has cpio unpack the archive into a new directory. `None` when the machine has no cpio.
    fn unpacked(archive: Archive) -> Option<tempfile::TempDir> {
        let dir = tempfile::tempdir().unwrap();
        let spawned = Command::new("cpio")
            .args([
                "--extract",
                "--quiet",
                "--make-directories",
                "--no-absolute-filenames",
            ])
            .current_dir(dir.path())
            .stdin(Stdio::piped())
            .spawn();
        let mut cpio = match spawned {
            Ok(cpio) => cpio,
            Err(error) => {
                eprintln!("SKIPPED initramfs archive: cpio: {error}");
                return None;
            }
        };
        let octets = archive.finish();
        assert!(octets.len().is_multiple_of(4));
        cpio.stdin.take().unwrap().write_all(&octets).unwrap();
        assert!(cpio.wait().unwrap().success());
        Some(dir)
    }

    #[test]
    fn cpio_understands_every_kind_of_entry() {
        let mut archive = Archive::new();
        archive.directory("/proc", 0o555).unwrap();
        archive.file("/bin/tool", 0o755, b"#!").unwrap();
        archive.symlink("/bin/alias", "tool").unwrap();
        archive.file("/etc/deep/er/empty", 0o600, b"").unwrap();
        let Some(dir) = unpacked(archive) else { return };
        let path = |name: &str| dir.path().join(name);
        let mode = |name: &str| fs::metadata(path(name)).unwrap().permissions().mode();
        assert_eq!(mode("proc"), 0o040_555);
        assert_eq!(mode("bin/tool"), 0o100_755);
        assert_eq!(mode("etc/deep/er/empty"), 0o100_600);
        assert_eq!(
            fs::read_link(path("bin/alias")).unwrap(),
            path("tool").file_name().unwrap()
        );
        assert_eq!(fs::read(path("bin/alias")).unwrap(), b"#!");
        assert_eq!(fs::metadata(path("bin/tool")).unwrap().nlink(), 1);
    }

    #[test]
    fn a_device_s_header_is_the_documented_one() {
        let mut archive = Archive::new();
        archive
            .device("/console", DeviceKind::Character, 0o600, (5, 1))
            .unwrap();
        let text = String::from_utf8(archive.finish()).unwrap();
        let header = "070701000000010000218000000000000000000000000100000000000000000000000000000000\
                      00000005000000010000000800000000console\0";
        assert!(text.starts_with(header), "{text:?}");
        assert!(text.contains("TRAILER!!!"));
    }

    #[test]
    fn what_the_kernel_would_not_unpack_is_refused() {
        let mut archive = Archive::new();
        archive.file("/init", 0o755, b"").unwrap();
        assert_eq!(
            archive.file("init", 0o755, b""),
            Err(ArchiveError::Twice("init".to_owned()))
        );
        assert_eq!(
            archive.file("/init/x", 0o644, b""),
            Err(ArchiveError::NotADirectory("/init".to_owned()))
        );
        for path in ["", "/", "a//b", "a/../b", "./a", "a\0b", TRAILER] {
            assert_eq!(
                archive.file(path, 0o644, b""),
                Err(ArchiveError::BadPath(path.to_owned()))
            );
        }
        assert!(archive.symlink("/a", "").is_err());
        archive.directory("/b/c", 0o700).unwrap();
        archive.directory("/b", 0o700).unwrap();
        assert!(archive.contains("/b/c") && !archive.contains("/c"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn cpio_gives_back_what_was_put_in(
            files in prop::collection::btree_map("d[a-z]{0,3}(/d[a-z]{0,3}){0,2}/f[a-z0-9]{1,8}", prop::collection::vec(any::<u8>(), 0..40), 0..12)
        ) {
            let mut archive = Archive::new();
            for (path, contents) in &files {
                archive.file(path, 0o644, contents).unwrap();
            }
            if let Some(dir) = unpacked(archive) {
                let mut found = BTreeMap::new();
                for path in files.keys() {
                    found.insert(path.clone(), fs::read(dir.path().join(path)).unwrap());
                }
                prop_assert_eq!(found, files);
            }
        }
    }
}
