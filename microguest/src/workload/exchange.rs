//! The reading and writing of each workload but stream: both ends.

use alloc::vec;
use alloc::vec::Vec;

use smoltcp::socket::tcp::Socket;

use super::Activity;

/// Why an end gave up.
pub type Failure = &'static str;

const LOST: Failure = "connection lost";
pub(super) const CORRUPT: Failure = "the response differs from the request";
const BAD_RECORD: Failure = "a record has an impossible length";

/// Octets of a record's length field.
pub const RECORD_HEADER: usize = 4;
/// A record is never longer.
const MAX_RECORD: u32 = 4 << 20;

/// The client's side of rr and wwr.
#[derive(Debug)]
pub(super) struct Requester {
    octets: Vec<u8>,
    /// Where the first write ends: the request's end, or its middle.
    first_write: usize,
    gap: u64,
    step: Step,
    number: u64,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Pause { until: u64 },
    Send { started: u64, offset: usize, end: usize },
    Receive { started: u64, offset: usize },
}

impl Requester {
    pub(super) fn new(size: usize, split: bool, gap: u64) -> Self {
        Self {
            octets: vec![0; size],
            first_write: if split { size / 2 } else { size },
            gap,
            step: Step::Pause { until: 0 },
            number: 0,
        }
    }

    /// Goes on; the start of a transaction that completed is returned beside the activity.
    pub(super) fn poll(
        &mut self,
        socket: &mut Socket<'_>,
        now: u64,
    ) -> Result<(Activity, Option<u64>), Failure> {
        match self.step {
            Step::Pause { until } if now < until => Ok((Activity::Idle, None)),
            Step::Pause { .. } => {
                self.prepare();
                self.send(socket, now, 0, self.first_write)
            }
            Step::Send { started, offset, end } => self.send(socket, started, offset, end),
            Step::Receive { started, offset } => self.receive(socket, now, started, offset),
        }
    }

    pub(super) fn deadline(&self) -> Option<u64> {
        match self.step {
            Step::Pause { until } => Some(until),
            _ => None,
        }
    }

    fn prepare(&mut self) {
        for (i, octet) in self.octets.iter_mut().enumerate() {
            *octet = (self.number as u8).wrapping_add(i as u8);
        }
        self.number += 1;
    }

    /// Writes up to `end`. The second part is only written by the next poll, when the first was transmitted.
    fn send(
        &mut self,
        socket: &mut Socket<'_>,
        started: u64,
        offset: usize,
        end: usize,
    ) -> Result<(Activity, Option<u64>), Failure> {
        let part = self.octets.get(offset..end).unwrap_or_default();
        let sent = socket.send_slice(part).map_err(|_| LOST)?;
        let size = self.octets.len();
        let offset = offset + sent;
        self.step = match offset {
            _ if offset == size => Step::Receive { started, offset: 0 },
            _ if offset == end => Step::Send {
                started,
                offset,
                end: size,
            },
            _ => Step::Send { started, offset, end },
        };
        Ok((busy_if(sent > 0), None))
    }

    fn receive(
        &mut self,
        socket: &mut Socket<'_>,
        now: u64,
        started: u64,
        offset: usize,
    ) -> Result<(Activity, Option<u64>), Failure> {
        let expected = self.octets.get(offset..).unwrap_or_default();
        let (received, equal) = socket
            .recv(|buffer| {
                let len = buffer.len().min(expected.len());
                (len, (len, buffer.get(..len) == expected.get(..len)))
            })
            .map_err(|_| LOST)?;
        if !equal {
            return Err(CORRUPT);
        }
        let offset = offset + received;
        if offset == self.octets.len() {
            self.step = Step::Pause {
                until: now + self.gap,
            };
            return Ok((Activity::Busy, Some(started)));
        }
        self.step = Step::Receive { started, offset };
        Ok((busy_if(received > 0), None))
    }
}

/// The server's side of rr and wwr.
#[derive(Debug)]
pub(super) struct Echo {
    octets: Vec<u8>,
    received: usize,
    sent: usize,
}

impl Echo {
    pub(super) fn new(size: usize) -> Self {
        Self {
            octets: vec![0; size],
            received: 0,
            sent: 0,
        }
    }

    pub(super) fn reset(&mut self) {
        (self.received, self.sent) = (0, 0);
    }

    pub(super) fn poll(&mut self, socket: &mut Socket<'_>) -> Activity {
        if self.received < self.octets.len() {
            let room = self.octets.get_mut(self.received..).unwrap_or_default();
            let received = socket.recv_slice(room).unwrap_or(0);
            self.received += received;
            if received == 0 || self.received < self.octets.len() {
                return busy_if(received > 0);
            }
        }
        let rest = self.octets.get(self.sent..).unwrap_or_default();
        let sent = socket.send_slice(rest).unwrap_or(0);
        self.sent += sent;
        if self.sent == self.octets.len() {
            self.reset();
        }
        busy_if(sent > 0)
    }
}

/// The client's side of records.
#[derive(Debug)]
pub(super) struct RecordReader {
    /// Octets of the one request that are still to be sent.
    unsent: usize,
    header: [u8; RECORD_HEADER],
    /// Octets of the current record that were read.
    position: usize,
    /// When the last record was complete.
    completed: Option<u64>,
}

impl RecordReader {
    pub(super) fn new(size: usize) -> Self {
        Self {
            unsent: size,
            header: [0; RECORD_HEADER],
            position: 0,
            completed: None,
        }
    }

    /// Goes on; when a record completed, the time at which the one before did is returned beside the activity.
    pub(super) fn poll(
        &mut self,
        socket: &mut Socket<'_>,
        now: u64,
    ) -> Result<(Activity, Option<u64>), Failure> {
        if self.unsent > 0 {
            let request = [0; 512];
            let part = request.get(..self.unsent).unwrap_or(&request);
            let sent = socket.send_slice(part).map_err(|_| LOST)?;
            self.unsent -= sent;
            return Ok((busy_if(sent > 0), None));
        }
        let (position, header) = (self.position, &mut self.header);
        let read = socket
            .recv(|buffer| take_record(buffer, position, header))
            .map_err(|_| LOST)?;
        self.position += read;
        let length = record_length(self.header, self.position)?;
        if length != Some(self.position) {
            return Ok((busy_if(read > 0), None));
        }
        self.position = 0;
        Ok((Activity::Busy, self.completed.replace(now)))
    }
}

/// Reads from `buffer` what belongs to the current record, of which `position` octets were read before.
fn take_record(buffer: &[u8], position: usize, header: &mut [u8; RECORD_HEADER]) -> (usize, usize) {
    let mut taken = 0;
    for (field, octet) in header.iter_mut().skip(position).zip(buffer) {
        *field = *octet;
        taken += 1;
    }
    if let Ok(Some(length)) = record_length(*header, position + taken) {
        taken = buffer.len().min(length.saturating_sub(position));
    }
    (taken, taken)
}

/// A record of `segments` segments, all but the last one of `mss` octets; the last one of `size`.
pub fn record(size: usize, segments: usize, mss: usize) -> Vec<u8> {
    let last = if segments > 1 { size.min(mss) } else { size };
    let length = (segments.saturating_sub(1) * mss + last).max(RECORD_HEADER);
    let mut record: Vec<u8> = (0..length).map(|i| i as u8).collect();
    for (octet, header) in record.iter_mut().zip((length as u32).to_le_bytes()) {
        *octet = header;
    }
    record
}

/// A record's length, once the first `position` octets of it were read, which `header` has.
pub fn record_length(header: [u8; RECORD_HEADER], position: usize) -> Result<Option<usize>, Failure> {
    if position < RECORD_HEADER {
        return Ok(None);
    }
    let length = u32::from_le_bytes(header);
    if length > MAX_RECORD || (length as usize) < RECORD_HEADER {
        return Err(BAD_RECORD);
    }
    Ok(Some(length as usize))
}

/// The server's side of records.
#[derive(Debug)]
pub(super) struct RecordWriter {
    record: Vec<u8>,
    request: usize,
    /// Octets of the request that are still to be read.
    unread: usize,
    sent: usize,
}

impl RecordWriter {
    pub(super) fn new(size: usize, segments: usize, mss: usize) -> Self {
        Self {
            record: record(size, segments, mss),
            request: size,
            unread: size,
            sent: 0,
        }
    }

    pub(super) fn reset(&mut self) {
        (self.unread, self.sent) = (self.request, 0);
    }

    pub(super) fn poll(&mut self, socket: &mut Socket<'_>) -> Activity {
        if self.unread > 0 {
            let read = socket.recv(|buffer| {
                let len = buffer.len().min(self.unread);
                (len, len)
            });
            let read = read.unwrap_or(0);
            self.unread -= read;
            return busy_if(read > 0);
        }
        if self.sent == 0 && socket.send_queue() > 0 {
            return Activity::Idle;
        }
        let rest = self.record.get(self.sent..).unwrap_or_default();
        let sent = socket.send_slice(rest).unwrap_or(0);
        self.sent = (self.sent + sent) % self.record.len();
        busy_if(sent > 0)
    }
}

fn busy_if(moved: bool) -> Activity {
    if moved { Activity::Busy } else { Activity::Idle }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_have_the_asked_for_segments() {
        let length = |size, segments| RecordWriter::new(size, segments, 1460).record.len();
        assert_eq!(length(64, 3), 2 * 1460 + 64);
        assert_eq!(length(64, 2), 1460 + 64);
        assert_eq!(length(64, 1), 64);
        assert_eq!(length(1, 1), RECORD_HEADER);
        assert_eq!(length(9000, 3), 3 * 1460);
        assert_eq!(RecordWriter::new(64, 3, 1460).record[..4], 2984_u32.to_le_bytes());
    }

    #[test]
    fn records_are_taken_from_any_fragments() {
        let mut stream = Vec::new();
        for length in [5_u32, 4, 9] {
            stream.extend_from_slice(&length.to_le_bytes());
            stream.resize(stream.len() + length as usize - RECORD_HEADER, 0xff);
        }
        for size in 1..=stream.len() {
            let (mut header, mut position, mut lengths) = ([0; 4], 0, Vec::new());
            for chunk in stream.chunks(size) {
                let mut rest = chunk;
                while !rest.is_empty() {
                    let (taken, _) = take_record(rest, position, &mut header);
                    rest = &rest[taken..];
                    position += taken;
                    if record_length(header, position) == Ok(Some(position)) {
                        lengths.push(position);
                        position = 0;
                    }
                }
            }
            assert_eq!(lengths, [5, 4, 9], "chunks of {size}");
        }
    }

    #[test]
    fn impossible_lengths_are_refused() {
        assert_eq!(record_length([3, 0, 0, 0], 4), Err(BAD_RECORD));
        assert_eq!(record_length([0xff; 4], 4), Err(BAD_RECORD));
        assert_eq!(record_length([0xff; 4], 3), Ok(None));
    }
}
