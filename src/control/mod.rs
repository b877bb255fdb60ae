//! The control socket from the client's side: where it is, and how to talk to it.

mod client;
mod http;
mod path;

pub use client::{Client, ClientError, Stream};
pub use http::{Body, Head, HttpError, read_head};
pub use path::{PathError, default_path, make_home};
