//! Names of machines, and the directory where their sockets are.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use crate::control::{PathError, default_path, make_home};

/// Longest name in octets.
pub const MAX_NAME: usize = 64;
/// What a socket's file name ends in.
const SUFFIX: &str = ".sock";

/// Why there is no directory for sockets. Each is one line.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// It cannot be made or looked at.
    #[error("using the directory {} for control sockets: {source}; choose another one with --directory", dir.display())]
    System {
        /// The directory.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others could replace the sockets in it.
    #[error("{} belongs to another user; choose another directory with --directory", dir.display())]
    Foreign {
        /// The directory.
        dir: PathBuf,
    },
}

/// The directory of machines' sockets: `vm` beside the switch's control socket.
pub fn default_directory() -> PathBuf {
    default_path().with_file_name("vm")
}

/// Makes the directory for this user alone if it does not exist.
pub fn make_directory(dir: &Path) -> Result<(), PlaceError> {
    let failed = |source| PlaceError::System {
        dir: dir.to_owned(),
        source,
    };
    if dir == default_directory() {
        // Its parent is the switch's too, which others may be allowed to use.
        make_home(dir).map_err(|error| match error {
            PathError::Make { dir, source } => PlaceError::System { dir, source },
            PathError::Foreign { dir } => PlaceError::Foreign { dir },
        })?;
    }
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(dir).map_err(failed)?;
    let owner = fs::metadata(dir).map_err(failed)?.uid();
    let user = fs::metadata("/proc/self").map_err(failed)?.uid();
    if owner != user {
        return Err(PlaceError::Foreign { dir: dir.to_owned() });
    }
    Ok(())
}

/// Whether a machine may have this name: 1 to [`MAX_NAME`] letters, digits, dots, dashes and underscores, the first of
/// which is no dot or dash.
pub fn is_name(name: &str) -> bool {
    let allowed = |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'.' | b'-' | b'_');
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(allowed) && !name.starts_with(['.', '-'])
}

/// The socket of the machine of that name.
pub fn socket_path(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}{SUFFIX}"))
}

/// The names of all sockets in a directory, in order; none if there is no such directory.
pub fn names(dir: &Path) -> Result<Vec<String>, PlaceError> {
    let failed = |source| PlaceError::System {
        dir: dir.to_owned(),
        source,
    };
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let file = entry.file_name();
        let name = file.to_str().and_then(|name| name.strip_suffix(SUFFIX));
        let is_socket = entry.file_type().is_ok_and(|kind| kind.is_socket());
        names.extend(name.filter(|name| is_socket && is_name(name)).map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn names_stay_in_their_directory() {
        for name in ["a", "vm-1", "Web_2.example", &"n".repeat(64)] {
            assert!(is_name(name), "{name}");
        }
        for name in [
            "",
            ".",
            "..",
            ".hidden",
            "-x",
            "a/b",
            "a b",
            "ä",
            "a\n",
            &"n".repeat(65),
        ] {
            assert!(!is_name(name), "{name}");
        }
    }

    #[test]
    fn only_sockets_with_names_are_listed() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("a/vm");
        assert_eq!(names(&place).unwrap(), Vec::<String>::new());
        make_directory(&place).unwrap();
        make_directory(&place).unwrap();
        assert_eq!(fs::metadata(&place).unwrap().permissions().mode() & 0o777, 0o700);
        for name in ["web", "db", "not a name"] {
            drop(UnixListener::bind(socket_path(&place, name)).unwrap());
        }
        fs::write(socket_path(&place, "file"), "").unwrap();
        assert_eq!(names(&place).unwrap(), ["db", "web"]);
    }
}
