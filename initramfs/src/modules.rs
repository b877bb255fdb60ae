//! Kernel modules in the order in which they have to be loaded.
//!
//! Dependencies come from `modules.dep` where `depmod(8)` has run, else from the modules themselves (`depends=` in their
//! section `.modinfo`), as a package brings them.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use object::Endianness;
use object::elf::FileHeader64;
use object::read::elf::{FileHeader as _, SectionHeader as _};

/// How deep directories of modules may nest.
const MAX_DEPTH: u32 = 16;

/// Why modules cannot be found.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// The directory, a list in it or a module cannot be read.
    #[error("{path}: cannot be read: {source}; name the kernel's directory of modules, /lib/modules/RELEASE", path = .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A module is neither there nor part of the kernel.
    #[error(
        "{directory}: has no module {name}, nor does modules.builtin there name it; is it the directory of this kernel?",
        directory = .directory.display()
    )]
    NoModule {
        /// The module's name.
        name: String,
        /// Where it was looked for.
        directory: PathBuf,
    },
    /// A module does not tell what it needs.
    #[error("{path}: is no kernel module that tells what it depends on; run depmod", path = .path.display())]
    NoInformation {
        /// The module.
        path: PathBuf,
    },
    /// A module is compressed, and there is no `modules.dep`.
    #[error("{path}: is compressed, and there is no modules.dep; run depmod", path = .path.display())]
    Compressed {
        /// The module.
        path: PathBuf,
    },
}

/// A module that is to be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Its name, with underscores.
    pub name: String,
    /// Its file.
    pub file: PathBuf,
}

impl Module {
    /// The file's name: tells by its ending whether and how it is compressed.
    pub fn file_name(&self) -> String {
        self.file
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    }
}

/// A directory with a kernel's modules, such as `/lib/modules/6.1.0-18-amd64`.
#[derive(Clone, Debug)]
pub struct ModuleTree {
    directory: PathBuf,
    files: HashMap<String, PathBuf>,
    /// Names of what a module needs; `None` asks the module.
    dependencies: Option<HashMap<String, Vec<String>>>,
    built_in: HashSet<String>,
}

impl ModuleTree {
    /// Reads what there is.
    pub fn open(directory: &Path) -> Result<Self, ModuleError> {
        let mut tree = Self {
            directory: directory.to_owned(),
            files: HashMap::new(),
            dependencies: None,
            built_in: optional(&directory.join("modules.builtin"))?
                .unwrap_or_default()
                .lines()
                .map(name_of)
                .collect(),
        };
        match optional(&directory.join("modules.dep"))? {
            Some(list) => tree.take_list(&list),
            None => walk(directory, 0, &mut tree.files)?,
        }
        Ok(tree)
    }

    /// The named modules with everything that they need, each after what it needs. What the kernel has built in is left
    /// out.
    pub fn load_order(&self, names: &[&str]) -> Result<Vec<Module>, ModuleError> {
        let mut order = Vec::new();
        let mut seen = HashSet::new();
        for name in names {
            self.visit(&normal(name), &mut seen, &mut order)?;
        }
        Ok(order)
    }

    /// Depth first. That a module is marked before its dependencies are visited ends circles, which only a damaged list has.
    fn visit(
        &self,
        name: &str,
        seen: &mut HashSet<String>,
        order: &mut Vec<Module>,
    ) -> Result<(), ModuleError> {
        if self.built_in.contains(name) || !seen.insert(name.to_owned()) {
            return Ok(());
        }
        let file = self.files.get(name).ok_or_else(|| ModuleError::NoModule {
            name: name.to_owned(),
            directory: self.directory.clone(),
        })?;
        for dependency in self.dependencies(name, file)? {
            self.visit(&dependency, seen, order)?;
        }
        order.push(Module {
            name: name.to_owned(),
            file: file.clone(),
        });
        Ok(())
    }

    fn dependencies(&self, name: &str, file: &Path) -> Result<Vec<String>, ModuleError> {
        if let Some(dependencies) = &self.dependencies {
            return Ok(dependencies.get(name).cloned().unwrap_or_default());
        }
        if file.extension().is_some_and(|ending| ending != "ko") {
            return Err(ModuleError::Compressed {
                path: file.to_owned(),
            });
        }
        let octets = fs::read(file).map_err(|source| unreadable(file, source))?;
        depends(&octets).ok_or_else(|| ModuleError::NoInformation {
            path: file.to_owned(),
        })
    }

    /// Takes `modules.dep`: a module's path, a colon, and the paths of all that it needs, in a line.
    fn take_list(&mut self, list: &str) {
        let mut dependencies = HashMap::new();
        for (module, needed) in list.lines().filter_map(|line| line.split_once(':')) {
            let name = name_of(module);
            self.files.insert(name.clone(), self.directory.join(module));
            dependencies.insert(name, needed.split_whitespace().map(name_of).collect());
        }
        self.dependencies = Some(dependencies);
    }
}

fn unreadable(path: &Path, source: io::Error) -> ModuleError {
    ModuleError::Unreadable {
        path: path.to_owned(),
        source,
    }
}

/// A file's text; `None` when there is no such file.
fn optional(path: &Path) -> Result<Option<String>, ModuleError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(path, error)),
    }
}

/// Collects all files that are modules. Links are not followed: `build` and `source` lead elsewhere.
fn walk(directory: &Path, depth: u32, files: &mut HashMap<String, PathBuf>) -> Result<(), ModuleError> {
    let entries = fs::read_dir(directory).map_err(|source| unreadable(directory, source))?;
    for entry in entries {
        let entry = entry.map_err(|source| unreadable(directory, source))?;
        let kind = entry
            .file_type()
            .map_err(|source| unreadable(&entry.path(), source))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if kind.is_dir() && depth < MAX_DEPTH {
            walk(&entry.path(), depth + 1, files)?;
        } else if kind.is_file() && is_module(&name) {
            files.insert(name_of(&name), entry.path());
        }
    }
    Ok(())
}

fn is_module(name: &str) -> bool {
    [".ko", ".ko.xz", ".ko.zst", ".ko.gz"]
        .iter()
        .any(|ending| name.ends_with(ending))
}

/// The name of the module in a file.
fn name_of(path: &str) -> String {
    let file = path.trim().rsplit('/').next().unwrap_or_default();
    normal(file.split(".ko").next().unwrap_or_default())
}

/// Names are the same with dashes and with underscores.
fn normal(name: &str) -> String {
    name.replace('-', "_")
}

/// What a module says that it needs.
fn depends(module: &[u8]) -> Option<Vec<String>> {
    let header = FileHeader64::<Endianness>::parse(module).ok()?;
    let endian = header.endian().ok()?;
    let sections = header.sections(endian, module).ok()?;
    let (_, section) = sections.section_by_name(endian, b".modinfo")?;
    let list = section
        .data(endian, module)
        .ok()?
        .split(|octet| *octet == 0)
        .find_map(|entry| entry.strip_prefix(b"depends="))?;
    let list = String::from_utf8_lossy(list);
    Some(
        list.split(',')
            .filter(|name| !name.is_empty())
            .map(normal)
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tree(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, contents) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, contents).unwrap();
        }
        dir
    }

    fn names(modules: &[Module]) -> Vec<&str> {
        modules.iter().map(|module| module.name.as_str()).collect()
    }

    /// The smallest ELF file with a section `.modinfo`.
    fn module(information: &str) -> Vec<u8> {
        let names = b"\0.modinfo\0.shstrtab\0";
        let (first, second) = (64, 64 + names.len() as u64);
        let table = second + information.len() as u64;
        let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x01\0\x3e\0\x01\0\0\0".to_vec();
        elf.extend([0, 0, table].map(u64::to_le_bytes).concat());
        elf.extend(0_u32.to_le_bytes());
        elf.extend([64, 0, 0, 64, 3, 2].map(u16::to_le_bytes).concat());
        elf.extend(names);
        elf.extend(information.as_bytes());
        elf.extend([0; 64]);
        for (name, kind, offset, size) in [
            (1_u32, 1_u32, second, information.len() as u64),
            (10, 3, first, names.len() as u64),
        ] {
            elf.extend([name, kind].map(u32::to_le_bytes).concat());
            elf.extend([0, 0, offset, size, 0, 1, 0].map(u64::to_le_bytes).concat());
        }
        elf
    }

    #[test]
    fn a_list_gives_the_order() {
        let dir = tree(&[
            (
                "modules.dep",
                b"kernel/a/virtio-net.ko.xz: kernel/failover.ko.xz kernel/net_failover.ko.xz\n\
                  kernel/net_failover.ko.xz: kernel/failover.ko.xz\nkernel/failover.ko.xz:\n",
            ),
            ("modules.builtin", b"kernel/drivers/virtio/virtio.ko\n"),
        ]);
        let tree = ModuleTree::open(dir.path()).unwrap();
        let order = tree.load_order(&["virtio", "virtio_net", "failover"]).unwrap();
        assert_eq!(names(&order), ["failover", "net_failover", "virtio_net"]);
        assert_eq!(order[2].file_name(), "virtio-net.ko.xz");
        let error = tree.load_order(&["virtio_pci"]).unwrap_err().to_string();
        assert!(error.contains("no module virtio_pci"), "{error}");
    }

    #[test]
    fn modules_tell_the_order_themselves() {
        let dir = tree(&[
            ("kernel/x/a-b.ko", &module("name=a_b\0depends=c,d\0")),
            ("kernel/c.ko", &module("depends=d\0")),
            ("kernel/d.ko", &module("license=GPL\0depends=\0")),
            ("kernel/e.ko.zst", b""),
            ("kernel/f.ko", b"no module"),
        ]);
        let tree = ModuleTree::open(dir.path()).unwrap();
        assert_eq!(names(&tree.load_order(&["a-b"]).unwrap()), ["d", "c", "a_b"]);
        let error = tree.load_order(&["e"]).unwrap_err().to_string();
        assert!(error.contains("e.ko.zst: is compressed"), "{error}");
        let error = tree.load_order(&["f"]).unwrap_err().to_string();
        assert!(error.contains("f.ko: is no kernel module"), "{error}");
    }

    #[test]
    fn circles_end_and_missing_directories_are_named() {
        let dir = tree(&[("modules.dep", b"a.ko: b.ko\nb.ko: a.ko\n")]);
        let tree = ModuleTree::open(dir.path()).unwrap();
        assert_eq!(names(&tree.load_order(&["a"]).unwrap()), ["b", "a"]);
        let error = ModuleTree::open(&dir.path().join("none"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("none: cannot be read"), "{error}");
    }

    proptest! {
        #[test]
        fn damaged_modules_are_judged_without_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..16)) {
            let mut octets = module("depends=a,b\0");
            for (at, octet) in changes {
                let at = at.index(octets.len());
                octets[at] = octet;
            }
            let _ = depends(&octets);
        }
    }
}
