//! What a first process does for its machine: file systems, modules, settings, and the switch.

use std::ffi::CStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use rustix::mount::MountFlags;
use rustix::system::{RebootCommand, finit_module, reboot};

use super::{Failure, MODULES, SETTINGS};

/// Mounts what programs expect.
pub(super) fn mount() -> Result<(), Failure> {
    let none: Option<&CStr> = None;
    for (kind, place) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        match rustix::mount::mount(kind, place, kind, MountFlags::empty(), none) {
            // The kernel may have mounted devtmpfs by itself.
            Ok(()) | Err(Errno::BUSY) => {}
            Err(error) => return Err(format!("mounting {kind} on {place}: {error}")),
        }
    }
    Ok(())
}

/// Loads the initramfs' modules in the order of their names.
pub(super) fn load_modules() -> Result<(), Failure> {
    let Ok(entries) = fs::read_dir(MODULES) else {
        return Ok(()); // The kernel has everything built in.
    };
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    files.iter().try_for_each(|file| load_module(file))
}

fn load_module(path: &Path) -> Result<(), Failure> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let file = File::open(path).map_err(|error| format!("opening the module {name}: {error}"))?;
    match finit_module(&file, c"", 0) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(format!("loading the module {name}: {error}")),
    }
}

/// Sets what the user wants set; nothing else is changed.
pub(super) fn apply_settings() -> Result<(), Failure> {
    let text = fs::read_to_string(SETTINGS).unwrap_or_default();
    for line in text.lines() {
        let (key, value) = line.split_once('=').unwrap_or((line, ""));
        fs::write(setting_file(key), value).map_err(|error| format!("setting {key} to {value}: {error}"))?;
    }
    Ok(())
}

/// `net.ipv4.tcp_sack` is a file in `/proc/sys`.
fn setting_file(key: &str) -> PathBuf {
    Path::new("/proc/sys").join(key.replace('.', "/"))
}

/// Switches the machine off.
pub(super) fn power_off() -> ! {
    // Nothing is left to be tried when that fails; the machine's owner can still end it.
    let _ = reboot(RebootCommand::PowerOff);
    loop {
        thread::sleep(Duration::from_hours(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_files() {
        assert_eq!(
            setting_file("net.ipv4.tcp_sack"),
            Path::new("/proc/sys/net/ipv4/tcp_sack")
        );
    }
}
