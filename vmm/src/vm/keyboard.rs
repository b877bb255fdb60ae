//! Everything that types into the guest: the machine's own input and attached consoles.

use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use crate::devices::Terminal;
use crate::devices::serial::{Input, Typed};

/// Sources that are waited for, by the tokens of their events.
pub(super) struct Keyboard {
    sources: Vec<Source>,
    first_token: u64,
    next_token: u64,
}

struct Source {
    token: u64,
    from: From,
    state: State,
}

enum From {
    Own(Input),
    Attached(UnixStream),
}

/// How a source is waited for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// By epoll.
    Watched,
    /// Not at all until the terminal has room.
    Full,
    /// It is a file, which epoll does not take because it always is readable.
    File,
}

/// What became of a source.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fed {
    /// It goes on.
    On,
    /// There will be no more.
    End,
    /// The user asks to stop the machine.
    Stop,
}

impl Keyboard {
    /// The machine's own input, if it has one. Events get tokens from `first_token` on.
    pub(super) fn new(own: Option<OwnedFd>, first_token: u64) -> Self {
        let source = |fd| Source {
            token: first_token,
            from: From::Own(Input::new(fd)),
            state: State::Watched,
        };
        Self {
            sources: own.map(source).into_iter().collect(),
            first_token,
            next_token: first_token + 1,
        }
    }

    /// Whether `token` is one of a source's.
    pub(super) fn owns(&self, token: u64) -> bool {
        token >= self.first_token
    }

    /// Waits for all sources with `epoll`.
    pub(super) fn watch(&mut self, epoll: &Epoll) -> io::Result<()> {
        for source in &mut self.sources {
            source.state = match add(epoll, source.fd(), source.token) {
                Ok(()) => State::Watched,
                Err(error) if error.raw_os_error() == Some(libc::EPERM) => State::File,
                Err(error) => return Err(error),
            };
        }
        Ok(())
    }

    /// Takes one more source.
    pub(super) fn attach(&mut self, stream: UnixStream, epoll: &Epoll) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        add(epoll, stream.as_raw_fd(), self.next_token)?;
        self.sources.push(Source {
            token: self.next_token,
            from: From::Attached(stream),
            state: State::Watched,
        });
        self.next_token += 1;
        Ok(())
    }

    /// Passes on what the source of `token` has; `true` when the user asks to stop.
    pub(super) fn ready(&mut self, token: u64, terminal: &dyn Terminal, epoll: &Epoll) -> bool {
        self.feed_those(terminal, epoll, |source| source.token == token)
    }

    /// Passes on what sources have that nobody tells of; `true` when the user asks to stop.
    pub(super) fn feed_files(&mut self, terminal: &dyn Terminal, epoll: &Epoll) -> bool {
        self.feed_those(terminal, epoll, |source| source.state == State::File)
    }

    /// The terminal has room again; `true` when the user asks to stop.
    pub(super) fn room(&mut self, terminal: &dyn Terminal, epoll: &Epoll) -> bool {
        self.sources.retain_mut(|source| {
            let full = source.state == State::Full;
            if full {
                source.state = State::Watched;
            }
            !full || add(epoll, source.fd(), source.token).is_ok()
        });
        self.feed_files(terminal, epoll)
    }

    fn feed_those(
        &mut self,
        terminal: &dyn Terminal,
        epoll: &Epoll,
        which: impl Fn(&Source) -> bool,
    ) -> bool {
        let mut stop = false;
        self.sources.retain_mut(|source| {
            let fed = if which(source) {
                source.feed(terminal, epoll)
            } else {
                Fed::On
            };
            if fed == Fed::End && source.state == State::Watched {
                remove(epoll, source.fd());
            }
            stop |= fed == Fed::Stop;
            fed != Fed::End
        });
        stop
    }
}

impl Source {
    fn fd(&self) -> RawFd {
        match &self.from {
            From::Own(input) => input.fd(),
            From::Attached(stream) => stream.as_raw_fd(),
        }
    }

    /// Hands the guest as much as its terminal takes.
    fn feed(&mut self, terminal: &dyn Terminal, epoll: &Epoll) -> Fed {
        loop {
            let room = terminal.room();
            if room == 0 {
                if self.state == State::Watched {
                    remove(epoll, self.fd());
                    self.state = State::Full;
                }
                return Fed::On;
            }
            let typed = match &mut self.from {
                From::Own(input) => input.read(room),
                From::Attached(stream) => read(stream, room),
            };
            match typed {
                Typed::Stop => return Fed::Stop,
                Typed::End => return Fed::End,
                Typed::Octets(octets) => terminal.receive(&octets),
            }
            if self.state != State::File {
                return Fed::On;
            }
        }
    }
}

/// What an attached console has typed, at most `room` octets.
fn read(stream: &mut UnixStream, room: usize) -> Typed {
    let mut octets = vec![0; room];
    match stream.read(&mut octets) {
        Ok(0) => Typed::End,
        Ok(len) => {
            octets.truncate(len);
            Typed::Octets(octets)
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Typed::Octets(Vec::new()),
        Err(_) => Typed::End,
    }
}

fn add(epoll: &Epoll, fd: RawFd, token: u64) -> io::Result<()> {
    epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(EventSet::IN, token))
}

fn remove(epoll: &Epoll, fd: RawFd) {
    // Fails only for a descriptor that is not watched, which is what is wanted.
    let _ = epoll.ctl(ControlOperation::Delete, fd, EpollEvent::default());
}
