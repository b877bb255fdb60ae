//! A Linux guest in QEMU whose shell the test drives over the serial line.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use super::image::Image;
use super::machine::without_devices;

/// What a guest's NIC is attached to.
#[derive(Clone, Copy, Debug)]
pub enum Nic<'a> {
    /// A vhost-user socket of a switch; `features` is appended to the device, such as `,csum=off`.
    VhostUser {
        /// The socket.
        socket: &'a Path,
        /// More of the device's properties.
        features: &'a str,
    },
    /// A tap interface in a network namespace.
    Tap {
        /// The namespace.
        netns: &'a str,
        /// The interface.
        interface: &'a str,
    },
}

/// A running guest. Dropping it kills it.
pub struct Guest {
    name: String,
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    /// What it printed so far, for error messages.
    log: Vec<String>,
    /// Its disk, by which files leave it.
    disk: tempfile::NamedTempFile,
}

/// Size of the disk; it takes only what is written to it.
const DISK: u64 = 256 << 20;

/// How long a guest has to boot, on a busy machine with a software CPU.
const BOOT: Duration = Duration::from_mins(2);

impl Guest {
    /// Starts a guest with address 192.0.2.`host`/24 and the matching IPv6 address, and waits for its shell.
    pub fn start(image: &Image, name: &str, host: u8, nic: Nic<'_>) -> Self {
        let mut guest = Self::boot(image, name, host, nic);
        guest.wait_ready();
        guest.run(&format!(
            "echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad; ip addr add 192.0.2.{host}/24 dev eth0 && ip -6 addr add 2001:db8::{host}/64 dev eth0 && ip link set eth0 up"
        ));
        guest
    }

    /// Starts a guest and does not wait.
    pub fn boot(image: &Image, name: &str, host: u8, nic: Nic<'_>) -> Self {
        let disk = tempfile::NamedTempFile::new().expect("a temporary file");
        disk.as_file().set_len(DISK).expect("the disk gets its size");
        let mut command = machine(image, nic);
        nic.attach(host, &mut command);
        let drive = format!("file={},format=raw,if=none,id=d", disk.path().display());
        command.args(["-drive", &drive, "-device", "virtio-blk-pci,drive=d"]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("QEMU starts");
        let input = child.stdin.take().expect("a pipe");
        let lines = read_lines(child.stdout.take().expect("a pipe"));
        Self {
            name: name.to_owned(),
            child,
            input,
            lines,
            log: Vec::new(),
            disk,
        }
    }

    /// Waits for the guest's shell.
    pub fn wait_ready(&mut self) {
        self.until_marker("boot", BOOT);
    }

    /// Runs a shell command in the guest; panics when it fails.
    pub fn run(&mut self, command: &str) -> String {
        let (status, output) = self.try_run(command, Duration::from_mins(1));
        assert_eq!(status, "0", "{}: `{command}` failed:\n{output}", self.name);
        output
    }

    /// Runs a shell command in the guest: its status and output.
    pub fn try_run(&mut self, command: &str, limit: Duration) -> (String, String) {
        self.send(command);
        self.finish(command, limit)
    }

    /// Copies a file out of the guest.
    pub fn fetch(&mut self, inside: &str, to: &Path) {
        let size = self.run(&format!(
            "dd if={inside} of=/dev/vda bs=1M 2>/dev/null && sync && stat -c %s {inside}"
        ));
        let size: u64 = size.trim().parse().expect("a size");
        let mut file = std::fs::File::open(self.disk.path())
            .expect("the disk opens")
            .take(size);
        let mut copy = std::fs::File::create(to).expect("the copy opens");
        assert_eq!(
            std::io::copy(&mut file, &mut copy).expect("the file is copied"),
            size
        );
    }

    /// Starts a shell command in the guest; [`Guest::finish`] waits for it.
    pub fn send(&mut self, command: &str) {
        writeln!(self.input, "{command}").expect("the guest's serial line takes a command");
    }

    /// Waits for a command that was sent.
    pub fn finish(&mut self, command: &str, limit: Duration) -> (String, String) {
        self.until_marker(command, limit)
    }

    fn until_marker(&mut self, what: &str, limit: Duration) -> (String, String) {
        let end = Instant::now() + limit;
        let mut output = Vec::new();
        loop {
            match self
                .lines
                .recv_timeout(end.saturating_duration_since(Instant::now()))
            {
                Ok(line) => {
                    self.log.push(line.clone());
                    // Kernel messages may precede the marker on its line.
                    if let Some((before, status)) = line.split_once("@@ ") {
                        output.push(before.to_owned());
                        return (status.to_owned(), output.join("\n"));
                    }
                    output.push(line);
                }
                Err(error) => {
                    let why = match error {
                        RecvTimeoutError::Timeout => "took too long",
                        RecvTimeoutError::Disconnected => "ended with the guest",
                    };
                    let log = self.log[self.log.len().saturating_sub(30)..].join("\n");
                    panic!("{}: `{what}` {why}; the serial line ended in:\n{log}", self.name);
                }
            }
        }
    }

    /// The process, to look at or to kill.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }
}

impl Nic<'_> {
    /// Adds the NIC to a QEMU command line.
    fn attach(self, host: u8, command: &mut Command) {
        let mac = format!("mac=52:54:00:00:02:{host:02x}");
        match self {
            Nic::VhostUser { socket, features } => {
                // Debian 12's QEMU crashes under TCG with vhost-user and MSI-X: no vectors.
                let chardev = format!("socket,id=c,path={},reconnect=1", socket.display());
                let device = format!("virtio-net-pci,netdev=n,vectors=0,{mac}{features}");
                command.args([
                    "-chardev",
                    &chardev,
                    "-netdev",
                    "vhost-user,id=n,chardev=c",
                    "-device",
                    &device,
                ]);
            }
            Nic::Tap { interface, .. } => {
                let netdev = format!("tap,id=n,ifname={interface},script=no,downscript=no,vhost=off");
                command.args([
                    "-netdev",
                    &netdev,
                    "-device",
                    &format!("virtio-net-pci,netdev=n,{mac}"),
                ]);
            }
        }
    }
}

/// A QEMU command line without NIC and disk.
fn machine(image: &Image, nic: Nic<'_>) -> Command {
    let mut command = match nic {
        Nic::VhostUser { .. } => Command::new("qemu-system-x86_64"),
        Nic::Tap { netns, .. } => {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", netns, "qemu-system-x86_64"]);
            command
        }
    };
    without_devices(&mut command, 256);
    command
        .arg("-kernel")
        .arg(&image.kernel)
        .arg("-initrd")
        .arg(&image.initramfs)
        .args(["-append", "console=ttyS0 quiet panic=-1 mitigations=off"]);
    command
}

/// The lines that a guest prints, read by a thread of their own.
fn read_lines(output: ChildStdout) -> Receiver<String> {
    let (send, lines) = channel();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(output);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            if send.send(text).is_err() {
                break;
            }
        }
    });
    lines
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
