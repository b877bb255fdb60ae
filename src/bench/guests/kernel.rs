//! Client and server as threads of this process over the kernel's TCP, each in a network namespace of its own.
#![allow(unsafe_code)] // unshare(2): what it does to other parts of a program is the caller's to judge.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context as _, Result, anyhow};
use crossbeam_channel::{Receiver, Sender, unbounded};
use microguest::cmdline::Parameters;
use microguest::report::Line;
use rustix::thread::{UnshareFlags, unshare_unsafe};
use vswitch::Switch;
use vswitch::control::{PortConfig, PortKind};

use crate::agent::client::Client;
use crate::agent::stream::Stream;
use crate::agent::{Failure, interface, server};
use crate::lab::guests::{Event, Guests, Orders, Role};

/// IPv6 off: a kernel that looks for routers and neighbours by itself would be traffic of its own.
const NO_IPV6: &str = "/proc/sys/net/ipv6/conf/default/disable_ipv6";

/// Why namespaces and taps cannot be had here, if so.
pub(super) fn missing() -> Option<String> {
    if !Path::new("/dev/net/tun").exists() {
        return Some("there is no /dev/net/tun: load the module (modprobe tun)".to_owned());
    }
    let result = thread::scope(|scope| scope.spawn(own_network).join());
    match result {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(format!("network namespaces need root ({error:#})")),
        Err(_) => Some("a thread could not get a network namespace".to_owned()),
    }
}

/// Client and server over the kernel's TCP.
pub(super) struct KernelGuests<'a> {
    /// The switch, if their ports are to be removed.
    switch: Option<&'a Switch>,
    events: Receiver<(Role, Event)>,
    go: Arc<AtomicBool>,
    end: Option<Box<dyn FnOnce() + Send>>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl<'a> KernelGuests<'a> {
    /// Adds two taps to the switch, each in a network namespace that ends with its sockets.
    pub(super) fn on_taps(switch: &'a Switch, orders: &Orders) -> Result<Self> {
        let [server, client] = [Role::Server, Role::Client].map(|role| orders.of(role));
        let listener = in_own_network(|| {
            tap(switch, Role::Server, &server)?;
            listen(&server)
        })?;
        let stream = in_own_network(|| {
            tap(switch, Role::Client, &client)?;
            Stream::connect(&client).map_err(|why| anyhow!(why))
        })?;
        Self::start(Some(switch), listener, stream, (server, client))
    }

    /// Both on the loopback interface, of a network namespace where that can be had; on any port.
    pub(super) fn on_loopback(orders: &Orders) -> Result<Self> {
        let [server, client] = [Role::Server, Role::Client].map(|role| Parameters {
            ip: Ipv4Addr::LOCALHOST,
            peer: Ipv4Addr::LOCALHOST,
            port: 0,
            ..orders.of(role)
        });
        let connect = || {
            let listener = listen(&server)?;
            let port = listener.local_addr().context("the listener's address")?.port();
            let stream = Stream::connect(&Parameters { port, ..client }).map_err(|why| anyhow!(why))?;
            Ok((listener, stream))
        };
        let (listener, stream) = match missing() {
            None => in_own_network(|| {
                interface::loopback_up().context("bringing lo up")?;
                connect()
            })?,
            Some(_) => connect()?,
        };
        Self::start(None, listener, stream, (server, client))
    }

    /// Starts both threads. Their sockets stay in the networks that they were made in.
    fn start(
        switch: Option<&'a Switch>,
        listener: TcpListener,
        stream: Stream,
        (server, client): (Parameters, Parameters),
    ) -> Result<Self> {
        let (sender, events) = unbounded();
        let go = Arc::new(AtomicBool::new(false));
        let end = stream.stopper().context("copying a socket")?;
        say(&sender, Role::Server, &Line::Listening { port: server.port });
        let serving = spawn(Role::Server, sender.clone(), move |say| {
            let (stream, _) = listener
                .accept()
                .map_err(|error| format!("accepting a connection: {error}"))?;
            server::serve(stream, &server, say)
        })?;
        let raised = Arc::clone(&go);
        let asking = spawn(Role::Client, sender, move |say| {
            Client::new(&client, stream, raised, say).run()
        })?;
        Ok(Self {
            switch,
            events,
            go,
            end: Some(Box::new(end)),
            threads: vec![serving, asking],
        })
    }
}

impl Guests for KernelGuests<'_> {
    fn events(&self) -> &Receiver<(Role, Event)> {
        &self.events
    }

    fn go(&mut self) -> Result<()> {
        self.go.store(true, Ordering::Release);
        Ok(())
    }

    fn stop(&mut self) {
        if let Some(end) = self.end.take() {
            end();
        }
        for thread in self.threads.drain(..) {
            // What a thread has to say it has said.
            let _ = thread.join();
        }
        for role in [Role::Client, Role::Server] {
            // It is only missing when the switch is gone already.
            let _ = self.switch.map(|switch| switch.remove_port(role.name()));
        }
    }
}

/// Runs `work` in a thread with a network of its own, which stays as long as something in it is open.
fn in_own_network<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let thread = || {
        own_network()?;
        work()
    };
    thread::scope(|scope| scope.spawn(thread).join())
        .unwrap_or_else(|_| Err(anyhow!("setting up a network namespace failed")))
}

fn own_network() -> Result<()> {
    // SAFETY: CLONE_NEWNET takes nothing away from memory or descriptors that threads share; the calling thread is one that was
    // started for this, so nobody else relies on its network.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.context("making a network namespace")?;
    // It is missing where the kernel has no IPv6.
    let _ = fs::write(NO_IPV6, "1");
    Ok(())
}

/// A tap in the calling thread's network, as a port of the switch.
fn tap(switch: &Switch, role: Role, parameters: &Parameters) -> Result<()> {
    let name = role.name();
    switch
        .add_port(PortConfig::new(name, PortKind::Tap(name.to_owned())))
        .with_context(|| format!("adding the port {name}"))?;
    interface::set_up(name, parameters).with_context(|| format!("setting the tap {name} up"))
}

fn listen(parameters: &Parameters) -> Result<TcpListener> {
    let place = (parameters.ip, parameters.port);
    TcpListener::bind(place).with_context(|| format!("listening on {}:{}", place.0, place.1))
}

fn spawn(
    role: Role,
    sender: Sender<(Role, Event)>,
    work: impl FnOnce(&dyn Fn(&Line<'_>)) -> Result<(), Failure> + Send + 'static,
) -> Result<thread::JoinHandle<()>> {
    thread::Builder::new()
        .name(role.name().to_owned())
        .spawn(move || {
            if let Err(why) = work(&|line| say(&sender, role, line)) {
                say(&sender, role, &Line::Error(&why));
            }
        })
        .context("starting a thread")
}

fn say(sender: &Sender<(Role, Event)>, role: Role, line: &Line<'_>) {
    // Nobody listens any more when the measurement is over.
    let _ = sender.send((role, Event::Line(line.to_string())));
}
