//! Landlock: which files can still be opened. Everything that the machine is made of has been opened before.

use std::fs::File;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

/// The newest interface whose rights are all taken away; older kernels take those that they know.
const NEWEST: ABI = ABI::V10;

/// What threads of this process read of themselves: memory in use, processor time, their control group.
const OWN_PROC: &str = "/proc/self";
/// How many processors may be used: read by the standard library, and by the C library.
const READABLE: [&str; 3] = [
    "/sys/fs/cgroup",
    "/sys/devices/system/cpu/online",
    "/sys/devices/system/cpu/possible",
];

/// Confines the calling thread and those that it starts. Returns the version of the interface that does it, and what must
/// stay open meanwhile.
pub(super) fn confine(removes_from: &[PathBuf], sockets: &[PathBuf]) -> (Option<u32>, Option<File>) {
    let own_proc = File::open(OWN_PROC).ok();
    match restrict(removes_from, sockets) {
        Ok(version) => (version, own_proc),
        Err(error) => {
            tracing::warn!(%error, "Landlock does not confine which files can be opened");
            (None, None)
        }
    }
}

fn restrict(removes_from: &[PathBuf], sockets: &[PathBuf]) -> Result<Option<u32>, RulesetError> {
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?;
    for path in [OWN_PROC].iter().chain(&READABLE) {
        rules = allow(rules, Path::new(path), AccessFs::ReadFile)?;
    }
    for path in removes_from {
        rules = allow(rules, path, AccessFs::RemoveFile)?;
    }
    for directory in sockets.iter().filter_map(|socket| directory_of(socket)) {
        rules = allow(rules, directory, AccessFs::ResolveUnix)?;
    }
    let status = rules.restrict_self()?;
    Ok(match (status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, _) => None,
        (_, LandlockStatus::Available { effective_abi, .. }) => Some(effective_abi as u32),
        _ => None,
    })
}

/// A path that is not there, or not for this user, cannot be used later either.
fn allow(
    rules: RulesetCreated,
    path: &Path,
    access: impl Into<BitFlags<AccessFs>>,
) -> Result<RulesetCreated, RulesetError> {
    match PathFd::new(path) {
        Ok(fd) => rules.add_rule(PathBeneath::new(fd, access)),
        Err(_) => Ok(rules),
    }
}

/// A switch that comes back makes its socket anew, so the right is to the directory.
fn directory_of(socket: &Path) -> Option<&Path> {
    let directory = socket.parent()?;
    Some(if directory.as_os_str().is_empty() {
        Path::new(".")
    } else {
        directory
    })
}
