//! Checked views, one-pass parsing, checksums and segmentation of network frames.
//!
//! No I/O, no clock, no allocation per frame.

mod mac;
mod meta;
mod parse;
mod request;
pub mod view;

pub use mac::{MacAddr, ParseMacError};
pub use meta::{FrameMeta, IpMeta, Network, TcpFlags, TcpMeta, Transport, UdpMeta, VlanTag};
pub use parse::{ParseError, parse};
pub use request::{Checksum, Gso, GsoKind, Offloads, VnetHeader};
