//! Whole machines with drivers of their own talk to a kernel through the switch: the micro-guest in our VMM, and Debian's
//! kernel in QEMU with its offloads switched on and off. Frames that reach the kernel are judged as in the matrix of ports.

#[path = "../../vswitch/tests/matrix/cell.rs"]
#[allow(dead_code, reason = "the matrix of ports uses all of it")]
mod cell;
#[path = "../../vswitch/tests/matrix/document.rs"]
mod document;
#[path = "../../vswitch/tests/matrix/headers.rs"]
mod headers;
#[path = "../../vswitch/tests/matrix/judge.rs"]
mod judge;
mod machines;
mod site;
#[path = "../../vswitch/tests/matrix/station.rs"]
mod station;
#[path = "../support/mod.rs"]
mod support;
#[path = "../../vswitch/tests/matrix/system.rs"]
#[allow(dead_code, reason = "the matrix of ports uses all of it")]
mod system;
#[path = "../../vswitch/tests/matrix/tagging.rs"]
mod tagging;
#[path = "../../vswitch/tests/matrix/verify.rs"]
#[allow(dead_code, reason = "the matrix of ports uses all of it")]
mod verify;

use std::fmt::Write as _;

use machines::Machine;
use support::skip;

/// One line of the table.
struct Line {
    name: String,
    /// What is wrong over IPv4 and IPv6; `None` where the guest does not speak that.
    wrong: [Option<Vec<String>>; 2],
}

#[test]
fn drivers_of_others_talk_to_a_kernel() {
    let test = "drivers_of_others_talk_to_a_kernel";
    if let Some(reason) = station::missing().or_else(machines::missing) {
        return skip(test, &reason);
    }
    let mut lines = Vec::new();
    for machine in Machine::all() {
        println!("{machine}");
        lines.extend(machine.run());
    }
    let wrong: Vec<String> = lines.iter().flat_map(Line::complaints).collect();
    assert!(wrong.is_empty(), "these failed:\n{}", wrong.join("\n"));
    document::publish("guests", &table(&lines)).unwrap_or_else(|error| panic!("{error}"));
}

impl Line {
    fn complaints(&self) -> impl Iterator<Item = String> {
        let each = self
            .wrong
            .iter()
            .zip(["IPv4", "IPv6"])
            .flat_map(|(wrong, family)| {
                let all = wrong.iter().flatten();
                all.map(move |what| format!("{} / {family}: {what}", self.name))
            });
        each.collect::<Vec<_>>().into_iter()
    }
}

fn table(lines: &[Line]) -> String {
    let mut text = String::from("| guest | IPv4 | IPv6 |\n|---|---|---|\n");
    for Line { name, wrong } in lines {
        let [v4, v6] = wrong.each_ref().map(|wrong| match wrong {
            None => '-',
            Some(wrong) if wrong.is_empty() => '\u{2713}',
            Some(_) => 'X',
        });
        let _ = writeln!(text, "| {name} | {v4} | {v6} |");
    }
    text += "\n\u{2713}: passed, in both directions. -: the micro-guest has no IPv6, and neither tags nor large sends.\n";
    text
}
