//! The guest's serial port, which is the agent's standard input and output.

use std::io::{self, Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use microguest::report::Line;
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

/// Makes the terminal pass octets as they are: no echo, no waiting for a line's end. A console that is no terminal
/// passes them anyway.
pub(super) fn prepare() {
    let input = io::stdin();
    if let Ok(mut attributes) = tcgetattr(&input) {
        attributes.make_raw();
        // Output is needed even if it goes through the terminal's usual processing.
        let _ = tcsetattr(&input, OptionalActions::Now, &attributes);
    }
}

/// Writes one line, in one piece: each octet is an exit from the guest, so lines are short.
pub(super) fn say(line: &Line<'_>) {
    let text = format!("{line}\n");
    let mut output = io::stdout().lock();
    // Without a console there is nobody to tell.
    let _ = output.write_all(text.as_bytes());
    let _ = output.flush();
}

/// Waits in a thread of its own for octets `g`, each of which raises the flag.
pub(super) fn watch_for_go() -> Result<Arc<AtomicBool>, String> {
    let flag = Arc::new(AtomicBool::new(false));
    let raised = Arc::clone(&flag);
    thread::Builder::new()
        .name("go".to_owned())
        .spawn(move || {
            let mut input = io::stdin().lock();
            let mut octet = [0];
            while input.read_exact(&mut octet).is_ok() {
                if octet == *b"g" {
                    raised.store(true, Ordering::Release);
                }
            }
        })
        .map_err(|error| format!("starting a thread: {error}"))?;
    Ok(flag)
}
