//! The client's end: connects, runs the phases, closes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use microguest::cmdline::{Go, Parameters, Workload};
use microguest::report::Line;
use microguest::workload::{BLOCK, Phases, RECORD_HEADER, Writer, record_length};

use super::stream::Stream;
use super::{Failure, Say, console};

/// Runs all phases.
pub(crate) fn run(parameters: &Parameters) -> Result<(), Failure> {
    let go = match parameters.go {
        Go::Serial => console::watch_for_go()?,
        Go::Auto => Arc::default(),
    };
    Client::new(parameters, Stream::connect(parameters)?, go, &console::say).run()
}

/// The client's end of one connection.
pub(crate) struct Client<'a> {
    pub(super) parameters: Parameters,
    pub(super) measure: Measure<'a>,
    pub(super) stream: Stream,
}

/// Phases on the machine's clock.
pub(super) struct Measure<'a> {
    pub(super) say: Say<'a>,
    pub(super) phases: Phases,
    epoch: Instant,
    go: Arc<AtomicBool>,
}

impl Measure<'_> {
    /// Nanoseconds since the start, by `CLOCK_MONOTONIC`.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Starts and ends what is due. False when all is over.
    pub(super) fn tick(&mut self) -> bool {
        let now = self.now();
        if self.phases.wants_go() && self.go.swap(false, Ordering::AcqRel) {
            self.phases.go(now, &mut self.say);
        }
        self.phases.tick(now, &mut self.say);
        !self.phases.is_over()
    }

    /// Counts a transaction that began at `started` and ends now.
    fn count(&mut self, started: u64) {
        let now = self.now();
        self.phases.transaction(started, now, &mut self.say);
    }
}

impl<'a> Client<'a> {
    /// A client that has its connection, and begins a phase when `go` is raised.
    pub(crate) fn new(parameters: &Parameters, stream: Stream, go: Arc<AtomicBool>, say: Say<'a>) -> Self {
        Self {
            parameters: *parameters,
            measure: Measure {
                say,
                phases: Phases::new(parameters),
                epoch: Instant::now(),
                go,
            },
            stream,
        }
    }

    /// Runs all phases.
    pub(crate) fn run(mut self) -> Result<(), Failure> {
        (self.measure.say)(&Line::Connected);
        self.measure.phases.start();
        let size = self.parameters.size as usize;
        match self.parameters.workload {
            Workload::Rr if self.parameters.rate > 0 => self.open_loop()?,
            Workload::Rr => self.requests(&mut vec![0; size], size)?,
            Workload::Wwr => self.requests(&mut vec![0; size], size / 2)?,
            Workload::Records => self.records(size)?,
            Workload::Stream => self.blocks()?,
        }
        self.stream.close();
        (self.measure.say)(&Line::Done);
        Ok(())
    }

    /// Requests in one write or, if `first` is not all of it, in two; then the answer.
    fn requests(&mut self, request: &mut [u8], first: usize) -> Result<(), Failure> {
        let gap = Duration::from_micros(u64::from(self.parameters.gap_us));
        let mut answer = vec![0; request.len()];
        let mut number = 0_u8;
        while self.measure.tick() {
            for (index, octet) in request.iter_mut().enumerate() {
                *octet = number.wrapping_add(index as u8);
            }
            number = number.wrapping_add(1);
            let started = self.measure.now();
            let (head, tail) = request.split_at_checked(first).unwrap_or((request, &[]));
            self.stream.write(head)?;
            if !tail.is_empty() {
                self.stream.write(tail)?;
            }
            let measure = &mut self.measure;
            if !self.stream.fill(&mut answer, &mut || measure.tick())? {
                return self.ended();
            }
            if answer != request {
                return Err("the response differs from the request".to_owned());
            }
            self.measure.count(started);
            if !gap.is_zero() {
                thread::sleep(gap);
            }
        }
        Ok(())
    }

    /// Asks once, then reads records.
    fn records(&mut self, size: usize) -> Result<(), Failure> {
        self.stream.write(&vec![0; size])?;
        let mut completed = None;
        let mut rest = Vec::new();
        while self.measure.tick() {
            let mut header = [0; RECORD_HEADER];
            let measure = &mut self.measure;
            if !self.stream.fill(&mut header, &mut || measure.tick())? {
                return self.ended();
            }
            let length = record_length(header, RECORD_HEADER)?.unwrap_or(RECORD_HEADER);
            rest.resize(length.saturating_sub(RECORD_HEADER), 0);
            if !self.stream.fill(&mut rest, &mut || measure.tick())? {
                return self.ended();
            }
            if let Some(started) = completed.replace(self.measure.now()) {
                self.measure.count(started);
            }
        }
        Ok(())
    }

    /// Writes blocks as fast as TCP takes them.
    fn blocks(&mut self) -> Result<(), Failure> {
        let mut writer = Writer::default();
        let mut block = vec![0; BLOCK as usize];
        let mut completed = None;
        while self.measure.tick() {
            let last = self.measure.phases.is_due(self.measure.now());
            let len = writer.make(&mut block, last);
            self.stream.write(block.get(..len).unwrap_or_default())?;
            if let Some(started) = completed.replace(self.measure.now()) {
                self.measure.count(started);
            }
            if last {
                (self.measure.say)(&Line::Hash {
                    phase: Some(self.measure.phases.number()),
                    octets: writer.position.octets,
                    sum: writer.position.hash.value(),
                });
                let now = self.measure.now();
                self.measure.phases.finish(now, &mut self.measure.say);
            }
        }
        Ok(())
    }

    /// A wait ended without what was waited for: either all is over, or the server is gone.
    pub(super) fn ended(&self) -> Result<(), Failure> {
        if self.measure.phases.is_over() {
            Ok(())
        } else {
            Err("connection lost: the server closed it".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::net::{Ipv4Addr, TcpListener, TcpStream};
    use std::sync::mpsc;

    use microguest::cmdline::Role;

    use super::super::server;
    use super::*;

    /// Runs both ends on this machine; the lines of client and server, without their prefix.
    fn talk(workload: Workload, change: impl FnOnce(&mut Parameters)) -> [Vec<String>; 2] {
        let here = Ipv4Addr::LOCALHOST;
        let mut parameters = Parameters {
            workload,
            phase_ms: 30,
            phases: 2,
            warmup: 2,
            ..Parameters::new(Role::Client, here, here)
        };
        change(&mut parameters);
        let listener = TcpListener::bind((here, 0)).unwrap();
        parameters.port = listener.local_addr().unwrap().port();
        let (sender, lines) = mpsc::channel();
        let served = thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            server::serve(stream, &parameters, &|line| sender.send(short(line)).unwrap())
        });
        let said = RefCell::new(Vec::new());
        let stream = Stream::connect(&parameters).unwrap();
        let say = |line: &Line<'_>| said.borrow_mut().push(short(line));
        // A go that comes too early counts when it is wanted.
        let go = Arc::new(AtomicBool::new(true));
        Client::new(&parameters, stream, go, &say).run().unwrap();
        served.join().unwrap().unwrap();
        [said.into_inner(), lines.iter().collect()]
    }

    fn short(line: &Line<'_>) -> String {
        line.to_string().replace(microguest::report::PREFIX, "")
    }

    fn with<'a>(lines: &'a [String], word: &str) -> Vec<&'a str> {
        lines
            .iter()
            .filter(|line| line.starts_with(word))
            .map(String::as_str)
            .collect()
    }

    #[test]
    fn every_workload_goes_through_its_phases() {
        for workload in [Workload::Rr, Workload::Wwr, Workload::Records] {
            let [client, server] = talk(workload, |_| ());
            assert_eq!(client.first().map(String::as_str), Some("connected"));
            assert_eq!(client.last().map(String::as_str), Some("done"));
            assert_eq!(with(&client, "begin"), ["begin phase=0", "begin phase=1"]);
            assert_eq!(with(&client, "end").len(), 2, "{workload}: {client:?}");
            assert!(!with(&client, "hist phase=1").is_empty() && server.is_empty());
        }
    }

    #[test]
    fn an_open_loop_is_answered_and_counted() {
        let [client, _] = talk(Workload::Rr, |parameters| {
            parameters.rate = 2_000;
            parameters.phase_ms = 100;
        });
        let loads = with(&client, "load");
        assert_eq!(loads.len(), 2, "{client:?}");
        for (load, rtt) in loads.iter().zip(with(&client, "rtt")) {
            let due = load.split(' ').nth(2).and_then(|word| word.strip_prefix("due="));
            assert!(
                due.is_some_and(|due| rtt.contains(&format!("count={due} "))),
                "{load}, {rtt}"
            );
        }
    }

    #[test]
    fn both_ends_hash_the_same_stream() {
        let [client, server] = talk(Workload::Stream, |_| ());
        let (client, server) = (with(&client, "hash"), with(&server, "hash"));
        assert_eq!(client.len(), 2);
        assert_eq!(client[..], server[..2]);
        assert_eq!(
            server[2],
            server[1].replace("phase=1 ", ""),
            "nothing follows the last phase"
        );
    }

    #[test]
    fn phases_wait_for_the_word_and_nagle_is_left_on_when_asked() {
        let [client, _] = talk(Workload::Rr, |parameters| {
            parameters.go = Go::Serial;
            parameters.phases = 1;
            parameters.nagle = true;
        });
        assert_eq!(with(&client, "ready"), ["ready phase=0"]);
        assert_eq!(with(&client, "end").len(), 1);
    }

    #[test]
    fn a_server_that_answers_wrongly_or_goes_is_an_error() {
        let here = Ipv4Addr::LOCALHOST;
        let parameters = Parameters::new(Role::Client, here, here);
        for answer in [&[0xff; 64][..], &[0; 3], &[]] {
            let listener = TcpListener::bind((here, 0)).unwrap();
            let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let server = thread::spawn(move || {
                let (stream, _) = listener.accept().unwrap();
                let mut stream = Stream::new(stream, false).unwrap();
                stream.fill(&mut [0; 64], &mut || true).unwrap();
                stream.write(answer).unwrap();
            });
            let client = Client::new(
                &parameters,
                Stream::new(stream, false).unwrap(),
                Arc::default(),
                &|_| (),
            );
            let error = client.run().unwrap_err();
            assert!(error.contains("differs") || error.contains("closed"), "{error}");
            server.join().unwrap();
        }
    }
}
