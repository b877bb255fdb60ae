//! Rights of the process: capabilities(7), and those that programs it starts could gain.

use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, remove_capability_from_bounding_set,
    set_capabilities, set_no_new_privs,
};

use super::error::{SandboxError, system};

/// Gives up all capabilities, and that any program could give them back. Its user can still look
/// at it from outside, as `lab` does at its memory.
pub(super) fn drop_privileges() -> Result<(), SandboxError> {
    set_no_new_privs(true).map_err(system("refuse new privileges"))?;
    drop_bounding_set()?;
    // Before Linux 4.3 there is no such set.
    match clear_ambient_capability_set() {
        Ok(()) | Err(Errno::INVAL) => {}
        Err(error) => return Err(system("give up ambient capabilities")(error)),
    }
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, none).map_err(system("give up capabilities"))
}

/// Only who has the capability to do so may; without it, the refusal of new privileges does the same.
fn drop_bounding_set() -> Result<(), SandboxError> {
    for number in 0..u64::BITS {
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            Ok(()) => {}
            // The kernel knows no more, or this user may not.
            Err(Errno::INVAL | Errno::PERM) => break,
            Err(error) => return Err(system("give up bounding capabilities")(error)),
        }
    }
    Ok(())
}
