//! Serves the clients of one machine: a thread that never waits for any of them.
//!
//! A client has five seconds for its request and five for the answer, and may ask one thing. Of too many clients, the one
//! that has been silent for longest goes. Whatever the machine itself is busy with, it can be stopped.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use vmm::{Thread, VmHandle};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::api::{DEFAULT_STOP_MS, Ended, StopRequest, Stopping};
use super::connection::{Answer, Connection, Progress};
use super::request::Action;
use super::socket::Socket;
use super::worker::{self, Job, Outcome, Question};

/// Clients at a time.
const MAX_CLIENTS: usize = 32;
/// Questions that may wait for the machine: each client has one, and the server itself.
const MAX_QUESTIONS: usize = MAX_CLIENTS + 1;
/// Clients that may wait for the machine's end; one more sends the first of them away.
const MAX_WAITING: usize = 8;
/// Clients taken in before the others have their turn.
const ADMISSIONS: usize = 8;
/// How often a power button is pressed that the guest does not listen to yet.
const PRESS_AGAIN: Duration = Duration::from_secs(1);
/// Rest after an accept that failed, for want of descriptors perhaps.
const ACCEPT_REST: Duration = Duration::from_millis(20);
/// Stack of each thread in octets.
const STACK: usize = 256 << 10;

const LISTENER: u64 = 0;
const BELL: u64 = 1;
/// Clients are numbered from here on.
const FIRST: u64 = 16;
/// Nobody: a question of the server's own.
const SELF: u64 = 2;

/// Called by each thread of the server with its kind before it does anything: the place to enter a sandbox.
pub type Enter = fn(Thread);

/// A running server. It ends with this value, and the socket's file with it.
pub struct Server {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    socket: Option<Socket>,
}

/// What the threads share.
pub(super) struct Shared {
    bell: EventFd,
    news: Mutex<News>,
}

#[derive(Default)]
struct News {
    outcomes: Vec<(u64, Outcome)>,
    over: bool,
    ended: Option<Ended>,
}

impl Server {
    /// Starts to serve.
    pub fn start(socket: Socket, machine: VmHandle, enter: Enter) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            bell: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
            news: Mutex::default(),
        });
        let (jobs, questions) = sync_channel(MAX_QUESTIONS);
        let mut reception = Reception::new(socket.listener()?, machine.clone(), Arc::clone(&shared), jobs)?;
        let name = socket.name().to_owned();
        let mut server = Self {
            shared: Arc::clone(&shared),
            threads: Vec::new(),
            socket: Some(socket),
        };
        server.spawn(Thread::Control, move || {
            enter(Thread::Control);
            reception.serve();
        })?;
        server.spawn(Thread::ControlAsk, move || {
            enter(Thread::ControlAsk);
            worker::run(&questions, &name, &machine, &shared);
        })?;
        Ok(server)
    }

    fn spawn(&mut self, kind: Thread, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let thread = thread::Builder::new()
            .name(kind.word().to_owned())
            .stack_size(STACK);
        self.threads.push(thread.spawn(run)?);
        Ok(())
    }

    /// Tells those who wait how the machine ended, and ends. `forced` in `ended` says whether that could be the server's
    /// doing.
    pub fn finish(mut self, ended: Ended) {
        self.end(Some(ended));
    }

    fn end(&mut self, ended: Option<Ended>) {
        // Who is told of the end must not find the machine any more.
        drop(self.socket.take());
        let mut news = self.shared.news.lock();
        news.over = true;
        news.ended = ended;
        drop(news);
        self.shared.ring();
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.socket.is_some() {
            self.end(None);
        }
    }
}

impl Shared {
    pub(super) fn tell(&self, client: u64, outcome: Outcome) {
        self.news.lock().outcomes.push((client, outcome));
        self.ring();
    }

    fn ring(&self) {
        // Fails only when the counter is full, and then the bell has rung already.
        let _ = self.bell.write(1);
    }
}

/// What the serving thread has.
struct Reception {
    epoll: Epoll,
    listener: UnixListener,
    machine: VmHandle,
    shared: Arc<Shared>,
    jobs: SyncSender<Job>,
    /// By number, so those that came first are in front.
    clients: BTreeMap<u64, Connection>,
    next: u64,
    plan: Option<Plan>,
    forced: bool,
    /// Why the guest could not be asked to end, when last tried.
    unheard: Option<String>,
}

/// How the machine is going to be stopped.
struct Plan {
    force_at: Instant,
    /// When the power button is to be pressed again.
    press_at: Option<Instant>,
}

impl Reception {
    fn new(
        listener: UnixListener,
        machine: VmHandle,
        shared: Arc<Shared>,
        jobs: SyncSender<Job>,
    ) -> io::Result<Self> {
        let reception = Self {
            epoll: Epoll::new()?,
            listener,
            machine,
            shared,
            jobs,
            clients: BTreeMap::new(),
            next: FIRST,
            plan: None,
            forced: false,
            unheard: None,
        };
        let listener = reception.listener.as_raw_fd();
        reception.watch(ControlOperation::Add, listener, EventSet::IN, LISTENER)?;
        let bell = reception.shared.bell.as_raw_fd();
        reception.watch(ControlOperation::Add, bell, EventSet::IN, BELL)?;
        Ok(reception)
    }

    fn serve(&mut self) {
        let mut ready = [EpollEvent::default(); 16];
        loop {
            let count = match self.epoll.wait(self.timeout(Instant::now()), &mut ready) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
                Err(error) => return tracing::error!("the control socket is not served any more: {error}"),
            };
            let now = Instant::now();
            for token in ready.iter().take(count).map(EpollEvent::data) {
                match token {
                    LISTENER => self.admit(now),
                    BELL => {
                        if self.hear(now) {
                            return;
                        }
                    }
                    client => self.advance(client, now),
                }
            }
            self.look_at_the_clock(now);
        }
    }

    /// Milliseconds until something is due; -1 for never.
    fn timeout(&self, now: Instant) -> i32 {
        let clients = self.clients.values().filter_map(Connection::deadline);
        let plan = self
            .plan
            .iter()
            .flat_map(|plan| plan.press_at.into_iter().chain([plan.force_at]));
        let Some(next) = clients.chain(plan).min() else {
            return -1;
        };
        let ms = next.saturating_duration_since(now).as_micros().div_ceil(1000);
        i32::try_from(ms).unwrap_or(i32::MAX)
    }

    fn look_at_the_clock(&mut self, now: Instant) {
        let late = |client: &Connection| client.deadline().is_some_and(|deadline| deadline <= now);
        let gone: Vec<u64> = self
            .clients
            .iter()
            .filter(|(_, client)| late(client))
            .map(|(number, _)| *number)
            .collect();
        for number in gone {
            self.dismiss(number);
        }
        let Some(plan) = &mut self.plan else { return };
        if plan.force_at <= now {
            self.plan = None;
            self.force();
        } else if plan.press_at.is_some_and(|at| at <= now) {
            plan.press_at = None;
            self.press(SELF, now);
        }
    }

    fn admit(&mut self, now: Instant) {
        for _ in 0..ADMISSIONS {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    tracing::debug!("accepting on the control socket: {error}");
                    return thread::sleep(ACCEPT_REST);
                }
            };
            if self.clients.len() >= MAX_CLIENTS {
                // Those who wait for the machine are fewer than that.
                let silent = self
                    .clients
                    .iter()
                    .find(|(_, client)| client.deadline().is_some());
                let Some(number) = silent.map(|(number, _)| *number) else {
                    return;
                };
                self.dismiss(number);
            }
            let Ok(client) = Connection::new(stream, now) else {
                continue;
            };
            let number = self.next;
            self.next += 1;
            let watched = self.watch(ControlOperation::Add, client.fd(), client.interest(), number);
            if watched.is_ok() {
                self.clients.insert(number, client);
                // Most requests have arrived whole by now.
                self.advance(number, now);
            }
        }
    }

    fn advance(&mut self, number: u64, now: Instant) {
        let Some(client) = self.clients.get_mut(&number) else {
            return;
        };
        let progress = client.advance(now);
        self.proceed(number, progress, now);
    }

    fn proceed(&mut self, number: u64, progress: Progress, now: Instant) {
        match progress {
            Progress::Over => self.dismiss(number),
            Progress::Later => self.rewatch(number),
            Progress::Asks(action) => {
                self.rewatch(number);
                self.perform(number, action, now);
            }
        }
    }

    fn perform(&mut self, number: u64, action: Action, now: Instant) {
        let question = match action {
            Action::Info => Question::Info,
            Action::State => Question::State,
            Action::Pause => Question::Pause,
            Action::Resume => Question::Resume,
            Action::PowerButton => Question::PowerButton,
            Action::Console => match self.clients.get(&number).map(Connection::stream) {
                Some(Ok(stream)) => Question::Console(stream),
                _ => return self.dismiss(number),
            },
            Action::Wait => return self.let_wait(number, now),
            Action::Stop(request) => return self.stop(number, &request, now),
        };
        if !self.ask(number, question, now) {
            self.answer(number, &busy("questions"), now);
        }
    }

    fn let_wait(&mut self, number: u64, now: Instant) {
        let waiting = self.clients.iter().filter(|(_, client)| client.waits());
        let waiting: Vec<u64> = waiting.map(|(number, _)| *number).collect();
        if let Some(first) = waiting.first().filter(|_| waiting.len() >= MAX_WAITING) {
            self.answer(*first, &busy("clients"), now);
        }
        if let Some(client) = self.clients.get_mut(&number) {
            client.wait();
        }
    }

    fn stop(&mut self, number: u64, request: &StopRequest, now: Instant) {
        if request.wait {
            self.let_wait(number, now);
        }
        if request.force {
            self.force();
            return self.stopping(number, &Stopping::default(), now);
        }
        let patience = Duration::from_millis(request.timeout_ms.unwrap_or(DEFAULT_STOP_MS));
        self.plan = Some(Plan {
            force_at: now + patience,
            press_at: None,
        });
        self.press(number, now);
    }

    /// Has the guest told to end, for a client or once more.
    fn press(&mut self, number: u64, now: Instant) {
        if !self.ask(number, Question::End, now) {
            self.pressed(
                number,
                Err("the machine has too many questions to answer".to_owned()),
                now,
            );
        }
    }

    fn pressed(&mut self, number: u64, asked: Result<(), String>, now: Instant) {
        self.unheard = asked.as_ref().err().cloned();
        let Some(plan) = &mut self.plan else { return };
        plan.press_at = asked.is_err().then(|| now + PRESS_AGAIN);
        let stopping = Stopping {
            forced_in_ms: plan.force_at.saturating_duration_since(now).as_millis() as u64,
            guest_asked: asked.is_ok(),
            reason: asked.err(),
        };
        self.stopping(number, &stopping, now);
    }

    /// Tells a client that the machine is going to stop, unless it waits for that.
    fn stopping(&mut self, number: u64, stopping: &Stopping, now: Instant) {
        if self.clients.get(&number).is_some_and(|client| !client.waits()) {
            self.answer(number, &Answer::good(stopping), now);
        }
    }

    fn force(&mut self) {
        self.forced = true;
        self.machine.stop();
    }

    fn ask(&self, client: u64, question: Question, since: Instant) -> bool {
        let job = Job {
            client,
            question,
            since,
        };
        self.jobs.try_send(job).is_ok()
    }

    /// Passes on what the machine answered; `true` when it has ended.
    fn hear(&mut self, now: Instant) -> bool {
        // Fails only when the bell has not rung, and then there may still be news.
        let _ = self.shared.bell.read();
        let News {
            outcomes,
            over,
            ended,
        } = std::mem::take(&mut *self.shared.news.lock());
        for (number, outcome) in outcomes {
            match outcome {
                Outcome::Answer(answer) => self.answer(number, &answer, now),
                Outcome::Handed => self.dismiss(number),
                Outcome::Asked(asked) => self.pressed(number, asked, now),
            }
        }
        if over {
            self.farewell(ended, now);
        }
        over
    }

    /// The last answers are short, so that each is taken at once or not at all.
    fn farewell(&mut self, ended: Option<Ended>, now: Instant) {
        let ended = ended.map(|ended| Ended {
            forced: ended.forced && self.forced,
            reason: self.unheard.take(),
            ..ended
        });
        let gone = Answer::failure(409, "the machine has stopped".to_owned());
        let told = ended.as_ref().map_or_else(|| gone.clone(), Answer::good);
        for client in self.clients.values_mut() {
            if client.deadline().is_none() {
                let answer = if client.waits() { &told } else { &gone };
                client.answer(answer, now);
            }
        }
    }

    fn answer(&mut self, number: u64, answer: &Answer, now: Instant) {
        let Some(client) = self.clients.get_mut(&number) else {
            return;
        };
        let progress = client.answer(answer, now);
        self.proceed(number, progress, now);
    }

    fn dismiss(&mut self, number: u64) {
        if let Some(client) = self.clients.remove(&number) {
            // A console's other descriptor would keep it watched.
            let _ = self.watch(ControlOperation::Delete, client.fd(), EventSet::empty(), number);
        }
    }

    fn rewatch(&mut self, number: u64) {
        let Some(client) = self.clients.get(&number) else {
            return;
        };
        let watched = self.watch(ControlOperation::Modify, client.fd(), client.interest(), number);
        if watched.is_err() {
            self.dismiss(number);
        }
    }

    fn watch(&self, how: ControlOperation, fd: RawFd, what: EventSet, token: u64) -> io::Result<()> {
        self.epoll.ctl(how, fd, EpollEvent::new(what, token))
    }
}

fn busy(whom: &str) -> Answer {
    Answer::failure(503, format!("too many {whom} wait already; try again"))
}
