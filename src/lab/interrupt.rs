//! Ctrl-C, turned into an error, so that everything is cleaned up on the usual way out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, bail};
use signal_hook::SigId;
use signal_hook::consts::{SIGINT, SIGTERM};

/// Whether the user wants the lab to stop.
pub(crate) struct Interrupt {
    flag: Arc<AtomicBool>,
    handlers: Vec<SigId>,
}

impl Interrupt {
    /// Watches for SIGINT and SIGTERM until it is dropped.
    pub(crate) fn watch() -> Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        let handlers = [SIGINT, SIGTERM]
            .into_iter()
            .map(|signal| signal_hook::flag::register(signal, Arc::clone(&flag)))
            .collect::<Result<Vec<SigId>, _>>()
            .context("watching for Ctrl-C")?;
        Ok(Self { flag, handlers })
    }

    /// Whether a signal came.
    pub(crate) fn is_raised(&self) -> bool {
        self.flag.load(Ordering::Relaxed)
    }

    /// An error once a signal came.
    pub(crate) fn check(&self) -> Result<()> {
        if self.is_raised() {
            bail!("stopped by a signal; nothing was measured to the end");
        }
        Ok(())
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        for handler in self.handlers.drain(..) {
            signal_hook::low_level::unregister(handler);
        }
    }
}
