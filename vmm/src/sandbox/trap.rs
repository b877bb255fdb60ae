//! The end of a process that made a system call which its sandbox does not allow: a line that names the call.
#![allow(unsafe_code)] // a signal handler, which may only do what is safe in one: no allocation, no locks

use std::ffi::{c_int, c_void};

use libc::{siginfo_t, ucontext_t};
use syscalls::Sysno;
use vmm_sys_util::signal::register_signal_handler;

use super::KIND;
use super::error::{SandboxError, system};

/// The process's exit status after a forbidden call, as shells report a death by SIGSYS.
pub const EXIT_STATUS: i32 = 128 + libc::SIGSYS;

/// Octets of a thread's name with its final zero (prctl(2), PR_GET_NAME).
const NAME: usize = 16;

/// Has forbidden calls named from now on.
pub(super) fn install() -> Result<(), SandboxError> {
    register_signal_handler(libc::SIGSYS, forbidden).map_err(system("watch for forbidden system calls"))
}

extern "C" fn forbidden(_: c_int, _: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the handler is registered with SA_SIGINFO, so the kernel hands it a context that it keeps for the call.
    let registers = unsafe { &(*context.cast::<ucontext_t>()).uc_mcontext.gregs };
    let register = |index: c_int| registers.get(index as usize).copied().unwrap_or(0);
    // The kernel puts number and arguments back to where the call had them (seccomp(2), SECCOMP_RET_TRAP).
    let number = register(libc::REG_RAX);
    let arguments = [libc::REG_RDI, libc::REG_RSI, libc::REG_RDX, libc::REG_R10].map(register);
    let mut line = Line::default();
    describe(&mut line, number, arguments);
    // SAFETY: as many octets of a live array are written as there are; write(2) and _exit(2) are async-signal-safe.
    unsafe {
        libc::write(libc::STDERR_FILENO, line.octets.as_ptr().cast(), line.len);
        libc::_exit(EXIT_STATUS);
    }
}

fn describe(line: &mut Line, number: i64, arguments: [i64; 4]) {
    let mut name = [0_u8; NAME];
    // SAFETY: the call writes 16 octets at most to a live array of that size.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    line.add(b"enlight: thread ");
    line.add(name.split(|octet| *octet == 0).next().unwrap_or_default());
    if let Some(kind) = KIND.get() {
        line.add(b" (");
        line.add(kind.word().as_bytes());
        line.add(b")");
    }
    line.add(b" made the system call ");
    let known = usize::try_from(number).ok().and_then(Sysno::new);
    line.add(known.map_or("without a name", |call| call.name()).as_bytes());
    line.add(b" (");
    line.add_number(number.cast_unsigned(), 10);
    line.add(b") with");
    for argument in arguments {
        line.add(b" 0x");
        line.add_number(argument.cast_unsigned(), 16);
    }
    line.add(
        b", which its sandbox does not allow; this is a fault of enlight, or of a guest that broke out; ",
    );
    line.add(b"--no-sandbox goes without the sandbox\n");
}

/// Text that is put together without an allocation. What does not fit is left out.
struct Line {
    octets: [u8; 512],
    len: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            octets: [0; 512],
            len: 0,
        }
    }
}

impl Line {
    fn add(&mut self, text: &[u8]) {
        for (place, octet) in self.octets.iter_mut().skip(self.len).zip(text) {
            *place = *octet;
            self.len += 1;
        }
    }

    fn add_number(&mut self, mut number: u64, base: u64) {
        let mut digits = [0_u8; 20];
        let mut first = digits.len();
        for place in digits.iter_mut().rev() {
            *place = *b"0123456789abcdef".get((number % base) as usize).unwrap_or(&b'?');
            number /= base;
            first -= 1;
            if number == 0 {
                break;
            }
        }
        self.add(digits.get(first..).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_named_in_one_line() {
        let mut line = Line::default();
        describe(&mut line, libc::SYS_socket, [2, 1, 0, -1]);
        let text = String::from_utf8_lossy(&line.octets[..line.len]).into_owned();
        let call = "made the system call socket (41) with 0x2 0x1 0x0 0xffffffffffffffff, which";
        assert!(
            text.contains(call) && text.ends_with("--no-sandbox goes without the sandbox\n"),
            "{text}"
        );
        let mut line = Line::default();
        describe(&mut line, 5000, [0; 4]);
        let text = String::from_utf8_lossy(&line.octets[..line.len]).into_owned();
        assert!(text.contains("without a name (5000)"), "{text}");
    }

    #[test]
    fn a_line_has_an_end() {
        let mut line = Line::default();
        line.add(&[b'x'; 1000]);
        line.add_number(u64::MAX, 10);
        assert_eq!(line.len, 512);
    }
}
