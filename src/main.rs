//! The program `enlight`; everything is in the library of that name.

use std::process::ExitCode;

fn main() -> ExitCode {
    enlight::cli::main()
}
