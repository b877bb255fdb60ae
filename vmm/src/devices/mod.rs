//! What the guest finds on its buses.

pub(crate) mod bus;
pub(crate) mod lifecycle;
pub(crate) mod net;
pub(crate) mod pci;
pub(crate) mod power;
pub(crate) mod serial;
pub(crate) mod virtio;
