//! `cargo xtask bench-peers`: the switch beside others, with what that takes set up for as long as it takes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::run::{cargo, has_program, output, say};
use crate::setup::{self, Program};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask bench-peers
  cargo xtask bench-peers -- --rows stream,rr --pairs 3
  cargo xtask bench-peers -- --help

As root it installs what is missing (no service is started or enabled) and reserves 1024 huge pages while it runs; who is not root
does that first. All rows take about half an hour; each pair of slices is told when it is measured.")]
pub(crate) struct Args {
    /// Passed on to the benchmark
    #[arg(last = true, value_name = "OPTIONS")]
    options: Vec<String>,
}

/// What the benchmark calls.
const PROGRAMS: [Program; 9] = [
    ("dpdk-testpmd", "dpdk-dev"),
    ("ovs-vsctl", "openvswitch-switch"),
    (
        "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk",
        "openvswitch-switch-dpdk",
    ),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("qemu-img", "qemu-utils"),
    ("ip", "iproute2"),
    ("ethtool", "ethtool"),
    ("stdbuf", "coreutils"),
    ("taskset", "util-linux"),
];
/// What it calls, too, and not every Debian has.
const SURICATA: Program = ("suricata", "suricata");
/// Packages with services that nobody asked for.
const SERVICES: [(&str, &[&str]); 2] = [
    (
        "openvswitch-switch",
        &["openvswitch-switch", "ovs-record-hostname"],
    ),
    ("suricata", &["suricata"]),
];
/// Debian's hook that says whether a package may start its service (invoke-rc.d(8)).
const POLICY: &str = "/usr/sbin/policy-rc.d";
/// A policy that forbids it.
const FORBID: &str = "#!/bin/sh\nexit 101\n";
/// Where the kernel tells of huge pages of 2 MiB.
const PAGES: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";
/// As many as a peer with DPDK and its load have room in.
const WANTED: u64 = 1024;
const NEEDED: u64 = 600;
/// How long the benchmark has to clean up after an interrupt.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn bench(args: &Args) -> Result<ExitCode> {
    let mut command = cargo();
    command
        .args(["bench", "--bench", "peers", "--"])
        .args(&args.options);
    if args
        .options
        .iter()
        .any(|option| option == "--help" || option == "-h")
    {
        return Ok(code(command.status().context("starting cargo")?.code()));
    }
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted)).context("waiting for signals")?;
    }
    install()?;
    let _pages = HugePages::reserve(Path::new(PAGES))?;
    if interrupted.load(Ordering::Relaxed) {
        return Ok(code(None));
    }
    follow(command, &interrupted)
}

/// Installs what is missing without starting services, now or at the next boot.
fn install() -> Result<()> {
    install_quietly(&PROGRAMS)?;
    if has_program(SURICATA.0) {
        return Ok(());
    }
    // Whoever cannot have it compares the rest.
    let installed = match setup::versions(SURICATA.1)?.as_slice() {
        [] => Err(anyhow!("this archive has none")),
        _ => install_quietly(&[SURICATA]),
    };
    if let Err(error) = installed {
        eprintln!(
            "bench-peers: there is no suricata to compare inspection with ({error:#}); Debian 12 has it in its backports: apt-get \
             install -t bookworm-backports suricata"
        );
    }
    Ok(())
}

fn install_quietly(programs: &[Program]) -> Result<()> {
    let missing = setup::missing_packages(programs);
    if missing.is_empty() {
        return Ok(());
    }
    if setup::is_root()? {
        let _policy = Policy::forbid_services(Path::new(POLICY))?;
        setup::install(programs)?;
    } else {
        // Which says what to install, and how.
        setup::install(programs)?;
    }
    for (package, services) in SERVICES {
        if missing.contains(&package)
            && has_program("systemctl")
            && let Err(error) = output(
                Command::new("systemctl")
                    .args(["disable", "--quiet"])
                    .args(services),
            )
        {
            eprintln!("bench-peers: {package} may start at the next boot: {error:#}");
        }
    }
    Ok(())
}

/// Keeps packages from starting their services. What was there before is back when this is dropped.
struct Policy {
    path: PathBuf,
    before: Option<PathBuf>,
}

impl Policy {
    fn forbid_services(path: &Path) -> Result<Self> {
        let aside = path.with_extension("d.before-bench-peers");
        let before = if path.exists() {
            fs::rename(path, &aside).with_context(|| format!("moving {} aside", path.display()))?;
            Some(aside)
        } else {
            None
        };
        let policy = Self {
            path: path.to_owned(),
            before,
        };
        let executable = fs::Permissions::from_mode(0o755);
        fs::write(path, FORBID)
            .and_then(|()| fs::set_permissions(path, executable))
            .with_context(|| format!("writing {}", path.display()))?;
        Ok(policy)
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        let restored = match &self.before {
            Some(before) => fs::rename(before, &self.path),
            None => fs::remove_file(&self.path),
        };
        if let Err(error) = restored {
            eprintln!("bench-peers: {} cannot be restored: {error}", self.path.display());
        }
    }
}

/// Huge pages that are there for a while. The number before is back when this is dropped.
struct HugePages {
    number: PathBuf,
    before: Option<u64>,
}

impl HugePages {
    /// Sees to it that enough are free.
    fn reserve(directory: &Path) -> Result<Self> {
        let (number, free) = (directory.join("nr_hugepages"), directory.join("free_hugepages"));
        let (before, available) = (read(&number)?, read(&free)?);
        let mut pages = Self { number, before: None };
        if available >= WANTED {
            return Ok(pages);
        }
        let more = before + WANTED - available;
        if let Err(error) = fs::write(&pages.number, more.to_string()) {
            ensure!(
                available >= NEEDED,
                "{available} huge pages are free and {NEEDED} are needed, but {} cannot be written: {error}; \
                 run: sudo sh -c 'echo {more} >{}'",
                pages.number.display(),
                pages.number.display()
            );
            return Ok(pages);
        }
        pages.before = Some(before);
        eprintln!("bench-peers: {more} huge pages of 2 MiB, {before} before");
        let available = read(&free)?;
        ensure!(
            available >= NEEDED,
            "the kernel found memory for {available} free huge pages, and {NEEDED} are needed; end what takes memory, or try \
             again after a restart"
        );
        Ok(pages)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        let Some(before) = self.before else { return };
        if let Err(error) = fs::write(&self.number, before.to_string()) {
            eprintln!(
                "bench-peers: {} cannot be set back to {before}: {error}",
                self.number.display()
            );
        }
    }
}

fn read(path: &Path) -> Result<u64> {
    let text = fs::read_to_string(path)
        .with_context(|| format!("reading {}: does this kernel have huge pages?", path.display()))?;
    let number = text.trim().parse();
    number.with_context(|| format!("{} has no number in it", path.display()))
}

/// Runs the benchmark in a process group of its own; an interrupt is passed on, and all of the group awaited.
fn follow(mut command: Command, interrupted: &AtomicBool) -> Result<ExitCode> {
    let text = say(&command);
    let mut child = command
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()
        .with_context(|| format!("starting `{text}`"))?;
    loop {
        if let Some(status) = child.try_wait().context("waiting for the benchmark")? {
            return Ok(code(status.code()));
        }
        if interrupted.load(Ordering::Relaxed) {
            stop(&mut child)?;
            return Ok(code(None));
        }
        sleep(Duration::from_millis(100));
    }
}

/// Ends a process group, and waits for that: huge pages are only free then. Not by an interrupt, which a group that was started in
/// the background may ignore.
fn stop(child: &mut Child) -> Result<()> {
    let group = Pid::from_child(child);
    let end = Instant::now() + PATIENCE;
    // It may be gone already.
    let _ = kill_process_group(group, Signal::TERM);
    loop {
        let _ = child.try_wait();
        if test_kill_process_group(group).is_err() {
            return Ok(());
        }
        if Instant::now() > end {
            let _ = kill_process_group(group, Signal::KILL);
            bail!("the benchmark did not end when it was interrupted, and was killed");
        }
        sleep(Duration::from_millis(100));
    }
}

/// This process's exit status for another one's; a signal counts as an interrupt.
fn code(status: Option<i32>) -> ExitCode {
    let interrupt = 130;
    ExitCode::from(
        status
            .and_then(|status| u8::try_from(status).ok())
            .unwrap_or(interrupt),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(number: u64, free: u64) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("nr_hugepages"), number.to_string()).unwrap();
        fs::write(directory.path().join("free_hugepages"), free.to_string()).unwrap();
        directory
    }

    #[test]
    fn huge_pages_are_given_back() {
        let directory = pages(700, 650);
        let number = directory.path().join("nr_hugepages");
        let reserved = HugePages::reserve(directory.path()).unwrap();
        assert_eq!(read(&number).unwrap(), 700 + 1024 - 650);
        drop(reserved);
        assert_eq!(read(&number).unwrap(), 700);
    }

    #[test]
    fn huge_pages_that_are_free_are_left_alone() {
        let directory = pages(3000, 1024);
        let _reserved = HugePages::reserve(directory.path()).unwrap();
        assert_eq!(read(&directory.path().join("nr_hugepages")).unwrap(), 3000);
    }

    #[test]
    fn too_few_huge_pages_are_an_error_and_given_back() {
        let directory = pages(2, 1);
        assert!(HugePages::reserve(directory.path()).is_err());
        assert_eq!(read(&directory.path().join("nr_hugepages")).unwrap(), 2);
    }

    #[test]
    fn a_policy_leaves_no_trace() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("policy-rc.d");
        let entries = || fs::read_dir(directory.path()).unwrap().count();
        let policy = Policy::forbid_services(&path).unwrap();
        let status = Command::new(&path).status().unwrap();
        assert_eq!(status.code(), Some(101));
        drop(policy);
        assert_eq!(entries(), 0);

        fs::write(&path, "somebody's").unwrap();
        drop(Policy::forbid_services(&path).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "somebody's");
        assert_eq!(entries(), 1);
    }

    #[test]
    fn an_interrupted_group_ends_as_a_whole() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 1000 & sleep 1000"]);
        let code = follow(command, &AtomicBool::new(true)).unwrap();
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::from(130)));
    }
}
