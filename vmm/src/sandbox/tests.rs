//! Threads in the sandbox, each in a process of its own, which a forbidden call ends.
#![allow(unsafe_code)] // system calls are made by their numbers, with arguments that touch no memory of this process's

use std::process::Command;

use super::*;

/// Tells the child what to do: a kind of thread and one of [`PROBES`].
const VARIABLE: &str = "ENLIGHT_SANDBOX_TEST";

/// A call by name, number and arguments.
type Probe = (&'static str, i64, [u64; 3]);

/// What nobody may do.
const PROBES: [Probe; 12] = [
    ("execve", libc::SYS_execve, [0; 3]),
    ("ptrace", libc::SYS_ptrace, [0; 3]),
    ("bpf", libc::SYS_bpf, [0; 3]),
    ("mount", libc::SYS_mount, [0; 3]),
    ("setuid", libc::SYS_setuid, [0; 3]),
    (
        "socket",
        libc::SYS_socket,
        [libc::AF_INET as u64, libc::SOCK_STREAM as u64, 0],
    ),
    ("mprotect", libc::SYS_mprotect, [0, 0, libc::PROT_EXEC as u64]),
    ("mmap", libc::SYS_mmap, [0, 4096, libc::PROT_EXEC as u64]),
    ("openat", libc::SYS_openat, [0, 0, libc::O_RDWR as u64]),
    ("tgkill", libc::SYS_tgkill, [1, 1, 0]),
    ("ioctl", libc::SYS_ioctl, [0, libc::TIOCSTI, 0]),
    ("process_vm_writev", libc::SYS_process_vm_writev, [0; 3]),
];

/// What the main thread may do and others may not.
const MAIN_ONLY: [Probe; 4] = [
    ("ioctl", libc::SYS_ioctl, [u64::MAX, 0xae01, 0]),
    ("memfd_create", libc::SYS_memfd_create, [0; 3]),
    ("unlink", libc::SYS_unlink, [0; 3]),
    (
        "socket",
        libc::SYS_socket,
        [libc::AF_UNIX as u64, libc::SOCK_STREAM as u64, 0],
    ),
];

fn syscall(number: i64, [a, b, c]: [u64; 3]) -> i64 {
    // SAFETY: the calls of the tables above either end the process, which is what they are for, or fail on addresses and
    // descriptors that are none; a new socket is leaked.
    unsafe { libc::syscall(number, a, b, c, 0, 0, 0) }
}

/// Runs [`child`] with this to do: its status and what it said.
fn in_child(task: &str) -> (Option<i32>, String) {
    let output = Command::new(std::env::current_exe().expect("a path"))
        .args(["--exact", "sandbox::tests::child", "--nocapture"])
        .env(VARIABLE, task)
        .output()
        .expect("the test binary starts");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

/// Does nothing but for the other tests.
#[test]
fn child() {
    let Ok(task) = std::env::var(VARIABLE) else { return };
    let words: Vec<&str> = task.split(' ').collect();
    let kind = ThreadKind::ALL.into_iter().find(|kind| kind.name() == words[0]);
    let sandbox = Sandbox::prepare(None).expect("prepared");
    sandbox.enter(kind.expect("a kind")).expect("entered");
    match words[1] {
        "files" => {
            let denied = std::fs::File::open("/etc/passwd").expect_err("a foreign file");
            assert_eq!(denied.kind(), io::ErrorKind::PermissionDenied);
            std::fs::read("/proc/self/smaps").expect("this process's own files");
            let inherits = std::thread::spawn(|| std::fs::File::open("/etc/passwd").is_err());
            assert!(inherits.join().expect("ended"));
            println!("files are out of reach, abi {:?}", sandbox.report().landlock_abi);
        }
        "panic" => panic!("with a message"),
        index => {
            let index: usize = index.parse().expect("a number");
            let (name, number, arguments) = PROBES.into_iter().chain(MAIN_ONLY).nth(index).expect("a probe");
            println!("{name} came back: {}", syscall(number, arguments));
        }
    }
}

#[test]
fn forbidden_calls_end_the_process_and_are_named() {
    let probes = || PROBES.into_iter().chain(MAIN_ONLY).enumerate();
    for kind in ThreadKind::ALL {
        for (index, (name, number, _)) in probes() {
            let (status, text) = in_child(&format!("{} {index}", kind.name()));
            if kind == ThreadKind::Main && index >= PROBES.len() {
                assert!(
                    status == Some(0) && text.contains("came back"),
                    "main, {name}: {text}"
                );
                continue;
            }
            let words = format!(
                "the sandbox of the {} thread does not allow the system call {name} (number {number})",
                kind.name()
            );
            assert_eq!(status, Some(trap::STATUS), "{words}: {text}");
            assert!(
                text.contains(&words) && text.contains("--no-sandbox"),
                "{words}: {text}"
            );
        }
    }
}

#[test]
fn files_are_out_of_reach() {
    let (status, text) = in_child("main files");
    if text.contains("abi None")
        || (status != Some(0) && !Path::new("/sys/kernel/security/landlock").exists())
    {
        println!("SKIPPED files_are_out_of_reach: this kernel has no Landlock");
        return;
    }
    assert_eq!(status, Some(0), "{text}");
    assert!(text.contains("files are out of reach"), "{text}");
}

#[test]
fn a_panic_is_still_told() {
    for kind in ThreadKind::ALL {
        let (status, text) = in_child(&format!("{} panic", kind.name()));
        assert_eq!(status, Some(101), "{text}");
        assert!(
            text.contains("with a message") && !text.contains("does not allow"),
            "{text}"
        );
    }
}

#[test]
fn without_a_sandbox_nothing_changes() {
    let sandbox = Sandbox::none();
    sandbox.enter(ThreadKind::Vcpu).expect("nothing to do");
    assert_eq!(sandbox.report(), SandboxReport::default());
    std::fs::File::open("/etc/passwd").expect("still readable");
}
