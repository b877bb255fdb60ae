//! The first process of a lab's Linux guest: this program, run by the guest's kernel.
//!
//! It gets the machine ready ([`machine`]), plays one end of a workload over the kernel's own TCP ([`client`], [`server`])
//! and speaks the micro-guest's lines on the console, so that the lab need not know what runs in a guest. Whatever goes
//! wrong is one line, and then the machine is off.

pub(crate) mod client;
mod console;
pub(crate) mod interface;
mod machine;
mod open;
pub(crate) mod server;
pub(crate) mod stream;

use std::panic;

use microguest::cmdline::{Parameters, Role};
use microguest::report::Line;

/// The program's path in the initramfs, and by that its name: what tells it that it is the agent.
pub const PATH: &str = "/enlight-agent";
/// Kernel modules in the initramfs, loaded in the order of their names.
pub const MODULES: &str = "/modules";
/// What the user wants set in `/proc/sys`: `KEY=VALUE` lines.
pub const SETTINGS: &str = "/settings";

/// Whether this process is a guest's first one.
pub fn is_asked_for() -> bool {
    std::process::id() == 1 && std::env::args_os().next().is_some_and(|name| name == PATH)
}

/// Does the guest's work and switches the machine off.
pub fn run() -> ! {
    panic::set_hook(Box::new(|info| {
        give_up(&format!("the agent panicked: {info}"));
    }));
    if let Err(why) = work() {
        give_up(&why);
    }
    machine::power_off()
}

/// Takes the lines that the lab is to read.
pub(crate) type Say<'a> = &'a dyn Fn(&Line<'_>);

/// Why the agent gives up: what was done, to what, and why it failed.
pub(crate) type Failure = String;

fn work() -> Result<(), Failure> {
    console::prepare();
    machine::mount()?;
    machine::load_modules()?;
    machine::apply_settings()?;
    let words: Vec<String> = std::env::args().skip(1).collect();
    let parameters: Parameters = words.join(" ").parse().map_err(|error| format!("{error}"))?;
    interface::bring_up(&parameters)?;
    match parameters.role {
        Role::Client => client::run(&parameters),
        Role::Server => server::run(&parameters),
    }
}

fn give_up(why: &str) -> ! {
    let line: String = why
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(300)
        .collect();
    console::say(&Line::Error(&line));
    machine::power_off()
}
