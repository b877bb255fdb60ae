//! The program that hands an interface's frames to AF_XDP sockets: bpf(2), loaded and attached without a library.
//!
//! It is five instructions long and needs no compiler. It is attached by a BPF link, which goes with its last descriptor:
//! so the program leaves the interface when the port is closed, and also when the process dies.
//!
//! `unsafe` is for bpf(2), which takes C structures with addresses in them.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// `enum bpf_cmd` (linux/bpf.h).
mod command {
    pub(super) const MAP_CREATE: u32 = 0;
    pub(super) const MAP_UPDATE: u32 = 2;
    pub(super) const PROG_LOAD: u32 = 5;
    pub(super) const LINK_CREATE: u32 = 28;
}

/// `BPF_MAP_TYPE_XSKMAP`.
const SOCKET_MAP: u32 = 17;
/// `BPF_PROG_TYPE_XDP`.
const XDP_PROGRAM: u32 = 6;
/// `BPF_XDP`.
const ATTACH_XDP: u32 = 37;
/// `XDP_FLAGS_SKB_MODE` and `XDP_FLAGS_DRV_MODE` (linux/if_link.h).
const GENERIC: u32 = 1 << 1;
const NATIVE: u32 = 1 << 2;
/// Not a license of the GPL's kind; none of the helpers in use asks for one.
const LICENSE: &[u8] = b"Apache-2.0 OR MIT\0";

/// The program on an interface. Dropping it takes it off.
pub(super) struct Redirect {
    sockets: OwnedFd,
    _link: OwnedFd,
    native: bool,
}

/// `struct bpf_insn`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
struct Instruction {
    code: u8,
    /// Destination in the low half, source in the high one.
    registers: u8,
    offset: i16,
    immediate: i32,
}

#[repr(C)]
struct MapCreate {
    kind: u32,
    key_size: u32,
    value_size: u32,
    entries: u32,
}

#[repr(C)]
struct MapUpdate {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct ProgramLoad {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log: [u32; 4],
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach: u32,
}

#[repr(C)]
struct LinkCreate {
    program: u32,
    interface: u32,
    attach: u32,
    flags: u32,
}

impl Redirect {
    /// Puts the program on an interface with so many receive queues: in its driver if that can do it, else, and only
    /// `generic` asks for that, behind it.
    pub(super) fn attach(interface: u32, queues: u32, generic: bool) -> io::Result<Self> {
        let create = MapCreate {
            kind: SOCKET_MAP,
            key_size: size_of::<u32>() as u32,
            value_size: size_of::<u32>() as u32,
            entries: queues,
        };
        let sockets = make(command::MAP_CREATE, &create)?;
        let program = load(&sockets)?;
        let link = |flags| {
            let create = LinkCreate {
                program: program.as_raw_fd().cast_unsigned(),
                interface,
                attach: ATTACH_XDP,
                flags,
            };
            make(command::LINK_CREATE, &create)
        };
        let (link, native) = match link(NATIVE) {
            Ok(link) => (link, true),
            Err(error) if generic && error.raw_os_error() != Some(libc::EBUSY) => (link(GENERIC)?, false),
            Err(error) => return Err(error),
        };
        Ok(Self {
            sockets,
            _link: link,
            native,
        })
    }

    /// Whether it runs in the interface's driver.
    pub(super) fn is_native(&self) -> bool {
        self.native
    }

    /// Hands the frames of a queue to a socket from now on.
    pub(super) fn insert(&self, queue: u32, socket: RawFd) -> io::Result<()> {
        let value = socket.cast_unsigned();
        let update = MapUpdate {
            map: self.sockets.as_raw_fd().cast_unsigned(),
            padding: 0,
            key: (&raw const queue) as u64,
            value: (&raw const value) as u64,
            flags: 0,
        };
        call(command::MAP_UPDATE, &update).map(drop)
    }
}

/// What the program does: `return bpf_redirect_map(&sockets, ctx->rx_queue_index, XDP_PASS)`.
fn instructions(sockets: RawFd) -> [Instruction; 6] {
    /// Where `rx_queue_index` stands in `struct xdp_md`.
    const QUEUE_INDEX: i16 = 16;
    /// `XDP_PASS`: a queue without a socket belongs to the host's stack.
    const PASS: i32 = 2;
    /// `bpf_redirect_map`.
    const REDIRECT: i32 = 51;
    let instruction = |code, registers, offset, immediate| Instruction {
        code,
        registers,
        offset,
        immediate,
    };
    [
        // r2 = *(u32 *)(r1 + 16)
        instruction(0x61, 0x12, QUEUE_INDEX, 0),
        // r1 = the map of this descriptor, an instruction of double length
        instruction(0x18, 0x11, 0, sockets),
        instruction(0, 0, 0, 0),
        // r3 = XDP_PASS
        instruction(0xb7, 0x03, 0, PASS),
        instruction(0x85, 0, 0, REDIRECT),
        // return r0
        instruction(0x95, 0, 0, 0),
    ]
}

fn load(sockets: &OwnedFd) -> io::Result<OwnedFd> {
    let instructions = instructions(sockets.as_raw_fd());
    let mut name = [0; 16];
    name[..7].copy_from_slice(b"enlight");
    let load = ProgramLoad {
        kind: XDP_PROGRAM,
        count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: LICENSE.as_ptr() as u64,
        log: [0; 4],
        kernel_version: 0,
        flags: 0,
        name,
        interface: 0,
        attach: ATTACH_XDP,
    };
    make(command::PROG_LOAD, &load)
}

/// A command whose answer is a new descriptor.
fn make<T>(command: u32, attributes: &T) -> io::Result<OwnedFd> {
    let fd = call(command, attributes)?;
    // SAFETY: the three commands that this is called with answer with a descriptor that was just made, close-on-exec, and
    // that nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn call<T>(command: u32, attributes: &T) -> io::Result<RawFd> {
    // SAFETY: the kernel reads `size_of::<T>()` octets, which are the leading members of `union bpf_attr` for this
    // command; addresses in them lead to values that live in the caller's frame until it returns.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            libc::c_long::from(command),
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    match RawFd::try_from(result) {
        Ok(fd @ 0..) => Ok(fd),
        _ => Err(io::Error::last_os_error()),
    }
}
