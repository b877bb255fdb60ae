//! Programs for a guest: an ELF file cut to what runs, and the shared libraries that it needs, found as `ld.so(8)` finds them.

use std::collections::{HashSet, VecDeque};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use object::Endianness;
use object::elf::{DT_NEEDED, DT_RPATH, DT_RUNPATH, DT_STRSZ, DT_STRTAB, FileHeader64, PT_LOAD};
use object::read::elf::{Dyn as _, FileHeader as _, ProgramHeader as _};

use crate::archive::{Archive, ArchiveError};

/// Directories that a dynamic loader looks into by itself.
const DEFAULT_DIRECTORIES: [&str; 6] = [
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
];
/// Further directories, one a line.
const LOADER_CONFIGURATION: &str = "/etc/ld.so.conf";
/// Where the loader looks up which directory has a library.
const LOADER_CACHE: &str = "/etc/ld.so.cache";
/// Offset and length of the section table's place in a 64-bit ELF header: `e_shoff`; then `e_shnum` and `e_shstrndx`.
const SECTION_FIELDS: [(usize, usize); 2] = [(40, 8), (60, 4)];

/// Why a program cannot be taken along.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// It or a library cannot be read.
    #[error("{path}: cannot be read: {source}; check the path and its permissions", path = .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is no program for a 64-bit machine, or a damaged one.
    #[error("{path}: is no 64-bit ELF file, or a damaged one: {reason}", path = .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
    /// A library is nowhere.
    #[error(
        "{needed_by}: needs {name}, which is in no directory of the dynamic loader's; install it, or link the program \
         statically", needed_by = .needed_by.display()
    )]
    NoLibrary {
        /// The library's name.
        name: String,
        /// What needs it.
        needed_by: PathBuf,
    },
    /// The archive refused a file.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

/// A shared library, or the dynamic loader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Library {
    /// Where the loader finds it, on the host as in the guest.
    pub path: PathBuf,
    /// Its octets, as [`Program::octets`].
    pub octets: Vec<u8>,
}

/// A program with everything that it needs to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The ELF file without sections that nothing loads: no debugging information, no symbols.
    pub octets: Vec<u8>,
    /// Loader and libraries; none for a static program.
    pub libraries: Vec<Library>,
}

impl Program {
    /// Reads a program and finds its libraries, and theirs.
    pub fn read(file: &Path) -> Result<Self, ProgramError> {
        Self::read_with(file, &search_directories(Path::new(LOADER_CONFIGURATION)))
    }

    /// Puts the program at `path` in the archive and its libraries where they are on the host. Libraries that are there
    /// already stay.
    pub fn add_to(&self, archive: &mut Archive, path: &str) -> Result<(), ProgramError> {
        archive.file(path, 0o755, &self.octets)?;
        for library in &self.libraries {
            let inside = library.path.to_string_lossy();
            if !archive.contains(&inside) {
                archive.file(&inside, 0o755, &library.octets)?;
            }
        }
        if !self.libraries.is_empty()
            && !archive.contains(LOADER_CACHE)
            && let Ok(cache) = fs::read(LOADER_CACHE)
        {
            archive.file(LOADER_CACHE, 0o644, &cache)?;
        }
        Ok(())
    }

    fn read_with(file: &Path, directories: &[PathBuf]) -> Result<Self, ProgramError> {
        let whole = read(file)?;
        let needs = needs(file, &whole)?;
        let mut found = Self {
            octets: loadable(&whole).map_err(|reason| malformed(file, reason))?,
            libraries: Vec::new(),
        };
        let mut seen = HashSet::new();
        let mut open = VecDeque::from([(file.to_owned(), needs)]);
        while let Some((needed_by, needs)) = open.pop_front() {
            let interpreter = needs.interpreter.as_deref().map(PathBuf::from);
            let libraries = needs.libraries.iter().map(|name| {
                let place = locate(name, &needs.run_path, directories);
                place.ok_or_else(|| ProgramError::NoLibrary {
                    name: name.clone(),
                    needed_by: needed_by.clone(),
                })
            });
            for path in interpreter.map(Ok).into_iter().chain(libraries) {
                let path = path?;
                if path.file_name().is_some_and(|name| seen.insert(name.to_owned())) {
                    let whole = read(&path)?;
                    open.push_back((path.clone(), self::needs(&path, &whole)?));
                    let octets = loadable(&whole).map_err(|reason| malformed(&path, reason))?;
                    found.libraries.push(Library { path, octets });
                }
            }
        }
        Ok(found)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ProgramError> {
    fs::read(path).map_err(|source| ProgramError::Unreadable {
        path: path.to_owned(),
        source,
    })
}

fn malformed(path: &Path, reason: &'static str) -> ProgramError {
    ProgramError::Malformed {
        path: path.to_owned(),
        reason,
    }
}

/// What an ELF file asks the dynamic loader for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Needs {
    interpreter: Option<String>,
    libraries: Vec<String>,
    run_path: Vec<PathBuf>,
}

fn needs(path: &Path, elf: &[u8]) -> Result<Needs, ProgramError> {
    let mut needs = parse_needs(elf).map_err(|reason| malformed(path, reason))?;
    let origin = path
        .parent()
        .unwrap_or(Path::new("/"))
        .to_string_lossy()
        .into_owned();
    for directory in &mut needs.run_path {
        let text = directory.to_string_lossy();
        *directory = text
            .replace("${ORIGIN}", &origin)
            .replace("$ORIGIN", &origin)
            .into();
    }
    Ok(needs)
}

/// Reads the dynamic section through the program headers: a stripped file may have no others.
fn parse_needs(elf: &[u8]) -> Result<Needs, &'static str> {
    let header = FileHeader64::<Endianness>::parse(elf).map_err(|_| "its header")?;
    let endian = header.endian().map_err(|_| "its header")?;
    let segments = header
        .program_headers(endian, elf)
        .map_err(|_| "its program headers")?;
    let mut needs = Needs::default();
    let mut entries = Vec::new();
    for segment in segments {
        if let Some(name) = segment
            .interpreter(endian, elf)
            .map_err(|_| "its interpreter's name")?
        {
            needs.interpreter = Some(String::from_utf8_lossy(name).into_owned());
        }
        if let Some(table) = segment.dynamic(endian, elf).map_err(|_| "its dynamic section")? {
            entries = table
                .iter()
                .map(|entry| (entry.d_tag(endian), entry.d_val(endian)))
                .collect();
        }
    }
    let value = |wanted| {
        entries
            .iter()
            .find(|(tag, _)| *tag == wanted)
            .map(|(_, value)| *value)
    };
    let (Some(address), Some(size)) = (value(DT_STRTAB), value(DT_STRSZ)) else {
        return Ok(needs);
    };
    let strings = segments
        .iter()
        .filter(|segment| segment.p_type(endian) == PT_LOAD)
        .find_map(|segment| segment.data_range(endian, elf, address, size).ok().flatten())
        .ok_or("its dynamic strings")?;
    for (tag, offset) in entries {
        let text = || string(strings, offset).ok_or("a dynamic string");
        if tag == DT_NEEDED {
            needs.libraries.push(text()?);
        } else if tag == DT_RUNPATH || tag == DT_RPATH {
            needs.run_path.extend(
                text()?
                    .split(':')
                    .filter(|part| !part.is_empty())
                    .map(PathBuf::from),
            );
        }
    }
    Ok(needs)
}

fn string(strings: &[u8], offset: u64) -> Option<String> {
    let rest = strings.get(usize::try_from(offset).ok()?..)?;
    let end = rest.iter().position(|octet| *octet == 0)?;
    Some(String::from_utf8_lossy(rest.get(..end)?).into_owned())
}

/// The file up to the end of what is loaded. Compilers put sections for debuggers behind it.
fn loadable(elf: &[u8]) -> Result<Vec<u8>, &'static str> {
    let header = FileHeader64::<Endianness>::parse(elf).map_err(|_| "its header")?;
    let endian = header.endian().map_err(|_| "its header")?;
    let segments = header
        .program_headers(endian, elf)
        .map_err(|_| "its program headers")?;
    let table = header
        .e_phoff(endian)
        .saturating_add(size_of_val(segments) as u64);
    let end = segments
        .iter()
        .map(|segment| segment.p_offset(endian).saturating_add(segment.p_filesz(endian)))
        .fold(table, u64::max);
    let kept = usize::try_from(end).ok().and_then(|end| elf.get(..end));
    let mut octets = kept.ok_or("it ends before its segments do")?.to_vec();
    for (offset, length) in SECTION_FIELDS {
        if let Some(field) = octets.get_mut(offset..offset + length) {
            field.fill(0);
        }
    }
    Ok(octets)
}

/// Where the loader would find a library.
fn locate(name: &str, run_path: &[PathBuf], directories: &[PathBuf]) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(|path| path.is_file());
    }
    run_path
        .iter()
        .chain(directories)
        .map(|directory| directory.join(name))
        .find(|path| is_64_bit(path))
}

/// A directory may hold libraries for 32-bit programs.
fn is_64_bit(path: &Path) -> bool {
    let mut start = [0; 5];
    let read = fs::File::open(path).and_then(|mut file| io::Read::read_exact(&mut file, &mut start));
    read.is_ok() && start == *b"\x7fELF\x02"
}

/// The directories of the loader's configuration, and its own.
fn search_directories(configuration: &Path) -> Vec<PathBuf> {
    let mut directories = Vec::new();
    read_configuration(configuration, &mut directories, 0);
    directories.extend(DEFAULT_DIRECTORIES.iter().map(PathBuf::from));
    directories
}

/// Includes may nest so deep.
const MAX_INCLUDES: u32 = 4;

fn read_configuration(file: &Path, directories: &mut Vec<PathBuf>, depth: u32) {
    let text = fs::read_to_string(file).unwrap_or_default();
    for line in text
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim())
    {
        if let Some(pattern) = line.strip_prefix("include ") {
            let pattern = file.parent().unwrap_or(Path::new("/")).join(pattern.trim());
            if depth < MAX_INCLUDES {
                for included in files_like(&pattern) {
                    read_configuration(&included, directories, depth + 1);
                }
            }
        } else if line.starts_with('/') {
            directories.push(PathBuf::from(line));
        }
    }
}

/// Files that `DIRECTORY/*SUFFIX` stands for, in order; a path without a star stands for itself.
fn files_like(pattern: &Path) -> Vec<PathBuf> {
    let name = pattern
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let Some((start, end)) = name.split_once('*') else {
        return vec![pattern.to_owned()];
    };
    let entries = pattern
        .parent()
        .and_then(|directory| fs::read_dir(directory).ok());
    let mut files: Vec<PathBuf> = entries
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end)
        })
        .map(|entry| entry.path())
        .collect();
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    fn own() -> PathBuf {
        std::env::current_exe().unwrap()
    }

    #[test]
    fn a_program_runs_without_what_was_cut_off() {
        let program = Program::read(&own()).unwrap();
        assert!(program.octets.len() < fs::read(own()).unwrap().len());
        let dir = tempfile::tempdir().unwrap();
        let [octets, copy] = ["octets", "copy"].map(|name| dir.path().join(name));
        fs::write(&octets, &program.octets).unwrap();
        // Another process writes it: what another test starts meanwhile would have it open to be written, if this one did, and
        // then it would be "busy".
        let install = Command::new("install")
            .args(["-m", "755"])
            .args([&octets, &copy])
            .status();
        assert!(install.unwrap().success());
        let output = Command::new(&copy).arg("--list").output().unwrap();
        assert!(output.status.success());
        assert!(String::from_utf8_lossy(&output.stdout).contains("a_program_runs_without_what_was_cut_off"));
        let again = Program::read(&copy).unwrap();
        assert_eq!(
            again, program,
            "what was cut needs the same and is cut no further"
        );
    }

    #[test]
    fn libraries_are_those_that_are_mapped() {
        let program = Program::read(&own()).unwrap();
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let mapped: HashSet<&str> = maps
            .lines()
            .filter_map(|line| line.rsplit_once('/').map(|(_, name)| name))
            .filter(|name| name.contains(".so"))
            .collect();
        let names: Vec<String> = program
            .libraries
            .iter()
            .map(|library| library.path.file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        for name in mapped {
            assert!(
                names.iter().any(|found| found == name),
                "{name} is not in {names:?}"
            );
        }
    }

    #[test]
    fn a_missing_library_is_named() {
        let error = Program::read_with(&own(), &[]).unwrap_err().to_string();
        assert!(error.contains(".so") && error.contains("install it"), "{error}");
    }

    #[test]
    fn an_archive_takes_shared_libraries_once() {
        let program = Program::read(&own()).unwrap();
        let mut archive = Archive::new();
        program.add_to(&mut archive, "/init").unwrap();
        program.add_to(&mut archive, "/bin/other").unwrap();
        for library in &program.libraries {
            assert!(archive.contains(&library.path.to_string_lossy()));
        }
        assert!(program.add_to(&mut archive, "/init").is_err());
    }

    #[test]
    fn the_loader_s_configuration_is_read_with_its_includes() {
        let dir = tempfile::tempdir().unwrap();
        let main = dir.path().join("ld.so.conf");
        fs::create_dir(dir.path().join("d")).unwrap();
        fs::write(&main, "include d/*.conf\ninclude ld.so.conf\n/opt/a # comment\n").unwrap();
        fs::write(dir.path().join("d/b.conf"), "/opt/b\n").unwrap();
        fs::write(dir.path().join("d/a.conf"), "# nothing\n/opt/c\n").unwrap();
        fs::write(dir.path().join("d/no"), "/opt/no\n").unwrap();
        let directories = search_directories(&main);
        assert_eq!(directories[..2], ["/opt/c", "/opt/b"].map(PathBuf::from));
        assert!(directories.contains(&"/opt/a".into()) && !directories.contains(&"/opt/no".into()));
        assert!(directories.ends_with(&["/usr/lib".into()]));
    }

    #[test]
    fn other_files_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("script");
        fs::write(&file, "#!/bin/sh\n").unwrap();
        let error = Program::read(&file).unwrap_err().to_string();
        assert!(error.contains("script: is no 64-bit ELF file"), "{error}");
        let error = Program::read(dir.path()).unwrap_err().to_string();
        assert!(error.contains("cannot be read"), "{error}");
    }

    proptest! {
        #[test]
        fn damaged_files_are_judged_without_panic(
            changes in prop::collection::vec((0_usize..1024, any::<u8>()), 0..24), length in 0_usize..8192
        ) {
            let mut elf = fs::read("/proc/self/exe").unwrap();
            for (at, octet) in changes {
                elf[at] = octet;
            }
            let _ = (parse_needs(&elf), loadable(&elf));
            elf.truncate(length);
            let _ = (parse_needs(&elf), loadable(&elf));
        }
    }
}
