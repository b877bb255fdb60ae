//! The control socket's file.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Its owner and group may use it.
const MODE: u32 = 0o660;

/// Why there is no control socket. Each is one line.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody listens there.
    #[error("another switch answers on {} already; stop it, or choose another socket with --control", .0.display())]
    InUse(PathBuf),
    /// There is something else.
    #[error("{} exists and is no socket; choose another path with --control", .0.display())]
    NoSocket(PathBuf),
    /// The system refused.
    #[error("making the control socket {}: {source}", path.display())]
    System {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A socket's file, removed with this value.
#[derive(Debug)]
pub(crate) struct ControlSocket {
    path: PathBuf,
    /// Device and inode, so that nobody else's file is removed.
    identity: (u64, u64),
}

impl ControlSocket {
    /// Listens at `path`. A socket that a dead process left there makes way.
    pub(crate) fn bind(path: PathBuf) -> Result<(Self, UnixListener), SocketError> {
        let failed = |source| SocketError::System {
            path: path.clone(),
            source,
        };
        make_way(&path)?;
        let listener = match UnixListener::bind(&path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(SocketError::InUse(path)),
            listener => listener.map_err(failed)?,
        };
        fs::set_permissions(&path, Permissions::from_mode(MODE)).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let metadata = fs::symlink_metadata(&path).map_err(failed)?;
        Ok((
            Self {
                identity: (metadata.dev(), metadata.ino()),
                path,
            },
            listener,
        ))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!("removing {}: {error}", self.path.display());
        }
    }
}

/// Removes a socket on which nobody listens.
fn make_way(path: &Path) -> Result<(), SocketError> {
    let failed = |source| SocketError::System {
        path: path.to_owned(),
        source,
    };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(SocketError::NoSocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(error)),
        Ok(_) => Err(SocketError::InUse(path.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_socket_makes_way_and_one_in_use_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.sock");
        let dead = UnixListener::bind(&path).unwrap();
        drop(dead);
        let (socket, _listener) = ControlSocket::bind(path.clone()).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        assert!(matches!(
            ControlSocket::bind(path.clone()),
            Err(SocketError::InUse(_))
        ));
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notes.txt");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(
            ControlSocket::bind(path.clone()),
            Err(SocketError::NoSocket(_))
        ));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn somebody_elses_socket_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.sock");
        let (socket, _listener) = ControlSocket::bind(path.clone()).unwrap();
        // Made beside it and moved over it, so that the inode differs.
        let _other = UnixListener::bind(dir.path().join("d.sock")).unwrap();
        fs::rename(dir.path().join("d.sock"), &path).unwrap();
        drop(socket);
        assert!(path.exists());
    }
}
