//! Messages that the front end's crate has no words for: questions whose answer is one number.

use std::io::{self, Error, ErrorKind};
use std::os::unix::net::UnixStream;

use vmm_sys_util::sock_ctrl_msg::ScmSocket;

/// Questions of the protocol (QEMU's `docs/interop/vhost-user.rst`).
pub(super) const GET_PROTOCOL_FEATURES: u32 = 15;
pub(super) const GET_QUEUE_NUM: u32 = 17;
/// A command of the guest's control queue, without the place for its answer; the switch answers 0 when it was carried out. Not
/// of the protocol, and used only with a switch that offers [`super::features::NET_CONTROL`].
pub(super) const CONTROL: u32 = 0x454c_0001;

/// Octets of a message's header, and of an answer.
const HEADER: usize = 12;
const ANSWER: usize = HEADER + 8;
/// Protocol version 1; an answer has the next bit set as well.
const VERSION: u32 = 1;
const REPLY: u32 = 4;

/// Sends a request and waits for its answer.
pub(super) fn ask(stream: &UnixStream, request: u32, body: &[u8]) -> io::Result<u64> {
    let mut message: Vec<u8> = [request, VERSION, body.len() as u32]
        .iter()
        .flat_map(|word| word.to_ne_bytes())
        .collect();
    message.extend(body);
    let mut rest = message.as_slice();
    while !rest.is_empty() {
        let sent = stream.send_with_fds(&[rest], &[])?;
        rest = rest.get(sent..).unwrap_or_default();
    }
    let mut answer = [0; ANSWER];
    let mut received = 0;
    while let Some(room) = answer.get_mut(received..).filter(|room| !room.is_empty()) {
        match stream.recv_with_fd(room)? {
            (0, _) => return Err(ErrorKind::UnexpectedEof.into()),
            (more, _) => received += more,
        }
    }
    let (head, value) = answer.split_at(HEADER);
    let expected = [request, VERSION | REPLY, 8].map(u32::to_ne_bytes);
    if head != expected.as_flattened() {
        return Err(Error::new(ErrorKind::InvalidData, "an answer to something else"));
    }
    let mut octets = [0; 8];
    octets.copy_from_slice(value);
    Ok(u64::from_ne_bytes(octets))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn answered(answer: &[u8]) -> io::Result<u64> {
        let (ours, mut theirs) = UnixStream::pair().expect("sockets");
        let answer = answer.to_vec();
        let switch = std::thread::spawn(move || {
            let mut question = [0; 15];
            theirs.read_exact(&mut question).expect("a question");
            for octet in answer {
                theirs.write_all(&[octet]).expect("in pieces");
            }
            question
        });
        let result = ask(&ours, CONTROL, &[9, 8, 7]);
        let question = switch.join().expect("no panic");
        assert_eq!(question[12..], [9, 8, 7]);
        result
    }

    fn answer(head: [u32; 3], value: u64) -> Vec<u8> {
        let head = head.iter().flat_map(|word| word.to_ne_bytes());
        head.chain(value.to_ne_bytes()).collect()
    }

    #[test]
    fn answers_are_put_together_and_checked() {
        assert_eq!(answered(&answer([CONTROL, 5, 8], 1)).expect("a number"), 1);
        for head in [[CONTROL, 5, 4], [CONTROL, 1, 8], [1, 5, 8]] {
            let error = answered(&answer(head, 1)).expect_err("refused");
            assert_eq!(error.kind(), ErrorKind::InvalidData);
        }
        let error = answered(&answer([CONTROL, 5, 8], 1)[..19]).expect_err("cut");
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    }
}
