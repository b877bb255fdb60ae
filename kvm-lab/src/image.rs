//! The laboratory's initial RAM disk.

use std::ffi::OsStr;
use std::fs;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use initramfs::{Archive, ModuleTree, Program};

use crate::kernel::MODULES;
use crate::{Lab, LabError};

const INIT: &str = include_str!("init.sh");

/// Modules that are loaded when the command starts.
const LOADED: [&str; 9] = [
    "virtio_pci",
    "virtio_console",
    "virtio_blk",
    "virtio_rng",
    "kvm_amd",
    "tun",
    "bridge",
    "veth",
    "vhost_net",
];

/// Writes the archive to a file without a name.
pub(crate) fn build(lab: &Lab, command: &[impl AsRef<OsStr>]) -> Result<File, LabError> {
    let mut archive = Archive::new();
    archive.file("/init", 0o755, INIT.as_bytes())?;
    // Before busybox, whose links make way for what is there.
    for add in &lab.adds {
        add.put(&mut archive)?;
    }
    if !archive.contains("/bin/busybox") {
        Program::read(&busybox()?)?.add_to(&mut archive, "/bin/busybox")?;
    }
    archive.file("/lab/command", 0o644, &script(&lab.variables, command))?;
    add_modules(&lab.kernel.modules, &mut archive)?;
    // The kernel's own programs look users up.
    for (path, text) in [
        (
            "/etc/passwd",
            "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
        ),
        ("/etc/group", "root:x:0:\nnogroup:x:65534:\n"),
        ("/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
    ] {
        if !archive.contains(path) {
            archive.file(path, 0o644, text.as_bytes())?;
        }
    }
    let mut file = tempfile::tempfile().map_err(LabError::system("making the initial RAM disk"))?;
    file.write_all(&archive.finish())
        .map_err(LabError::system("writing the initial RAM disk"))?;
    Ok(file)
}

fn busybox() -> Result<PathBuf, LabError> {
    let (program, package) = ("busybox", "busybox-static");
    crate::machine::find(program).ok_or(LabError::NoProgram { program, package })
}

/// The modules, the order in which the first ones are loaded, and a list by which `modprobe` finds the others.
fn add_modules(directory: &std::path::Path, archive: &mut Archive) -> Result<(), LabError> {
    let tree = ModuleTree::open(directory)?;
    let mut list = String::new();
    for module in tree.load_order(&MODULES)? {
        let contents = fs::read(&module.file).map_err(|source| LabError::Unreadable {
            path: module.file.clone(),
            source,
        })?;
        archive.file(&format!("/lab/modules/{}", module.file_name()), 0o644, &contents)?;
        let mut needed = tree.load_order(&[&module.name])?;
        needed.pop();
        let needed: Vec<String> = needed.iter().rev().map(initramfs::Module::file_name).collect();
        list.push_str(&format!("{}: {}\n", module.file_name(), needed.join(" ")));
    }
    archive.file("/lab/modules/modules.dep", 0o644, list.as_bytes())?;
    let load: String = tree
        .load_order(&LOADED)?
        .iter()
        .map(|module| module.file_name() + "\n")
        .collect();
    Ok(archive.file("/lab/load", 0o644, load.as_bytes())?)
}

/// A shell script that is the command.
fn script(variables: &[(String, String)], command: &[impl AsRef<OsStr>]) -> Vec<u8> {
    let mut script = Vec::new();
    for (name, value) in variables {
        script.extend_from_slice(format!("export {name}=").as_bytes());
        script.extend(quoted(value.as_bytes()));
        script.push(b'\n');
    }
    script.extend_from_slice(b"exec");
    for word in command {
        script.push(b' ');
        script.extend(quoted(word.as_ref().as_bytes()));
    }
    script.push(b'\n');
    script
}

/// A word as a shell takes it, whatever is in it.
fn quoted(word: &[u8]) -> Vec<u8> {
    let mut quoted = vec![b'\''];
    for octet in word {
        match octet {
            b'\'' => quoted.extend_from_slice(br"'\''"),
            octet => quoted.push(*octet),
        }
    }
    quoted.push(b'\'');
    quoted
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_shell_gets_the_words_back() {
        let words: [&[u8]; 5] = [b"printf", b"%s|", b"it's", b"$HOME \\ \"\n;", b"\xff"];
        let variables = [("A".to_owned(), "b 'c'".to_owned())];
        let command: Vec<&OsStr> = words.iter().map(|word| OsStr::from_bytes(word)).collect();
        let mut script = script(&variables, &command);
        let sh = |script: &[u8]| {
            let shell = Command::new("sh")
                .arg("-c")
                .arg(OsStr::from_bytes(script))
                .output();
            shell.unwrap().stdout
        };
        assert_eq!(sh(&script), b"it's|$HOME \\ \"\n;|\xff|");
        let end = script.iter().position(|octet| *octet == b'\n').unwrap();
        script.truncate(end);
        script.extend_from_slice(b"\nprintf %s \"$A\"");
        assert_eq!(sh(&script), b"b 'c'");
    }
}
