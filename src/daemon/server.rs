//! HTTP/1.1 over the control socket, in a thread of its own.
//!
//! Nobody is trusted to be quick: a request's head and body have to come in time, an answer has to be taken
//! in time, and so many connections are served and no more. When there are as many, the one that is there longest
//! makes room, captures left out: those are limited by themselves, and last.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::net::UnixListener as StdListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service as _;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_io_timeout::TimeoutStream;

use super::routes::{self, Context};

/// Connections served at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 128;
/// Threads for what waits: changes of the switch, and one for each capture.
const BLOCKING_THREADS: usize = 32;
/// How long a request's head may take, and how long a connection may idle.
const HEAD_TIME: Duration = Duration::from_secs(5);
/// How long a client may leave an answer untaken.
const WRITE_TIME: Duration = Duration::from_secs(20);
/// Octets of a request's head.
const MAX_HEAD: usize = 64 << 10;
/// How long answers may take to finish when the daemon stops.
const FAREWELL: Duration = Duration::from_secs(2);
/// How long a connection is left alone when there are too many.
const GRACE: Duration = Duration::from_secs(1);
/// Rest after an accept that failed, for want of descriptors perhaps.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// Starts serving.
pub(crate) fn spawn(
    listener: StdListener,
    context: Context,
    stop: watch::Receiver<bool>,
) -> io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_keep_alive(Duration::from_secs(1))
        .build()?;
    let listener = {
        let _guard = runtime.enter();
        UnixListener::from_std(listener)?
    };
    thread::Builder::new().name("control".to_owned()).spawn(move || {
        runtime.block_on(serve(listener, routes::router(context), stop));
        // Captures end by themselves soon after the flag that they watch is set.
        runtime.shutdown_timeout(FAREWELL);
    })
}

async fn serve(listener: UnixListener, router: Router, mut stop: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let spare = Arc::new(Spare::default());
    let mut connections = JoinSet::new();
    let mut guests = Guests::default();
    loop {
        let place = tokio::select! {
            biased;
            () = told(&mut stop) => break,
            place = Arc::clone(&places).acquire_owned() => place,
            () = guests.make_room() => Arc::clone(&places).acquire_owned().await,
        };
        // The semaphore is never closed.
        let Ok(place) = place else { break };
        let stream = tokio::select! {
            accepted = listener.accept() => accepted,
            () = told(&mut stop) => break,
        };
        match stream {
            Ok((stream, _)) => {
                let guest = guests.admit();
                let connection = connection(stream, router.clone(), Arc::clone(&guest), stop.clone());
                let spare = Arc::clone(&spare);
                connections.spawn(async move {
                    tokio::select! {
                        () = connection => {}
                        () = guest.leave.notified() => tracing::debug!("a client of the control socket made room"),
                    }
                    drop(place);
                    spare.keep();
                });
            }
            Err(error) => {
                tracing::debug!("accepting on the control socket: {error}");
                if error.raw_os_error() != Some(libc::EMFILE) || !spare.give() {
                    tokio::time::sleep(ACCEPT_REST).await;
                }
            }
        }
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    let all = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(FAREWELL, all).await.is_err() {
        connections.abort_all();
    }
}

/// A descriptor that is kept for a client, so that ports and guests that take all others do not lock people out.
struct Spare(Mutex<Option<File>>);

impl Default for Spare {
    fn default() -> Self {
        Self(Mutex::new(null()))
    }
}

impl Spare {
    /// Closes it, for the next client to have; false when it is in use already.
    fn give(&self) -> bool {
        self.0.lock().take().is_some()
    }

    /// Opens it again, where it can be.
    fn keep(&self) {
        let mut file = self.0.lock();
        *file = file.take().or_else(null);
    }
}

/// A descriptor that stands for nothing; `None` where there are no more.
fn null() -> Option<File> {
    File::open("/dev/null").ok()
}

/// A client, as far as it may have to make room.
struct Guest {
    since: Instant,
    leave: Notify,
    /// It captures.
    stays: AtomicBool,
}

/// Clients, those that came first in front.
#[derive(Default)]
struct Guests(VecDeque<Weak<Guest>>);

impl Guests {
    fn admit(&mut self) -> Arc<Guest> {
        self.0.retain(|guest| guest.strong_count() > 0);
        let guest = Arc::new(Guest {
            since: Instant::now(),
            leave: Notify::new(),
            stays: AtomicBool::new(false),
        });
        self.0.push_back(Arc::downgrade(&guest));
        guest
    }

    /// Sends the first one away that may go, once it has been there for long enough.
    async fn make_room(&mut self) {
        let may_go = |guest: &Arc<Guest>| !guest.stays.load(Ordering::Relaxed);
        while let Some(first) = self.0.iter().filter_map(Weak::upgrade).find(may_go) {
            tokio::time::sleep_until(first.since + GRACE).await;
            if may_go(&first) {
                self.0
                    .retain(|guest| !std::ptr::eq(guest.as_ptr(), Arc::as_ptr(&first)));
                return first.leave.notify_one();
            }
        }
        std::future::pending::<()>().await;
    }
}

/// Serves one client until it goes, breaks the rules or is too slow.
async fn connection(stream: UnixStream, router: Router, guest: Arc<Guest>, mut stop: watch::Receiver<bool>) {
    let router = TowerToHyperService::new(router);
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let captures = request.uri().path().ends_with("/capture");
        guest.stays.store(captures, Ordering::Relaxed);
        router.call(request)
    });
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE_TIME));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(Box::pin(stream)), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = told(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("a client of the control socket: {error}");
    }
}

/// Waits until the daemon is to stop.
async fn told(stop: &mut watch::Receiver<bool>) {
    // Fails when the daemon is gone, which means the same.
    let _ = stop.wait_for(|stop| *stop).await;
}
