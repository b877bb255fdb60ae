//! Client and server, whatever runs them, behind one interface: lines come in, "go" goes out.

mod endpoint;
mod kvm;
mod linux;

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use crossbeam_channel::{Receiver, RecvTimeoutError};
use microguest::cmdline::{self, Go, Parameters};
use microguest::report::Line;

use super::args::{Args, Workload};
use super::interrupt::Interrupt;
use super::report::GuestInfo;
use super::serial;

pub(crate) use endpoint::EndpointGuests;
pub(crate) use kvm::{KvmGuests, probe_kvm};
pub(crate) use linux::{Linux, Wanted, can_run};

/// The client's address.
const CLIENT_IP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The server's address.
const SERVER_IP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// Transactions at a phase's start that are not counted.
pub(super) const WARMUP: u32 = 8;
/// Lines of each guest that are kept to be shown when something goes wrong.
const KEPT_LINES: usize = 12;
/// How often a wait looks for an interrupt and moves the progress bar.
const TICK: Duration = Duration::from_millis(50);

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Asks.
    Client,
    /// Answers.
    Server,
}

impl Role {
    /// Its name: also its port's.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }

    /// Its address.
    pub(crate) const fn ip(self) -> Ipv4Addr {
        match self {
            Self::Client => CLIENT_IP,
            Self::Server => SERVER_IP,
        }
    }

    /// The other one.
    pub(crate) const fn peer(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }

    const fn index(self) -> usize {
        self as usize
    }
}

/// Something that a guest did.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// It wrote a line.
    Line(String),
    /// It is gone; in words, how.
    Gone(String),
}

/// What runs client and server.
pub(crate) trait Guests {
    /// Where their events come from.
    fn events(&self) -> &Receiver<(Role, Event)>;

    /// Starts the client, if it does not run yet; the server listens.
    fn start_client(&mut self) -> Result<()> {
        Ok(())
    }

    /// Lets the client start the phase that it is ready for.
    fn go(&mut self) -> Result<()>;

    /// What is known of them, once both run.
    fn info(&self) -> Vec<GuestInfo> {
        Vec::new()
    }

    /// Stops both and waits until they are gone.
    fn stop(&mut self);
}

/// Reads the guests' lines, and keeps the last ones for error messages.
pub(crate) struct Listener<'a> {
    guests: Box<dyn Guests + 'a>,
    recent: [VecDeque<String>; 2],
    interrupt: &'a Interrupt,
}

impl<'a> Listener<'a> {
    /// A listener to these guests.
    pub(crate) fn new(guests: Box<dyn Guests + 'a>, interrupt: &'a Interrupt) -> Self {
        Self {
            guests,
            recent: [VecDeque::new(), VecDeque::new()],
            interrupt,
        }
    }

    /// The guests.
    pub(crate) fn guests(&mut self) -> &mut (dyn Guests + 'a) {
        self.guests.as_mut()
    }

    /// Waits until the server listens, and starts the client.
    pub(crate) fn begin(&mut self, limit: Duration) -> Result<()> {
        self.wait(
            "the server's listening",
            limit,
            || (),
            |_, line| matches!(line, Line::Listening { .. }).then_some(()),
        )?;
        self.guests.start_client()
    }

    /// Waits until `want` makes something of a line. `what` names it in the error; `tick` is called now and then.
    pub(crate) fn wait<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut tick: impl FnMut(),
        mut want: impl FnMut(Role, &Line<'_>) -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + limit;
        loop {
            tick();
            self.interrupt.check()?;
            if Instant::now() >= deadline {
                bail!(
                    "{what} did not come within {:.0} s\n{}",
                    limit.as_secs_f64(),
                    self.last_lines()
                );
            }
            let (role, event) = match self.guests.events().recv_timeout(TICK) {
                Ok(event) => event,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => {
                    bail!(
                        "both guests are gone, and {what} did not come\n{}",
                        self.last_lines()
                    )
                }
            };
            if let Some(found) = self.take(role, event, what, &mut want)? {
                return Ok(found);
            }
        }
    }

    fn take<T>(
        &mut self,
        role: Role,
        event: Event,
        what: &str,
        want: &mut impl FnMut(Role, &Line<'_>) -> Option<T>,
    ) -> Result<Option<T>> {
        let text = match event {
            Event::Line(text) => text,
            Event::Gone(how) => {
                bail!(
                    "the {} is gone ({how}), and {what} did not come\n{}",
                    role.name(),
                    self.last_lines()
                )
            }
        };
        if let Some(recent) = self.recent.get_mut(role.index()) {
            if recent.len() == KEPT_LINES {
                recent.pop_front();
            }
            recent.push_back(text.clone());
        }
        let Some(line) = serial::read(&text) else {
            return Ok(None);
        };
        if let Line::Error(_) | Line::Fault { .. } = line {
            bail!(
                "the {} gave up: {}\n{}",
                role.name(),
                printable(&text),
                self.last_lines()
            );
        }
        Ok(want(role, &line))
    }

    fn last_lines(&self) -> String {
        let mut text = String::new();
        for role in [Role::Client, Role::Server] {
            let _ = writeln!(text, "last lines of the {}:", role.name());
            let lines = self.recent.get(role.index());
            if lines.is_none_or(VecDeque::is_empty) {
                text.push_str("  (none)\n");
            }
            for line in lines.into_iter().flatten() {
                let _ = writeln!(text, "  {}", printable(line));
            }
        }
        text
    }
}

impl Drop for Listener<'_> {
    fn drop(&mut self) {
        self.guests.stop();
    }
}

/// A guest's line without what would upset a terminal.
fn printable(line: &str) -> String {
    line.chars()
        .take(200)
        .map(|c| if c.is_control() { '.' } else { c })
        .collect()
}

/// What both guests are told to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Orders {
    /// As the client is told.
    client: Parameters,
}

impl Orders {
    /// Orders that `set` fills in; role and addresses are there already.
    pub(crate) fn new(set: impl FnOnce(&mut Parameters)) -> Self {
        let (client, server) = (Role::Client.ip(), Role::Server.ip());
        let mut client = Parameters::new(cmdline::Role::Client, client, server);
        set(&mut client);
        Self { client }
    }

    /// What one of them is told.
    pub(crate) fn of(&self, role: Role) -> Parameters {
        let side = match role {
            Role::Client => cmdline::Role::Client,
            Role::Server => cmdline::Role::Server,
        };
        Parameters {
            role: side,
            ip: role.ip(),
            peer: role.peer().ip(),
            ..self.client
        }
    }
}

/// What the lab has its guests do.
pub(super) fn orders(args: &Args) -> Orders {
    Orders::new(|parameters| set(parameters, args))
}

fn set(parameters: &mut Parameters, args: &Args) {
    parameters.workload = match args.workload {
        Workload::Rr => cmdline::Workload::Rr,
        Workload::Wwr => cmdline::Workload::Wwr,
        Workload::Records => cmdline::Workload::Records,
        Workload::Stream => cmdline::Workload::Stream,
    };
    parameters.size = args.size;
    parameters.ack_delay_ms = u32::try_from(args.ack_delay_ms()).unwrap_or(u32::MAX);
    parameters.nagle = args.nagle;
    parameters.warmup = WARMUP;
    parameters.phases = u32::try_from(args.filters.len()).unwrap_or(u32::MAX);
    parameters.phase_ms = u32::try_from(args.duration.as_millis()).unwrap_or(u32::MAX);
    parameters.go = Go::Serial;
}
