//! Which kind of thread makes which system calls. `docs/sandbox.md` gives the reasons in prose.
//!
//! A thread that starts others needs what they need, since filters only add up.

use libc as c;

use super::ThreadKind;

/// A system call, and when it is allowed.
#[derive(Debug)]
pub(super) struct Call {
    /// Its number.
    pub(super) number: i64,
    /// When.
    pub(super) when: When,
}

/// Conditions on a call's arguments, which count from 0. Of an argument, the lower 32 bits count.
#[derive(Debug)]
pub(super) enum When {
    Always,
    /// The argument is one of these.
    OneOf(u8, &'static [u32]),
    /// The argument has none of these bits.
    Without(u8, u32),
    /// An ioctl of one of these types and numbers: the request's lower 16 bits. Size and direction are the kernel's to
    /// check.
    Requests(&'static [u16]),
    /// The first argument is this process.
    OwnProcess,
}

const fn always(number: i64) -> Call {
    Call {
        number,
        when: When::Always,
    }
}

const fn on(number: i64, when: When) -> Call {
    Call { number, when }
}

/// All calls of a kind of thread.
pub(super) fn of(kind: ThreadKind) -> impl Iterator<Item = &'static Call> {
    let groups: &[&[Call]] = match kind {
        ThreadKind::Main => &[
            &BASE,
            &LOOK_UP,
            &START,
            &POLL,
            &SOCKETS,
            &NEW_SOCKETS,
            &DEVICES,
            &KVM_RUNS,
            &MAIN,
        ],
        ThreadKind::Vcpu => &[&BASE, &LOOK_UP, &START, &SOCKETS, &DEVICES, &KVM_RUNS],
        ThreadKind::Disk => &[&BASE, &LOOK_UP, &POLL, &DISK],
        ThreadKind::Control => &[&BASE, &LOOK_UP, &POLL, &SOCKETS, &CLIENTS],
    };
    groups.iter().flat_map(|group| group.iter())
}

/// Memory, locks, time, messages and the end, which every thread needs. No memory becomes executable.
const BASE: [Call; 43] = [
    always(c::SYS_read),
    always(c::SYS_readv),
    always(c::SYS_write),
    always(c::SYS_writev),
    always(c::SYS_close),
    always(c::SYS_fstat),
    always(c::SYS_lseek),
    on(
        c::SYS_fcntl,
        When::OneOf(
            1,
            &[
                c::F_DUPFD_CLOEXEC as u32,
                c::F_GETFD as u32,
                c::F_SETFD as u32,
                c::F_GETFL as u32,
                c::F_SETFL as u32,
            ],
        ),
    ),
    on(c::SYS_mmap, When::Without(2, c::PROT_EXEC as u32)),
    on(c::SYS_mprotect, When::Without(2, c::PROT_EXEC as u32)),
    always(c::SYS_munmap),
    always(c::SYS_mremap),
    always(c::SYS_madvise),
    always(c::SYS_brk),
    always(c::SYS_futex),
    always(c::SYS_sched_yield),
    always(c::SYS_sched_getaffinity),
    always(c::SYS_set_robust_list),
    always(c::SYS_rseq),
    always(c::SYS_membarrier),
    always(c::SYS_clock_gettime),
    always(c::SYS_clock_getres),
    always(c::SYS_gettimeofday),
    always(c::SYS_clock_nanosleep),
    always(c::SYS_nanosleep),
    always(c::SYS_restart_syscall),
    always(c::SYS_getrandom),
    always(c::SYS_getpid),
    always(c::SYS_gettid),
    always(c::SYS_sigaltstack),
    always(c::SYS_rt_sigaction),
    always(c::SYS_rt_sigprocmask),
    always(c::SYS_rt_sigreturn),
    on(c::SYS_tgkill, When::OwnProcess),
    on(
        c::SYS_ioctl,
        When::Requests(&[c::FIONBIO as u16, c::FIONREAD as u16, c::TCGETS as u16]),
    ),
    on(
        c::SYS_prctl,
        When::OneOf(
            0,
            &[
                c::PR_SET_NAME as u32,
                c::PR_GET_NAME as u32,
                c::PR_SET_NO_NEW_PRIVS as u32,
                // The allocator names its memory where the kernel can.
                c::PR_SET_VMA as u32,
            ],
        ),
    ),
    on(
        c::SYS_eventfd2,
        When::Without(1, !(c::EFD_CLOEXEC | c::EFD_NONBLOCK) as u32),
    ),
    always(c::SYS_getuid),
    always(c::SYS_geteuid),
    always(c::SYS_getgid),
    always(c::SYS_getegid),
    always(c::SYS_exit),
    always(c::SYS_exit_group),
];

/// Threads: of processors and of deadlines, each with a filter on top.
const START: [Call; 4] = [
    // Flags of clone3 are in memory, where no filter sees them; its caller falls back to clone if it is refused.
    always(c::SYS_clone3),
    on(
        c::SYS_clone,
        When::Without(
            0,
            (c::CLONE_NEWUSER | c::CLONE_NEWNS | c::CLONE_NEWNET | c::CLONE_NEWPID) as u32,
        ),
    ),
    on(c::SYS_seccomp, When::OneOf(0, &[c::SECCOMP_SET_MODE_FILTER])),
    always(c::SYS_dup),
];

/// Waiting for descriptors.
const POLL: [Call; 8] = [
    always(c::SYS_epoll_create1),
    always(c::SYS_epoll_ctl),
    always(c::SYS_epoll_wait),
    always(c::SYS_epoll_pwait),
    always(c::SYS_poll),
    always(c::SYS_ppoll),
    always(c::SYS_pread64),
    always(c::SYS_pwrite64),
];

/// Talking through sockets that exist: with switches, with clients.
const SOCKETS: [Call; 7] = [
    always(c::SYS_sendmsg),
    always(c::SYS_recvmsg),
    always(c::SYS_sendto),
    always(c::SYS_recvfrom),
    always(c::SYS_shutdown),
    always(c::SYS_getsockopt),
    always(c::SYS_setsockopt),
];

/// Finding a switch again.
const NEW_SOCKETS: [Call; 3] = [
    on(c::SYS_socket, When::OneOf(0, &[c::AF_UNIX as u32])),
    on(c::SYS_socketpair, When::OneOf(0, &[c::AF_UNIX as u32])),
    always(c::SYS_connect),
];

/// Clients of the control socket.
const CLIENTS: [Call; 2] = [always(c::SYS_accept4), always(c::SYS_getpeername)];

/// What devices do for a guest: timers, wires.
const DEVICES: [Call; 2] = [
    always(c::SYS_timerfd_settime),
    on(
        c::SYS_ioctl,
        When::Requests(&[
            kvm(0x61), // KVM_IRQ_LINE
            kvm(0x67), // KVM_IRQ_LINE_STATUS
            kvm(0x6a), // KVM_SET_GSI_ROUTING
            kvm(0x76), // KVM_IRQFD
            kvm(0x79), // KVM_IOEVENTFD
        ]),
    ),
];

/// Running a processor.
const KVM_RUNS: [Call; 1] = [on(
    c::SYS_ioctl,
    When::Requests(&[
        kvm(0x80), // KVM_RUN
        kvm(0x81), // KVM_GET_REGS
        kvm(0xad), // KVM_KVMCLOCK_CTRL
        kvm(0xce), // KVM_GET_STATS_FD
    ]),
)];

/// Looking files up by their names without changing them. The main thread reads its account in `/proc`, and Landlock keeps all
/// other files away; in other threads these calls [fail](REFUSED). They happen there when a panic wants to tell where it was.
const LOOK_UP: [Call; 5] = [
    on(
        c::SYS_openat,
        When::Without(2, (c::O_WRONLY | c::O_RDWR | c::O_CREAT | c::O_TRUNC) as u32),
    ),
    always(c::SYS_statx),
    always(c::SYS_newfstatat),
    always(c::SYS_readlink),
    always(c::SYS_getcwd),
];

/// Calls that fail in all threads but the main one, instead of ending the process.
pub(super) const REFUSED: [i64; 5] = [
    c::SYS_openat,
    c::SYS_statx,
    c::SYS_newfstatat,
    c::SYS_readlink,
    c::SYS_getcwd,
];

/// Making a guest anew, the terminal, and the end of the control socket's file.
const MAIN: [Call; 15] = [
    always(c::SYS_memfd_create),
    always(c::SYS_ftruncate),
    on(
        c::SYS_fcntl,
        When::OneOf(1, &[c::F_ADD_SEALS as u32, c::F_GET_SEALS as u32]),
    ),
    always(c::SYS_sysinfo),
    always(c::SYS_timerfd_create),
    always(c::SYS_preadv),
    always(c::SYS_statfs),
    always(c::SYS_fstatfs),
    always(c::SYS_unlink),
    always(c::SYS_unlinkat),
    always(c::SYS_lstat),
    always(c::SYS_stat),
    always(c::SYS_prlimit64),
    on(
        c::SYS_ioctl,
        When::Requests(&[
            c::TCSETS as u16,
            c::TCSETSW as u16,
            c::TCSETSF as u16,
            c::TIOCGWINSZ as u16,
        ]),
    ),
    on(
        c::SYS_ioctl,
        When::Requests(&[
            kvm(0x01), // KVM_CREATE_VM
            kvm(0x03), // KVM_CHECK_EXTENSION
            kvm(0x04), // KVM_GET_VCPU_MMAP_SIZE
            kvm(0x05), // KVM_GET_SUPPORTED_CPUID
            kvm(0x41), // KVM_CREATE_VCPU
            kvm(0x46), // KVM_SET_USER_MEMORY_REGION
            kvm(0x47), // KVM_SET_TSS_ADDR
            kvm(0x60), // KVM_CREATE_IRQCHIP
            kvm(0x77), // KVM_CREATE_PIT2
            kvm(0x82), // KVM_SET_REGS
            kvm(0x83), // KVM_GET_SREGS
            kvm(0x84), // KVM_SET_SREGS
            kvm(0x89), // KVM_SET_MSRS
            kvm(0x8e), // KVM_GET_LAPIC
            kvm(0x8f), // KVM_SET_LAPIC
            kvm(0x90), // KVM_SET_CPUID2
            kvm(0xa3), // KVM_GET_TSC_KHZ
        ]),
    ),
];

/// A disk's image.
const DISK: [Call; 8] = [
    always(c::SYS_preadv),
    always(c::SYS_pwritev),
    always(c::SYS_preadv2),
    always(c::SYS_pwritev2),
    always(c::SYS_fdatasync),
    always(c::SYS_fsync),
    always(c::SYS_fallocate),
    always(c::SYS_ftruncate),
];

/// A request to KVM (linux/kvm.h, KVMIO) by its number.
const fn kvm(number: u8) -> u16 {
    0xae00 | number as u16
}
