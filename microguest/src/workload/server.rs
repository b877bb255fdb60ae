//! The server's end: serves one connection after the other.

use smoltcp::socket::tcp::{Socket, State};

use super::exchange::{Echo, RecordWriter};
use super::stream::Reader;
use super::{Activity, Sink};
use crate::cmdline::{Parameters, Workload};
use crate::report::Line;

/// The server's end of a workload.
#[derive(Debug)]
pub struct Server {
    port: u16,
    announced: bool,
    connected: bool,
    exchange: Exchange,
}

#[derive(Debug)]
enum Exchange {
    Echo(Echo),
    Records(RecordWriter),
    /// The reader and how many phases ended.
    Stream(Reader, u32),
}

impl Server {
    /// A server that listens when first polled; `mss` is the payload of a full segment on its link.
    pub fn new(parameters: &Parameters, mss: usize) -> Self {
        let size = parameters.size as usize;
        let exchange = match parameters.workload {
            Workload::Rr | Workload::Wwr => Exchange::Echo(Echo::new(size)),
            Workload::Records => {
                Exchange::Records(RecordWriter::new(size, parameters.segments.max(1) as usize, mss))
            }
            Workload::Stream => Exchange::Stream(Reader::default(), 0),
        };
        Self {
            port: parameters.port,
            announced: false,
            connected: false,
            exchange,
        }
    }

    /// Goes on as far as the socket allows.
    pub fn poll(&mut self, socket: &mut Socket<'_>, sink: Sink<'_>) -> Activity {
        match socket.state() {
            State::Closed | State::TimeWait => {
                self.disconnected(sink);
                self.listen(socket, sink)
            }
            State::Established | State::CloseWait => {
                self.connected = true;
                self.serve(socket, sink)
            }
            _ => Activity::Idle,
        }
    }

    fn listen(&mut self, socket: &mut Socket<'_>, sink: Sink<'_>) -> Activity {
        socket.abort();
        if socket.listen(self.port).is_err() {
            sink(&Line::Error("cannot listen"));
        } else if !self.announced {
            self.announced = true;
            sink(&Line::Listening { port: self.port });
        }
        Activity::Idle
    }

    fn serve(&mut self, socket: &mut Socket<'_>, sink: Sink<'_>) -> Activity {
        let activity = match &mut self.exchange {
            Exchange::Echo(echo) => echo.poll(socket),
            Exchange::Records(writer) => writer.poll(socket),
            Exchange::Stream(reader, phases) => {
                let (read, ended) = reader.read(socket).unwrap_or((0, false));
                if ended {
                    sink(&hash_line(reader, Some(*phases)));
                    *phases += 1;
                }
                if read > 0 { Activity::Busy } else { Activity::Idle }
            }
        };
        if activity == Activity::Idle && socket.state() == State::CloseWait && socket.recv_queue() == 0 {
            self.disconnected(sink);
            socket.close();
            return Activity::Busy;
        }
        activity
    }

    /// Reports a connection that ended, once, and prepares for the next one.
    fn disconnected(&mut self, sink: Sink<'_>) {
        if !self.connected {
            return;
        }
        self.connected = false;
        match &mut self.exchange {
            Exchange::Echo(echo) => echo.reset(),
            Exchange::Records(writer) => writer.reset(),
            Exchange::Stream(reader, phases) => {
                sink(&hash_line(reader, None));
                (*reader, *phases) = (Reader::default(), 0);
            }
        }
    }
}

fn hash_line(reader: &Reader, phase: Option<u32>) -> Line<'static> {
    Line::Hash {
        phase,
        octets: reader.position.octets,
        sum: reader.position.hash.value(),
    }
}
