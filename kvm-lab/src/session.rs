//! What comes out of a laboratory, until its command ended.

use std::collections::VecDeque;
use std::io::{Read as _, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use crate::LabError;
use crate::machine::{Machine, STREAMS};

/// How long the kernel has until it runs the command, on a busy machine.
const BOOT: Duration = Duration::from_mins(3);

/// How long a laboratory may be silent, whose first process says every five seconds that it is there.
const SILENCE: Duration = Duration::from_secs(90);

/// How long the laboratory has to tell what goes on in it, once a command took too long.
const LAST_WORDS: Duration = Duration::from_secs(20);

/// How much of the console an error shows, in lines: of what is there unasked, and with what was asked for.
const CONSOLE_LINES: [usize; 2] = [15, 200];

/// Longest line that is kept, in octets.
const MAX_LINE: usize = 1024;

/// How much is read at once, in octets.
const CHUNK: usize = 64 << 10;

/// Octets of a stream, by its place in [`STREAMS`].
struct Piece {
    stream: usize,
    octets: Vec<u8>,
}

/// What a kernel prints when it cannot go on as it should: a stack that ran over, and a task or processor that stands still.
const BROKEN: [&str; 4] = [
    "Kernel panic",
    "stack guard page was hit",
    "blocked for more than",
    "soft lockup",
];

/// What a kernel prints of a processor that does not answer another one: it stands still, or it was not run for a while. Of one
/// that stands still the kernel says so again.
const STALL: &str = "detected stalls on CPUs";

/// What the laboratory writes behind everything that the command wrote.
const MARK: &[u8] = b"\0\0end of stream\0";

/// Passes on what the command writes, and gives its status.
pub(crate) fn follow(
    mut machine: Machine,
    limit: Duration,
    output: &mut dyn Write,
    errors: &mut dyn Write,
) -> Result<u8, LabError> {
    let pieces = read_all(&machine)?;
    let mut session = Session::default();
    let mut deadline = Instant::now() + BOOT;
    loop {
        let wait = deadline.saturating_duration_since(Instant::now());
        match pieces.recv_timeout(session.most_silence().min(wait)) {
            Ok(piece) => {
                let had_begun = session.begun;
                session
                    .take(&piece, output, errors)
                    .map_err(LabError::system("passing the command's output on"))?;
                if session.begun && !had_begun {
                    deadline = Instant::now() + limit;
                }
                if let Some(line) = session.broken.take() {
                    return Err(LabError::Broken(line));
                }
                if let Some(status) = session.status() {
                    return session.judge(status);
                }
            }
            Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => return Err(session.silent()),
            Err(RecvTimeoutError::Timeout) if session.may_be_asked() => {
                machine.ask().map_err(LabError::system("asking the laboratory"))?;
                deadline = Instant::now() + LAST_WORDS;
            }
            Err(RecvTimeoutError::Timeout) => {
                return Err(session.stalled().unwrap_or_else(|| session.late(limit)));
            }
            Err(RecvTimeoutError::Disconnected) => return Err(session.ended(&machine.said())),
        }
    }
}

/// A thread for each stream; they end with QEMU.
fn read_all(machine: &Machine) -> Result<Receiver<Piece>, LabError> {
    let (send, pieces) = sync_channel(16);
    for (stream, socket) in machine.streams.iter().enumerate() {
        let mut socket = socket
            .try_clone()
            .map_err(LabError::system("reading the laboratory's streams"))?;
        let send: SyncSender<Piece> = send.clone();
        std::thread::spawn(move || {
            let mut buffer = vec![0; CHUNK];
            while let Ok(length @ 1..) = socket.read(&mut buffer) {
                let octets = buffer.get(..length).unwrap_or_default().to_vec();
                if send.send(Piece { stream, octets }).is_err() {
                    break;
                }
            }
        });
    }
    Ok(pieces)
}

#[derive(Default)]
struct Session {
    begun: bool,
    /// Whether the laboratory was asked what goes on in it.
    asked: bool,
    status: Option<u8>,
    /// The line by which the laboratory's kernel said that it is broken.
    broken: Option<String>,
    /// The first line by which it said that a processor did not answer.
    stall: Option<String>,
    passed: [Stream; 2],
    control: Lines,
    console: Lines,
}

impl Session {
    fn take(&mut self, piece: &Piece, output: &mut dyn Write, errors: &mut dyn Write) -> std::io::Result<()> {
        match STREAMS.get(piece.stream).copied() {
            Some("out") => self.passed[0].pass(&piece.octets, output)?,
            Some("err") => self.passed[1].pass(&piece.octets, errors)?,
            Some("control") => {
                for line in self.control.take(&piece.octets) {
                    self.begun |= line == "begin";
                    self.status = self.status.or_else(|| line.strip_prefix("status ")?.parse().ok());
                }
            }
            _ => {
                for line in self.console.take(&piece.octets) {
                    if BROKEN.iter().any(|sign| line.contains(sign)) {
                        self.broken.get_or_insert(line);
                    } else if line.contains(STALL) {
                        let place = if self.stall.is_some() {
                            &mut self.broken
                        } else {
                            &mut self.stall
                        };
                        place.get_or_insert(line);
                    }
                }
            }
        }
        Ok(())
    }

    /// The command's status, once everything that it wrote has come.
    fn status(&self) -> Option<u8> {
        self.status
            .filter(|_| self.passed.iter().all(|stream| stream.ended))
    }

    /// What is to be made of a command's status. One that failed where a processor stood still says nothing.
    fn judge(&self, status: u8) -> Result<u8, LabError> {
        let stalled = self.stalled().filter(|_| status != 0);
        stalled.map_or(Ok(status), Err)
    }

    /// The error of a laboratory one of whose processors stood still.
    fn stalled(&self) -> Option<LabError> {
        self.stall.clone().map(LabError::Broken)
    }

    /// How long to wait for whatever comes next.
    fn most_silence(&self) -> Duration {
        if self.begun { SILENCE } else { BOOT }
    }

    /// Whether there is somebody to ask what goes on, who was not asked yet. The console holds more from then on.
    fn may_be_asked(&mut self) -> bool {
        let may = self.begun && !self.asked;
        self.asked |= may;
        self.console.more |= may;
        may
    }

    /// The error of a laboratory whose first process is not run any more.
    fn silent(&self) -> LabError {
        LabError::Broken(format!(
            "it was silent for {} s; its console ended in:\n{}",
            SILENCE.as_secs(),
            self.console.last()
        ))
    }

    fn late(&self, limit: Duration) -> LabError {
        let console = self.console.last();
        if self.begun {
            LabError::TooLong {
                seconds: limit.as_secs(),
                console,
            }
        } else {
            LabError::NotUp {
                seconds: BOOT.as_secs(),
                console,
            }
        }
    }

    fn ended(&self, said: &str) -> LabError {
        LabError::Ended {
            said: if said.is_empty() {
                String::new()
            } else {
                format!("QEMU said: {said}; ")
            },
            console: self.console.last(),
        }
    }
}

/// A stream of the command's.
#[derive(Default)]
struct Stream {
    /// Octets that may be the mark's first ones.
    held: Vec<u8>,
    ended: bool,
}

impl Stream {
    fn pass(&mut self, octets: &[u8], to: &mut dyn Write) -> std::io::Result<()> {
        self.held.extend_from_slice(octets);
        self.ended |= self.held.ends_with(MARK);
        let kept = (0..=MARK.len().min(self.held.len()))
            .rev()
            .find(|length| self.held.ends_with(MARK.get(..*length).unwrap_or_default()))
            .unwrap_or_default();
        let passed = self.held.drain(..self.held.len() - kept).collect::<Vec<_>>();
        to.write_all(&passed)?;
        to.flush()
    }
}

/// A stream's lines; the last ones are kept.
#[derive(Default)]
struct Lines {
    open: Vec<u8>,
    /// Whether more than usual is kept.
    more: bool,
    kept: VecDeque<String>,
}

impl Lines {
    /// The lines that these octets complete.
    fn take(&mut self, octets: &[u8]) -> Vec<String> {
        let mut complete = Vec::new();
        for octet in octets {
            match octet {
                b'\n' => {
                    let line = String::from_utf8_lossy(&self.open).trim_end().to_owned();
                    self.open.clear();
                    if self.kept.len() == CONSOLE_LINES[usize::from(self.more)] {
                        self.kept.pop_front();
                    }
                    self.kept.push_back(line.clone());
                    complete.push(line);
                }
                octet if self.open.len() < MAX_LINE => self.open.push(*octet),
                _ => {}
            }
        }
        complete
    }

    fn last(&self) -> String {
        let open = String::from_utf8_lossy(&self.open).into_owned();
        let lines: Vec<String> = self.kept.iter().cloned().chain([open]).collect();
        let text = lines.join("\n").trim_end().to_owned();
        if text.is_empty() {
            "(nothing was printed)".to_owned()
        } else {
            text
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(pieces: &[(usize, &[u8])]) -> (Session, Vec<u8>, Vec<u8>) {
        let (mut session, mut output, mut errors) = (Session::default(), Vec::new(), Vec::new());
        for (stream, octets) in pieces {
            let piece = Piece {
                stream: *stream,
                octets: octets.to_vec(),
            };
            session.take(&piece, &mut output, &mut errors).unwrap();
        }
        (session, output, errors)
    }

    #[test]
    fn a_status_counts_once_all_output_has_come() {
        let early: [(usize, &[u8]); 6] = [
            (2, b"begin\nsta"),
            (0, b"some\0"),
            (0, b"\0end of\0\0end"),
            (2, b"tus 3\n"),
            (1, b"\xff\n\0\0end of stream"),
            (1, b"\0"),
        ];
        let (session_early, output, errors) = session(&early);
        assert!(session_early.begun);
        assert_eq!(session_early.status(), None);
        assert_eq!(
            (output.as_slice(), errors.as_slice()),
            (&b"some\0\0end of"[..], &b"\xff\n"[..])
        );
        let mut all = early.to_vec();
        all.push((0, b" of stream\0"));
        let (session, same, _) = session(&all);
        assert_eq!((session.status(), same), (Some(3), output));
    }

    #[test]
    fn a_kernel_that_broke_is_told_from_a_command_that_failed() {
        let (sound, _, _) = session(&[
            (3, b"[1.0] kvm: Nested Virtualization enabled\n"),
            (2, b"status 1\n"),
        ]);
        assert_eq!(sound.broken, None);
        let line = "[ 77.4] BUG: TASK stack guard page was hit at 0";
        let (broken, _, _) = session(&[(3, format!("{line}\nmore\n").as_bytes()), (2, b"status 1\n")]);
        assert_eq!(broken.broken.as_deref(), Some(line));
    }

    #[test]
    fn a_processor_that_stands_still_is_told_from_one_that_was_late() {
        let line: &[u8] = b"[60.0] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks: { 0 }\n";
        let (late, _, _) = session(&[(3, line), (2, b"status 0\n")]);
        assert_eq!(late.broken, None);
        assert!(matches!(late.judge(0), Ok(0)));
        assert!(matches!(late.judge(1), Err(LabError::Broken(_))));
        let (still, _, _) = session(&[(3, line), (3, line)]);
        assert!(still.broken.is_some());
        let (sound, _, _) = session(&[(3, b"[60.0] quiet\n")]);
        assert!(matches!(sound.judge(1), Ok(1)) && sound.stalled().is_none());
    }

    #[test]
    fn a_laboratory_is_asked_once_and_only_after_its_command_began() {
        let (mut session, _, _) = session(&[(3, b"up\n")]);
        assert!(!session.may_be_asked());
        session
            .take(
                &Piece {
                    stream: 2,
                    octets: b"begin\nalive\n".to_vec(),
                },
                &mut Vec::new(),
                &mut Vec::new(),
            )
            .unwrap();
        assert_eq!([session.may_be_asked(), session.may_be_asked()], [true, false]);
        let error = session.late(Duration::from_secs(5)).to_string();
        assert!(error.contains("did not end within 5 s"), "{error}");
    }

    #[test]
    fn errors_show_the_end_of_the_console() {
        let lines: Vec<String> = (0..100).map(|line| format!("line {line}\r\n")).collect();
        let text = lines.concat();
        let (session, _, _) = session(&[(3, text.as_bytes()), (3, b"and half a"), (2, b"status x\n")]);
        assert_eq!(session.status, None);
        let error = session.late(Duration::from_secs(5)).to_string();
        assert!(
            error.contains("did not come up") && error.ends_with("line 99\nand half a"),
            "{error}"
        );
        assert!(!error.contains("line 80\n"), "{error}");
        assert!(matches!(session.silent(), LabError::Broken(_)));
        let error = session.ended("no memory").to_string();
        assert!(error.contains("QEMU said: no memory; its console"), "{error}");
    }
}
