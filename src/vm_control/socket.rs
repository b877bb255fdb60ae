//! The file of a machine's socket: had by one machine at a time, and gone with it.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::net::sockopt::socket_peercred;

use super::place::{self, PlaceError};

/// Why a machine gets no socket. Each is one line.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// There is no place for it.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The name is not one.
    #[error("\"{0}\" is no name of a machine; use 1 to 64 letters, digits, dots, dashes and underscores")]
    BadName(String),
    /// Somebody listens there.
    #[error(
        "a machine of the name {name} runs already (process {pid}); stop it with `enlight vm stop {name}`, or choose another name"
    )]
    InUse {
        /// The name.
        name: String,
        /// Its process.
        pid: i32,
    },
    /// There is something else.
    #[error("{} exists and is no socket; choose another name", .0.display())]
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

/// A machine's socket. Its file is removed with this value.
///
/// A sandbox that is entered between has to leave two calls: looking at the file and removing it, which needs the right to
/// remove files from [`Socket::directory`].
#[derive(Debug)]
pub struct Socket {
    name: String,
    path: PathBuf,
    /// Device and inode, so that nobody else's file is removed.
    identity: (u64, u64),
    listener: UnixListener,
}

impl Socket {
    /// Listens for the machine of that name. A socket that a dead process left there makes way.
    pub fn bind(dir: &Path, name: &str) -> Result<Self, SocketError> {
        if !place::is_name(name) {
            return Err(SocketError::BadName(name.to_owned()));
        }
        place::make_directory(dir)?;
        let path = place::socket_path(dir, name);
        let failed = |source| SocketError::System {
            path: path.clone(),
            source,
        };
        // Between looking whether somebody listens and listening, nobody else may do the same.
        let turn = File::open(dir).map_err(failed)?;
        turn.lock().map_err(failed)?;
        make_way(&path, name)?;
        sweep(dir);
        let listener = UnixListener::bind(&path).map_err(failed)?;
        drop(turn);
        fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let metadata = fs::symlink_metadata(&path).map_err(failed)?;
        Ok(Self {
            name: name.to_owned(),
            identity: (metadata.dev(), metadata.ino()),
            path,
            listener,
        })
    }

    /// The machine's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The directory that the file is in.
    pub fn directory(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("."))
    }

    pub(super) fn listener(&self) -> io::Result<UnixListener> {
        self.listener.try_clone()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!("removing {}: {error}", self.path.display());
        }
    }
}

/// Removes what dead machines left behind that nobody has named: nobody would miss their names.
fn sweep(dir: &Path) {
    let unnamed = |name: &String| {
        name.strip_prefix("vm-")
            .is_some_and(|rest| rest.parse::<u32>().is_ok())
    };
    let names = place::names(dir).unwrap_or_default();
    for path in names
        .iter()
        .filter(|name| unnamed(name))
        .map(|name| place::socket_path(dir, name))
    {
        let dead =
            UnixStream::connect(&path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
        if dead {
            // What cannot be removed bothers nobody.
            let _ = fs::remove_file(&path);
        }
    }
}

/// Removes a socket on which nobody listens.
fn make_way(path: &Path, name: &str) -> Result<(), SocketError> {
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
        Ok(stream) => Err(SocketError::InUse {
            name: name.to_owned(),
            pid: peer_pid(&stream).unwrap_or_default(),
        }),
    }
}

/// The process that listens at the other end; it need not answer for that.
pub fn peer_pid(stream: &UnixStream) -> Option<i32> {
    let credentials = socket_peercred(stream).ok()?;
    Some(credentials.pid.as_raw_pid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_socket_makes_way_and_a_live_machine_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = place::socket_path(dir.path(), "web");
        let unnamed = place::socket_path(dir.path(), "vm-17");
        drop(UnixListener::bind(&path).unwrap());
        drop(UnixListener::bind(&unnamed).unwrap());
        let socket = Socket::bind(dir.path(), "web").unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!unnamed.exists(), "nobody would miss it");
        let error = Socket::bind(dir.path(), "web").unwrap_err().to_string();
        let own = format!("web runs already (process {})", std::process::id());
        assert!(error.contains(&own) && error.contains("vm stop web"), "{error}");
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn of_many_at_once_one_gets_the_name() {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..20 {
            drop(UnixListener::bind(place::socket_path(dir.path(), "web")).unwrap());
            let bound: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4)
                    .map(|_| scope.spawn(|| Socket::bind(dir.path(), "web")))
                    .collect();
                let ends = threads.into_iter().map(|thread| thread.join().unwrap());
                ends.filter_map(Result::ok).collect()
            });
            assert_eq!(bound.len(), 1);
        }
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = place::socket_path(dir.path(), "web");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(
            Socket::bind(dir.path(), "web"),
            Err(SocketError::NoSocket(_))
        ));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        for name in ["../web", "", "a/b"] {
            assert!(matches!(
                Socket::bind(dir.path(), name),
                Err(SocketError::BadName(_))
            ));
        }
        let socket = Socket::bind(dir.path(), "db").unwrap();
        let other = dir.path().join("other");
        let _other = UnixListener::bind(&other).unwrap();
        fs::rename(&other, place::socket_path(dir.path(), "db")).unwrap();
        drop(socket);
        assert!(place::socket_path(dir.path(), "db").exists());
    }
}
