//! A forbidden system call: named on standard error, and the end of the process.
#![allow(unsafe_code)] // a signal handler reads what the kernel hands it, and may only call what is safe in one

use std::cell::Cell;
use std::io;

use libc::{c_int, c_uint, c_void, siginfo_t};
use syscalls::Sysno;
use vmm_sys_util::signal::register_signal_handler;

use super::ThreadKind;

/// The exit status after a forbidden call: 128 and the number of SIGSYS, as a shell would tell it.
pub(super) const STATUS: c_int = 159;

/// `si_code` of a signal that a filter caused (asm-generic/siginfo.h).
const SYS_SECCOMP: c_int = 1;

thread_local! {
    static KIND: Cell<ThreadKind> = const { Cell::new(ThreadKind::Main) };
}

/// The part of the kernel's `siginfo_t` that belongs to SIGSYS (asm-generic/siginfo.h, `_sigsys`).
#[repr(C)]
struct ForbiddenCall {
    signal: c_int,
    error: c_int,
    code: c_int,
    padding: c_int,
    address: *mut c_void,
    number: c_int,
    architecture: c_uint,
}

/// Has forbidden calls told, from now on, in all threads.
pub(super) fn install() -> io::Result<()> {
    Ok(register_signal_handler(libc::SIGSYS, tell)?)
}

/// What the calling thread is called when it makes a forbidden call.
pub(super) fn this_thread_is(kind: ThreadKind) {
    KIND.set(kind);
}

extern "C" fn tell(_: c_int, info: *mut siginfo_t, _: *mut c_void) {
    // SAFETY: the handler was registered with SA_SIGINFO, so the kernel passes a whole siginfo_t, which is larger than the
    // structure and laid out as that says for this signal.
    let call = unsafe { &*info.cast::<ForbiddenCall>() };
    let mut line = Line::default();
    line.add("enlight: ");
    if call.code == SYS_SECCOMP {
        line.add("the sandbox of the ");
        line.add(KIND.get().name());
        line.add(" thread does not allow the system call ");
        line.add(
            usize::try_from(call.number)
                .ok()
                .and_then(Sysno::new)
                .map_or("unknown", |call| call.name()),
        );
        line.add(" (number ");
        line.add_number(call.number.unsigned_abs());
        line.add("); if no guest is at fault, enlight is: please report it, --no-sandbox goes without\n");
    } else {
        line.add("somebody sent SIGSYS\n");
    }
    // SAFETY: the octets are the initialised part of a live array; write(2) and _exit(2) are async-signal-safe.
    unsafe {
        libc::write(2, line.octets.as_ptr().cast(), line.length);
        libc::_exit(STATUS);
    }
}

/// A line made without an allocator. What does not fit is left out.
struct Line {
    octets: [u8; 256],
    length: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            octets: [0; 256],
            length: 0,
        }
    }
}

impl Line {
    fn add(&mut self, text: &str) {
        for octet in text.bytes() {
            if let Some(place) = self.octets.get_mut(self.length) {
                *place = octet;
                self.length += 1;
            }
        }
    }

    fn add_number(&mut self, number: u32) {
        let mut divisor = 1_000_000_000;
        let mut begun = false;
        while divisor > 0 {
            let digit = (number / divisor % 10) as usize;
            begun |= digit > 0 || divisor == 1;
            if begun {
                self.add("0123456789".get(digit..=digit).unwrap_or("?"));
            }
            divisor /= 10;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_made_without_an_allocator() {
        let mut line = Line::default();
        for number in [0, 7, 10, 4_294_967_295] {
            line.add_number(number);
            line.add(" ");
        }
        assert_eq!(&line.octets[..line.length], b"0 7 10 4294967295 ");
        line.add(&"x".repeat(1000));
        assert_eq!(line.length, line.octets.len());
    }
}
