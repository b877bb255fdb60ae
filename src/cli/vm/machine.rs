//! Machines that run, as the commands about them find them.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::control::{Client, ClientError};
use crate::vm_control::{SocketError, peer_pid, place};

/// How long a machine may take to answer. It has ten seconds for what it is asked.
const PATIENCE: Duration = Duration::from_secs(15);

/// Where machines are looked for.
#[derive(Clone, Debug, clap::Args)]
pub(in crate::cli) struct Place {
    /// The directory of the machines' control sockets
    #[arg(long, value_name = "DIR", env = "ENLIGHT_VM_DIR", hide_env_values = true)]
    directory: Option<PathBuf>,
}

impl Place {
    /// Whether the user named one.
    pub(super) fn is_chosen(&self) -> bool {
        self.directory.is_some()
    }

    /// The directory.
    pub(super) fn directory(&self) -> PathBuf {
        self.directory.clone().unwrap_or_else(place::default_directory)
    }

    /// The machine of that name, if it has a socket.
    pub(super) fn machine(&self, name: &str) -> Result<Machine> {
        if !place::is_name(name) {
            return Err(SocketError::BadName(name.to_owned()).into());
        }
        let dir = self.directory();
        let names = place::names(&dir)?;
        if names.iter().any(|known| known == name) {
            return Ok(Machine::new(&dir, name));
        }
        if names.is_empty() {
            bail!(
                "there is no machine {name}, and no other one in {}",
                dir.display()
            );
        }
        bail!("there is no machine {name}; there are: {}", names.join(", "));
    }
}

/// A machine that has a socket.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    name: String,
    path: PathBuf,
    client: Client,
}

impl Machine {
    pub(super) fn new(dir: &Path, name: &str) -> Self {
        let path = place::socket_path(dir, name);
        Self {
            name: name.to_owned(),
            client: Client::new(&path).with_patience(PATIENCE),
            path,
        }
    }

    /// The same machine with another idea of how long an answer may take.
    pub(super) fn with_patience(self, patience: Duration) -> Self {
        Self {
            client: self.client.with_patience(patience),
            ..self
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Asks without words for the user.
    pub(super) fn try_get<T: DeserializeOwned>(&self, target: &str) -> Result<T, ClientError> {
        self.client.get(target)
    }

    pub(super) fn get<T: DeserializeOwned>(&self, target: &str) -> Result<T> {
        self.try_get(target).map_err(|error| self.explain(error))
    }

    pub(super) fn post<T: DeserializeOwned>(&self, target: &str, content: &impl Serialize) -> Result<T> {
        self.client
            .send("POST", target, content)
            .map_err(|error| self.explain(error))
    }

    pub(super) fn upgrade(&self, target: &str, protocol: &str) -> Result<(UnixStream, Vec<u8>)> {
        self.client
            .upgrade(target, protocol)
            .map_err(|error| self.explain(error))
    }

    /// The process at the other end, which need not answer for that.
    pub(super) fn pid(&self) -> Option<i32> {
        peer_pid(&UnixStream::connect(&self.path).ok()?)
    }

    /// Whether nobody listens any more.
    pub(super) fn is_dead(&self) -> bool {
        matches!(UnixStream::connect(&self.path), Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused)
    }

    fn explain(&self, error: ClientError) -> anyhow::Error {
        let name = &self.name;
        match error {
            ClientError::NoSwitch(_) if self.path.exists() => {
                anyhow!("machine {name} is dead; `enlight vm stop {name}` removes what it left behind")
            }
            ClientError::NoSwitch(_) => anyhow!("machine {name} has just ended"),
            ClientError::Forbidden(_) => {
                anyhow!("machine {name} may not be used by this user; run as the user that started it")
            }
            ClientError::Silent { patience, .. } => {
                let pid = self.pid().map_or_else(|| "PID".to_owned(), |pid| pid.to_string());
                anyhow!(
                    "machine {name} (process {pid}) does not answer within {} s; `kill -KILL {pid}` ends it for good",
                    patience.as_secs()
                )
            }
            ClientError::Connection { source, .. } => {
                anyhow!("machine {name} broke off: {source}; has it ended?")
            }
            ClientError::Refused { message, .. } => anyhow!("machine {name}: {message}"),
            ClientError::Answer { source, .. } => anyhow!(
                "machine {name} answered something else than expected: {source}; was it started by another version?"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn names_that_are_not_there_are_told_from_those_that_are() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place {
            directory: Some(dir.path().to_owned()),
        };
        let why = |name: &str| place.machine(name).unwrap_err().to_string();
        assert!(why("web").contains("no other one in /"));
        let _listener = UnixListener::bind(dir.path().join("db.sock")).unwrap();
        drop(UnixListener::bind(dir.path().join("old.sock")).unwrap());
        assert_eq!(why("web"), "there is no machine web; there are: db, old");
        assert!(why("../db").contains("no name of a machine"));
        let old = place.machine("old").unwrap();
        assert!(old.is_dead());
        let error = old.get::<u8>("/v1/info").unwrap_err().to_string();
        assert!(
            error.contains("is dead") && error.contains("vm stop old"),
            "{error}"
        );
    }

    #[test]
    fn silence_is_told_with_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let _listener = UnixListener::bind(dir.path().join("db.sock")).unwrap();
        let machine = Machine::new(dir.path(), "db").with_patience(Duration::from_millis(50));
        let error = machine.get::<u8>("/v1/info").unwrap_err().to_string();
        let own = format!("db (process {}) does not answer", std::process::id());
        assert!(error.contains(&own), "{error}");
    }
}
