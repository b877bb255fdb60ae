//! Getting a thread out of the guest.
#![allow(unsafe_code)] // a signal handler writes to the memory that the thread shares with KVM

use std::cell::Cell;
use std::io;
use std::ptr;

use kvm_ioctls::VcpuFd;
use libc::{c_int, c_void, siginfo_t};
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

thread_local! {
    /// `kvm_run.immediate_exit` of the processor that this thread runs; null while it runs none.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
}

/// The signal that makes a thread leave the guest.
pub(super) fn signal() -> c_int {
    SIGRTMIN()
}

/// Lets [`signal`] end a guest's run instead of the process. Once per process is enough, more does no harm.
pub(super) fn install() -> io::Result<()> {
    Ok(register_signal_handler(signal(), leave_guest)?)
}

/// While it exists, a [`signal`] to this thread makes the current or, if none is under way, the next run of the
/// processor return at once.
pub(super) struct Kickable(());

impl Kickable {
    /// The caller keeps `vcpu` at least as long as the result, on this thread.
    pub(super) fn new(vcpu: &mut VcpuFd) -> Self {
        IMMEDIATE_EXIT.set(&raw mut vcpu.get_kvm_run().immediate_exit);
        Self(())
    }
}

impl Drop for Kickable {
    fn drop(&mut self) {
        IMMEDIATE_EXIT.set(ptr::null_mut());
    }
}

extern "C" fn leave_guest(_: c_int, _: *mut siginfo_t, _: *mut c_void) {
    let immediate_exit = IMMEDIATE_EXIT.get();
    if !immediate_exit.is_null() {
        // SAFETY: the pointer is set only between the making and the dropping of a `Kickable` on this thread, while
        // the processor's mapping of `kvm_run` lives; the kernel reads the octet at any time by design.
        unsafe { immediate_exit.write_volatile(1) };
    }
}
