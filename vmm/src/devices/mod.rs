//! What the guest finds on its buses.

pub(crate) mod block;
pub(crate) mod bus;
pub(crate) mod console;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
pub(crate) mod lifecycle;
mod lines;
pub(crate) mod marks;
pub(crate) mod net;
pub(crate) mod pci;
pub(crate) mod power;
pub(crate) mod rng;
pub(crate) mod serial;
mod terminal;
pub(crate) mod virtio;

pub(crate) use terminal::Terminal;
