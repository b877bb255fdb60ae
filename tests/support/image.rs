//! A Debian kernel and an initramfs with busybox, iperf3 and ethtool, for guests of the tests.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use initramfs::{Archive, ModuleTree, Program};

use super::{program, target};

/// Kernel and initramfs of a guest.
#[derive(Clone, Debug)]
pub struct Image {
    /// Debian's kernel as packaged.
    pub kernel: PathBuf,
    /// The initramfs, not compressed.
    pub initramfs: PathBuf,
}

/// The guest's modules, with what they need.
const MODULES: [&str; 7] = [
    "virtio_pci",
    "virtio_net",
    "virtio_blk",
    "button",
    "evdev",
    "ext4",
    "crc32c_generic",
];

/// Programs of this machine that go into the guest with their libraries.
const PROGRAMS: [&str; 3] = ["iperf3", "ethtool", "tcpdump"];

/// The guest's first process: tells the machine that user space has begun, sets the machine up, then runs what comes
/// over the serial line, a command a line, and answers each with its output and a line `@@ STATUS`.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; mkdir -p /tmp; mount -t tmpfs tmp /tmp
printf '\001' | dd of=/sys/bus/pci/devices/0000:00:00.0/config bs=1 seek=64 conv=notrunc 2>/dev/null
for module in /modules/*.ko; do insmod "$module"; done
ip link set lo up
stty -echo
echo "@@ ready"
while read -r line; do eval "$line"; echo "@@ $?"; done
poweroff -f
"#;

/// tcpdump looks its user up.
const PASSWD: &str = "root:x:0:0:root:/:/bin/sh\n";

/// Held while an initramfs is looked for and built.
static BUILDING: Mutex<()> = Mutex::new(());

/// Finds or builds the image with Debian's kernel for virtual machines; the error names what is missing.
pub fn image() -> Result<Image, String> {
    image_in("debian-kernel")
}

/// The image with a kernel that is in that directory of the target directory.
pub fn image_in(home: &str) -> Result<Image, String> {
    let dir = target().join(home);
    let kernel = dir.join("vmlinuz");
    if !kernel.exists() {
        return Err(format!(
            "{} is missing: run `cargo xtask setup`",
            kernel.display()
        ));
    }
    let initramfs = dir.join(format!("initramfs-{:016x}.img", fingerprint()));
    // Tests run side by side; the first one builds, the others wait for it.
    let _one = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    if !initramfs.exists() {
        build(&dir, &initramfs).map_err(|error| format!("making {}: {error}", initramfs.display()))?;
    }
    Ok(Image { kernel, initramfs })
}

fn find(tool: &str) -> Result<PathBuf, String> {
    program(tool).ok_or_else(|| format!("{tool} is not installed: run `cargo xtask setup` as root"))
}

/// Changes when the initramfs would.
fn fingerprint() -> u64 {
    let text = [INIT, PASSWD, &MODULES.join(" "), &PROGRAMS.join(" ")].concat();
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, octet| {
        (hash ^ u64::from(octet)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn build(dir: &Path, initramfs: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let mut archive = Archive::new();
    for name in ["/proc", "/sys", "/dev"] {
        archive.directory(name, 0o755)?;
    }
    Program::read(&find("busybox")?)?.add_to(&mut archive, "/bin/busybox")?;
    for name in PROGRAMS {
        Program::read(&find(name)?)?.add_to(&mut archive, &format!("/bin/{name}"))?;
    }
    let order = ModuleTree::open(&dir.join("modules"))?.load_order(&MODULES)?;
    for (index, module) in order.iter().enumerate() {
        let place = format!("/modules/{index:02}-{}", module.file_name());
        archive.file(&place, 0o644, &fs::read(&module.file)?)?;
    }
    archive.file("/init", 0o755, INIT.as_bytes())?;
    archive.file("/etc/passwd", 0o644, PASSWD.as_bytes())?;
    let part = initramfs.with_extension(format!("part{}", std::process::id()));
    fs::write(&part, archive.finish())?;
    Ok(fs::rename(part, initramfs)?)
}
