//! QEMU's command line and process.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::{Lab, LabError};

/// The streams that come out, by the names that QEMU knows them by. The first three are ports 1 to 3 in the laboratory.
pub(crate) const STREAMS: [&str; 4] = ["out", "err", "control", "console"];

/// QEMU's software CPU with AMD's virtualization. Without nested paging KVM shadows page tables, which is quicker here and has
/// not been seen to break the laboratory's kernel, as nested paging has. Without XSAVE guests do not complain that KVM knows the
/// area's size too late. Without the fast-string features the kernel copies in words: QEMU carries out `rep movsb` octet by
/// octet.
const CPU: &str = "max,+svm,-npt,-xsave,-erms,-fsrm";

/// How long QEMU has to connect its ends.
const CONNECT: Duration = Duration::from_secs(30);

/// Most that QEMU says which is worth to be passed on, in octets.
const MAX_SAID: u64 = 4096;

/// Makes the names of sockets different.
static COUNT: AtomicU32 = AtomicU32::new(0);

/// A started QEMU. Dropping it ends it.
pub(crate) struct Machine {
    child: Child,
    said: Option<JoinHandle<String>>,
    /// One for each of [`STREAMS`].
    pub(crate) streams: Vec<UnixStream>,
}

/// A program of this machine's, `sbin` directories included.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let extra = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(extra)
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

/// Where QEMU is.
pub(crate) fn installed() -> Result<PathBuf, LabError> {
    let (program, package) = ("qemu-system-x86_64", "qemu-system-x86");
    find(program).ok_or(LabError::NoProgram { program, package })
}

/// Starts QEMU and waits until it holds its ends of all streams.
pub(crate) fn start(lab: &Lab, qemu: &Path, image: &File) -> Result<Machine, LabError> {
    for disk in &lab.disks {
        File::open(disk).map_err(|source| LabError::Unreadable {
            path: disk.clone(),
            source,
        })?;
    }
    let name = format!(
        "kvm-lab-{}-{}",
        std::process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    );
    let listeners = STREAMS
        .map(|stream| listen(&format!("{name}-{stream}")))
        .into_iter()
        .collect::<Result<Vec<_>, _>>()
        .map_err(LabError::system("making sockets"))?;
    let image = image
        .try_clone()
        .map_err(LabError::system("handing the initial RAM disk over"))?;
    let mut child = command(lab, qemu, &name)
        .stdin(image)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(LabError::system("starting QEMU"))?;
    let said = child.stderr.take().map(|stderr| {
        std::thread::spawn(move || {
            let mut said = Vec::new();
            let _ = stderr.take(MAX_SAID).read_to_end(&mut said);
            String::from_utf8_lossy(&said).trim().replace('\n', "; ")
        })
    });
    let mut machine = Machine {
        child,
        said,
        streams: Vec::new(),
    };
    machine.connect(&listeners)?;
    Ok(machine)
}

fn listen(name: &str) -> std::io::Result<UnixListener> {
    let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// QEMU with the laboratory's hardware. Its standard input is the initial RAM disk.
fn command(lab: &Lab, qemu: &Path, name: &str) -> Command {
    // Whoever started the laboratory may be killed; util-linux lets QEMU end with it.
    let mut command = match find("setpriv") {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "KILL", "--"]).arg(qemu);
            command
        }
        None => Command::new(qemu),
    };
    command
        .args(["-accel", "tcg,thread=multi", "-cpu", CPU, "-machine", "q35"])
        .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"])
        .args(["-smp", &lab.smp.to_string(), "-m", &lab.memory.to_string()])
        .arg("-kernel")
        .arg(&lab.kernel.image)
        .args(["-initrd", "/dev/stdin"])
        .args([
            "-append",
            "console=ttyS0 panic=-1 mitigations=off sysctl.kernel.hung_task_timeout_secs=60",
        ])
        .args(["-device", "virtio-rng-pci", "-device", "virtio-serial-pci"]);
    for stream in STREAMS {
        command.args([
            "-chardev",
            &format!("socket,id={stream},path={name}-{stream},abstract=on"),
        ]);
        if stream == "console" {
            command.args(["-serial", "chardev:console"]);
        } else {
            command.args(["-device", &format!("virtserialport,chardev={stream}")]);
        }
    }
    for (index, disk) in lab.disks.iter().enumerate() {
        let qcow2 = disk.extension().is_some_and(|ending| ending == "qcow2");
        let format = if qcow2 { "qcow2" } else { "raw" };
        let path = disk.to_string_lossy().replace(',', ",,");
        command.args([
            "-drive",
            &format!("file={path},format={format},if=none,id=disk{index},snapshot=on"),
            "-device",
            &format!("virtio-blk-pci,drive=disk{index}"),
        ]);
    }
    command
}

impl Machine {
    fn connect(&mut self, listeners: &[UnixListener]) -> Result<(), LabError> {
        let end = Instant::now() + CONNECT;
        for listener in listeners {
            let stream = loop {
                match listener.accept() {
                    Ok((stream, _)) => break stream,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => return Err(LabError::system("connecting QEMU")(error)),
                }
                let ended = self
                    .child
                    .try_wait()
                    .map_err(LabError::system("waiting for QEMU"))?;
                if ended.is_some() || Instant::now() >= end {
                    return Err(self.failed());
                }
                std::thread::sleep(Duration::from_millis(5));
            };
            stream
                .set_nonblocking(false)
                .map_err(LabError::system("connecting QEMU"))?;
            self.streams.push(stream);
        }
        Ok(())
    }

    /// Asks the laboratory's first process what goes on there; the console tells.
    pub(crate) fn ask(&mut self) -> std::io::Result<()> {
        let control = STREAMS.iter().position(|stream| *stream == "control");
        match control.and_then(|index| self.streams.get_mut(index)) {
            Some(stream) => stream.write_all(b"tell\n"),
            None => Ok(()),
        }
    }

    fn failed(&mut self) -> LabError {
        let _ = self.child.kill();
        let status = self.child.wait();
        LabError::Qemu {
            status: status.map_or_else(|error| error.to_string(), |status| status.to_string()),
            said: self.said(),
        }
    }

    /// Ends QEMU; what it said, on one line.
    pub(crate) fn said(&mut self) -> String {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let said = self.said.take().and_then(|thread| thread.join().ok());
        said.unwrap_or_default()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
