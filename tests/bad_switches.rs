//! Machines whose back end of an interface is none, or goes: refused in one line and in time, ended, or found again.

mod support;

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use support::frames::Random;
use support::refusal::{PATIENCE, Running, Site};
use support::vm::text;

/// What a back end that is none does with a connection.
#[derive(Clone, Copy)]
enum Behaviour {
    /// Answers so many messages as a correct one would, then closes.
    Closes(usize),
    /// Answers each with octets that mean nothing.
    Garbage,
    /// Reads and says nothing.
    Silent,
    /// The first ones are as good as those that close after the negotiation, the rest are silent.
    FallsSilentAfter(usize),
}

/// Messages that are answered with a number.
const GET_FEATURES: u32 = 1;
const GET_VRING_BASE: u32 = 11;
const GET_PROTOCOL_FEATURES: u32 = 15;
const NEED_REPLY: u32 = 1 << 3;
/// Messages until the rings of a driver with one queue pair are the back end's.
const ALL_MESSAGES: usize = 18;

/// Listens at `path` for ever; counts connections.
fn listen(path: &Path, behaviour: Behaviour) -> Arc<AtomicUsize> {
    let listener = UnixListener::bind(path).expect("a socket");
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let before = count.fetch_add(1, Ordering::Relaxed);
            let behaviour = match behaviour {
                Behaviour::FallsSilentAfter(first) if before < first => Behaviour::Closes(4),
                Behaviour::FallsSilentAfter(_) => Behaviour::Silent,
                other => other,
            };
            std::thread::spawn(move || behave(stream, behaviour));
        }
    });
    connections
}

fn behave(mut stream: UnixStream, behaviour: Behaviour) -> Option<()> {
    let mut answered = 0;
    let mut random = Random::new(9);
    loop {
        if matches!(behaviour, Behaviour::Closes(messages) if messages == answered) {
            return None;
        }
        let mut header = [0; 12];
        stream.read_exact(&mut header).ok()?;
        let word = |at: usize| u32::from_ne_bytes(std::array::from_fn(|octet| header[at + octet]));
        let (code, flags, size) = (word(0), word(4), word(8));
        let mut body = vec![0; size as usize];
        stream.read_exact(&mut body).ok()?;
        answered += 1;
        let number: Option<u64> = match code {
            GET_FEATURES => Some(1 << 32 | 1 << 30),
            GET_PROTOCOL_FEATURES => Some(NEED_REPLY.into()),
            GET_VRING_BASE => Some(0),
            _ => (flags & NEED_REPLY != 0).then_some(0),
        };
        match behaviour {
            Behaviour::Silent | Behaviour::FallsSilentAfter(_) => {}
            Behaviour::Garbage => stream.write_all(&random.octets(64)).ok()?,
            Behaviour::Closes(_) => {
                if let Some(number) = number {
                    let answer = [code, 5, 8].map(u32::to_ne_bytes).concat();
                    stream
                        .write_all(&[&answer[..], &number.to_ne_bytes()].concat())
                        .ok()?;
                }
            }
        }
    }
}

#[test]
fn a_back_end_that_is_none_is_refused_in_time() {
    let Some(site) = Site::new("a_back_end_that_is_none_is_refused_in_time") else {
        return;
    };
    for name in ["missing", "dir", "file"] {
        let _ = fs::create_dir(site.path("dir"));
        site.file("file", b"no socket");
        let error = site.with(&["--nic", &format!("vhost-user={name}")]);
        assert!(error.contains(&format!("cannot connect to {name}: ")), "{error}");
    }
    let kinds = [Behaviour::Garbage, Behaviour::Silent]
        .into_iter()
        .chain((0..2).map(Behaviour::Closes));
    for (number, behaviour) in kinds.enumerate() {
        let name = format!("switch{number}");
        let connections = listen(&site.path(&name), behaviour);
        let error = site.with(&["--nic", &format!("vhost-user={name}")]);
        assert!(
            error.contains(&format!("{name}: the switch failed to ")),
            "{error}"
        );
        assert!(connections.load(Ordering::Relaxed) >= 1);
    }
}

#[test]
fn a_back_end_that_goes_at_any_step_of_the_driver_ends_the_machine_or_is_found_again() {
    let test = "a_back_end_that_goes_at_any_step_of_the_driver_ends_the_machine_or_is_found_again";
    let Some(site) = Site::new(test) else { return };
    let guest = ["--cmdline", "role=server ip=192.0.2.2/24"];
    for messages in [4, 5, 6, 8, 11, 13, 16] {
        let name = format!("switch{messages}");
        listen(&site.path(&name), Behaviour::Closes(messages));
        let nic = format!("vhost-user={name},reconnect=0");
        let output = site.run(&[&["--micro-guest", "--memory", "32M", "--nic", &nic], &guest[..]].concat());
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{messages}: {error}");
        assert!(
            error.contains(&format!("the switch behind {name} is gone")),
            "{messages}: {error}"
        );
        assert!(
            error.lines().count() <= 6 && !error.contains("panicked"),
            "{messages}: {error}"
        );
    }
    // One that hangs up on every connection is looked for ever more rarely, and is not told of for ever.
    let connections = listen(&site.path("flapping"), Behaviour::Closes(ALL_MESSAGES));
    let started = Instant::now();
    let mut command = site.command(&["run", "--name", "flapping", "--micro-guest", "--memory", "32M"]);
    let errors = File::create(site.path("errors")).expect("a file");
    command
        .args(["--nic", "vhost-user=flapping"])
        .args(guest)
        .stdout(Stdio::null())
        .stderr(errors);
    let mut vm = Running(command.spawn().expect("the CLI runs"));
    while connections.load(Ordering::Relaxed) < 5 {
        assert!(started.elapsed() < PATIENCE, "it is not looked for");
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::sleep(Duration::from_secs(1));
    let most = 6 + started.elapsed().as_millis() as usize / 400;
    let seen = connections.load(Ordering::Relaxed);
    assert!(seen <= most, "{seen} connections in {:?}", started.elapsed());
    let info = site
        .command(&["info", "flapping"])
        .output()
        .expect("the CLI runs");
    assert!(info.status.success(), "{info:?}");
    let stop = site
        .command(&["stop", "flapping", "--force"])
        .output()
        .expect("the CLI runs");
    assert_eq!(stop.status.code(), Some(0), "{stop:?}");
    assert!(vm.0.wait().expect("ended").success());
    let errors = text(&site.path("errors"));
    assert!(errors.lines().count() <= 12, "{errors}");
}

/// Looking for one switch takes three seconds then, and there are eight.
#[test]
fn switches_that_say_nothing_any_more_do_not_keep_a_machine_from_stopping() {
    let test = "switches_that_say_nothing_any_more_do_not_keep_a_machine_from_stopping";
    let Some(site) = Site::new(test) else { return };
    let connections = listen(&site.path("silent"), Behaviour::FallsSilentAfter(8));
    let mut command = site.command(&["run", "--name", "patient", "--micro-guest", "--memory", "32M"]);
    command.args(["--nic", "vhost-user=silent,reconnect=60"].repeat(8));
    command
        .args(["--cmdline", "role=server ip=192.0.2.2/24"])
        .stdout(Stdio::null());
    let errors = File::create(site.path("errors")).expect("a file");
    let mut vm = Running(command.stderr(errors).spawn().expect("the CLI runs"));
    let started = Instant::now();
    while connections.load(Ordering::Relaxed) < 9 {
        assert!(started.elapsed() < PATIENCE, "it is not looked for");
        std::thread::sleep(Duration::from_millis(10));
    }
    let stop = site
        .command(&["stop", "patient", "--force"])
        .output()
        .expect("the CLI runs");
    assert_eq!(stop.status.code(), Some(0), "{stop:?}");
    assert!(vm.0.wait().expect("ended").success());
    let errors = text(&site.path("errors"));
    assert!(
        errors.lines().count() <= 20 && !errors.contains("panicked"),
        "{errors}"
    );
}
