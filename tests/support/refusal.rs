//! Machines that are refused, or that something is done to.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::host;
use super::vm::without_kvm;

/// The longest that a refusal may take: one exchange with a switch that says nothing, and a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A directory with machines.
pub struct Site {
    dir: tempfile::TempDir,
}

/// A process that ends with this value.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        super::kill(&mut self.0);
    }
}

impl Site {
    pub fn new(test: &str) -> Option<Self> {
        (!without_kvm(test)).then(|| Self {
            dir: tempfile::tempdir().expect("a directory"),
        })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn file(&self, name: &str, octets: &[u8]) -> String {
        fs::write(self.path(name), octets).expect("written");
        name.to_owned()
    }

    /// A file of that many octets that takes no space.
    pub fn sparse(&self, name: &str, len: u64) -> String {
        let file = File::create(self.path(name)).expect("a file");
        file.set_len(len).expect("a sparse file");
        name.to_owned()
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_enlight"));
        self.at_home(&mut command);
        command.args(["vm"]).args(args);
        command
    }

    pub fn at_home(&self, command: &mut Command) {
        command
            .current_dir(self.dir.path())
            .env("ENLIGHT_VM_DIR", self.path("vm"))
            .stdin(Stdio::null());
    }

    /// Runs a machine to its end, which has to come.
    pub fn run(&self, args: &[&str]) -> Output {
        let mut command = self.command(&["run"]);
        command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = Running(command.spawn().expect("the CLI runs"));
        let end = Instant::now() + PATIENCE;
        while child.0.try_wait().expect("a child").is_none() {
            assert!(Instant::now() < end, "{args:?} goes on");
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut output = Output {
            status: child.0.wait().expect("ended"),
            stdout: Vec::new(),
            stderr: Vec::new(),
        };
        let (out, error) = (child.0.stdout.as_mut(), child.0.stderr.as_mut());
        out.expect("a pipe")
            .read_to_end(&mut output.stdout)
            .expect("read");
        error
            .expect("a pipe")
            .read_to_end(&mut output.stderr)
            .expect("read");
        output
    }

    /// Runs a machine that has to be refused in one line; that line.
    pub fn refused(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let line = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {line}");
        assert!(
            line.starts_with("enlight: ") && !line.contains(|letter: char| letter.is_control()),
            "{line:?}"
        );
        line
    }

    pub fn kernel(&self, name: &str) -> String {
        self.refused(&["--kernel", name])
    }

    /// Refuses a machine with the small guest and something more.
    pub fn with(&self, args: &[&str]) -> String {
        self.refused(&[&["--micro-guest", "--memory", "32M"], args].concat())
    }

    /// What is neither a file nor a block device, by its name and what it is.
    pub fn no_files(&self) -> Vec<(String, &'static str)> {
        fs::create_dir(self.path("dir")).expect("a directory");
        host(&format!("mkfifo {}", self.path("fifo").display()));
        drop(UnixListener::bind(self.path("socket")).expect("a socket"));
        let kinds = [
            ("dir", "directory"),
            ("fifo", "pipe"),
            ("socket", "socket"),
            ("/dev/zero", "character device"),
            ("/dev/null", "character device"),
        ];
        kinds.map(|(name, kind)| (name.to_owned(), kind)).to_vec()
    }
}
