//! The server's end: serves one connection after the other.

use std::net::{TcpListener, TcpStream};

use microguest::cmdline::{Parameters, Workload};
use microguest::report::Line;
use microguest::workload::{BLOCK, Reader, record};

use super::stream::Stream;
use super::{Failure, Say, console};

/// Listens and serves until the machine is ended.
pub(crate) fn run(parameters: &Parameters) -> Result<(), Failure> {
    let place = (parameters.ip, parameters.port);
    let listener = TcpListener::bind(place)
        .map_err(|error| format!("listening on {}:{}: {error}", parameters.ip, parameters.port))?;
    console::say(&Line::Listening {
        port: parameters.port,
    });
    loop {
        let (stream, _) = listener
            .accept()
            .map_err(|error| format!("accepting a connection: {error}"))?;
        // A connection that breaks is the client's to report.
        let _ = serve(stream, parameters, &console::say);
    }
}

/// Serves one connection until the client closes it.
pub(crate) fn serve(stream: TcpStream, parameters: &Parameters, say: Say<'_>) -> Result<(), Failure> {
    let mut stream = Stream::new(stream, parameters.nagle)?;
    let size = parameters.size as usize;
    match parameters.workload {
        Workload::Rr | Workload::Wwr => echo(&mut stream, size),
        Workload::Records => records(&mut stream, size, parameters.segments as usize),
        Workload::Stream => read_blocks(&mut stream, say),
    }
}

/// Answers each whole request with itself.
fn echo(stream: &mut Stream, size: usize) -> Result<(), Failure> {
    let mut request = vec![0; size];
    while stream.fill(&mut request, &mut || true)? {
        stream.write(&request)?;
    }
    Ok(())
}

/// Sends a record when all of the one before is acknowledged.
fn records(stream: &mut Stream, size: usize, segments: usize) -> Result<(), Failure> {
    if !stream.fill(&mut vec![0; size], &mut || true)? {
        return Ok(());
    }
    let record = record(size, segments, stream.segment()?);
    while stream.wait_for_acknowledgement()? {
        stream.write(&record)?;
    }
    Ok(())
}

/// Hashes what comes.
fn read_blocks(stream: &mut Stream, say: Say<'_>) -> Result<(), Failure> {
    let mut reader = Reader::default();
    let mut room = vec![0; BLOCK as usize];
    let mut phases = 0;
    loop {
        let left = reader.position.left_in_block();
        let octets = match stream.read(room.get_mut(..left).unwrap_or_default(), &mut || true)? {
            Some(octets) if octets > 0 => octets,
            _ => break,
        };
        let (_, ended) = reader.take(room.get(..octets).unwrap_or_default());
        if ended {
            say(&hash_line(&reader, Some(phases)));
            phases += 1;
        }
    }
    say(&hash_line(&reader, None));
    Ok(())
}

fn hash_line(reader: &Reader, phase: Option<u32>) -> Line<'static> {
    Line::Hash {
        phase,
        octets: reader.position.octets,
        sum: reader.position.hash.value(),
    }
}
