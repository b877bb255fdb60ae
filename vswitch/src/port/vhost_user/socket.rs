//! Takes a path for listening, and says clearly why not.
//!
//! `unsafe` is needed to ask, without waiting, whether somebody listens on a socket already.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use super::VhostUserError;

/// A listening socket, which takes its path along when it goes.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) listener: UnixListener,
    path: PathBuf,
    /// Device and inode, to know the file again.
    identity: Option<(u64, u64)>,
}

/// The longest path that a socket address holds.
const MAX_PATH: usize = 107;

/// Listens on `path`. A socket file that nobody listens on any more is replaced.
pub(super) fn bind(path: &Path) -> Result<Bound, VhostUserError> {
    if path.as_os_str().len() > MAX_PATH {
        return Err(VhostUserError::PathTooLong(path.into()));
    }
    make_way(path)?;
    let listener = UnixListener::bind(path).map_err(|source| explain(path, source))?;
    listener
        .set_nonblocking(true)
        .map_err(|source| explain(path, source))?;
    let identity = std::fs::symlink_metadata(path)
        .ok()
        .map(|file| (file.dev(), file.ino()));
    Ok(Bound {
        listener,
        path: path.into(),
        identity,
    })
}

impl Drop for Bound {
    fn drop(&mut self) {
        let now = std::fs::symlink_metadata(&self.path)
            .ok()
            .map(|file| (file.dev(), file.ino()));
        if now.is_some() && now == self.identity {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Removes what a dead process left at `path`, and refuses to touch anything else.
fn make_way(path: &Path) -> Result<(), VhostUserError> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(explain(path, error)),
        Ok(file) if !file.file_type().is_socket() => return Err(VhostUserError::NotASocket(path.into())),
        Ok(_) => {}
    }
    match try_connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(|source| explain(path, source))
        }
        // It was removed meanwhile.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // Its listener has a full queue: alive.
        Ok(()) => Err(VhostUserError::InUse(path.into())),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(VhostUserError::InUse(path.into())),
        Err(error) => Err(explain(path, error)),
    }
}

/// Connects to a stream socket without waiting for its listener.
fn try_connect(path: &Path) -> io::Result<()> {
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: makes a descriptor and touches no memory.
    let socket = unsafe { libc::socket(libc::AF_UNIX, kind, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and owned by nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: `sockaddr_un` is plain data for which zeroes are valid.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    for (place, octet) in address.sun_path.iter_mut().zip(path.as_os_str().as_bytes()) {
        *place = octet.cast_signed();
    }
    let len = size_of::<libc::sockaddr_un>() as libc::socklen_t;
    // SAFETY: the address is a local of exactly `len` octets; its path ends with a zero, being at most 107 long.
    if unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), len) } == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error())
}

/// An error with its remedy, as far as one is known.
fn explain(path: &Path, source: io::Error) -> VhostUserError {
    let path = path.to_path_buf();
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = parent.map_or_else(|| PathBuf::from("."), Path::to_path_buf);
    match source.kind() {
        io::ErrorKind::NotFound => VhostUserError::NoDirectory { path, directory },
        io::ErrorKind::PermissionDenied => VhostUserError::Permission { path, directory },
        io::ErrorKind::AddrInUse => VhostUserError::InUse(path),
        _ => VhostUserError::Listen { path, source },
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_stale_socket_is_replaced_and_ours_goes_with_us() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("port.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let bound = bind(&path).unwrap();
        UnixStream::connect(&path).unwrap();
        drop(bound);
        assert!(!path.exists());
    }

    #[test]
    fn a_socket_that_somebody_listens_on_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("port.sock");
        let first = bind(&path).unwrap();
        let second = bind(&path).unwrap_err();
        assert!(matches!(&second, VhostUserError::InUse(at) if *at == path));
        assert!(second.to_string().contains("port.sock"));
        UnixStream::connect(&path).unwrap();
        drop(first);
        bind(&path).unwrap();
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(bind(&path), Err(VhostUserError::NotASocket(_))));
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        assert!(matches!(
            bind(directory.path()),
            Err(VhostUserError::NotASocket(_))
        ));
    }

    #[test]
    fn a_missing_directory_and_a_long_path_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("no").join("port.sock");
        let error = bind(&missing).unwrap_err();
        assert!(matches!(&error, VhostUserError::NoDirectory { directory, .. } if directory.ends_with("no")));
        let long = directory.path().join("x".repeat(120));
        assert!(matches!(bind(&long), Err(VhostUserError::PathTooLong(_))));
    }

    #[test]
    fn a_file_that_took_our_place_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("port.sock");
        let bound = bind(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "other").unwrap();
        drop(bound);
        assert!(path.exists());
    }
}
