//! Tests with Linux guests: on this machine's KVM where that runs Linux, else in the laboratory.
//!
//! A test binary that needs the laboratory starts itself there, with the same test, and the same files at the same paths.

use std::ffi::OsStr;
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

/// What a laboratory has.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Processors; one is steadier where nothing runs side by side.
    pub cpus: u8,
    /// Memory in MiB.
    pub memory: u32,
}

/// Runs `body` where Linux guests run; `files` are those of this machine's that it uses.
pub fn with_linux_guests(test: &str, files: &[&Path], room: Room, body: impl FnOnce()) {
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
        smp: room.cpus,
        memory: room.memory,
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
    match run(&lab, &command) {
        Ok(ran) => ran.assert_passed(test),
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

/// What a command in a laboratory did.
pub struct Ran {
    /// Its exit status.
    pub status: u8,
    /// Its standard output.
    pub output: Vec<u8>,
    /// Its standard error.
    pub errors: Vec<u8>,
}

impl Ran {
    fn assert_passed(&self, test: &str) {
        let text = String::from_utf8_lossy(&self.output);
        print!("{text}");
        // Not through standard error, which a test that passes has to itself.
        let _ = std::io::stdout().write_all(&self.errors);
        let passed = text.contains("test result: ok. 1 passed") && !text.contains("SKIPPED");
        assert!(
            self.status == 0 && passed,
            "{test} did not pass in the laboratory, status {}; see above",
            self.status
        );
    }
}

/// How often a laboratory is tried whose kernel breaks.
const TRIES: u32 = 3;

/// Runs a command in a laboratory, and again when its kernel breaks: that is the doing of QEMU's software CPU, and says nothing
/// of what is tested.
pub fn run(lab: &Lab, command: &[impl AsRef<OsStr>]) -> Result<Ran, LabError> {
    let mut attempt = 1;
    loop {
        let (mut output, mut errors) = (Vec::new(), Vec::new());
        match lab.run(command, &mut output, &mut errors) {
            Err(error @ LabError::Broken(_)) if attempt < TRIES => println!("attempt {attempt}: {error}"),
            Ok(status) => {
                return Ok(Ran {
                    status,
                    output,
                    errors,
                });
            }
            Err(error) => {
                for stream in [output, errors] {
                    println!("{}", String::from_utf8_lossy(&stream));
                }
                return Err(error);
            }
        }
        attempt += 1;
    }
}

/// What the test finds in its environment there, as here.
fn variables(program: &Path) -> Vec<(String, String)> {
    let mut variables = vec![(INSIDE.to_owned(), "1".to_owned())];
    variables.extend(std::env::var("CARGO_TARGET_DIR").map(|value| ("CARGO_TARGET_DIR".to_owned(), value)));
    variables.push((super::PROGRAM_VARIABLE.to_owned(), program.display().to_string()));
    variables
}
