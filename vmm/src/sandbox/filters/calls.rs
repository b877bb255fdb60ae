//! The system calls of each kind of thread. docs/sandbox.md says why.

use syscalls::Sysno;

/// A call that is allowed when all checks hold. Several entries of one call are alternatives.
pub(super) struct Allow {
    pub(super) call: Sysno,
    pub(super) checks: &'static [Check],
}

/// What an argument, counted from 0, has to be.
pub(super) struct Check {
    pub(super) argument: u8,
    pub(super) is: Is,
}

pub(super) enum Is {
    /// This value in its lower 32 bits, which is what the kernel looks at where this is used.
    Equal(u32),
    /// None of these bits.
    Without(u32),
    /// The number of this process.
    OwnProcess,
    /// No address.
    Null,
}

const fn any(call: Sysno) -> Allow {
    Allow { call, checks: &[] }
}

const fn when(call: Sysno, checks: &'static [Check]) -> Allow {
    Allow { call, checks }
}

const fn equal(argument: u8, value: i32) -> Check {
    Check {
        argument,
        is: Is::Equal(value as u32),
    }
}

const NOT_EXECUTABLE: Check = Check {
    argument: 2,
    is: Is::Without(libc::PROT_EXEC as u32),
};
const OWN_PROCESS: Check = Check {
    argument: 0,
    is: Is::OwnProcess,
};
/// What the GNU C library starts threads with; musl adds a flag that Linux ignores.
const NEW_THREAD: i32 = libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID;

/// Memory, time, locks, output, and the way to an end, orderly or not: any thread.
pub(super) const ALL: &[Allow] = &[
    any(Sysno::read),
    any(Sysno::write),
    any(Sysno::writev),
    any(Sysno::close),
    // The standard library, when it is built to check itself, before it closes one.
    when(Sysno::fcntl, &[equal(1, libc::F_GETFD)]),
    any(Sysno::futex),
    when(Sysno::mmap, &[NOT_EXECUTABLE]),
    when(Sysno::mprotect, &[NOT_EXECUTABLE]),
    any(Sysno::munmap),
    any(Sysno::mremap),
    any(Sysno::brk),
    any(Sysno::madvise),
    any(Sysno::rt_sigaction),
    any(Sysno::rt_sigprocmask),
    any(Sysno::rt_sigreturn),
    any(Sysno::sigaltstack),
    any(Sysno::restart_syscall),
    any(Sysno::clock_gettime),
    any(Sysno::clock_nanosleep),
    any(Sysno::nanosleep),
    any(Sysno::gettimeofday),
    any(Sysno::time),
    any(Sysno::getpid),
    any(Sysno::gettid),
    when(Sysno::tgkill, &[OWN_PROCESS]),
    any(Sysno::sched_yield),
    any(Sysno::sched_getaffinity),
    any(Sysno::getcpu),
    any(Sysno::getrandom),
    when(Sysno::prctl, &[equal(0, libc::PR_GET_NAME)]),
    any(Sysno::exit),
    any(Sysno::exit_group),
];

/// Starting a thread, and what that one does before and for its own filter.
pub(super) const THREADS: &[Allow] = &[
    when(Sysno::clone, &[equal(0, NEW_THREAD)]),
    when(Sysno::clone, &[equal(0, NEW_THREAD | libc::CLONE_DETACHED)]),
    // Refused with ENOSYS for the whole process, because its flags cannot be checked: the C library takes `clone` then.
    any(Sysno::clone3),
    any(Sysno::set_robust_list),
    any(Sysno::rseq),
    when(Sysno::prctl, &[equal(0, libc::PR_SET_NAME)]),
    when(Sysno::prctl, &[equal(0, libc::PR_SET_NO_NEW_PRIVS)]),
    when(
        Sysno::seccomp,
        &[equal(0, libc::SECCOMP_SET_MODE_FILTER.cast_signed())],
    ),
];

/// Messages to a switch that is connected, with descriptors in them.
pub(super) const MESSAGES: &[Allow] = &[any(Sysno::sendmsg), any(Sysno::recvmsg)];

/// Octets from and to a socket that is connected: a client, a console, a switch.
pub(super) const STREAMS: &[Allow] = &[
    when(
        Sysno::sendto,
        &[Check {
            argument: 4,
            is: Is::Null,
        }],
    ),
    any(Sysno::recvfrom),
    any(Sysno::shutdown),
    when(Sysno::fcntl, &[equal(1, libc::F_DUPFD_CLOEXEC)]),
];

/// Waiting for many things.
pub(super) const WAITING: &[Allow] = &[
    any(Sysno::epoll_wait),
    any(Sysno::epoll_pwait),
    any(Sysno::epoll_ctl),
];

/// Something new to wait with.
pub(super) const NEW_WAITING: &[Allow] = &[any(Sysno::epoll_create1)];

/// Timers of consoles.
pub(super) const TIMERS: &[Allow] = &[any(Sysno::timerfd_settime)];

/// Looking at this process's own account, and removing its socket.
pub(super) const REPORTS: &[Allow] = &[
    when(Sysno::openat, &[equal(2, libc::O_RDONLY | libc::O_CLOEXEC)]),
    any(Sysno::statx),
    any(Sysno::newfstatat),
    any(Sysno::stat),
    any(Sysno::lstat),
    any(Sysno::fstat),
    any(Sysno::pread64),
    // The standard library, before it reads a file to its end.
    any(Sysno::lseek),
    any(Sysno::unlink),
];

/// Finding a switch again.
pub(super) const CONNECTING: &[Allow] = &[
    when(Sysno::socket, &[equal(0, libc::AF_UNIX)]),
    any(Sysno::connect),
];

/// Making a machine anew from what has been opened before.
pub(super) const MAKE: &[Allow] = &[
    any(Sysno::memfd_create),
    any(Sysno::ftruncate),
    when(Sysno::fcntl, &[equal(1, libc::F_ADD_SEALS)]),
    any(Sysno::sysinfo),
    any(Sysno::eventfd2),
    any(Sysno::timerfd_create),
];

/// An image's file.
pub(super) const IMAGE: &[Allow] = &[
    any(Sysno::pread64),
    any(Sysno::pwrite64),
    any(Sysno::preadv),
    any(Sysno::pwritev),
    any(Sysno::fdatasync),
    any(Sysno::fsync),
    any(Sysno::fallocate),
    any(Sysno::ftruncate),
    any(Sysno::lseek),
    any(Sysno::fstat),
];

/// Looking at an open file: the lookup of a path is told from it by the flag.
pub(super) const LOOK_AT_OPEN: &[Allow] = &[
    when(Sysno::statx, &[equal(2, libc::AT_EMPTY_PATH)]),
    when(Sysno::newfstatat, &[equal(3, libc::AT_EMPTY_PATH)]),
];

/// Clients of the machine's socket.
pub(super) const CLIENTS: &[Allow] = &[any(Sysno::accept4)];

/// The end of a conversation whose time is over.
pub(super) const SHUTDOWN: &[Allow] = &[any(Sysno::shutdown)];
