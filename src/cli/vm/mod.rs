//! `enlight vm`: one process, one machine. No runtime is started here; the process stays small.

mod args;
mod disk;
mod nic;
mod run;

use std::process::ExitCode;

use anyhow::Result;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Run a virtual machine until it switches itself off; its console is this terminal (Ctrl-A x ends it)
    #[command(after_help = "Examples:
  enlight vm run --micro-guest --cmdline 'role=server ip=192.0.2.2/24 peer=192.0.2.1 workload=rr' --memory 16M --nic port=v0
      The small guest that is part of this program, on the port v0 of the running switch.
  enlight vm run --kernel vmlinuz --initrd initrd.img --cmdline console=ttyS0 --nic vhost-user=/tmp/v0.sock,queues=2
      A distribution's kernel on any vhost-user back end.
  enlight vm run --kernel vmlinux --cmdline 'console=ttyS0 root=/dev/vda' --disk root.img --disk data.qcow2 --disk tools.img,ro
      Three disks, /dev/vda to /dev/vdc in this order, the last one read-only. What a file is, its name says
      (.qcow2, .vhd, otherwise raw) or format= does.")]
    Run(Box<args::Args>),
}

pub(super) fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Run(args) => run::run(&args),
    }
}
