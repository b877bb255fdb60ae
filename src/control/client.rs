//! A client of the control socket: blocking, one connection per request.

use std::io::{self, BufReader, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::http::{Body, HttpError, read_head};

/// How long the switch may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// A connection is for one request.
const CLOSE: &str = "Connection: close\r\n";
/// Longest answer that is taken, in octets.
const MAX_ANSWER: u64 = 64 << 20;

/// Why the switch did not do what it was asked. Each is one line.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no switch answers on {}: start one with `enlight switch run`, or name its socket with --control", .0.display())]
    NoSwitch(PathBuf),
    /// The socket may not be used.
    #[error("the control socket {} may not be used by this user; run as the switch's user or one of its group", .0.display())]
    Forbidden(PathBuf),
    /// The switch took too long.
    #[error("the switch on {} did not answer within {} s", path.display(), patience.as_secs())]
    Silent {
        /// The socket.
        path: PathBuf,
        /// How long it was given.
        patience: Duration,
    },
    /// The connection failed.
    #[error("talking to the switch on {}: {source}", path.display())]
    Connection {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: HttpError,
    },
    /// The switch refused.
    #[error("{message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// Its reason.
        message: String,
    },
    /// The answer is not what was asked for.
    #[error("the switch on {} answered something else than expected: {source}; are client and switch of one version?", path.display())]
    Answer {
        /// The socket.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

/// A client of one control socket.
#[derive(Clone, Debug)]
pub struct Client {
    path: PathBuf,
    patience: Duration,
}

impl Client {
    /// A client of the socket at `path`. Nothing is opened yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            patience: PATIENCE,
        }
    }

    /// The same client with another idea of how long an answer may take.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// The socket's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Asks for something.
    pub fn get<T: DeserializeOwned>(&self, target: &str) -> Result<T, ClientError> {
        self.ask("GET", target, b"")
    }

    /// Sends something, and takes the answer.
    pub fn send<T: DeserializeOwned>(
        &self,
        method: &str,
        target: &str,
        content: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(content).map_err(|source| self.answer(source))?;
        self.ask(method, target, &body)
    }

    /// Deletes something.
    pub fn delete(&self, target: &str) -> Result<(), ClientError> {
        self.text("DELETE", target, b"").map(|_| ())
    }

    /// Asks for something that goes on for as long as it likes.
    pub fn stream(&self, target: &str) -> Result<Stream, ClientError> {
        let stream = self.request("GET", target, CLOSE, b"")?;
        stream
            .body
            .stream
            .get_ref()
            .set_read_timeout(None)
            .map_err(|error| self.failed(error.into()))?;
        Ok(stream)
    }

    /// Turns a connection into something else than HTTP: `protocol`. The second value is what came already.
    pub fn upgrade(&self, target: &str, protocol: &str) -> Result<(UnixStream, Vec<u8>), ClientError> {
        let upgrade = format!("Connection: Upgrade\r\nUpgrade: {protocol}\r\n");
        let stream = self.request("GET", target, &upgrade, b"")?.body.stream;
        let came = stream.buffer().to_vec();
        let stream = stream.into_inner();
        stream
            .set_read_timeout(None)
            .and_then(|()| stream.set_write_timeout(None))
            .map_err(|error| self.failed(error.into()))?;
        Ok((stream, came))
    }

    fn ask<T: DeserializeOwned>(&self, method: &str, target: &str, body: &[u8]) -> Result<T, ClientError> {
        let text = self.text(method, target, body)?;
        serde_json::from_slice(&text).map_err(|source| self.answer(source))
    }

    fn text(&self, method: &str, target: &str, body: &[u8]) -> Result<Vec<u8>, ClientError> {
        let mut text = Vec::new();
        let body = self.request(method, target, CLOSE, body)?.body;
        body.take(MAX_ANSWER)
            .read_to_end(&mut text)
            .map_err(|error| self.failed(error.into()))?;
        Ok(text)
    }

    /// Sends a request and reads the head of its answer; an answer that tells of a failure becomes an error.
    fn request(
        &self,
        method: &str,
        target: &str,
        connection: &str,
        body: &[u8],
    ) -> Result<Stream, ClientError> {
        let mut stream = self.connect()?;
        let head = format!(
            "{method} {target} HTTP/1.1\r\nHost: enlight\r\n{connection}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        // A switch that refuses early closes before it has read all; its answer tells why.
        let _ = stream.write_all(&[head.as_bytes(), body].concat());
        let mut stream = BufReader::new(stream);
        let head = read_head(&mut stream).map_err(|error| self.failed(error))?;
        let body = Body::new(stream, head);
        if (200..300).contains(&head.status) || head.status == 101 {
            return Ok(Stream { body });
        }
        let mut text = Vec::new();
        body.take(MAX_ANSWER)
            .read_to_end(&mut text)
            .map_err(|error| self.failed(error.into()))?;
        Err(ClientError::Refused {
            status: head.status,
            message: reason(head.status, &text),
        })
    }

    fn connect(&self) -> Result<UnixStream, ClientError> {
        let stream = UnixStream::connect(&self.path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NoSwitch(self.path.clone())
            }
            io::ErrorKind::PermissionDenied => ClientError::Forbidden(self.path.clone()),
            _ => self.failed(error.into()),
        })?;
        stream
            .set_read_timeout(Some(self.patience))
            .and_then(|()| stream.set_write_timeout(Some(self.patience)))
            .map_err(|error| self.failed(error.into()))?;
        Ok(stream)
    }

    fn failed(&self, source: HttpError) -> ClientError {
        match source {
            HttpError::Io(error)
                if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) =>
            {
                ClientError::Silent {
                    path: self.path.clone(),
                    patience: self.patience,
                }
            }
            source => ClientError::Connection {
                path: self.path.clone(),
                source,
            },
        }
    }

    fn answer(&self, source: serde_json::Error) -> ClientError {
        ClientError::Answer {
            path: self.path.clone(),
            source,
        }
    }
}

/// The reason in an answer that tells of a failure.
fn reason(status: u16, text: &[u8]) -> String {
    let error = serde_json::from_slice::<serde_json::Value>(text).ok();
    let error = error.as_ref().and_then(|value| value.get("error")?.as_str());
    error.map_or_else(
        || format!("the switch answered with status {status}"),
        str::to_owned,
    )
}

/// An answer that goes on.
#[derive(Debug)]
pub struct Stream {
    body: Body<BufReader<UnixStream>>,
}

impl Stream {
    /// Something that ends the answer from another thread.
    pub fn stopper(&self) -> io::Result<impl FnOnce() + Send + 'static> {
        let connection = self.body.stream.get_ref().try_clone()?;
        Ok(move || {
            // Fails only when the connection is gone already.
            let _ = connection.shutdown(Shutdown::Both);
        })
    }
}

impl io::Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.body.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_there_is_said_kindly() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("none.sock");
        let error = Client::new(&path)
            .get::<u8>("/v1/ports")
            .expect_err("nobody listens");
        let text = error.to_string();
        assert!(
            text.contains("enlight switch run") && text.contains("none.sock"),
            "{text}"
        );
    }

    #[test]
    fn reasons_are_found_in_answers() {
        assert_eq!(reason(404, br#"{"error": "no such port"}"#), "no such port");
        assert_eq!(reason(500, b"<html>"), "the switch answered with status 500");
    }
}
