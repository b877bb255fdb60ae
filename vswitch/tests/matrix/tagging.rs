//! An interface whose frames all have one VLAN tag: two programs of the kernel's (bpf(2)) put it in on the way out and take
//! it out on the way in. So the kernel's large sends and partial checksums are tagged as a NIC's are, and the kernel
//! need not have VLAN interfaces.
//!
//! `unsafe` is for bpf(2), which the standard library does not have.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Commands, a program's type and its places (linux/bpf.h).
const PROG_LOAD: libc::c_long = 5;
const LINK_CREATE: libc::c_long = 28;
const SCHED_CLS: u32 = 3;
const TCX_INGRESS: u32 = 46;
const TCX_EGRESS: u32 = 47;

/// `bpf_skb_vlan_push` and `bpf_skb_vlan_pop`; the frame is their first argument and the programs' own.
const VLAN_PUSH: i32 = 18;
const VLAN_POP: i32 = 19;

/// Both programs at work, for as long as this lives.
pub(crate) struct Tagging(#[allow(dead_code, reason = "held for what it keeps up")] [OwnedFd; 2]);

impl Tagging {
    /// Tags an interface of the calling thread's namespace.
    pub(crate) fn start(interface: &str, vlan: u16) -> io::Result<Self> {
        let name = std::ffi::CString::new(interface)?;
        // SAFETY: a C string that lives through the call.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        let tpid = i32::from(0x8100_u16.to_be());
        let egress = [
            assign(2, tpid),
            assign(3, vlan.into()),
            call(VLAN_PUSH),
            assign(0, 0),
            END,
        ];
        let ingress = [call(VLAN_POP), assign(0, 0), END];
        Ok(Self([
            attach(&load(&egress)?, index, TCX_EGRESS)?,
            attach(&load(&ingress)?, index, TCX_INGRESS)?,
        ]))
    }
}

const END: u64 = 0x95;

/// `register = value`.
const fn assign(register: u8, value: i32) -> u64 {
    0xb7 | (register as u64) << 8 | (value as u32 as u64) << 32
}

const fn call(helper: i32) -> u64 {
    0x85 | (helper as u64) << 32
}

fn load(program: &[u64]) -> io::Result<OwnedFd> {
    let license = c"GPL";
    let mut attributes = [0_u64; 16];
    attributes[0] = u64::from(SCHED_CLS) | (program.len() as u64) << 32;
    attributes[1] = program.as_ptr().expose_provenance() as u64;
    attributes[2] = license.as_ptr().expose_provenance() as u64;
    bpf(PROG_LOAD, &attributes)
}

fn attach(program: &OwnedFd, index: u32, place: u32) -> io::Result<OwnedFd> {
    let mut attributes = [0_u64; 16];
    attributes[0] = program.as_raw_fd() as u64 | u64::from(index) << 32;
    attributes[1] = place.into();
    bpf(LINK_CREATE, &attributes)
}

fn bpf(command: libc::c_long, attributes: &[u64; 16]) -> io::Result<OwnedFd> {
    let len = size_of_val(attributes);
    // SAFETY: the kernel reads as many octets of attributes as it is told, and through the pointers in them a program of the
    // length given and a C string, all of which live through the call; a result that is no error is a descriptor of ours.
    unsafe {
        let result = libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), len);
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(result as libc::c_int))
    }
}
