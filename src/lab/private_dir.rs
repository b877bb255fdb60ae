//! A private directory for the lab's sockets, gone with the value.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// A directory that only this user may enter (mode 0700), removed on drop.
pub(crate) struct PrivateDir(tempfile::TempDir);

impl PrivateDir {
    /// Makes one in the system's place for temporary files.
    pub(crate) fn new() -> Result<Self> {
        use std::os::unix::fs::PermissionsExt as _;
        tempfile::Builder::new()
            .prefix("enlight-lab-")
            .permissions(std::fs::Permissions::from_mode(0o700))
            .tempdir()
            .map(Self)
            .with_context(|| format!("making a private directory in {}", std::env::temp_dir().display()))
    }

    /// The path of a file in it.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        Path::new(self.0.path()).join(name)
    }
}
