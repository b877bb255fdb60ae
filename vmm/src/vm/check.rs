//! What is wrong with a machine's description, before anything is made of it.

use crate::boot;
use crate::config::{MAX_DISKS, MAX_NICS, MAX_QUEUE_PAIRS, NicConfig, VmConfig};
use crate::error::VmError;
use crate::layout::MAX_VCPUS;

/// Refuses descriptions that no machine can be made of.
pub(super) fn check(config: &VmConfig) -> Result<(), VmError> {
    boot::check_cmdline(&config.cmdline)?;
    if !(1..=MAX_VCPUS).contains(&config.vcpus) {
        return refuse(format!(
            "{} virtual processors are not between 1 and {MAX_VCPUS}",
            config.vcpus
        ));
    }
    if config.nics.len() > MAX_NICS {
        return refuse(format!(
            "{} interfaces are too many; {MAX_NICS} fit",
            config.nics.len()
        ));
    }
    if config.disks.len() > MAX_DISKS {
        return refuse(format!(
            "{} disks are too many; {MAX_DISKS} fit",
            config.disks.len()
        ));
    }
    config.nics.iter().try_for_each(check_nic)
}

fn check_nic(nic: &NicConfig) -> Result<(), VmError> {
    if !(1..=MAX_QUEUE_PAIRS).contains(&nic.queue_pairs) {
        return refuse(format!(
            "queues={} is not between 1 and {MAX_QUEUE_PAIRS}",
            nic.queue_pairs
        ));
    }
    if nic.mac.is_multicast() {
        return refuse(format!(
            "{} is a multicast address; clear the lowest bit of its first octet",
            nic.mac
        ));
    }
    if nic.mtu < 68 {
        return refuse(format!(
            "an MTU of {} is below 68, the least that IPv4 allows",
            nic.mtu
        ));
    }
    Ok(())
}

fn refuse(reason: String) -> Result<(), VmError> {
    Err(VmError::Config(reason))
}
