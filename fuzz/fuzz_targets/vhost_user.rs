//! Messages and files on a port's vhost-user connection: octets as they come, and messages that are well formed but
//! say anything.
#![no_main]

use std::io::Write;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, OnceLock};

use libfuzzer_sys::fuzz_target;
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::sock_ctrl_msg::ScmSocket;
use vswitch::port::vhost_user::VhostUserPort;
use vswitch::ring::mock::{GUEST_BASE, MockGuest, USER_BASE};

/// Files that a message may bring.
struct Files {
    memory: Arc<MockGuest>,
    bell: EventFd,
    null: std::fs::File,
}

fn files() -> &'static Files {
    static FILES: OnceLock<Files> = OnceLock::new();
    FILES.get_or_init(|| Files {
        memory: MockGuest::new(0x10_0000),
        bell: EventFd::new(0).expect("an eventfd"),
        null: std::fs::File::open("/dev/null").expect("/dev/null"),
    })
}

/// Values that lead further than random ones.
const VALUES: [u64; 26] = [
    0,
    1,
    2,
    3,
    0x100,
    0x101,
    0x40 << 32,
    0x40 << 32 | 1,
    1 << 32,
    1 << 32 | 1,
    GUEST_BASE,
    GUEST_BASE + 0x8_0000,
    USER_BASE,
    USER_BASE + 0x1000,
    USER_BASE + 0x2000,
    USER_BASE + 0x3000,
    0x1000,
    0x8_0000,
    0x10_0000,
    0x10_0001,
    1 << 30 | 1 << 32 | 1 << 28,
    0xa019,
    u64::MAX,
    u64::MAX - 0xfff,
    1 << 62 | 1 << 3,
    0x0001_0000,
];

/// A request of Enlight's own: a control command.
const CONTROL: u32 = 0x454c_0001;

fuzz_target!(|input: &[u8]| {
    let Ok((peer, ours)) = UnixStream::pair() else {
        return;
    };
    let files = files();
    let mut rest = input;
    while let Some(([mode, code, kinds], after)) = rest.split_first_chunk() {
        let len = usize::from(mode >> 3).min(after.len());
        let (body, after) = after.split_at(len);
        rest = after;
        if mode & 7 == 0 {
            let _ = (&peer).write_all(body);
            continue;
        }
        let words: Vec<u8> = body
            .iter()
            .flat_map(|octet| VALUES[usize::from(*octet) % VALUES.len()].to_ne_bytes())
            .collect();
        let flags = if mode & 4 == 0 { 1u32 } else { 9 };
        let code = match u32::from(*code) % 48 {
            47 => CONTROL,
            code => code,
        };
        let mut message: Vec<u8> = [code, flags, words.len() as u32]
            .iter()
            .flat_map(|word| word.to_ne_bytes())
            .collect();
        message.extend(words);
        let known: [RawFd; 3] = [
            files.memory.file().as_raw_fd(),
            files.bell.as_raw_fd(),
            files.null.as_raw_fd(),
        ];
        let sent: Vec<RawFd> = (0..kinds >> 5)
            .map(|n| known[usize::from(kinds >> (n % 3 * 2) & 3).min(2)])
            .collect();
        let _ = peer.send_with_fds(&[message.as_slice()], &sent);
    }
    let _ = peer.shutdown(std::net::Shutdown::Write);
    let status = VhostUserPort::serve_one(ours).expect("an eventfd for the port");
    assert!(!status.up, "nothing stays of a peer that is gone");
    assert_eq!(status.features, 0);
});
