//! `enlight vm`: one process, one machine. No runtime is started here; the process stays small.

use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use offload::MacAddr;
use serde::Serialize;
use vmm::{Console, Kernel, NicConfig, StopReason, Vm, VmConfig, VmReport};
use vswitch::control::{PortInfo, PortKind, mac_of_name};

use super::{client, port_target, say, to_json};

/// Memory of a guest that does not say how much it wants.
const DEFAULT_MEMORY: &str = "256M";
/// How long a machine goes on looking for a switch that vanished.
const DEFAULT_RECONNECT: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Run a virtual machine until it switches itself off; its console is this terminal (Ctrl-A x ends it)
    #[command(after_help = "Examples:
  enlight vm run --micro-guest --cmdline 'role=server ip=192.0.2.2/24 peer=192.0.2.1 workload=rr' --memory 16M --nic port=v0
      The small guest that is part of this program, on the port v0 of the running switch.
  enlight vm run --kernel vmlinux --initrd initrd.img --cmdline console=ttyS0 --nic vhost-user=/tmp/v0.sock,queues=2
      An ELF kernel with a PVH note, such as Linux's vmlinux, on any vhost-user back end.")]
    Run(Box<Args>),
}

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("boot").required(true).args(["kernel", "micro_guest"]))]
pub(super) struct Args {
    /// Boot this ELF file with a PVH note
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,

    /// Boot the small guest that is part of this program
    #[arg(long)]
    micro_guest: bool,

    /// Hand this file to the kernel as its initial RAM disk
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,

    /// The kernel's command line
    #[arg(long, value_name = "TEXT", default_value = "", allow_hyphen_values = true)]
    cmdline: String,

    /// Guest memory: octets, or with K, M or G behind the number
    #[arg(long, value_name = "SIZE", default_value = DEFAULT_MEMORY, value_parser = parse_size)]
    memory: u64,

    /// Virtual processors
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
    vcpus: u8,

    /// A network interface: port=NAME or vhost-user=PATH, then, if wanted, mac=M, queues=N, mtu=N, reconnect=SECONDS, all
    /// separated by commas; may be repeated
    #[arg(long = "nic", value_name = "NIC")]
    nics: Vec<NicArg>,

    /// The control socket of the switch that `port=NAME` is looked up in
    #[arg(long, value_name = "SOCKET", env = "ENLIGHT_CONTROL", hide_env_values = true)]
    control: Option<PathBuf>,

    /// Print what the machine cost as JSON to standard output, not in words to standard error
    #[arg(long)]
    json: bool,
}

/// An interface as it is written on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
struct NicArg {
    back_end: BackEnd,
    mac: Option<MacAddr>,
    queues: Option<u8>,
    mtu: Option<u16>,
    reconnect: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum BackEnd {
    Port(String),
    Socket(PathBuf),
}

impl FromStr for NicArg {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (mut back_end, mut nic) = (None, (None, None, None, None));
        for part in text.split(',') {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            let number = |low: u16, high: u16| {
                let number = value
                    .parse::<u16>()
                    .ok()
                    .filter(|number| (low..=high).contains(number));
                number.ok_or_else(|| anyhow!("{key} must be {low} to {high}"))
            };
            let old = match key {
                "port" if !value.is_empty() => back_end.replace(BackEnd::Port(value.to_owned())).map(drop),
                "vhost-user" if !value.is_empty() => {
                    back_end.replace(BackEnd::Socket(value.into())).map(drop)
                }
                "mac" => nic.0.replace(unicast(value)?).map(drop),
                "queues" => nic
                    .1
                    .replace(number(1, u16::from(vmm::MAX_QUEUE_PAIRS))? as u8)
                    .map(drop),
                "mtu" => nic.2.replace(number(68, u16::MAX)?).map(drop),
                "reconnect" => nic.3.replace(u64::from(number(0, u16::MAX)?)).map(drop),
                "model" if value == "virtio" => None,
                _ => bail!(
                    "\"{part}\" is none of port=NAME, vhost-user=PATH, mac=M, queues=N, mtu=N, reconnect=S"
                ),
            };
            if old.is_some() {
                bail!("an interface has one port or socket, and each setting once: {part}");
            }
        }
        let back_end = back_end.context("an interface needs port=NAME or vhost-user=PATH")?;
        let (mac, queues, mtu, reconnect) = nic;
        Ok(Self {
            back_end,
            mac,
            queues,
            mtu,
            reconnect,
        })
    }
}

fn unicast(text: &str) -> Result<MacAddr> {
    let mac: MacAddr = text.parse()?;
    if mac.is_multicast() || mac == MacAddr::default() {
        bail!("{mac} is no address of one interface; its first octet must be even, such as 02");
    }
    Ok(mac)
}

/// A number of octets, such as `64M`.
fn parse_size(text: &str) -> Result<u64> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (text.get(..text.len() - 1), 10),
        Some(b'm' | b'M') => (text.get(..text.len() - 1), 20),
        Some(b'g' | b'G') => (text.get(..text.len() - 1), 30),
        _ => (Some(text), 0),
    };
    let number = digits.and_then(|digits| digits.parse::<u64>().ok());
    number
        .and_then(|number| number.checked_mul(1 << shift))
        .with_context(|| format!("\"{text}\" is no size; write 64M or 1G"))
}

pub(super) fn run(command: Command) -> Result<ExitCode> {
    let Command::Run(args) = command;
    let nics = args
        .nics
        .iter()
        .map(|nic| resolve(nic, args.control.as_ref()))
        .collect::<Result<_>>()?;
    let kernel = args
        .kernel
        .map_or(Kernel::Embedded(vmm::MICROGUEST), Kernel::File);
    let config = VmConfig {
        initrd: args.initrd,
        cmdline: args.cmdline,
        memory: args.memory,
        vcpus: args.vcpus,
        nics,
        ..VmConfig::new(kernel)
    };
    let input = io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .context("taking standard input")?;
    let mut vm = Vm::new(
        config,
        Console {
            output: Box::new(io::stdout()),
            input: Some(input),
        },
    )?;
    vm.stop_handle()
        .stop_on_signals()
        .context("watching for signals")?;
    let reason = vm.run()?;
    let outcome = Outcome {
        stopped: reason.to_string(),
        report: vm.report(),
    };
    if args.json {
        say(&to_json(&outcome)?)?;
    } else {
        eprint!("{}", in_words(&outcome, args.memory));
    }
    Ok(match reason {
        StopReason::GuestPowerOff | StopReason::GuestReset | StopReason::Requested => ExitCode::SUCCESS,
        StopReason::TripleFault | StopReason::SwitchGone { .. } => ExitCode::FAILURE,
    })
}

/// Finds an interface's socket, and takes from the switch what the command line left open.
fn resolve(nic: &NicArg, control: Option<&PathBuf>) -> Result<NicConfig> {
    let (socket, name, queues, mtu) = match &nic.back_end {
        BackEnd::Socket(path) => (path.clone(), path.display().to_string(), 1, 1500),
        BackEnd::Port(name) => {
            let port: PortInfo = client(control).get(&port_target(name, "")?)?;
            let PortKind::VhostUser(socket) = port.kind else {
                bail!("port {name} is no vhost-user port; a virtual machine needs one");
            };
            (socket, name.clone(), port.queues, port.mtu)
        }
    };
    Ok(NicConfig {
        socket,
        mac: nic.mac.unwrap_or_else(|| mac_of_name(&name)),
        queue_pairs: nic
            .queues
            .unwrap_or(u8::try_from(queues).unwrap_or(vmm::MAX_QUEUE_PAIRS)),
        mtu: nic.mtu.unwrap_or(mtu),
        reconnect: nic.reconnect.map_or(DEFAULT_RECONNECT, Duration::from_secs),
    })
}

#[derive(Debug, Serialize)]
struct Outcome {
    /// Why the machine stopped.
    stopped: String,
    #[serde(flatten)]
    report: VmReport,
}

fn in_words(outcome: &Outcome, memory: u64) -> String {
    let Outcome { stopped, report } = outcome;
    let ms = |us: u64| format!("{:.1} ms", us as f64 / 1e3);
    let mib = |kib: u64| format!("{:.1} MiB", kib as f64 / 1024.0);
    let boot = &report.boot;
    let mut text = format!("enlight: {stopped}\n");
    text.push_str(&format!(
        "enlight: ready after: memory {}, kernel {}, KVM {}, devices {}, processors {}",
        ms(boot.memory_us),
        ms(boot.kernel_us),
        ms(boot.kvm_us),
        ms(boot.devices_us),
        ms(boot.vcpus_us)
    ));
    for (what, when) in [("running", boot.started_us), ("first frame", boot.first_kick_us)] {
        if let Some(when) = when {
            text.push_str(&format!(", {what} {}", ms(when)));
        }
    }
    text.push_str(&format!(
        "\nenlight: memory: {} of the guest's {} touched, {} beyond it\n",
        mib(report.memory.guest_kib),
        mib(memory >> 10),
        mib(report.memory.beyond_guest_kib)
    ));
    // A terminal may still stand in the middle of the guest's last line.
    if io::stderr().is_terminal() {
        format!("\r\n{text}")
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_read() {
        let nic: NicArg = "port=v0,mac=02:00:00:00:00:07,queues=16,mtu=9000,reconnect=0,model=virtio"
            .parse()
            .unwrap();
        assert_eq!(nic.back_end, BackEnd::Port("v0".to_owned()));
        assert_eq!(nic.mac, Some(MacAddr([2, 0, 0, 0, 0, 7])));
        assert_eq!(
            (nic.queues, nic.mtu, nic.reconnect),
            (Some(16), Some(9000), Some(0))
        );
        let nic: NicArg = "vhost-user=/tmp/a.sock".parse().unwrap();
        assert_eq!(nic.back_end, BackEnd::Socket("/tmp/a.sock".into()));
    }

    #[test]
    fn bad_interfaces_are_refused_with_what_would_do() {
        for (text, needle) in [
            ("", "port=NAME"),
            ("mac=02:00:00:00:00:01", "needs port=NAME"),
            ("port=", "port=NAME"),
            ("port=a,vhost-user=b", "one port or socket"),
            ("port=a,queues=1,queues=2", "each setting once"),
            ("port=a,queues=0", "1 to 16"),
            ("port=a,queues=17", "1 to 16"),
            ("port=a,mtu=67", "68 to 65535"),
            ("port=a,mac=01:00:00:00:00:01", "even"),
            ("port=a,mac=02:00", "six octets"),
            ("port=a,model=e1000", "none of"),
        ] {
            let error = text.parse::<NicArg>().expect_err(text);
            assert!(error.to_string().contains(needle), "{text}: {error}");
        }
    }

    #[test]
    fn sizes_are_read() {
        assert_eq!(parse_size("4096").unwrap(), 4096);
        assert_eq!(
            [parse_size("16M").unwrap(), parse_size("1g").unwrap()],
            [16 << 20, 1 << 30]
        );
        for text in ["", "M", "12X", "-1", "99999999999G", "€"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_socket_gets_an_address_of_its_own_and_one_queue_pair() {
        let nic = resolve(&"vhost-user=/tmp/a.sock".parse().unwrap(), None).unwrap();
        assert_eq!((nic.queue_pairs, nic.mtu), (1, 1500));
        assert_eq!(nic.mac, mac_of_name("/tmp/a.sock"));
        assert!(!nic.mac.is_multicast());
    }
}
