//! `enlight vm`: one process, one machine. No runtime is started here; the process stays small.

mod args;
mod console;
mod disk;
mod hold;
mod info;
mod list;
mod machine;
mod nic;
mod run;
mod stop;
mod words;

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
      (.qcow2, .vhd, otherwise raw) or format= does.
While it runs, `enlight vm list`, `info`, `console`, `pause`, `resume` and `stop` find it by its --name.")]
    Run(Box<args::Args>),
    /// List the machines that run
    #[command(after_help = "Examples:
  enlight vm list
  enlight vm list --json
      A machine is running, paused, silent (its process does not answer) or dead (only its socket is left).")]
    List(list::Args),
    /// Stop a machine: its guest is asked by its power button first, then the machine is switched off
    #[command(after_help = "Examples:
  enlight vm stop web
  enlight vm stop web --timeout 120
      The guest has two minutes to end.
  enlight vm stop web --force
      At once, as if the power cord were pulled.
The exit status is 0 when the guest ended by itself or --force was given, and 3 when it had to be forced. A stop that was
asked for goes on when this command is interrupted.")]
    Stop(stop::Args),
    /// Hold a machine still
    #[command(after_help = "Example:
  enlight vm pause web
      Its processors and devices do nothing until `enlight vm resume web`; its memory stays.")]
    Pause(hold::Args),
    /// Let a paused machine go on
    #[command(after_help = "Example:\n  enlight vm resume web")]
    Resume(hold::Args),
    /// Use a machine's console on this terminal (Ctrl-A x leaves it; the machine goes on)
    #[command(after_help = "Examples:
  enlight vm console web
      Shows what the guest printed lately, then passes everything both ways. Ctrl-A Ctrl-A sends a Ctrl-A.
  enlight vm console web </dev/null
      Only looks on, until Ctrl-C or the machine's end.")]
    Console(console::Args),
    /// Show what a machine is, costs and does: processor time as host and guest see it, exits, memory, start, devices
    #[command(after_help = "Examples:\n  enlight vm info web\n  enlight vm info web --json")]
    Info(info::Args),
}

pub(super) fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Run(args) => return run::run(&args),
        Command::Stop(args) => return stop::run(&args),
        Command::List(args) => list::run(&args)?,
        Command::Pause(args) => hold::pause(&args)?,
        Command::Resume(args) => hold::resume(&args)?,
        Command::Console(args) => console::run(&args)?,
        Command::Info(args) => info::run(&args)?,
    }
    Ok(ExitCode::SUCCESS)
}
