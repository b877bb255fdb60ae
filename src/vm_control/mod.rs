//! The control socket of a virtual machine: how others find it, what they may ask, and who answers.
//!
//! The process of a machine stays small, so there is no runtime here: one thread serves all clients without ever waiting
//! for one of them, and a second one waits for the machine's answers. docs/vm-control.md describes the interface.

pub mod api;
mod connection;
pub mod place;
pub mod request;
mod server;
mod socket;
mod worker;

pub use server::{Enter, Server};
pub use socket::{Socket, SocketError, peer_pid};
