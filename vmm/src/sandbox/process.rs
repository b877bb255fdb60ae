//! Privileges that a thread gives up, and the files that it may still reach.

use std::io;
use std::path::Path;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, LandlockStatus, PathBeneath, PathFd, Ruleset,
    RulesetAttr as _, RulesetCreated, RulesetCreatedAttr as _, RulesetError, Scope,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, set_capabilities, set_no_new_privs,
};

use super::{SandboxError, system};

/// The newest version of Landlock's interface that is used; older ones do what they can.
const NEWEST: ABI = ABI::V6;

/// The files that can be reached by their names.
pub(super) struct Files {
    rules: RulesetCreated,
    /// Kept open, so that what the rule for it stands for stays in the kernel's memory.
    _own: Option<PathFd>,
}

impl Files {
    /// This process's own directory in `/proc` may be read, where memory and processors are accounted; files may be removed in
    /// `removes_in`. Everything else is out of reach: opening, making, connecting by TCP, abstract sockets, and signals to
    /// others.
    pub(super) fn new(removes_in: Option<&Path>) -> Result<Self, SandboxError> {
        let mut rules = Ruleset::default()
            .handle_access(AccessFs::from_all(NEWEST))?
            .handle_access(AccessNet::from_all(NEWEST))?
            .scope(Scope::from_all(NEWEST))?
            .create()?;
        let own = PathFd::new("/proc/self").ok();
        if let Some(own) = &own {
            rules = allow(rules, own, AccessFs::ReadFile.into())?;
        }
        if let Some(directory) = removes_in {
            let directory = PathFd::new(directory).map_err(|error| SandboxError::System {
                what: "open the directory of the control socket",
                source: io::Error::other(error),
            })?;
            rules = allow(rules, &directory, AccessFs::RemoveFile.into())?;
        }
        Ok(Self { rules, _own: own })
    }
}

fn allow(
    rules: RulesetCreated,
    directory: &PathFd,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, RulesetError> {
    rules.add_rule(PathBeneath::new(directory, access))
}

/// Gives up what the calling thread has, for itself and all threads that it starts. The version of Landlock's interface
/// that is in force, if any.
pub(super) fn give_up(files: &Files) -> Result<Option<u32>, SandboxError> {
    let from = |error: rustix::io::Errno| io::Error::from(error);
    set_no_new_privs(true).map_err(|error| system("rule new privileges out")(from(error)))?;
    // Without capabilities this fails on some kernels, and then there are none to clear.
    let _ = clear_ambient_capability_set();
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, none).map_err(|error| system("give up capabilities")(from(error)))?;
    let rules = files.rules.try_clone().map_err(system("close the file system"))?;
    Ok(match rules.restrict_self()?.landlock {
        LandlockStatus::Available { effective_abi, .. } => Some(effective_abi as u32),
        _ => None,
    })
}
