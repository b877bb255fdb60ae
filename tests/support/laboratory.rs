//! Tests with Linux guests: on this machine's KVM where that runs Linux, else in the laboratory.
//!
//! A test binary that needs the laboratory starts itself there, with the same test, and the same files at the same paths.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use kvm_lab::{Add, Kernel, Lab, LabError};

use super::{enlight, has_complete_kvm, skip, target};

/// Set in the laboratory.
const INSIDE: &str = "ENLIGHT_TEST_INSIDE";
/// Names an optimised program, which a software CPU runs in a fraction of the time.
const RELEASE: &str = "ENLIGHT_TEST_RELEASE";

/// Two software CPUs are as many as a small machine has room for: the tests take turns.
static TURN: Mutex<()> = Mutex::new(());

/// Runs `body` where Linux guests run; `files` are those of this machine's that it uses, `memory` is the laboratory's in MiB.
pub fn with_linux_guests(test: &str, files: &[&Path], memory: u32, body: impl FnOnce()) {
    if is_inside() || has_complete_kvm() {
        return body();
    }
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let kernel = match Kernel::in_target(&target()) {
        Ok(kernel) => kernel,
        Err(error) => return skip(test, &error.to_string()),
    };
    let own = std::env::current_exe().expect("this program has a file");
    let program = program();
    let files = files.iter().copied().chain([own.as_path(), &program]);
    let lab = Lab {
        memory,
        adds: files.map(Add::same_path).collect(),
        variables: variables(&program),
        ..Lab::new(kernel)
    };
    let command = [
        own.as_os_str(),
        "--exact".as_ref(),
        test.as_ref(),
        "--nocapture".as_ref(),
    ];
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    let outcome = lab.run(&command, &mut output, &mut errors);
    let text = String::from_utf8_lossy(&output).into_owned();
    print!("{text}");
    // Not through standard error, which a test that passes has to itself.
    let _ = std::io::stdout().write_all(&errors);
    match outcome {
        Ok(status) => assert!(
            status == 0 && text.contains("test result: ok. 1 passed") && !text.contains("SKIPPED"),
            "{test} did not pass in the laboratory, status {status}; see above"
        ),
        Err(error @ LabError::NoProgram { .. }) => skip(test, &error.to_string()),
        Err(error) => panic!("the laboratory: {error}"),
    }
}

/// The program under test for a laboratory: the optimised one, if there is one.
pub fn program() -> PathBuf {
    std::env::var_os(RELEASE).unwrap_or_else(enlight).into()
}

/// Whether this process runs in the laboratory.
pub fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// What the test finds in its environment there, as here.
fn variables(program: &Path) -> Vec<(String, String)> {
    let mut variables = vec![(INSIDE.to_owned(), "1".to_owned())];
    variables.extend(std::env::var("CARGO_TARGET_DIR").map(|value| ("CARGO_TARGET_DIR".to_owned(), value)));
    variables.push((super::PROGRAM_VARIABLE.to_owned(), program.display().to_string()));
    variables
}
