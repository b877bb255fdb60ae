//! Filter programs out of the table of calls.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

use super::calls::{self, Call, When};
use super::{SandboxError, ThreadKind};

/// The programs that let a kind of thread make its calls and trap all others. What one of them forbids, none allows.
pub(super) fn programs(kind: ThreadKind) -> Result<Vec<BpfProgram>, SandboxError> {
    let allowed = rules(kind).and_then(|rules| compile(rules, SeccompAction::Trap, SeccompAction::Allow));
    let failing = calls::REFUSED.map(|number| (number, Vec::new())).into();
    let failing = || {
        compile(
            failing,
            SeccompAction::Allow,
            SeccompAction::Errno(libc::EACCES as u32),
        )
    };
    let programs = match kind {
        ThreadKind::Main => allowed.map(|allowed| vec![allowed]),
        _ => allowed.and_then(|allowed| Ok(vec![failing()?, allowed])),
    };
    programs.map_err(|source| SandboxError::Filter {
        thread: kind.name(),
        source: seccompiler::Error::Backend(source),
    })
}

fn compile(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> Result<BpfProgram, seccompiler::BackendError> {
    SeccompFilter::new(rules, otherwise, matched, TargetArch::x86_64)?.try_into()
}

fn rules(kind: ThreadKind) -> Result<BTreeMap<i64, Vec<SeccompRule>>, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    let mut always = Vec::new();
    for Call { number, when } in calls::of(kind) {
        match when {
            When::Always => always.push(*number),
            when => rules.entry(*number).or_default().extend(conditions(when)?),
        }
    }
    // No rules at all mean that the call is allowed as it is.
    rules.extend(always.into_iter().map(|number| (number, Vec::new())));
    Ok(rules)
}

/// One rule for each way in which the call is allowed.
fn conditions(when: &When) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    let one = |index: u8, operator: SeccompCmpOp, value: u64| {
        SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value)
            .and_then(|condition| SeccompRule::new(vec![condition]))
    };
    match when {
        When::Always => Ok(Vec::new()),
        When::OneOf(index, values) => {
            let equal = |value: &u32| one(*index, SeccompCmpOp::Eq, u64::from(*value));
            values.iter().map(equal).collect()
        }
        When::Without(index, bits) => {
            let operator = SeccompCmpOp::MaskedEq(u64::from(*bits));
            Ok(vec![one(*index, operator, 0)?])
        }
        When::Requests(requests) => {
            let equal = |request: &u16| one(1, SeccompCmpOp::MaskedEq(0xffff), u64::from(*request));
            requests.iter().map(equal).collect()
        }
        When::OwnProcess => Ok(vec![one(0, SeccompCmpOp::Eq, u64::from(std::process::id()))?]),
    }
}
