//! What a confined thread says when it panics: a backtrace would have to open the program's file.

use std::panic::{PanicHookInfo, set_hook};

/// Has panics told without a backtrace from now on.
pub(super) fn install() {
    set_hook(Box::new(tell));
}

fn tell(info: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("without a name");
    eprintln!(
        "enlight: thread {name}: {info}\nenlight: --no-sandbox and RUST_BACKTRACE=1 tell how it came there"
    );
}
