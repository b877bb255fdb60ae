//! Files of this machine's in the laboratory.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use initramfs::{Archive, Program};

use crate::LabError;

/// How deep directories may nest.
const MAX_DEPTH: u32 = 16;

/// A file or directory, and where it is in the laboratory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Add {
    /// The file here. A program brings its libraries along; links are followed.
    pub file: PathBuf,
    /// Its path there.
    pub inside: String,
}

impl FromStr for Add {
    type Err = LabError;

    /// Reads `FILE[:PATH]`; without a path a file comes to `/bin`.
    fn from_str(text: &str) -> Result<Self, LabError> {
        let bad = || LabError::BadAdd(text.to_owned());
        let (file, inside) = match text.split_once(':') {
            Some((file, inside)) if inside.starts_with('/') => (file, inside.to_owned()),
            Some(_) => return Err(bad()),
            None => {
                let name = Path::new(text).file_name().ok_or_else(bad)?.to_string_lossy();
                (text, format!("/bin/{name}"))
            }
        };
        if file.is_empty() {
            return Err(bad());
        }
        Ok(Self {
            file: file.into(),
            inside,
        })
    }
}

impl Add {
    /// A file at the path that it has here.
    pub fn same_path(file: &Path) -> Self {
        Self {
            file: file.to_owned(),
            inside: file.to_string_lossy().into_owned(),
        }
    }

    pub(crate) fn put(&self, archive: &mut Archive) -> Result<(), LabError> {
        put(&self.file, &self.inside, archive, 0)
    }
}

fn put(from: &Path, inside: &str, archive: &mut Archive, depth: u32) -> Result<(), LabError> {
    let unreadable = |source| LabError::Unreadable {
        path: from.to_owned(),
        source,
    };
    let meta = fs::metadata(from).map_err(unreadable)?;
    let mode = meta.permissions().mode();
    if meta.is_dir() {
        archive.directory(inside, mode)?;
        let entries = fs::read_dir(from).map_err(unreadable)?;
        let mut names = entries
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(unreadable)?;
        names.sort();
        for name in names.iter().filter(|_| depth < MAX_DEPTH) {
            let below = format!("{}/{}", inside.trim_end_matches('/'), name.to_string_lossy());
            put(&from.join(name), &below, archive, depth + 1)?;
        }
        return Ok(());
    }
    let contents = fs::read(from).map_err(unreadable)?;
    if mode & 0o111 != 0 && contents.starts_with(b"\x7fELF") {
        return Ok(Program::read(from)?.add_to(archive, inside)?);
    }
    Ok(archive.file(inside, mode, &contents)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn additions_are_read() {
        let add = |text: &str| text.parse::<Add>().unwrap();
        assert_eq!(add("/usr/bin/iperf3").inside, "/bin/iperf3");
        let placed = add("a/b:/c/d");
        assert_eq!((placed.file, placed.inside.as_str()), ("a/b".into(), "/c/d"));
        for text in ["", ":/x", "a:b", "a:", "/", ".."] {
            assert!(text.parse::<Add>().is_err(), "{text}");
        }
    }

    #[test]
    fn directories_programs_and_plain_files_are_put() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        fs::write(dir.path().join("d/plain"), "text").unwrap();
        let mut archive = Archive::new();
        let add = |file: &Path, inside: &str| Add {
            file: file.to_owned(),
            inside: inside.to_owned(),
        };
        add(dir.path(), "/data").put(&mut archive).unwrap();
        assert!(archive.contains("/data/d/plain"));
        let own = std::env::current_exe().unwrap();
        add(&own, "/bin/own").put(&mut archive).unwrap();
        assert!(archive.contains("/bin/own") && archive.contains("/lib64/ld-linux-x86-64.so.2"));
        let error = add(&dir.path().join("none"), "/x")
            .put(&mut archive)
            .unwrap_err()
            .to_string();
        assert!(error.contains("none: cannot be taken"), "{error}");
    }
}
