//! Where the control socket is when nobody says.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

/// Why there is no place for the control socket.
#[derive(Debug, thiserror::Error)]
pub enum PathError {
    /// Its directory cannot be made.
    #[error("making {}: {source}; choose another place with --control", dir.display())]
    Make {
        /// The directory.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody else's directory is in its place.
    #[error("{} belongs to another user; choose another place with --control", dir.display())]
    Foreign {
        /// The directory.
        dir: PathBuf,
    },
}

/// The control socket's path: `/run/enlight/control.sock` for root, else below `$XDG_RUNTIME_DIR`, else below `/tmp` in
/// a directory of the user's own.
pub fn default_path() -> PathBuf {
    home_of(user_id(), std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from)).join("control.sock")
}

fn home_of(user: u32, runtime: Option<PathBuf>) -> PathBuf {
    match runtime {
        _ if user == 0 => PathBuf::from("/run/enlight"),
        Some(runtime) if runtime.is_absolute() => runtime.join("enlight"),
        _ => PathBuf::from(format!("/tmp/enlight-{user}")),
    }
}

/// Makes the default path's directory if need be, for this user alone unless that is root.
pub fn make_home(path: &Path) -> Result<(), PathError> {
    let Some(dir) = path.parent() else { return Ok(()) };
    let user = user_id();
    let mode = if user == 0 { 0o755 } else { 0o700 };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(dir)
        .map_err(|source| PathError::Make {
            dir: dir.to_owned(),
            source,
        })?;
    let owner = fs::symlink_metadata(dir).map(|metadata| metadata.uid());
    match owner {
        Ok(owner) if owner == user => Ok(()),
        Ok(_) => Err(PathError::Foreign { dir: dir.to_owned() }),
        Err(source) => Err(PathError::Make {
            dir: dir.to_owned(),
            source,
        }),
    }
}

fn user_id() -> u32 {
    // Any process may read its own user here, without unsafe code.
    fs::metadata("/proc/self").map_or(u32::MAX, |metadata| metadata.uid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_user_has_a_place() {
        assert_eq!(home_of(0, Some("/run/user/0".into())), Path::new("/run/enlight"));
        assert_eq!(
            home_of(7, Some("/run/user/7".into())),
            Path::new("/run/user/7/enlight")
        );
        assert_eq!(home_of(7, Some("relative".into())), Path::new("/tmp/enlight-7"));
        assert_eq!(home_of(7, None), Path::new("/tmp/enlight-7"));
    }

    #[test]
    fn the_directory_is_made_once_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/control.sock");
        make_home(&path).unwrap();
        make_home(&path).unwrap();
        assert!(dir.path().join("a/b").is_dir());
    }
}
