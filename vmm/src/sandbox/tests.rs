//! Each filter and the rest of the sandbox, tried in processes of their own: this test's program once more, which finds
//! out from a variable what it is to try.
#![allow(unsafe_code)] // system calls that no safe function makes

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Barrier};

use super::*;

/// What the program is to try, if it is one of those.
const TRY: &str = "ENLIGHT_TRY_SANDBOX";
/// What a process of its own says when it was let do all that it tried.
const ALLOWED: &str = "it was let";

/// Something that may be refused. Its result does not matter, only whether the process survives it.
struct Attempt {
    name: &'static str,
    /// The system call, as the message names it.
    call: &'static str,
    /// Its first argument that tells, as the message shows it; empty if it does not matter.
    shown: &'static str,
    try_it: fn(),
    /// Who may do it.
    allowed: &'static [Thread],
}

/// A system call with six arguments or fewer.
macro_rules! call {
    ($number:ident $(, $argument:expr)*) => {{
        // SAFETY: the kernel is handed integers, null pointers and C string literals; it keeps none of them.
        let _ = unsafe { libc::syscall(libc::$number $(, $argument)*) };
    }};
}

const NULL: usize = 0;
const PATH: *const libc::c_char = c"/etc/passwd".as_ptr();
const MAIN: &[Thread] = &[Thread::Main];
const NOBODY: &[Thread] = &[];

const ATTEMPTS: &[Attempt] = &[
    attempt(
        "a program",
        "execve",
        "",
        || call!(SYS_execve, c"/bin/true".as_ptr(), NULL, NULL),
        NOBODY,
    ),
    attempt(
        "a process",
        "clone",
        "0x11",
        || call!(SYS_clone, libc::SIGCHLD, NULL, NULL, NULL, NULL),
        NOBODY,
    ),
    attempt("fork", "fork", "", || call!(SYS_fork), NOBODY),
    attempt(
        "a trace",
        "ptrace",
        "0x10",
        || call!(SYS_ptrace, libc::PTRACE_ATTACH, 1, NULL, NULL),
        NOBODY,
    ),
    attempt(
        "a file to write",
        "openat",
        "",
        || call!(SYS_openat, libc::AT_FDCWD, PATH, libc::O_WRONLY),
        NOBODY,
    ),
    attempt(
        "a new file",
        "openat",
        "",
        || call!(SYS_openat, -1, PATH, libc::O_CREAT | libc::O_CLOEXEC, 0),
        NOBODY,
    ),
    attempt(
        "the old call for it",
        "open",
        "",
        || call!(SYS_open, PATH, libc::O_RDONLY),
        NOBODY,
    ),
    attempt(
        "the new call for it",
        "openat2",
        "",
        || call!(SYS_openat2, -1, PATH, NULL, 24),
        NOBODY,
    ),
    attempt(
        "a file to read",
        "openat",
        "",
        || call!(SYS_openat, -1, PATH, libc::O_CLOEXEC),
        MAIN,
    ),
    attempt(
        "the internet",
        "socket",
        "0x2",
        || call!(SYS_socket, libc::AF_INET, libc::SOCK_STREAM, 0),
        NOBODY,
    ),
    attempt(
        "packets",
        "socket",
        "0x11",
        || call!(SYS_socket, libc::AF_PACKET, libc::SOCK_RAW, 0),
        NOBODY,
    ),
    attempt(
        "netlink",
        "socket",
        "0x10",
        || call!(SYS_socket, libc::AF_NETLINK, libc::SOCK_RAW, 0),
        NOBODY,
    ),
    attempt(
        "a socket of this host",
        "socket",
        "0x1",
        || call!(SYS_socket, libc::AF_UNIX, libc::SOCK_STREAM, 0),
        MAIN,
    ),
    attempt("a listener", "bind", "", || call!(SYS_bind, -1, NULL, 0), NOBODY),
    attempt(
        "code",
        "mmap",
        "",
        || call!(SYS_mmap, NULL, 4096, 7, 0x22, -1, NULL),
        NOBODY,
    ),
    attempt(
        "data made code",
        "mprotect",
        "",
        || call!(SYS_mprotect, NULL, 4096, 5),
        NOBODY,
    ),
    attempt(
        "with a key",
        "pkey_mprotect",
        "",
        || call!(SYS_pkey_mprotect, NULL, 4096, 5, 0),
        NOBODY,
    ),
    attempt(
        "a program for the kernel",
        "bpf",
        "",
        || call!(SYS_bpf, 0, NULL, 0),
        NOBODY,
    ),
    attempt(
        "io_uring",
        "io_uring_setup",
        "",
        || call!(SYS_io_uring_setup, 8, NULL),
        NOBODY,
    ),
    attempt("faults", "userfaultfd", "", || call!(SYS_userfaultfd, 0), NOBODY),
    attempt(
        "a name space",
        "unshare",
        "",
        || call!(SYS_unshare, libc::CLONE_NEWUSER),
        NOBODY,
    ),
    attempt(
        "a mount",
        "mount",
        "",
        || call!(SYS_mount, NULL, NULL, NULL, 0, NULL),
        NOBODY,
    ),
    attempt(
        "another memory",
        "process_vm_writev",
        "",
        || call!(SYS_process_vm_writev, 1, NULL, 0, NULL, 0, 0),
        NOBODY,
    ),
    attempt("a signal", "kill", "", || call!(SYS_kill, 1, 0), NOBODY),
    attempt(
        "a signal to a thread",
        "tgkill",
        "0x1",
        || call!(SYS_tgkill, 1, 1, 0),
        NOBODY,
    ),
    attempt(
        "a module",
        "init_module",
        "",
        || call!(SYS_init_module, NULL, 0, NULL),
        NOBODY,
    ),
    attempt("another user", "setuid", "", || call!(SYS_setuid, 0), NOBODY),
    attempt(
        "a new name",
        "rename",
        "",
        || call!(SYS_rename, PATH, PATH),
        NOBODY,
    ),
    attempt(
        "a typed command",
        "ioctl",
        "0x5412",
        || call!(SYS_ioctl, -1, libc::TIOCSTI, NULL),
        NOBODY,
    ),
    attempt(
        "an interface",
        "ioctl",
        "0x8914",
        || call!(SYS_ioctl, -1, libc::SIOCSIFFLAGS, NULL),
        NOBODY,
    ),
    attempt(
        "the guest",
        "ioctl",
        "0xae80",
        || call!(SYS_ioctl, -1, 0xae80, NULL),
        &[Thread::Main, Thread::Vcpu],
    ),
    attempt(
        "memory for a guest",
        "ioctl",
        "0x4020ae46",
        || call!(SYS_ioctl, -1, 0x4020_ae46_u32, NULL),
        MAIN,
    ),
    attempt(
        "debugging a guest",
        "ioctl",
        "0x4048ae9b",
        || call!(SYS_ioctl, -1, 0x4048_ae9b_u32, NULL),
        NOBODY,
    ),
    attempt(
        "a terminal's mode",
        "ioctl",
        "0x5402",
        || call!(SYS_ioctl, -1, libc::TCSETS, NULL),
        MAIN,
    ),
    attempt(
        "no dumping",
        "prctl",
        "0x4",
        || call!(SYS_prctl, libc::PR_SET_DUMPABLE, 1),
        NOBODY,
    ),
    attempt(
        "a file's end",
        "ftruncate",
        "",
        || call!(SYS_ftruncate, -1, 0),
        &[Thread::Main, Thread::Disk],
    ),
    attempt(
        "a file's beginning",
        "pwrite64",
        "",
        || call!(SYS_pwrite64, -1, NULL, 0, 0),
        &[Thread::Disk],
    ),
    attempt(
        "descriptors",
        "sendmsg",
        "",
        || call!(SYS_sendmsg, -1, NULL, 0),
        &[Thread::Main, Thread::Vcpu],
    ),
    attempt(
        "another client",
        "accept4",
        "",
        || call!(SYS_accept4, -1, NULL, NULL, 0),
        &[Thread::Control],
    ),
    attempt(
        "an address",
        "sendto",
        "",
        || call!(SYS_sendto, -1, NULL, 0, 0, PATH, 16),
        NOBODY,
    ),
    attempt("the x32 interface", "", "(1073741863)", call_x32, NOBODY),
    attempt(
        "a console's flush",
        "timerfd_settime",
        "",
        || call!(SYS_timerfd_settime, -1, 0, NULL, NULL),
        &[Thread::Main, Thread::Vcpu],
    ),
    attempt(
        "time",
        "clock_gettime",
        "",
        || call!(SYS_clock_gettime, 0, NULL),
        &Thread::ALL,
    ),
    attempt(
        "memory",
        "mmap",
        "",
        || call!(SYS_mmap, NULL, 4096, 3, 0x22, -1, NULL),
        &Thread::ALL,
    ),
    attempt(
        "a lock",
        "futex",
        "",
        || call!(SYS_futex, NULL, 1, 1),
        &Thread::ALL,
    ),
    attempt(
        "a signal to itself",
        "tgkill",
        "",
        || call!(SYS_tgkill, std::process::id(), 1, 0),
        &Thread::ALL,
    ),
    attempt(
        "a name",
        "prctl",
        "",
        || call!(SYS_prctl, libc::PR_SET_NAME, c"x".as_ptr()),
        &[Thread::Main, Thread::Vcpu],
    ),
];

const fn attempt(
    name: &'static str,
    call: &'static str,
    shown: &'static str,
    try_it: fn(),
    allowed: &'static [Thread],
) -> Attempt {
    Attempt {
        name,
        call,
        shown,
        try_it,
        allowed,
    }
}

/// `getpid` by its number in the interface for 32-bit pointers, which would evade a filter that overlooks it.
fn call_x32() {
    // SAFETY: the call has no arguments.
    let _ = unsafe { libc::syscall(0x4000_0000 | libc::SYS_getpid) };
}

fn sandbox(removes_from: &[&Path]) -> Sandbox {
    Sandbox {
        reboot: true,
        removes_from: removes_from.iter().map(PathBuf::from).collect(),
        sockets: vec!["/tmp/switch.sock".into()],
    }
}

/// Runs this test once more to try `what`.
fn in_a_process(test: &str, what: &str) -> Output {
    let program = std::env::current_exe().expect("this program");
    let mut command = Command::new(program);
    command
        .args(["--exact", "--nocapture", test])
        .env(TRY, what)
        .env("RUST_BACKTRACE", "1");
    command.output().expect("it runs")
}

fn wanted() -> Option<String> {
    std::env::var(TRY).ok()
}

#[test]
fn each_kind_of_thread_may_do_what_it_needs_and_nothing_else() {
    if let Some(wanted) = wanted() {
        return try_one(&wanted);
    }
    let test = "sandbox::tests::each_kind_of_thread_may_do_what_it_needs_and_nothing_else";
    for kind in Thread::ALL {
        for attempt in ATTEMPTS {
            let output = in_a_process(test, &format!("{}:{}", kind.word(), attempt.name));
            let (out, error) = (
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr),
            );
            let what = format!(
                "{} tries {}: {:?} {error}",
                kind.word(),
                attempt.name,
                output.status
            );
            if attempt.allowed.contains(&kind) {
                assert!(out.contains(ALLOWED) && output.status.success(), "{what}");
                continue;
            }
            assert_eq!(output.status.code(), Some(EXIT_STATUS), "{what}");
            assert!(!out.contains(ALLOWED), "{what}");
            let line = error.lines().last().unwrap_or_default();
            let start = format!(
                "enlight: thread {0} ({0}) made the system call {1}",
                kind.word(),
                attempt.call
            );
            assert!(line.starts_with(&start) && line.contains(attempt.shown), "{what}");
            assert!(line.ends_with("--no-sandbox goes without the sandbox"), "{what}");
        }
    }
}

/// Confines a thread and tries one thing there.
fn try_one(wanted: &str) {
    let (kind, name) = wanted.split_once(':').expect("a kind and a name");
    let kind = *Thread::ALL
        .iter()
        .find(|other| other.word() == kind)
        .expect("a kind");
    let attempt = ATTEMPTS
        .iter()
        .find(|attempt| attempt.name == name)
        .expect("an attempt");
    sandbox(&[]).enter_process().expect("a sandbox");
    let thread = std::thread::Builder::new().name(kind.word().to_owned());
    let body = move || {
        enter(kind);
        (attempt.try_it)();
        println!("{ALLOWED}");
    };
    thread.spawn(body).expect("a thread").join().expect("no panic");
}

#[test]
fn the_process_gives_up_files_capabilities_and_being_traced() {
    if wanted().is_some() {
        return look_around();
    }
    let test = "sandbox::tests::the_process_gives_up_files_capabilities_and_being_traced";
    let output = in_a_process(test, "all");
    let (out, error) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(out.contains(ALLOWED) && output.status.success(), "{out}{error}");
}

fn look_around() {
    let directory = tempfile::tempdir().expect("a directory");
    let (own, foreign) = (
        directory.path().join("own"),
        tempfile::NamedTempFile::new().expect("a file"),
    );
    std::fs::write(&own, "").expect("written");
    sandbox(&[directory.path()]).enter_process().expect("a sandbox");
    let status = std::fs::read_to_string("/proc/thread-self/status").expect("readable");
    let value = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.unwrap_or_default().trim().to_owned()
    };
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(value(set), "0000000000000000", "{set}");
    }
    assert_eq!(
        (value("NoNewPrivs:"), value("Seccomp:")),
        ("1".into(), "2".into())
    );
    let used = crate::report::MemoryUse::measure(&[]).expect("the process may look at its own memory");
    assert!(used.beyond_guest_kib > 100);
    if report().landlock.is_some() {
        let denied = |result: std::io::Result<std::fs::File>| {
            result.is_err_and(|error| error.raw_os_error() == Some(libc::EACCES))
        };
        assert!(denied(std::fs::File::open(foreign.path())), "a foreign file");
        assert!(denied(std::fs::File::open(&own)), "removing is not reading");
        assert!(
            denied(std::fs::File::create(directory.path().join("new"))),
            "a new file"
        );
        assert!(
            std::fs::remove_file(foreign.path()).is_err(),
            "a foreign file is not removed"
        );
        assert!(std::fs::read_dir("/").is_err(), "no directory is listed");
    }
    assert!(std::thread::available_parallelism().is_ok());
    std::fs::remove_file(&own).expect("its own file is");
    println!("{ALLOWED}");
    // What is left would be removed in vain.
    std::process::exit(0);
}

#[test]
fn a_panic_is_told() {
    if wanted().is_some() {
        sandbox(&[]).enter_process().expect("a sandbox");
        let body = || {
            enter(Thread::Vcpu);
            panic!("as an example");
        };
        let thread = std::thread::Builder::new().name("vcpu0".to_owned());
        assert!(thread.spawn(body).expect("a thread").join().is_err());
        println!("{ALLOWED}");
        return;
    }
    // With a backtrace, it would try to open the program.
    let output = in_a_process("sandbox::tests::a_panic_is_told", "panic");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && output.status.signal().is_none(),
        "{error}"
    );
    assert!(
        error.contains("thread vcpu0: panicked at") && error.contains("as an example"),
        "{error}"
    );
}

/// A thread that allocates, much and little.
fn heap(all: Arc<Barrier>) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        enter(Thread::Deadline);
        for blocks in [1, 40, 2] {
            drop(vec![vec![1_u8; 100 << 10]; blocks]);
            drop(vec![1_u8; 1 << 20]);
            all.wait();
        }
    })
}

#[test]
fn many_threads_have_heaps_that_grow_and_shrink() {
    if wanted().is_some() {
        sandbox(&[]).enter_process().expect("a sandbox");
        let first = std::thread::spawn(|| {
            enter(Thread::Vcpu);
            let all = Arc::new(Barrier::new(40));
            let threads: Vec<_> = (0..40).map(|_| heap(Arc::clone(&all))).collect();
            for thread in threads {
                thread.join().expect("no panic");
            }
        });
        return first.join().expect("no panic");
    }
    let test = "sandbox::tests::many_threads_have_heaps_that_grow_and_shrink";
    let output = in_a_process(test, "heaps");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?} {error}", output.status);
}

#[test]
fn threads_of_a_process_without_a_sandbox_keep_everything() {
    enter(Thread::ControlAsk);
    assert_eq!(report(), SandboxReport::default());
    assert!(std::fs::File::open("/proc/self/status").is_ok());
}
