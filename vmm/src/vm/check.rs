//! What is wrong with a machine's description, before anything is made of it.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};

use crate::boot;
use crate::config::{DiskConfig, MAX_DISKS, MAX_NICS, MAX_QUEUE_PAIRS, NicConfig, VmConfig};
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
    check_disks(&config.disks)?;
    config.nics.iter().try_for_each(check_nic)
}

/// A file is one disk of a machine, unless all that use it only read. Whether it can be used at all is found out later.
fn check_disks(disks: &[DiskConfig]) -> Result<(), VmError> {
    let mut seen: Vec<((u64, u64), &DiskConfig)> = Vec::new();
    for disk in disks {
        let Ok(file) = std::fs::metadata(&disk.path) else {
            continue;
        };
        let identity = if file.file_type().is_block_device() {
            (u64::MAX, file.rdev())
        } else {
            (file.dev(), file.ino())
        };
        let twice = seen
            .iter()
            .any(|(other, known)| *other == identity && !(known.read_only && disk.read_only));
        if twice {
            return refuse(format!(
                "disk {} is given twice; give each file once, or only read-only (ro)",
                disk.path.display()
            ));
        }
        seen.push((identity, disk));
    }
    Ok(())
}

fn check_nic(nic: &NicConfig) -> Result<(), VmError> {
    if !(1..=MAX_QUEUE_PAIRS).contains(&nic.queue_pairs) {
        return refuse(format!(
            "queues={} is not between 1 and {MAX_QUEUE_PAIRS}",
            nic.queue_pairs
        ));
    }
    if nic.packed && nic.queue_pairs > 1 {
        return refuse(format!(
            "packed=on with queues={}: packed rings come with one queue pair; leave one of the two out",
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
