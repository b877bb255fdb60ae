//! From the start of a machine's process to its end, with Debian's kernel inside that does nothing but switch off: packed and
//! unpacked, beside Cloud Hypervisor and Firecracker where they are installed.
//!
//!     cargo bench --bench linux_boot [-- ROUNDS]
//!
//! Runs in the laboratory where this machine's KVM cannot run Linux. Peers are looked for on the path, or named by the
//! variables `CLOUD_HYPERVISOR` and `FIRECRACKER`. Each round runs all contenders in turn. Prints medians with the smallest and
//! the largest, ratios of each round to ours, and for ours the phases.

#[path = "../tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use initramfs::{Archive, Program};
use kvm_lab::{Add, Kernel, Lab};
use serde_json::{Value, json};
use support::has_complete_kvm;
use support::image::image;

/// Set in the laboratory: where the files are, and how many rounds to run.
const INSIDE: &str = "ENLIGHT_BENCH_INSIDE";
const CMDLINE: &str = "console=ttyS0 quiet panic=-1 mitigations=off reboot=k";

/// The guest's first process.
const INIT: &str = r"#!/bin/busybox sh
/bin/busybox mount -t sysfs sys /sys
printf '\001' | /bin/busybox dd of=/sys/bus/pci/devices/0000:00:00.0/config bs=1 seek=64 conv=notrunc 2>/dev/null
/bin/busybox poweroff -f
";

/// The same for a machine that cannot be switched off: Firecracker's ends when the guest restarts.
const RESTART: &str = "#!/bin/busybox sh\n/bin/busybox reboot -f\n";

fn main() {
    if let Ok(task) = std::env::var(INSIDE) {
        let (home, rounds) = task.split_once(' ').expect("a directory and a number");
        return run(Path::new(home), rounds.parse().expect("a number"));
    }
    let rounds = std::env::args()
        .skip(1)
        .find_map(|text| text.parse().ok())
        .unwrap_or(7);
    let home = support::target().join("bench-linux-boot");
    if let Err(reason) = prepare(&home) {
        return println!("SKIPPED linux_boot: {reason}");
    }
    if has_complete_kvm() {
        return run(&home, rounds);
    }
    in_laboratory(&home, rounds);
}

/// Puts everything that runs into one directory.
fn prepare(home: &Path) -> Result<(), String> {
    let image = image()?;
    let vmlinux = support::vmlinux::beside(&image.kernel)?;
    let made = || -> Result<(), Box<dyn std::error::Error>> {
        fs::create_dir_all(home)?;
        fs::copy(&image.kernel, home.join("vmlinuz"))?;
        fs::copy(vmlinux, home.join("vmlinux"))?;
        fs::copy(support::enlight(), home.join("enlight"))?;
        fs::write(home.join("initrd-poweroff"), archive(INIT)?)?;
        fs::write(home.join("initrd-restart"), archive(RESTART)?)?;
        for (name, variable) in [
            ("cloud-hypervisor", "CLOUD_HYPERVISOR"),
            ("firecracker", "FIRECRACKER"),
        ] {
            let found = std::env::var_os(variable)
                .map(PathBuf::from)
                .or_else(|| support::program(name));
            let _ = fs::remove_file(home.join(name));
            match found {
                Some(file) => drop(fs::copy(file, home.join(name))?),
                None => println!("{name} is not installed (or not named by {variable}): left out"),
            }
        }
        let machine = json!({
            "boot-source": {
                "kernel_image_path": home.join("vmlinux"),
                "initrd_path": home.join("initrd-restart"),
                "boot_args": CMDLINE,
            },
            "drives": [],
            "cpu-config": home.join("firecracker-cpu.json"),
            "machine-config": {"vcpu_count": 1, "mem_size_mib": 128},
        });
        // It insists on XSAVE otherwise, which the laboratory's processor is without.
        fs::write(
            home.join("firecracker-cpu.json"),
            json!({"kvm_capabilities": ["!56"]}).to_string(),
        )?;
        Ok(fs::write(home.join("firecracker.json"), machine.to_string())?)
    };
    made().map_err(|error| format!("filling {}: {error}", home.display()))
}

fn archive(init: &str) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let mut archive = Archive::new();
    for directory in ["/dev", "/sys"] {
        archive.directory(directory, 0o755)?;
    }
    let busybox = support::program("busybox").ok_or("busybox is not installed: run `cargo xtask setup`")?;
    Program::read(&busybox)?.add_to(&mut archive, "/bin/busybox")?;
    archive.file("/init", 0o755, init.as_bytes())?;
    Ok(archive.finish())
}

fn in_laboratory(home: &Path, rounds: usize) {
    let own = std::env::current_exe().expect("this program has a file");
    let kernel = Kernel::in_target(&support::target()).expect("the image has a kernel");
    let lab = Lab {
        memory: 2560,
        adds: vec![Add::same_path(&own), Add::same_path(home)],
        variables: vec![(INSIDE.to_owned(), format!("{} {rounds}", home.display()))],
        ..Lab::new(kernel)
    };
    match lab.run(&[own.as_os_str()], &mut std::io::stdout(), &mut std::io::stderr()) {
        Ok(0) => {}
        Ok(status) => panic!("the laboratory's program ended with {status}"),
        Err(error) => panic!("the laboratory: {error}"),
    }
}

/// A way to boot the kernel.
struct Contender {
    name: &'static str,
    words: Vec<String>,
}

fn contenders(home: &Path) -> Vec<Contender> {
    let file = |name: &str| home.join(name).display().to_string();
    let mut all = Vec::new();
    for (name, kernel) in [("enlight vmlinux", "vmlinux"), ("enlight vmlinuz", "vmlinuz")] {
        let words = format!(
            "{} vm run --no-reboot --json --memory 128M --kernel {} --initrd {} --cmdline",
            file("enlight"),
            file(kernel),
            file("initrd-poweroff")
        );
        all.push((name, words, Some(CMDLINE)));
    }
    for (name, kernel) in [
        ("cloud-hypervisor vmlinux", "vmlinux"),
        ("cloud-hypervisor vmlinuz", "vmlinuz"),
    ] {
        let words = format!(
            "{} --memory size=128M --cpus boot=1 --serial tty --console off --kernel {} --initramfs {} --cmdline",
            file("cloud-hypervisor"),
            file(kernel),
            file("initrd-poweroff")
        );
        all.push((name, words, Some(CMDLINE)));
    }
    let words = format!(
        "{} --no-api --config-file {}",
        file("firecracker"),
        file("firecracker.json")
    );
    all.push(("firecracker vmlinux", words, None));
    let contender = |(name, words, last): (&'static str, String, Option<&str>)| Contender {
        name,
        words: words.split(' ').chain(last).map(str::to_owned).collect(),
    };
    let there = |contender: &Contender| Path::new(&contender.words[0]).exists();
    all.into_iter().map(contender).filter(there).collect()
}

fn run(home: &Path, rounds: usize) {
    let mut times: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let mut phases: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    let contenders = contenders(home);
    for round in 0..=rounds {
        for Contender { name, words } in &contenders {
            let started = Instant::now();
            let output = Command::new(&words[0])
                .args(&words[1..])
                .stdin(Stdio::null())
                .output();
            let output = output.expect("it starts");
            let seconds = started.elapsed().as_secs_f64();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(
                output.status.success(),
                "{name}: {}: {text}{errors}",
                output.status
            );
            // The first round only warms caches.
            if round == 0 {
                continue;
            }
            times.entry(name).or_default().push(seconds);
            if let Some(report) = text
                .find("{\n")
                .and_then(|at| serde_json::from_str(&text[at..]).ok())
            {
                phases.entry(name).or_default().push(report);
            }
        }
    }
    print(&contenders, &times, &phases);
}

fn print(contenders: &[Contender], times: &BTreeMap<&str, Vec<f64>>, phases: &BTreeMap<&str, Vec<Value>>) {
    println!("start to power-off, s: median (smallest to largest); the contender's time over ours, by round");
    for Contender { name, .. } in contenders {
        let (_, kernel) = name.split_once(' ').expect("two words");
        let ours = &times[format!("enlight {kernel}").as_str()];
        let ratios = times[name]
            .iter()
            .zip(ours)
            .map(|(theirs, ours)| theirs / ours)
            .collect();
        println!("{name:26} {}   {}", spread(times[name].clone()), spread(ratios));
    }
    for (name, reports) in phases {
        let median = |pointer: &str| {
            let values = reports
                .iter()
                .filter_map(|report| report.pointer(pointer)?.as_f64());
            middle(values.collect())
        };
        let keys = [
            "memory", "unpacked", "kernel", "kvm", "devices", "vcpus", "started", "init",
        ];
        let keys = keys.map(|key| format!("{key} {:.0} ms", median(&format!("/boot/{key}_us")) / 1e3));
        println!("{name}: {}", keys.join(", ").replace("unpacked NaN ms, ", ""));
        println!(
            "{name}: {:.1} MiB beyond the guest",
            median("/memory/beyond_guest_kib") / 1024.0
        );
    }
}

fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn spread(values: Vec<f64>) -> String {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(0.0, f64::max);
    format!("{:.2} ({least:.2} to {most:.2})", middle(values))
}
