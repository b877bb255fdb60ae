//! A Linux guest in QEMU whose shell the test drives over the serial line.

use std::io::Read as _;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::process::Command;

use super::image::Image;
use super::machine::without_devices;
use super::shell::Shell;

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
        /// MSI-X vectors of the device; without any it has a line interrupt, as those on a vhost-user socket have.
        vectors: u64,
    },
}

/// A running guest. Dropping it kills it.
pub struct Guest {
    shell: Shell,
    /// Its disk, by which files leave it.
    disk: tempfile::NamedTempFile,
}

/// Size of the disk; it takes only what is written to it.
const DISK: u64 = 256 << 20;

impl Guest {
    /// Starts a guest with address 192.0.2.`host`/24 and the matching IPv6 address, and waits for its shell.
    pub fn start(image: &Image, name: &str, host: u8, nic: Nic<'_>) -> Self {
        let mut guest = Self::boot(image, name, host, nic);
        guest.wait_ready();
        guest.run(&addresses(host));
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
        Self {
            shell: Shell::spawn(name, &mut command),
            disk,
        }
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
}

impl Deref for Guest {
    type Target = Shell;

    fn deref(&self) -> &Shell {
        &self.shell
    }
}

impl DerefMut for Guest {
    fn deref_mut(&mut self) -> &mut Shell {
        &mut self.shell
    }
}

/// A command that gives a guest's interface its addresses.
pub fn addresses(host: u8) -> String {
    format!(
        "echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad; ip addr add 192.0.2.{host}/24 dev eth0 && ip -6 addr add 2001:db8::{host}/64 dev eth0 && ip link set eth0 up"
    )
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
            Nic::Tap {
                interface, vectors, ..
            } => {
                let netdev = format!("tap,id=n,ifname={interface},script=no,downscript=no,vhost=off");
                command.args([
                    "-netdev",
                    &netdev,
                    "-device",
                    &format!("virtio-net-pci,netdev=n,vectors={vectors},{mac}"),
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
