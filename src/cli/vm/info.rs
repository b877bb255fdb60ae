//! `enlight vm info`: what a machine is, costs and does, as the host and as the guest see it.

use std::collections::BTreeMap;

use anyhow::Result;
use vmm::{BootTimes, VcpuInfo, VmInfo, VmReport, VmState};

use super::super::{say, table, to_json};
use super::machine::Place;
use super::words::{duration, mib, ms, sandbox, sharing};
use crate::vm_control::api::Info;

/// Why two figures stand where one might be expected.
const WHY_TWO: &str = "\
guest: inside the guest. host: in KVM and in this process, on its behalf. steal: it could have run, but no CPU was free.
halted: the guest had nothing to do. \"busy, host\" is the CPU time that the host spent: guest + host. \"busy, guest\" is what
the guest believes, because it only knows when it halted: elapsed - halted. It contains the time that the guest waited for
a CPU, and is the larger one by that.";

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The machine
    name: String,

    #[command(flatten)]
    place: Place,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let info: Info = args.place.machine(&args.name)?.get("/v1/info")?;
    let text = if args.json {
        to_json(&info)?
    } else {
        in_words(&info)
    };
    say(&text)
}

fn in_words(info: &Info) -> String {
    let machine = &info.machine;
    let parts = [
        summary(&info.name, machine),
        processors(&machine.vcpus),
        exits(machine),
        boot(&machine.report.boot),
        nics(&machine.report),
        disks(&machine.report),
    ];
    let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    parts.join("\n")
}

fn summary(name: &str, machine: &VmInfo) -> String {
    let (report, memory) = (&machine.report, &machine.report.memory);
    let state = match machine.state {
        VmState::Running => "running",
        VmState::Paused => "paused",
    };
    let mut text = format!(
        "{name}: {state}, up {}, process {}\n",
        duration(machine.uptime_ms),
        machine.pid
    );
    if let Some(sharing) = sharing(machine.vcpus.len(), machine.host_cpus) {
        text.push_str(&format!("{sharing}\n"));
    }
    text.push_str(&format!(
        "memory: {} of the guest's {} are resident, and {} beyond it\n",
        mib(memory.guest_kib),
        mib(machine.memory_size_kib),
        mib(memory.beyond_guest_kib)
    ));
    text.push_str(&sandbox(&report.sandbox));
    let counts = [
        (report.resets, "the guest started anew {} times"),
        (report.console_lost, "{} octets of console output were lost"),
    ];
    for (count, what) in counts {
        if count > 0 {
            text.push_str(&format!("{}\n", what.replace("{}", &count.to_string())));
        }
    }
    text
}

fn processors(vcpus: &[VcpuInfo]) -> String {
    let heading = [
        "VCPU",
        "GUEST MS",
        "HOST MS",
        "STEAL MS",
        "HALTED MS",
        "ELAPSED MS",
        "BUSY, HOST",
        "BUSY, GUEST",
    ];
    let mut rows: Vec<_> = vcpus
        .iter()
        .enumerate()
        .map(|(number, vcpu)| row(number.to_string(), vcpu))
        .collect();
    let awake: Vec<&VcpuInfo> = vcpus.iter().filter(|vcpu| !is_asleep(vcpu)).collect();
    if awake.len() > 1 {
        rows.push(row("all".to_owned(), &sum(&awake)));
    }
    format!("{}{WHY_TWO}\n", table::render(&heading, &rows))
}

fn row(name: String, vcpu: &VcpuInfo) -> Vec<String> {
    let share = |ms: u64| match vcpu.elapsed_ms {
        0 => "-".to_owned(),
        elapsed => format!("{:.1} %", ms as f64 * 100.0 / elapsed as f64),
    };
    if is_asleep(vcpu) {
        let mut row = vec![name];
        row.resize(7, "-".to_owned());
        row.push("not started by the guest".to_owned());
        return row;
    }
    let believed = vcpu
        .halted_ms
        .map(|halted| vcpu.elapsed_ms.saturating_sub(halted));
    vec![
        name,
        vcpu.guest_ms.to_string(),
        vcpu.host_ms.to_string(),
        vcpu.steal_ms.to_string(),
        vcpu.halted_ms.map_or_else(|| "?".to_owned(), |ms| ms.to_string()),
        vcpu.elapsed_ms.to_string(),
        share(vcpu.guest_ms + vcpu.host_ms),
        believed.map_or_else(|| "?".to_owned(), share),
    ]
}

/// Whether the processor waits for the guest to start it, which KVM does not count as halted.
fn is_asleep(vcpu: &VcpuInfo) -> bool {
    vcpu.guest_ms + vcpu.host_ms + vcpu.halted_ms.unwrap_or(0) == 0 && vcpu.exits.is_empty()
}

fn sum(vcpus: &[&VcpuInfo]) -> VcpuInfo {
    let total = |of: fn(&VcpuInfo) -> u64| vcpus.iter().map(|vcpu| of(vcpu)).sum();
    VcpuInfo {
        guest_ms: total(|vcpu| vcpu.guest_ms),
        host_ms: total(|vcpu| vcpu.host_ms),
        steal_ms: total(|vcpu| vcpu.steal_ms),
        halted_ms: vcpus.iter().map(|vcpu| vcpu.halted_ms).sum(),
        elapsed_ms: total(|vcpu| vcpu.elapsed_ms),
        exits: BTreeMap::new(),
    }
}

/// The reasons by which processors left the guest, those that happened most in front.
fn exits(machine: &VmInfo) -> String {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for (reason, count) in machine.vcpus.iter().flat_map(|vcpu| &vcpu.exits) {
        let reason = if reason == "exits" { "all" } else { reason };
        *counts.entry(format!("KVM: {reason}")).or_default() += count;
    }
    let here = machine.report.exits;
    for (reason, count) in [
        ("ports", here.port),
        ("memory that is no RAM", here.mmio),
        ("signals", here.interrupted),
        ("anything else", here.other),
    ] {
        counts.insert(format!("to this process: {reason}"), count);
    }
    let mut counts: Vec<_> = counts.into_iter().filter(|(_, count)| *count > 0).collect();
    counts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    if counts.is_empty() {
        return String::new();
    }
    let rows: Vec<_> = counts
        .into_iter()
        .map(|(reason, count)| vec![reason, count.to_string()])
        .collect();
    table::render(&["EXITS OUT OF THE GUEST", "TIMES"], &rows)
}

/// When each phase of the last start ended.
pub(super) fn boot(boot: &BootTimes) -> String {
    let made = [
        ("memory", Some(boot.memory_us)),
        ("kernel", Some(boot.kernel_us)),
        ("KVM", Some(boot.kvm_us)),
        ("devices", Some(boot.devices_us)),
        ("processors", Some(boot.vcpus_us)),
        ("running", boot.started_us),
        ("first output", boot.first_output_us),
        ("init", boot.init_us),
        ("first frame", boot.first_kick_us),
    ];
    let phases: Vec<String> = made
        .into_iter()
        .filter_map(|(what, when)| Some(format!("{what} {}", ms(when?))))
        .collect();
    format!("ready after: {}\n", phases.join(", "))
}

fn nics(report: &VmReport) -> String {
    if report.nics.is_empty() {
        return String::new();
    }
    let row = |nic: &vmm::NicReport| {
        vec![
            nic.socket.clone(),
            driver(nic.features),
            nic.counts.disconnects.to_string(),
            nic.counts.reconnects.to_string(),
            (nic.guest_faults + nic.counts.refused_commands).to_string(),
        ]
    };
    let heading = ["NIC", "DRIVER FEATURES", "LOST", "FOUND AGAIN", "GUEST FAULTS"];
    let rows: Vec<_> = report.nics.iter().map(row).collect();
    table::render(&heading, &rows)
}

fn disks(report: &VmReport) -> String {
    if report.disks.is_empty() {
        return String::new();
    }
    let row = |disk: &vmm::DiskReport| {
        let counts = &disk.counts;
        vec![
            disk.path.clone(),
            driver(disk.features),
            format!("{} ({})", counts.reads, mib(counts.read_octets >> 10)),
            format!("{} ({})", counts.writes, mib(counts.written_octets >> 10)),
            counts.flushes.to_string(),
            counts.errors.to_string(),
            disk.guest_faults.to_string(),
        ]
    };
    let heading = [
        "DISK",
        "DRIVER FEATURES",
        "READS",
        "WRITES",
        "FLUSHES",
        "ERRORS",
        "GUEST FAULTS",
    ];
    let rows: Vec<_> = report.disks.iter().map(row).collect();
    table::render(&heading, &rows)
}

fn driver(features: Option<u64>) -> String {
    features.map_or_else(|| "no driver".to_owned(), |features| format!("{features:#x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Info {
        let vcpu = |guest_ms, halted_ms| VcpuInfo {
            guest_ms,
            host_ms: 50,
            steal_ms: 200,
            halted_ms,
            elapsed_ms: 1000,
            exits: [("io_exits".to_owned(), 7), ("exits".to_owned(), 9)].into(),
        };
        Info {
            name: "web".to_owned(),
            machine: VmInfo {
                pid: 7,
                uptime_ms: 61_000,
                memory_size_kib: 65_536,
                host_cpus: 1,
                overcommitted: true,
                vcpus: vec![vcpu(150, Some(600)), vcpu(350, Some(400))],
                ..VmInfo::default()
            },
        }
    }

    #[test]
    fn both_ideas_of_busy_time_are_shown() {
        let text = in_words(&example());
        assert!(
            text.starts_with("web: running, up 1 min 1 s, process 7\n"),
            "{text}"
        );
        assert!(text.contains("2 virtual processors share 1 CPU:"), "{text}");
        let row = |name: &str| -> Vec<&str> {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace()
                .skip(1)
                .filter(|word| *word != "%")
                .collect()
        };
        assert_eq!(row("0 "), ["150", "50", "200", "600", "1000", "20.0", "40.0"]);
        assert_eq!(row("all "), ["500", "100", "400", "1000", "2000", "30.0", "50.0"]);
        assert!(
            text.contains("KVM: all                18\nKVM: io_exits           14\n"),
            "{text}"
        );
    }

    #[test]
    fn what_kvm_does_not_count_is_unknown() {
        let mut info = example();
        info.machine.vcpus.truncate(1);
        info.machine.vcpus[0].halted_ms = None;
        let text = in_words(&info);
        let line = text.lines().find(|line| line.starts_with("0 ")).unwrap();
        assert_eq!(line.matches('?').count(), 2, "{line}");
        assert!(!text.contains("\nall "));
    }

    #[test]
    fn processors_that_sleep_are_not_called_busy() {
        let mut info = example();
        info.machine.vcpus[1] = VcpuInfo {
            elapsed_ms: 1000,
            ..VcpuInfo::default()
        };
        let text = in_words(&info);
        let line = text.lines().find(|line| line.starts_with("1 ")).unwrap();
        assert!(
            line.ends_with("not started by the guest") && !line.contains('%'),
            "{line}"
        );
        assert!(!text.contains("\nall "));
    }

    #[test]
    fn the_account_survives_json() {
        let info = example();
        let text = serde_json::to_string(&info).unwrap();
        assert_eq!(serde_json::from_str::<Info>(&text).unwrap(), info);
        assert!(text.starts_with("{\"name\":\"web\",\"pid\":7,"), "{text}");
        let newer: Info = serde_json::from_str("{\"name\": \"a\", \"novelty\": 1, \"vcpus\": [{}]}").unwrap();
        assert_eq!(
            newer.machine.vcpus.len(),
            1,
            "other versions are understood as far as possible"
        );
        assert_eq!(newer.machine.report.sandbox, vmm::SandboxReport::default());
        let newer: Info =
            serde_json::from_str("{\"name\": \"a\", \"sandbox\": {\"landlock\": 9, \"novelty\": 1}}")
                .unwrap();
        assert_eq!(newer.machine.report.sandbox.landlock, Some(9));
    }
}
