//! KVM's own counters of a processor (Documentation/virt/kvm/api.rst, 4.133 KVM_GET_STATS_FD).
#![allow(unsafe_code)] // kvm-ioctls has no wrapper for this request

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::FromRawFd;
use std::os::unix::fs::FileExt;

use kvm_bindings::KVMIO;
use kvm_ioctls::VcpuFd;
use vmm_sys_util::ioctl::ioctl;
use vmm_sys_util::ioctl_io_nr;

ioctl_io_nr!(KVM_GET_STATS_FD, KVMIO, 0xce);

/// Octets of the header in front of everything: flags, name size, number, and three offsets.
const HEADER: usize = 24;
/// Octets of a descriptor without its name.
const DESCRIPTOR: usize = 16;
/// The most counters that are looked at, and the longest name.
const MOST: usize = 512;

/// The counters of one processor.
pub(super) struct Stats {
    file: File,
    /// Name, and offset of the value: those of exits and halts.
    counters: Vec<(String, u64)>,
}

impl Stats {
    /// `None` where KVM does not offer them (before Linux 5.14).
    pub(super) fn of(vcpu: &VcpuFd) -> Option<Self> {
        // SAFETY: the request takes no argument and touches no memory of this process.
        let fd = unsafe { ioctl(vcpu, KVM_GET_STATS_FD()) };
        // SAFETY: a result that is not negative is a new descriptor, which nothing else owns.
        let file = (fd >= 0).then(|| unsafe { File::from_raw_fd(fd) })?;
        let mut header = [0; HEADER];
        file.read_exact_at(&mut header, 0).ok()?;
        let [_, name, count, _, descriptors, data] = words(&header);
        let (name, count) = ((name as usize).clamp(1, MOST), (count as usize).min(MOST));
        let mut all = vec![0; count * (DESCRIPTOR + name)];
        file.read_exact_at(&mut all, descriptors.into()).ok()?;
        let counters = all
            .chunks_exact(DESCRIPTOR + name)
            .filter_map(|descriptor| counter(descriptor, data))
            .collect();
        Some(Self { file, counters })
    }

    /// The counters of exits and halts by their names.
    pub(super) fn read(&self) -> BTreeMap<String, u64> {
        let value = |(name, offset): &(String, u64)| {
            let mut octets = [0; 8];
            self.file.read_exact_at(&mut octets, *offset).ok()?;
            Some((name.clone(), u64::from_ne_bytes(octets)))
        };
        self.counters.iter().filter_map(value).collect()
    }
}

/// Name and place of a counter that has one value; histograms have more.
fn counter(descriptor: &[u8], data: u32) -> Option<(String, u64)> {
    let (fixed, name) = descriptor.split_at_checked(DESCRIPTOR)?;
    let [_, size, offset, _] = words(fixed);
    let name: Vec<u8> = name.iter().copied().take_while(|octet| *octet != 0).collect();
    let name = String::from_utf8(name).ok()?;
    // The number of values is the upper half of the word, the exponent of their unit the lower.
    let wanted = name.ends_with("exits") || name.starts_with("halt_") || name == "hypercalls";
    (size >> 16 == 1 && wanted).then(|| (name, u64::from(data) + u64::from(offset)))
}

/// The 32-bit words of a structure.
fn words<const N: usize>(octets: &[u8]) -> [u32; N] {
    let mut words = octets.chunks_exact(4).map(|word| {
        word.iter()
            .rev()
            .fold(0, |word, octet| word << 8 | u32::from(*octet))
    });
    std::array::from_fn(|_| words.next().unwrap_or(0))
}
