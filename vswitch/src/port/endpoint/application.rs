//! What runs in an endpoint.

use introspection::Instant;
use smoltcp::iface::{Context, SocketSet};

/// A program inside an endpoint, over smoltcp's sockets. Sans-I/O: it is polled by the worker that serves the port,
/// and so must neither wait nor take long.
pub trait Application: Send {
    /// Adds its sockets. Called once, before anything else.
    fn start(&mut self, host: &mut Host<'_>);

    /// Does what can be done now: called after frames came in, when the instant that it last returned has come, and
    /// after [`super::EndpointPort::poke`]. Returns when it next wants to be called if no frame comes; the sockets' own
    /// timers are looked after by the endpoint.
    fn poll(&mut self, now: Instant, host: &mut Host<'_>) -> Option<Instant>;
}

/// The endpoint that an application runs in.
pub struct Host<'a> {
    /// All sockets of the endpoint. An application touches its own only.
    pub sockets: &'a mut SocketSet<'static>,
    /// The interface, as smoltcp's `connect` wants it.
    pub context: &'a mut Context,
}
