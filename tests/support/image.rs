//! A Debian kernel and an initramfs with busybox, iperf3 and ethtool, for guests of the tests.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::{host, program, target};

/// Kernel and initramfs of a guest.
#[derive(Clone, Debug)]
pub struct Image {
    /// Debian's cloud kernel as packaged.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initramfs: PathBuf,
}

/// The guest's modules. Which of them needs which differs between kernels, so init tries until all are in.
const MODULES: [&str; 9] = [
    "kernel/drivers/virtio/virtio.ko",
    "kernel/drivers/virtio/virtio_ring.ko",
    "kernel/drivers/virtio/virtio_pci_legacy_dev.ko",
    "kernel/drivers/virtio/virtio_pci_modern_dev.ko",
    "kernel/drivers/virtio/virtio_pci.ko",
    "kernel/net/core/failover.ko",
    "kernel/drivers/net/net_failover.ko",
    "kernel/drivers/net/virtio_net.ko",
    "kernel/drivers/block/virtio_blk.ko",
];

/// Programs of this machine that go into the guest with their libraries.
const PROGRAMS: [&str; 3] = ["iperf3", "ethtool", "tcpdump"];

/// The guest's first process: sets the machine up, then runs what comes over the serial line, a command a line, and
/// answers each with its output and a line `@@ STATUS`.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; mkdir -p /tmp; mount -t tmpfs tmp /tmp
for pass in 1 2 3 4 5; do
  for module in /modules/*.ko; do insmod "$module" 2>/dev/null && rm "$module"; done
done
ip link set lo up
stty -echo
echo "@@ ready"
while read -r line; do eval "$line"; echo "@@ $?"; done
poweroff -f
"#;

/// Held while an initramfs is looked for and built.
static BUILDING: Mutex<()> = Mutex::new(());

/// tcpdump looks its user up.
const PASSWD: &str = "root:x:0:0:root:/:/bin/sh\n";

/// Finds or builds the image; the error names what is missing.
pub fn image() -> Result<Image, String> {
    let dir = target().join("debian-kernel");
    let kernel = dir.join("vmlinuz");
    if !kernel.exists() {
        return Err(format!(
            "{} is missing: run `cargo xtask setup`",
            kernel.display()
        ));
    }
    for tool in ["qemu-system-x86_64", "cpio", "gzip", "busybox", "ldd"]
        .iter()
        .chain(&PROGRAMS)
    {
        if program(tool).is_none() {
            return Err(format!(
                "{tool} is not installed: run `cargo xtask setup` as root"
            ));
        }
    }
    let initramfs = dir.join(format!("initramfs-{:016x}.gz", fingerprint()));
    // Tests run side by side; the first one builds, the others wait for it.
    let _one = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    if !initramfs.exists() {
        build(&dir, &initramfs);
    }
    Ok(Image { kernel, initramfs })
}

/// Changes when the initramfs would.
fn fingerprint() -> u64 {
    let text = [INIT, PASSWD, &MODULES.join(" "), &PROGRAMS.join(" ")].concat();
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, octet| {
        (hash ^ u64::from(octet)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn build(dir: &Path, initramfs: &Path) {
    let root = tempfile::tempdir().expect("a temporary directory");
    let inside = |path: &str| root.path().join(path.trim_start_matches('/'));
    for name in ["bin", "proc", "sys", "dev", "modules"] {
        fs::create_dir_all(inside(name)).expect("a directory");
    }
    fs::copy(program("busybox").expect("checked"), inside("bin/busybox")).expect("busybox is copied");
    for name in PROGRAMS {
        let from = program(name).expect("checked");
        fs::copy(&from, inside("bin").join(name)).expect("a program is copied");
        let libraries = host(&format!("ldd {} | grep -oE '/[^ ]+' || true", from.display()));
        for library in libraries.lines() {
            let to = inside(library);
            fs::create_dir_all(to.parent().expect("a library has a folder")).expect("a directory");
            fs::copy(library, to).expect("a library is copied");
        }
    }
    for (index, module) in MODULES.iter().enumerate() {
        let name = Path::new(module)
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        let to = inside("modules").join(format!("{index:02}-{name}"));
        fs::copy(dir.join("modules").join(module), to).expect("a module is copied");
    }
    fs::write(inside("init"), INIT).expect("init is written");
    fs::create_dir_all(inside("etc")).expect("a directory");
    fs::write(inside("etc/passwd"), PASSWD).expect("the users are written");
    let part = initramfs.with_extension(format!("part{}", std::process::id()));
    host(&format!(
        "cd {} && chmod +x init && find . | cpio -o -H newc 2>/dev/null | gzip -1 >{}",
        root.path().display(),
        part.display()
    ));
    fs::rename(part, initramfs).expect("the image gets its name");
}
