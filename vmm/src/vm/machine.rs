//! The KVM machine itself: memory slots, interrupt controllers, a timer.

use std::io;

use kvm_bindings::{KVM_PIT_SPEAKER_DUMMY, kvm_pit_config, kvm_userspace_memory_region};
use kvm_ioctls::{Cap, Kvm, VmFd};
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use crate::error::{VmError, kvm};
use crate::layout::KVM_TSS;
use crate::memory::GuestRam;

/// What KVM must be able to do.
const CAPABILITIES: [(Cap, &str); 6] = [
    (Cap::UserMemory, "map guest memory"),
    (Cap::Irqchip, "emulate interrupt controllers"),
    (Cap::IrqRouting, "route interrupts"),
    (Cap::Irqfd, "raise interrupts from eventfds"),
    (Cap::Ioeventfd, "signal eventfds from the guest"),
    (Cap::Pit2, "emulate the timer"),
];

pub(super) fn open_kvm() -> Result<Kvm, VmError> {
    let kvm_fd = Kvm::new().map_err(|error| VmError::NoKvm(error.into()))?;
    for (capability, what) in CAPABILITIES {
        if !kvm_fd.check_extension(capability) {
            return Err(VmError::Kvm {
                what,
                source: io::ErrorKind::Unsupported.into(),
            });
        }
    }
    Ok(kvm_fd)
}

/// A KVM machine with the memory mapped, interrupt controllers and a timer, but no processors.
pub(super) fn create_vm(kvm_fd: &Kvm, ram: &GuestRam) -> Result<VmFd, VmError> {
    let vm = kvm_fd.create_vm().map_err(kvm("create a machine"))?;
    for (region, slot) in ram.iter().zip(0..) {
        map_region(
            &vm,
            kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: region.start_addr().0,
                memory_size: region.len(),
                userspace_addr: region.as_ptr() as u64,
            },
        )?;
    }
    vm.set_tss_address(KVM_TSS as usize)
        .map_err(kvm("place its task state"))?;
    vm.create_irq_chip()
        .map_err(kvm("create interrupt controllers"))?;
    let pit = kvm_pit_config {
        flags: KVM_PIT_SPEAKER_DUMMY,
        ..Default::default()
    };
    vm.create_pit2(pit).map_err(kvm("create a timer"))?;
    Ok(vm)
}

#[allow(unsafe_code)] // handing memory to KVM is the one unsafe call of this module
fn map_region(vm: &VmFd, region: kvm_userspace_memory_region) -> Result<(), VmError> {
    // SAFETY: the region is a whole mapping of `GuestRam`. `Board` keeps the mapping until after the machine and its
    // processors are gone, and Rust code only touches it through volatile accesses.
    unsafe { vm.set_user_memory_region(region) }.map_err(kvm("map guest memory"))
}
