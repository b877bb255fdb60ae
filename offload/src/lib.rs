//! Checked views, one-pass parsing, checksums, segmentation and coalescing of network frames.
//!
//! No I/O, no clock, no allocation per frame.

pub mod build;
pub mod checksum;
pub mod coalesce;
mod mac;
mod meta;
mod octets;
mod offloads;
mod parse;
mod request;
pub mod rss;
mod segment;
mod tunnel;
pub mod view;

pub use checksum::{ChecksumError, finish};
pub use mac::{MacAddr, ParseMacError};
pub use meta::{FrameMeta, IpMeta, Link, Network, TcpFlags, TcpMeta, Transport, UdpMeta, VlanTag};
pub use offloads::OffloadError;
pub use parse::{ParseError, parse, parse_into};
pub use request::{Checksum, Gso, GsoKind, Offloads, VnetHeader};
pub use segment::{SegmentError, Segmenter};
pub use tunnel::{Tunnel, TunnelKind, parse_inner};
