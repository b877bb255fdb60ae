//! The load: one dpdk-testpmd whose two virtio-user devices are attached to both ports of the switch.
//!
//! Frames of one size circle: testpmd sends what it receives on one port out of the other, with the addresses of a sender's, so
//! the switch always has both directions to do. A mix comes out of capture files instead, and ends in testpmd.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::imix;
use crate::report::Slice;
use crate::rows::{Frames, Row};

/// The processor that the generator has for itself, beside testpmd's idle main thread.
const CPU: &str = "0";
/// How long testpmd has for an answer.
const LIMIT: Duration = Duration::from_secs(20);
/// The time that a switch has to learn addresses and to warm up.
const WARM_UP: Duration = Duration::from_secs(1);

/// A running testpmd.
struct Testpmd {
    child: Child,
    commands: ChildStdin,
    lines: Receiver<String>,
}

/// Loads both sockets for some seconds; frames that came out of the switch, both directions added, in millions a second. The
/// ceiling is what testpmd could do by the cycles that each of its frames took.
pub(crate) fn run(sockets: [&Path; 2], row: &Row, seconds: u64) -> Result<Slice, String> {
    let files = match row.frames {
        Frames::Imix => Some(imix::Files::write().map_err(|error| format!("the mix: {error}"))?),
        Frames::Size(_) => None,
    };
    let mut testpmd = Testpmd::start(&command(sockets, row, files.as_ref()))?;
    testpmd.say("set record-core-cycles on")?;
    let receiving: &[usize] = match row.frames {
        Frames::Size(octets) => {
            testpmd.say(&format!("set txpkts {}", pieces(octets)))?;
            testpmd.say("set fwd mac")?;
            testpmd.say("start tx_first 8")?;
            &[0, 1]
        }
        Frames::Imix => {
            testpmd.say("set portlist 2,0,3,1")?;
            testpmd.say("set fwd io")?;
            testpmd.say("start")?;
            &[0, 1]
        }
    };
    std::thread::sleep(WARM_UP);
    let before = testpmd.received(receiving)?;
    let begun = Instant::now();
    std::thread::sleep(Duration::from_secs(seconds));
    let after = testpmd.received(receiving)?;
    let elapsed = begun.elapsed();
    let ceiling = testpmd.ceiling()?;
    testpmd.end();
    let mpps = (after - before) as f64 / elapsed.as_secs_f64() / 1e6;
    if mpps < 0.001 {
        return Err("no frames came back".to_owned());
    }
    Ok(Slice {
        value: mpps,
        ceiling: Some(ceiling),
    })
}

/// testpmd's frames are made of buffers of 2 KiB.
fn pieces(octets: u16) -> String {
    let mut left = octets;
    let mut parts = Vec::new();
    while left > 0 {
        let part = left.min(2000);
        parts.push(part.to_string());
        left -= part;
    }
    parts.join(",")
}

fn command(sockets: [&Path; 2], row: &Row, files: Option<&imix::Files>) -> Command {
    // What it answers must not wait in its buffer for more.
    let mut command = Command::new("stdbuf");
    let cores = format!("0@{CPU},1@{CPU}");
    let name = format!("peers{}", std::process::id());
    command
        .args([
            "-oL",
            "dpdk-testpmd",
            "--lcores",
            &cores,
            "--no-pci",
            "--in-memory",
        ])
        .args([
            "--no-telemetry",
            "--single-file-segments",
            "--file-prefix",
            &name,
            "-m",
            "256",
        ]);
    for (index, socket) in sockets.iter().enumerate() {
        let device = format!(
            "net_virtio_user{index},mac=02:00:00:00:00:0{},path={},queues=1,queue_size=1024,{}",
            index + 1,
            socket.display(),
            row.device
        );
        command.args(["--vdev", &device]);
    }
    if let Some(files) = files {
        for (index, file) in files.paths().iter().enumerate() {
            let device = format!("net_pcap{index},rx_pcap={},infinite_rx=1", file.display());
            command.args(["--vdev", &device]);
        }
    }
    command.args([
        "--",
        "-i",
        "--nb-cores=1",
        "--burst=32",
        "--txd=1024",
        "--rxd=1024",
    ]);
    command.args(["--eth-peer=0,02:00:00:00:00:02", "--eth-peer=1,02:00:00:00:00:01"]);
    if row.mtu > 1500 {
        let length = format!("--max-pkt-len={}", row.mtu + 18);
        command.args([
            "--total-num-mbufs=65536",
            "--tx-offloads=0x8000",
            "--rx-offloads=0x2000",
            &length,
        ]);
    } else {
        command.arg("--total-num-mbufs=16384");
    }
    command
}

impl Testpmd {
    fn start(command: &Command) -> Result<Self, String> {
        let mut again = Command::new(command.get_program());
        again.args(command.get_args());
        let mut child = again
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .map_err(|error| format!("dpdk-testpmd: {error}"))?;
        let output = child.stdout.take().ok_or("its output")?;
        let commands = child.stdin.take().ok_or("its input")?;
        let (tell, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        let mut testpmd = Self {
            child,
            commands,
            lines,
        };
        // It answers once its ports are set up.
        testpmd.say("show config fwd")?;
        testpmd.find("packet forwarding", |_| Some(()))?;
        Ok(testpmd)
    }

    fn say(&mut self, command: &str) -> Result<(), String> {
        writeln!(self.commands, "{command}").map_err(|error| format!("testpmd ended: {error}"))
    }

    /// The next line with these words that means something.
    fn find<T>(&mut self, words: &str, read: impl Fn(&str) -> Option<T>) -> Result<T, String> {
        let end = Instant::now() + LIMIT;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let line = self
                .lines
                .recv_timeout(left)
                .map_err(|_| format!("testpmd did not say \"{words}\""))?;
            if line.contains(words)
                && let Some(value) = read(&line)
            {
                return Ok(value);
            }
        }
    }

    /// Frames that these ports have received.
    fn received(&mut self, ports: &[usize]) -> Result<u64, String> {
        let mut sum = 0;
        for port in ports {
            self.say(&format!("show port stats {port}"))?;
            sum += self.find("RX-packets:", |line| {
                let number = line.split_whitespace().nth(1)?;
                number.parse::<u64>().ok()
            })?;
        }
        Ok(sum)
    }

    /// Millions of frames a second that it could have carried.
    fn ceiling(&mut self) -> Result<f64, String> {
        self.say("show fwd stats all")?;
        self.find("CPU cycles/packet=", |line| {
            let number = |after: &str| {
                let rest = line.split(after).nth(1)?;
                rest.split(|c: char| !c.is_ascii_digit() && c != '.')
                    .next()?
                    .parse::<f64>()
                    .ok()
            };
            let cycles = number("CPU cycles/packet=")?;
            let mhz = number(" at ")?;
            (cycles > 0.0).then_some(mhz / cycles)
        })
    }

    fn end(mut self) {
        let _ = self.say("quit");
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
