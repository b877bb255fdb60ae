//! As much of HTTP/1.1 (RFC 9112) as a client of the control socket needs: one response per connection.

use std::io::{self, BufRead, Read};

/// Longest head of a response in octets.
const MAX_HEAD: usize = 16 << 10;
/// Longest line before a chunk in octets.
const MAX_CHUNK_LINE: usize = 256;
/// Header fields of a response.
const MAX_FIELDS: usize = 32;

/// Why a response cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The connection failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is no HTTP response.
    #[error("the answer is not HTTP: {0}")]
    Syntax(&'static str),
}

/// A response's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its status code.
    pub status: u16,
    framing: Framing,
}

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Length(u64),
    Chunked,
    Close,
}

/// Reads a response's head.
pub fn read_head(stream: &mut impl BufRead) -> Result<Head, HttpError> {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        let room = (MAX_HEAD - text.len()) as u64;
        let read = stream.take(room).read_until(b'\n', &mut text)?;
        if read == 0 {
            return Err(match text.len() {
                MAX_HEAD => HttpError::Syntax("its head has no end"),
                _ => io::Error::from(io::ErrorKind::UnexpectedEof).into(),
            });
        }
    }
    parse_head(&text)
}

fn parse_head(text: &[u8]) -> Result<Head, HttpError> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    let complete = response.parse(text).is_ok_and(|status| status.is_complete());
    let Some(status) = response.code.filter(|_| complete) else {
        return Err(HttpError::Syntax("its head is malformed"));
    };
    let mut framing = Framing::Close;
    for field in response.headers.iter() {
        if field.name.eq_ignore_ascii_case("transfer-encoding") {
            if !field.value.eq_ignore_ascii_case(b"chunked") {
                return Err(HttpError::Syntax("its transfer coding is unknown"));
            }
            framing = Framing::Chunked;
            break;
        }
        if field.name.eq_ignore_ascii_case("content-length") {
            let length = std::str::from_utf8(field.value)
                .ok()
                .and_then(|text| text.parse().ok());
            framing = Framing::Length(length.ok_or(HttpError::Syntax("its content length is no number"))?);
        }
    }
    if status == 204 || status == 304 {
        framing = Framing::Length(0);
    }
    Ok(Head { status, framing })
}

/// A response's body. An end that comes too early is an error of kind [`io::ErrorKind::UnexpectedEof`].
#[derive(Debug)]
pub struct Body<R> {
    pub(super) stream: R,
    framing: Framing,
    /// Octets left of the body, or of the chunk.
    left: u64,
    ended: bool,
    in_chunks: bool,
}

impl<R: BufRead> Body<R> {
    /// The body that follows `head`.
    pub fn new(stream: R, head: Head) -> Self {
        let left = match head.framing {
            Framing::Length(length) => length,
            Framing::Chunked => 0,
            Framing::Close => u64::MAX,
        };
        Self {
            stream,
            framing: head.framing,
            left,
            ended: false,
            in_chunks: false,
        }
    }

    /// Reads the line before a chunk, and the line end behind the chunk before it.
    fn next_chunk(&mut self) -> io::Result<()> {
        if self.in_chunks && !self.line()?.is_empty() {
            return Err(malformed("a chunk is longer than it says"));
        }
        self.in_chunks = true;
        let line = self.line()?;
        let digits = line
            .split(|octet| *octet == b';')
            .next()
            .unwrap_or_default()
            .trim_ascii();
        let text = std::str::from_utf8(digits).unwrap_or_default();
        if text.is_empty() || text.len() > 15 {
            return Err(malformed("a chunk's length is no number"));
        }
        self.left = u64::from_str_radix(text, 16).map_err(|_| malformed("a chunk's length is no number"))?;
        self.ended = self.left == 0;
        Ok(())
    }

    /// The next line without its end.
    fn line(&mut self) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        (&mut self.stream)
            .take(MAX_CHUNK_LINE as u64)
            .read_until(b'\n', &mut line)?;
        match line.strip_suffix(b"\r\n") {
            Some(text) => Ok(text.to_vec()),
            None if line.len() == MAX_CHUNK_LINE || line.ends_with(b"\n") => {
                Err(malformed("a line before a chunk has no end"))
            }
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

impl<R: BufRead> Read for Body<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 && self.framing == Framing::Chunked && !self.ended {
            self.next_chunk()?;
        }
        if self.left == 0 || self.ended || buffer.is_empty() {
            return Ok(0);
        }
        let room = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.stream.read(buffer.get_mut(..room).unwrap_or_default())?;
        if self.framing == Framing::Close {
            self.ended = read == 0;
            return Ok(read);
        }
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= read as u64;
        Ok(read)
    }
}

fn malformed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(mut text: &[u8]) -> Result<(u16, Vec<u8>), HttpError> {
        let head = read_head(&mut text)?;
        let mut body = Vec::new();
        Body::new(text, head).read_to_end(&mut body)?;
        Ok((head.status, body))
    }

    #[test]
    fn bodies_end_where_their_framing_says() {
        let length = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcdef";
        assert_eq!(read(length).unwrap(), (200, b"abc".to_vec()));
        let chunked = b"HTTP/1.1 404 Not Found\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\nmore";
        assert_eq!(read(chunked).unwrap(), (404, b"abc0123456789".to_vec()));
        let close = b"HTTP/1.0 200 OK\r\n\r\nabc";
        assert_eq!(read(close).unwrap(), (200, b"abc".to_vec()));
        assert_eq!(
            read(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap(),
            (204, Vec::new())
        );
    }

    #[test]
    fn an_end_that_comes_early_is_an_error() {
        for text in [
            &b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab"[..],
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n",
            b"",
        ] {
            match read(text) {
                Err(HttpError::Io(error)) => assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof),
                other => panic!("{}: {other:?}", String::from_utf8_lossy(text)),
            }
        }
    }

    #[test]
    fn what_is_no_response_is_refused() {
        let endless = [b"HTTP/1.1 200 OK\r\nA: ".to_vec(), vec![b'x'; MAX_HEAD]].concat();
        for text in [
            &b"SSH-2.0\r\n\r\n"[..],
            &endless,
            b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n",
        ] {
            let error = read(text).expect_err("refused");
            let early =
                matches!(&error, HttpError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof);
            assert!(!early, "{}: {error}", String::from_utf8_lossy(text));
        }
    }

    proptest! {
        #[test]
        fn chunks_of_any_size_are_joined(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..10)) {
            let mut text = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
            for chunk in &chunks {
                text.extend(format!("{:x}\r\n", chunk.len()).bytes());
                text.extend(chunk);
                text.extend(b"\r\n");
            }
            text.extend(b"0\r\n\r\n");
            prop_assert_eq!(read(&text).unwrap(), (200, chunks.concat()));
        }

        #[test]
        fn nothing_panics_or_goes_on_for_ever(tail in prop::collection::vec(any::<u8>(), 0..300), chunked in any::<bool>()) {
            let head: &[u8] = if chunked { b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" } else { b"HTTP/1.1 " };
            let _ = read(&[head, &tail].concat());
        }
    }
}
