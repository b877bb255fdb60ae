//! The switch as a service: its ports, and a control socket that speaks HTTP.
//!
//! `enlight switch run` is this and a signal handler; other parts of the program may start one in their own process.

pub mod api;
mod capture;
mod metrics;
mod routes;
mod server;
mod socket;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use tokio::sync::watch;
use vswitch::Switch;
use vswitch::control::{ControlError, SwitchConfig};

use crate::config::Config;
use crate::control::{PathError, default_path, make_home};
use routes::Context;
use socket::ControlSocket;
pub use socket::SocketError;

/// Why a daemon could not start. Each is one line.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The control socket's directory cannot be had.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The control socket cannot be had.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The switch refused its configuration.
    #[error(transparent)]
    Switch(#[from] ControlError),
    /// The control socket's thread could not start.
    #[error("starting the control socket's thread: {0}")]
    Thread(std::io::Error),
}

/// A running switch with a control socket. Dropping it stops both.
pub struct Daemon {
    switch: Arc<Switch>,
    socket: ControlSocket,
    stopping: Arc<AtomicBool>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Daemon {
    /// Starts a switch, adds its ports and listens on its control socket.
    pub fn start(config: Config) -> Result<Self, DaemonError> {
        let path = if let Some(path) = config.control {
            path
        } else {
            let path = default_path();
            make_home(&path)?;
            path
        };
        // First, so that a second switch on the same socket does not disturb the first one's ports.
        let (socket, listener) = ControlSocket::bind(path)?;
        let switch = Arc::new(Switch::start(&SwitchConfig {
            workers: config.workers,
        })?);
        switch.set_attribution(config.attribution);
        for port in config.ports {
            switch.add_port(port)?;
        }
        let stopping = Arc::new(AtomicBool::new(false));
        let (stop, stopped) = watch::channel(false);
        let context = Context::new(Arc::clone(&switch), Arc::clone(&stopping));
        let thread = server::spawn(listener, context, stopped).map_err(DaemonError::Thread)?;
        Ok(Self {
            switch,
            socket,
            stopping,
            stop,
            thread: Some(thread),
        })
    }

    /// The switch.
    pub fn switch(&self) -> &Arc<Switch> {
        &self.switch
    }

    /// The control socket's path.
    pub fn control(&self) -> &Path {
        self.socket.path()
    }

    /// Answers what is being asked, ends captures, stops the switch and removes its sockets.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        // Fails only when the server's thread is gone already.
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the control socket's thread had died");
        }
        self.switch.shutdown();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.end();
    }
}
