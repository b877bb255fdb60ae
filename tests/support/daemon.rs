//! A running `enlight switch run`, and the CLI as its client.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::enlight;

/// The configuration file's name.
const CONFIG: &str = "switch.toml";

/// A daemon in a directory of its own. Dropping it ends it.
pub struct Daemon {
    dir: tempfile::TempDir,
    child: Child,
}

impl Daemon {
    /// Starts a switch without ports.
    pub fn start() -> Self {
        Self::configured("")
    }

    /// Starts a switch with this configuration.
    pub fn configured(text: &str) -> Self {
        Self::prepared(":", text)
    }

    /// The same, from a shell that carries out a command first, such as `ulimit`.
    pub fn prepared(command: &str, text: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(dir.path().join(CONFIG), text).expect("the directory is writable");
        let child = spawn(dir.path(), command);
        let daemon = Self { dir, child };
        daemon.wait_ready();
        daemon
    }

    /// Ends the process and starts another one in its place, without its ports.
    pub fn restart(&mut self) {
        self.child.kill().expect("the daemon can be killed");
        self.child.wait().expect("the daemon ends");
        self.child = spawn(self.dir.path(), ":");
        self.wait_ready();
    }

    fn wait_ready(&self) {
        let end = Instant::now() + Duration::from_secs(20);
        while Instant::now() < end {
            if self.try_cli(&["port", "list"]).status.success() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the daemon does not answer on {}", self.control().display());
    }

    /// The control socket.
    pub fn control(&self) -> PathBuf {
        self.dir.path().join("control.sock")
    }

    /// A path in the daemon's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Adds a vhost-user port; its socket.
    pub fn vhost_port(&self, name: &str) -> PathBuf {
        let socket = self.path(&format!("{name}.sock"));
        let path = socket.display().to_string();
        self.cli(&["port", "add", name, "--vhost-user", &path]);
        socket
    }

    /// Runs the CLI with `--json`; panics when it fails.
    pub fn cli(&self, args: &[&str]) -> Value {
        let output = self.try_cli(args);
        let text = String::from_utf8_lossy(&output.stdout);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "enlight {}: {error}", args.join(" "));
        serde_json::from_str(text.trim()).unwrap_or(Value::Null)
    }

    /// Runs the CLI with `--json`.
    pub fn try_cli(&self, args: &[&str]) -> Output {
        self.command(args).arg("--json").output().expect("the CLI runs")
    }

    /// A CLI command that talks to this daemon.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(enlight());
        command.args(args).env("ENLIGHT_CONTROL", self.control());
        command
    }

    /// A port's counters from `stats`.
    pub fn port_stats(&self, name: &str) -> Value {
        let stats = self.cli(&["stats"]);
        let ports = stats["ports"].as_array().expect("ports in the statistics");
        ports
            .iter()
            .find(|port| port["name"] == name)
            .cloned()
            .expect("the port's statistics")
    }

    /// The daemon's process.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        super::kill(&mut self.child);
    }
}

fn spawn(dir: &Path, command: &str) -> Child {
    Command::new("sh")
        .args(["-ec", &format!("{command}; exec \"$@\""), "sh"])
        .arg(enlight())
        .args(["switch", "run", "--control"])
        .arg(dir.join("control.sock"))
        .arg("--config")
        .arg(dir.join(CONFIG))
        .stdout(Stdio::null())
        .stdin(Stdio::null())
        .spawn()
        .expect("the daemon starts")
}
