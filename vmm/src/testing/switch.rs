//! A vhost-user back end written against the specification alone, as an independent witness of what the front end
//! says. It keeps rings without serving them, and notes every request.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use parking_lot::{Condvar, Mutex};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

/// Requests, as the specification numbers them.
pub(crate) const GET_FEATURES: u32 = 1;
pub(crate) const SET_FEATURES: u32 = 2;
pub(crate) const SET_MEM_TABLE: u32 = 5;
pub(crate) const SET_VRING_NUM: u32 = 8;
pub(crate) const SET_VRING_ADDR: u32 = 9;
pub(crate) const SET_VRING_BASE: u32 = 10;
pub(crate) const GET_VRING_BASE: u32 = 11;
pub(crate) const SET_VRING_KICK: u32 = 12;
pub(crate) const SET_VRING_CALL: u32 = 13;
pub(crate) const GET_PROTOCOL_FEATURES: u32 = 15;
const SET_PROTOCOL_FEATURES: u32 = 16;
pub(crate) const GET_QUEUE_NUM: u32 = 17;
pub(crate) const SET_VRING_ENABLE: u32 = 18;
pub(crate) const GET_INFLIGHT_FD: u32 = 31;
pub(crate) const SET_INFLIGHT_FD: u32 = 32;
/// Enlight's own: a control command.
pub(crate) const CONTROL: u32 = 0x454c_0001;

const NEED_REPLY: u32 = 1 << 3;
/// MQ, REPLY_ACK and INFLIGHT_SHMFD.
const PROTOCOL: u64 = 1 | 1 << 3 | 1 << 12;
/// Enlight's own protocol feature: it carries control commands out.
const NET_CONTROL: u64 = 1 << 62;
/// The control queue and what needs one, for front ends with that feature: offloads at run time, receive modes, VLANs, MAC
/// address, hash report, RSS.
pub(crate) const CONTROLLED: u64 = 1 << 2 | 0xf << 17 | 1 << 23 | 1 << 57 | 1 << 60;
/// Virtio 1, event index, mergeable buffers, TSO4, checksum, and the bit for protocol features.
pub(crate) const OFFERED: u64 = 1 << 32 | 1 << 29 | 1 << 15 | 1 << 11 | 1 | 1 << 30;

/// One ring as the front end described it.
#[derive(Default)]
pub(crate) struct Ring {
    pub(crate) size: u64,
    pub(crate) base: u64,
    /// Descriptor table, used ring, available ring, in the front end's address space.
    pub(crate) addresses: [u64; 3],
    pub(crate) kick: Option<EventFd>,
    pub(crate) call: Option<EventFd>,
    pub(crate) enabled: bool,
}

/// What the front end said so far in the current conversation.
#[derive(Default)]
pub(crate) struct Said {
    pub(crate) requests: Vec<u32>,
    pub(crate) features: u64,
    /// Guest address, size, front end's address and file offset of the only region.
    pub(crate) region: [u64; 4],
    pub(crate) memory: Option<File>,
    pub(crate) rings: BTreeMap<u64, Ring>,
    /// The memory for chains in hand, and what was said of it: its size, its offset, queues and their size.
    pub(crate) log: Option<(File, [u64; 3])>,
    pub(crate) conversations: u32,
    pub(crate) commands: Vec<Vec<u8>>,
    protocol: u64,
}

impl Said {
    pub(crate) fn count(&self, request: u32) -> usize {
        self.requests.iter().filter(|known| **known == request).count()
    }
}

/// A listening switch, one conversation at a time, until dropped.
pub(crate) struct TestSwitch {
    pub(crate) path: PathBuf,
    shared: Arc<Shared>,
    streams: Receiver<UnixStream>,
    directory: Arc<tempfile::TempDir>,
}

#[derive(Default)]
struct Shared {
    said: Mutex<Said>,
    changed: Condvar,
    offered: Mutex<u64>,
    takes_commands: Mutex<bool>,
    /// What it answers to them.
    verdict: Mutex<u64>,
}

impl TestSwitch {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("switch.sock");
        Self::listen(&path, Arc::new(directory))
    }

    /// The same switch after a restart: the socket is there again, nothing is known of what was.
    pub(crate) fn restart(self) -> Self {
        self.hang_up();
        std::fs::remove_file(&self.path).expect("the old socket");
        Self::listen(&self.path, Arc::clone(&self.directory))
    }

    fn listen(path: &Path, directory: Arc<tempfile::TempDir>) -> Self {
        let listener = UnixListener::bind(path).expect("a socket");
        let shared = Arc::new(Shared {
            offered: Mutex::new(OFFERED),
            ..Shared::default()
        });
        let (sender, streams) = channel();
        let inner = Arc::clone(&shared);
        std::thread::spawn(move || serve(&listener, &inner, &sender));
        Self {
            path: path.to_owned(),
            shared,
            streams,
            directory,
        }
    }

    pub(crate) fn offer(&self, features: u64) {
        *self.shared.offered.lock() = features;
    }

    /// Takes control commands from the next conversation on.
    pub(crate) fn take_commands(&self) {
        *self.shared.takes_commands.lock() = true;
    }

    /// Carries commands out from now on, or refuses them.
    pub(crate) fn carry_out(&self, carry_out: bool) {
        *self.shared.verdict.lock() = u64::from(!carry_out);
    }

    /// Ends the conversation, and accepts the next one.
    pub(crate) fn hang_up(&self) {
        hang_up(&self.streams);
    }

    /// Waits until the front end has said what is asked for.
    pub(crate) fn wait_for<T>(&self, mut what: impl FnMut(&mut Said) -> Option<T>) -> T {
        let mut said = self.shared.said.lock();
        loop {
            if let Some(found) = what(&mut said) {
                return found;
            }
            self.shared.changed.wait(&mut said);
        }
    }

    /// Looks at what the front end has said.
    pub(crate) fn look<T>(&self, at: impl FnOnce(&mut Said) -> T) -> T {
        at(&mut self.shared.said.lock())
    }
}

impl Drop for TestSwitch {
    fn drop(&mut self) {
        hang_up(&self.streams);
    }
}

fn hang_up(streams: &Receiver<UnixStream>) {
    for stream in streams.try_iter() {
        // Fails only when the front end was faster.
        let _ = stream.shutdown(std::net::Shutdown::Both);
    }
}

fn serve(listener: &UnixListener, shared: &Shared, streams: &Sender<UnixStream>) {
    for stream in listener.incoming() {
        let mut stream = stream.expect("a conversation");
        if streams.send(stream.try_clone().expect("a duplicate")).is_err() {
            return;
        }
        let mut said = shared.said.lock();
        *said = Said {
            conversations: said.conversations + 1,
            ..Said::default()
        };
        drop(said);
        while serve_one(&mut stream, shared).is_some() {}
    }
}

/// Answers one request; `None` at the end of the conversation.
fn serve_one(stream: &mut UnixStream, shared: &Shared) -> Option<()> {
    let mut header = [0; 12];
    let (len, file) = stream.recv_with_fd(&mut header).ok()?;
    stream
        .read_exact(header.get_mut(len..).filter(|_| len > 0)?)
        .ok()?;
    let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four octets"));
    let (request, flags, size) = (word(0), word(4), word(8));
    let mut payload = vec![0; size as usize];
    stream.read_exact(&mut payload).ok()?;
    let words: Vec<u64> = payload
        .chunks_exact(8)
        .map(|word| u64::from_le_bytes(word.try_into().expect("eight octets")))
        .collect();

    let mut said = shared.said.lock();
    said.requests.push(request);
    let answer = match request {
        GET_FEATURES | GET_PROTOCOL_FEATURES | CONTROL => Some(tell(&mut said, request, payload, shared)),
        _ => note(&mut said, request, &words, file),
    };
    shared.changed.notify_all();
    drop(said);
    let acknowledgement = (flags & NEED_REPLY != 0).then(|| 0_u64.to_le_bytes().to_vec());
    if let Some(body) = answer.or(acknowledgement) {
        let log = shared
            .said
            .lock()
            .log
            .as_ref()
            .and_then(|(file, _)| file.try_clone().ok());
        let log = log.filter(|_| request == GET_INFLIGHT_FD);
        let mut reply: Vec<u8> = [request, 1 | 1 << 2, body.len() as u32]
            .iter()
            .flat_map(|w| w.to_le_bytes())
            .collect();
        reply.extend(body);
        match log {
            Some(file) => stream
                .send_with_fd(reply.as_slice(), file.as_raw_fd())
                .ok()
                .map(drop)?,
            None => stream.write_all(&reply).ok()?,
        }
    }
    Some(())
}

/// Answers what depends on what this switch can.
fn tell(said: &mut Said, request: u32, payload: Vec<u8>, shared: &Shared) -> Vec<u8> {
    let takes_commands = *shared.takes_commands.lock();
    let controlled = takes_commands && said.protocol & NET_CONTROL != 0;
    let value = match request {
        GET_FEATURES => *shared.offered.lock() | if controlled { CONTROLLED } else { 0 },
        GET_PROTOCOL_FEATURES => PROTOCOL | if takes_commands { NET_CONTROL } else { 0 },
        _ => {
            assert!(controlled, "a command without the feature");
            said.commands.push(payload);
            *shared.verdict.lock()
        }
    };
    value.to_le_bytes().to_vec()
}

/// Keeps what a request says; the body of the answer that belongs to it.
fn note(said: &mut Said, request: u32, words: &[u64], file: Option<File>) -> Option<Vec<u8>> {
    let first = words.first().copied().unwrap_or(0);
    // Ring requests carry the index in the low, a value in the high half; doorbells in the low octet.
    let (index, value) = (first & 0xff, first >> 32);
    let event = |file: Option<File>| file.map(into_event);
    let ring = said.rings.entry(index);
    match request {
        GET_QUEUE_NUM => return Some(2_u64.to_le_bytes().to_vec()),
        GET_VRING_BASE => return Some(index.to_le_bytes().to_vec()),
        SET_FEATURES => said.features = first,
        SET_PROTOCOL_FEATURES => said.protocol = first,
        SET_MEM_TABLE => {
            said.region.copy_from_slice(&words[1..5]);
            said.memory = file;
        }
        GET_INFLIGHT_FD => {
            let file = tempfile::tempfile().expect("a file");
            said.log = Some((file, [0x1_0000, 0, words[2]]));
            return Some([0x1_0000, 0, words[2]].map(u64::to_le_bytes).concat());
        }
        SET_INFLIGHT_FD => said.log = file.map(|file| (file, [words[0], words[1], words[2]])),
        SET_VRING_NUM => ring.or_default().size = value,
        SET_VRING_BASE => ring.or_default().base = value,
        SET_VRING_ADDR => ring.or_default().addresses.copy_from_slice(&words[1..4]),
        SET_VRING_KICK => ring.or_default().kick = event(file),
        SET_VRING_CALL => ring.or_default().call = event(file),
        SET_VRING_ENABLE => ring.or_default().enabled = value != 0,
        _ => {}
    }
    None
}

#[allow(unsafe_code)] // turning a received descriptor into the eventfd that it is
fn into_event(file: File) -> EventFd {
    // SAFETY: `into_raw_fd` gives up the only ownership of the descriptor, which the eventfd takes over.
    unsafe { EventFd::from_raw_fd(file.into_raw_fd()) }
}
