//! One seccomp(2) filter for each kind of thread, compiled once.

mod calls;
mod ioctls;

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter,
};
use syscalls::Sysno;

use super::Thread;
use super::error::{SandboxError, system};
use calls::{Allow, Is};

/// The programs of a process.
pub(super) struct Programs {
    process: BpfProgram,
    threads: [BpfProgram; Thread::ALL.len()],
}

/// What a machine does while it runs, beside running.
#[derive(Clone, Copy, Debug)]
pub(super) struct Needs {
    /// A guest's reset makes it anew.
    pub(super) reboot: bool,
    /// It talks to switches, and connects to them again.
    pub(super) switches: bool,
}

/// What a kind of thread may call: lists, and the requests of ioctl.
struct Allowed {
    calls: Vec<&'static [Allow]>,
    requests: Vec<&'static [u32]>,
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

impl Programs {
    /// Compiles all of them.
    pub(super) fn compile(needs: Needs) -> Result<Self, SandboxError> {
        let mut threads = [const { Vec::new() }; Thread::ALL.len()];
        for (program, kind) in threads.iter_mut().zip(Thread::ALL) {
            *program = compile(&allowed(kind, needs)).map_err(filter(kind.word()))?;
        }
        Ok(Self {
            process: without_clone3().map_err(filter("all"))?,
            threads,
        })
    }

    /// What holds for all threads that the calling one starts, and for itself.
    pub(super) fn enter_process(&self) -> Result<(), SandboxError> {
        apply(&self.process)
    }

    /// Confines the calling thread.
    pub(super) fn enter(&self, kind: Thread) -> Result<(), SandboxError> {
        match self.threads.get(kind as usize) {
            Some(program) => apply(program),
            None => Ok(()),
        }
    }
}

fn filter(what: &'static str) -> impl FnOnce(seccompiler::BackendError) -> SandboxError {
    move |error| SandboxError::Filter {
        what,
        reason: error.to_string(),
    }
}

fn apply(program: &BpfProgram) -> Result<(), SandboxError> {
    apply_filter(program).map_err(|error| {
        let source = match error {
            seccompiler::Error::Prctl(source) | seccompiler::Error::Seccomp(source) => source,
            other => io::Error::other(other.to_string()),
        };
        system("filter system calls")(source)
    })
}

/// What threads of a kind may do. One that starts others passes its filter on, so it is allowed what they need.
fn allowed(kind: Thread, needs: Needs) -> Allowed {
    use calls::{
        ALL, CLIENTS, CONNECTING, IMAGE, LOOK_AT_OPEN, MAKE, MESSAGES, NEW_WAITING, REPORTS, SHUTDOWN,
        STREAMS, THREADS, TIMERS, WAITING,
    };
    let mut calls = vec![ALL];
    let mut requests = Vec::new();
    match kind {
        Thread::Main => {
            calls.extend([THREADS, STREAMS, WAITING, NEW_WAITING, TIMERS, REPORTS]);
            requests.push(ioctls::MAIN);
            if needs.switches {
                calls.extend([MESSAGES, CONNECTING]);
            }
            if needs.reboot {
                calls.push(MAKE);
                requests.push(ioctls::MAKE);
            }
        }
        Thread::Vcpu => {
            calls.extend([STREAMS, TIMERS]);
            requests.push(ioctls::VCPU);
            if needs.switches {
                calls.extend([MESSAGES, THREADS]);
            }
        }
        Thread::Disk => calls.extend([WAITING, IMAGE, LOOK_AT_OPEN]),
        Thread::Deadline => calls.push(SHUTDOWN),
        Thread::Control => {
            calls.extend([STREAMS, WAITING, CLIENTS]);
            requests.push(ioctls::CONTROL);
        }
        Thread::Console | Thread::ControlAsk => {}
    }
    Allowed { calls, requests }
}

fn compile(allowed: &Allowed) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules = Rules::new();
    for allow in allowed.calls.iter().copied().flatten() {
        add(&mut rules, allow)?;
    }
    for request in allowed.requests.iter().copied().flatten() {
        let request = u64::from(*request);
        let condition = SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, request)?;
        let entry = rules.entry(Sysno::ioctl.id().into()).or_default();
        entry.push(SeccompRule::new(vec![condition])?);
    }
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Trap,
        SeccompAction::Allow,
        TargetArch::x86_64,
    )?;
    filter.try_into()
}

/// An entry without rules allows a call whatever its arguments are, so it must not gain any.
fn add(rules: &mut Rules, allow: &Allow) -> Result<(), seccompiler::BackendError> {
    let number = i64::from(allow.call.id());
    if allow.checks.is_empty() {
        rules.insert(number, Vec::new());
        return Ok(());
    }
    let conditions = allow.checks.iter().map(condition).collect::<Result<_, _>>()?;
    let rule = SeccompRule::new(conditions)?;
    match rules.get_mut(&number) {
        Some(alternatives) if alternatives.is_empty() => {}
        Some(alternatives) => alternatives.push(rule),
        None => drop(rules.insert(number, vec![rule])),
    }
    Ok(())
}

fn condition(check: &calls::Check) -> Result<SeccompCondition, seccompiler::BackendError> {
    let (len, operator, value) = match check.is {
        Is::Equal(value) => (SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value.into()),
        Is::Without(bits) => (SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(bits.into()), 0),
        Is::OwnProcess => (
            SeccompCmpArgLen::Dword,
            SeccompCmpOp::Eq,
            std::process::id().into(),
        ),
        Is::Null => (SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0),
    };
    SeccompCondition::new(check.argument, len, operator, value)
}

/// A program that refuses `clone3`, as a kernel without it would, and allows all else.
fn without_clone3() -> Result<BpfProgram, seccompiler::BackendError> {
    let rules = Rules::from([(Sysno::clone3.id().into(), Vec::new())]);
    let refuse = SeccompAction::Errno(libc::ENOSYS as u32);
    SeccompFilter::new(rules, SeccompAction::Allow, refuse, TargetArch::x86_64)?.try_into()
}
