//! Messages of the vhost-user protocol (QEMU's `docs/interop/vhost-user.rst`), from octets to requests.
//!
//! The `vhost` crate has a handler for them, and its numbers and flags are used here. The handler itself does not fit:
//! it refuses `SET_VRING_ENABLE` before `SET_FEATURES`, which is the order that QEMU uses for network devices, it
//! does not know `NET_SET_MTU`, and it blocks in the middle of a message.

use std::fs::File;

use vhost::vhost_user::message::FrontendReq;

use crate::memory::{MAX_REGIONS, RegionSpec};
use crate::ring::RingAddresses;
use crate::ring::inflight::Description;

/// Octets of a message's header: request, flags and size, each 32 bits in the machine's order.
pub(super) const HEADER: usize = 12;
/// The largest body: far more than the largest request needs.
pub(super) const MAX_BODY: usize = 4096;
/// A request of our own, far above the protocol's numbers: a command of the guest's control queue, as it stands there
/// but for the place for its answer. It is answered with 0 if the command was carried out, else with 1.
pub(super) const NET_CONTROL: u32 = 0x454c_0001;
/// The most descriptors that come with one message.
pub(super) const MAX_FILES: usize = MAX_REGIONS;

const VERSION: u32 = 1;
const VERSION_MASK: u32 = 3;
const REPLY: u32 = 4;
const NEED_REPLY: u32 = 8;

/// A message's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) code: u32,
    pub(super) size: usize,
    /// The peer waits for an answer, if `REPLY_ACK` was agreed.
    pub(super) wants_ack: bool,
}

/// A request, with the files that came with it.
#[derive(Debug)]
pub(super) enum Request {
    GetFeatures,
    SetFeatures(u64),
    SetOwner,
    ResetRings,
    SetMemTable(Vec<(RegionSpec, File)>),
    SetVringNum { index: u32, size: u32 },
    SetVringAddr { index: u32, addresses: RingAddresses },
    SetVringBase { index: u32, base: u32 },
    GetVringBase { index: u32 },
    SetVringKick { index: u32, file: Option<File> },
    SetVringCall { index: u32, file: Option<File> },
    SetVringErr { index: u32, file: Option<File> },
    GetProtocolFeatures,
    SetProtocolFeatures(u64),
    GetQueueNum,
    SetVringEnable { index: u32, enable: bool },
    SetMtu(u64),
    GetMaxMemSlots,
    AddMemReg(RegionSpec, File),
    RemMemReg(RegionSpec),
    GetInflightFd(Description),
    SetInflightFd(Description, File),
    SetBackendReqFd(File),
    SetStatus(u8),
    GetStatus,
    NetControl(Vec<u8>),
}

/// Why a message was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum MessageError {
    #[error("a message header with flags {0:#x}, which is not a request of protocol version 1")]
    Flags(u32),
    #[error("a message of {0} octets")]
    TooLarge(usize),
    #[error("message {0}, which this port does not serve")]
    Unknown(u32),
    #[error("message {code} with {len} octets, which is not its length")]
    Length { code: u32, len: usize },
    #[error("message {code} with {files} files, which is not their number")]
    Files { code: u32, files: usize },
    #[error("message {code} with a value out of range")]
    Value { code: u32 },
}

impl MessageError {
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Flags(_) => "message_flags",
            Self::TooLarge(_) => "message_too_large",
            Self::Unknown(_) => "message_unknown",
            Self::Length { .. } => "message_length",
            Self::Files { .. } => "message_files",
            Self::Value { .. } => "message_value",
        }
    }
}

impl Header {
    /// Reads a request's header.
    pub(super) fn decode(raw: &[u8; HEADER]) -> Result<Self, MessageError> {
        let mut body = Body { code: 0, octets: raw };
        let (code, flags, size) = (body.u32()?, body.u32()?, body.u32()? as usize);
        if flags & VERSION_MASK != VERSION || flags & !(VERSION_MASK | NEED_REPLY) != 0 {
            return Err(MessageError::Flags(flags));
        }
        if size > MAX_BODY {
            return Err(MessageError::TooLarge(size));
        }
        Ok(Self {
            code,
            size,
            wants_ack: flags & NEED_REPLY != 0,
        })
    }
}

/// A reply's octets.
pub(super) fn reply(code: u32, body: &[u8]) -> Vec<u8> {
    let words = [code, VERSION | REPLY, body.len() as u32].map(u32::to_ne_bytes);
    [words.as_flattened(), body].concat()
}

/// The body of a reply about a ring.
pub(super) fn vring_state(index: u32, value: u32) -> [u8; 8] {
    let mut body = [0; 8];
    let (first, second) = body.split_at_mut(4);
    first.copy_from_slice(&index.to_ne_bytes());
    second.copy_from_slice(&value.to_ne_bytes());
    body
}

/// The body of a reply about memory for chains in hand. The structure ends with 4 octets of padding.
pub(super) fn inflight(description: &Description) -> [u8; 24] {
    let mut body = [0; 24];
    let (octets, rest) = body.split_at_mut(16);
    let words = [description.size, description.offset].map(u64::to_ne_bytes);
    octets.copy_from_slice(words.as_flattened());
    let numbers = [description.queues, description.entries].map(u16::to_ne_bytes);
    rest[..4].copy_from_slice(numbers.as_flattened());
    body
}

/// Reads a request's body.
pub(super) fn decode(code: u32, octets: &[u8], files: Vec<File>) -> Result<Request, MessageError> {
    if code == NET_CONTROL {
        Files { code, files }.end()?;
        return Ok(Request::NetControl(octets.to_vec()));
    }
    let request = FrontendReq::try_from(code).map_err(|()| MessageError::Unknown(code))?;
    let mut body = Body { code, octets };
    let mut files = Files { code, files };
    let decoded = match request {
        FrontendReq::GET_FEATURES => Request::GetFeatures,
        FrontendReq::SET_FEATURES => Request::SetFeatures(body.u64()?),
        FrontendReq::SET_OWNER => Request::SetOwner,
        FrontendReq::RESET_OWNER | FrontendReq::RESET_DEVICE => Request::ResetRings,
        FrontendReq::SET_MEM_TABLE => Request::SetMemTable(mem_table(&mut body, &mut files)?),
        FrontendReq::SET_VRING_NUM
        | FrontendReq::SET_VRING_ADDR
        | FrontendReq::SET_VRING_BASE
        | FrontendReq::GET_VRING_BASE
        | FrontendReq::SET_VRING_ENABLE => vring(request, &mut body)?,
        FrontendReq::SET_VRING_KICK | FrontendReq::SET_VRING_CALL | FrontendReq::SET_VRING_ERR => {
            vring_event(request, vring_file(&mut body, &mut files)?)
        }
        FrontendReq::GET_PROTOCOL_FEATURES => Request::GetProtocolFeatures,
        FrontendReq::SET_PROTOCOL_FEATURES => Request::SetProtocolFeatures(body.u64()?),
        FrontendReq::GET_QUEUE_NUM => Request::GetQueueNum,
        FrontendReq::NET_SET_MTU => Request::SetMtu(body.u64()?),
        FrontendReq::GET_MAX_MEM_SLOTS => Request::GetMaxMemSlots,
        FrontendReq::ADD_MEM_REG => {
            body.u64()?;
            Request::AddMemReg(body.region()?, files.one()?)
        }
        FrontendReq::REM_MEM_REG => {
            // Some front ends send the region's file along, which is not needed.
            files.files.clear();
            body.u64()?;
            Request::RemMemReg(body.region()?)
        }
        FrontendReq::GET_INFLIGHT_FD => Request::GetInflightFd(body.inflight()?),
        FrontendReq::SET_INFLIGHT_FD => Request::SetInflightFd(body.inflight()?, files.one()?),
        FrontendReq::SET_BACKEND_REQ_FD => Request::SetBackendReqFd(files.one()?),
        FrontendReq::SET_STATUS => {
            let status = u8::try_from(body.u64()?).map_err(|_| MessageError::Value { code })?;
            Request::SetStatus(status)
        }
        FrontendReq::GET_STATUS => Request::GetStatus,
        _ => return Err(MessageError::Unknown(code)),
    };
    body.end(octets.len())?;
    files.end()?;
    Ok(decoded)
}

/// A request for one ring that comes without a file.
fn vring(request: FrontendReq, body: &mut Body<'_>) -> Result<Request, MessageError> {
    if request == FrontendReq::SET_VRING_ADDR {
        return vring_addr(body);
    }
    let index = body.u32()?;
    Ok(match request {
        FrontendReq::SET_VRING_NUM => Request::SetVringNum {
            index,
            size: body.u32()?,
        },
        FrontendReq::SET_VRING_BASE => Request::SetVringBase {
            index,
            base: body.u32()?,
        },
        FrontendReq::SET_VRING_ENABLE => Request::SetVringEnable {
            index,
            enable: body.flag()?,
        },
        _ => {
            body.u32()?;
            Request::GetVringBase { index }
        }
    })
}

/// The request that gives a ring one of its eventfds.
fn vring_event(request: FrontendReq, (index, file): (u32, Option<File>)) -> Request {
    match request {
        FrontendReq::SET_VRING_KICK => Request::SetVringKick { index, file },
        FrontendReq::SET_VRING_CALL => Request::SetVringCall { index, file },
        _ => Request::SetVringErr { index, file },
    }
}

fn mem_table(body: &mut Body<'_>, files: &mut Files) -> Result<Vec<(RegionSpec, File)>, MessageError> {
    let count = body.u32()? as usize;
    body.u32()?;
    let sent = std::mem::take(&mut files.files);
    if sent.len() != count {
        return Err(MessageError::Files {
            code: files.code,
            files: sent.len(),
        });
    }
    sent.into_iter().map(|file| Ok((body.region()?, file))).collect()
}

fn vring_addr(body: &mut Body<'_>) -> Result<Request, MessageError> {
    let index = body.u32()?;
    // Bit 0: log writes to the used ring, for migration, which this port does not offer.
    if body.u32()? != 0 {
        return Err(MessageError::Value { code: body.code });
    }
    let (descriptors, used, available) = (body.u64()?, body.u64()?, body.u64()?);
    body.u64()?;
    Ok(Request::SetVringAddr {
        index,
        addresses: RingAddresses {
            descriptors,
            available,
            used,
        },
    })
}

/// The ring's index in the low 8 bits; bit 8 says that no file comes along.
fn vring_file(body: &mut Body<'_>, files: &mut Files) -> Result<(u32, Option<File>), MessageError> {
    let value = body.u64()?;
    let file = if value & 0x100 == 0 {
        Some(files.one()?)
    } else {
        None
    };
    Ok((value as u32 & 0xff, file))
}

/// A body that is read from its start.
struct Body<'a> {
    code: u32,
    octets: &'a [u8],
}

impl Body<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], MessageError> {
        let short = MessageError::Length {
            code: self.code,
            len: self.octets.len(),
        };
        let (value, rest) = self.octets.split_first_chunk::<N>().ok_or(short)?;
        self.octets = rest;
        Ok(*value)
    }

    fn u16(&mut self) -> Result<u16, MessageError> {
        self.take().map(u16::from_ne_bytes)
    }

    fn u32(&mut self) -> Result<u32, MessageError> {
        self.take().map(u32::from_ne_bytes)
    }

    fn u64(&mut self) -> Result<u64, MessageError> {
        self.take().map(u64::from_ne_bytes)
    }

    fn flag(&mut self) -> Result<bool, MessageError> {
        match self.u32()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(MessageError::Value { code: self.code }),
        }
    }

    fn region(&mut self) -> Result<RegionSpec, MessageError> {
        Ok(RegionSpec {
            guest: self.u64()?,
            size: self.u64()?,
            user: self.u64()?,
            offset: self.u64()?,
        })
    }

    fn inflight(&mut self) -> Result<Description, MessageError> {
        let description = Description {
            size: self.u64()?,
            offset: self.u64()?,
            queues: self.u16()?,
            entries: self.u16()?,
        };
        self.u32()?;
        Ok(description)
    }

    fn end(&self, len: usize) -> Result<(), MessageError> {
        if self.octets.is_empty() {
            Ok(())
        } else {
            Err(MessageError::Length { code: self.code, len })
        }
    }
}

/// The files that came with a message.
struct Files {
    code: u32,
    files: Vec<File>,
}

impl Files {
    fn one(&mut self) -> Result<File, MessageError> {
        let wrong = MessageError::Files {
            code: self.code,
            files: self.files.len(),
        };
        if self.files.len() > 1 {
            return Err(wrong);
        }
        self.files.pop().ok_or(wrong)
    }

    fn end(&self) -> Result<(), MessageError> {
        if self.files.is_empty() {
            return Ok(());
        }
        Err(MessageError::Files {
            code: self.code,
            files: self.files.len(),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    fn file() -> File {
        File::open("/dev/null").unwrap()
    }

    fn raw_header(code: u32, flags: u32, size: u32) -> [u8; HEADER] {
        let mut raw = [0; HEADER];
        raw[..4].copy_from_slice(&code.to_ne_bytes());
        raw[4..8].copy_from_slice(&flags.to_ne_bytes());
        raw[8..].copy_from_slice(&size.to_ne_bytes());
        raw
    }

    #[test]
    fn headers_are_checked() {
        let good = Header::decode(&raw_header(5, 9, 4096)).unwrap();
        assert_eq!(
            good,
            Header {
                code: 5,
                size: 4096,
                wants_ack: true
            }
        );
        assert_eq!(
            Header::decode(&raw_header(5, 1, 4097)),
            Err(MessageError::TooLarge(4097))
        );
        for flags in [0, 2, 3, 5, 0x11] {
            assert_eq!(
                Header::decode(&raw_header(5, flags, 0)),
                Err(MessageError::Flags(flags))
            );
        }
    }

    #[test]
    fn a_memory_table_has_as_many_files_as_regions() {
        let body = words(&[1, 0x1000, 0x2000, 0x7000, 0x10]);
        let Ok(Request::SetMemTable(table)) = decode(5, &body, vec![file()]) else {
            panic!("refused")
        };
        assert_eq!(
            table[0].0,
            RegionSpec {
                guest: 0x1000,
                size: 0x2000,
                user: 0x7000,
                offset: 0x10
            }
        );
        assert!(matches!(
            decode(5, &body, vec![]),
            Err(MessageError::Files { code: 5, files: 0 })
        ));
        assert!(matches!(
            decode(5, &body, vec![file(), file()]),
            Err(MessageError::Files { .. })
        ));
        let two = words(&[2, 0, 0, 0, 0]);
        assert!(matches!(
            decode(5, &two, vec![file(), file()]),
            Err(MessageError::Length { .. })
        ));
    }

    #[test]
    fn a_doorbell_comes_with_a_file_or_says_that_it_does_not() {
        let with = decode(12, &words(&[3]), vec![file()]);
        assert!(matches!(
            with,
            Ok(Request::SetVringKick {
                index: 3,
                file: Some(_)
            })
        ));
        let without = decode(13, &words(&[0x101]), vec![]);
        assert!(matches!(
            without,
            Ok(Request::SetVringCall { index: 1, file: None })
        ));
        assert!(matches!(
            decode(14, &words(&[1]), vec![]),
            Err(MessageError::Files { .. })
        ));
        assert!(matches!(
            decode(14, &words(&[0x101]), vec![file()]),
            Err(MessageError::Files { .. })
        ));
    }

    #[test]
    fn a_ring_is_enabled_by_1_and_disabled_by_0() {
        let enable = |value: u64| decode(18, &words(&[value << 32 | 1]), vec![]);
        assert!(matches!(
            enable(1),
            Ok(Request::SetVringEnable {
                index: 1,
                enable: true
            })
        ));
        assert!(matches!(
            enable(0),
            Ok(Request::SetVringEnable {
                index: 1,
                enable: false
            })
        ));
        assert!(matches!(enable(2), Err(MessageError::Value { code: 18 })));
    }

    #[test]
    fn memory_for_chains_in_hand_is_described_in_24_octets() {
        let description = Description {
            size: 0x4000,
            offset: 8,
            queues: 4,
            entries: 256,
        };
        let body = inflight(&description);
        assert_eq!(body[..20], [&words(&[0x4000, 8])[..], &[4, 0, 0, 1]].concat());
        let Ok(Request::SetInflightFd(read, _)) = decode(32, &body, vec![file()]) else {
            panic!("refused")
        };
        assert_eq!(read, description);
        assert!(matches!(decode(31, &body, vec![]), Ok(Request::GetInflightFd(_))));
        assert!(matches!(
            decode(32, &body[..20], vec![file()]),
            Err(MessageError::Length { .. })
        ));
    }

    #[test]
    fn a_status_has_8_bits() {
        assert!(matches!(
            decode(39, &words(&[0xff]), vec![]),
            Ok(Request::SetStatus(0xff))
        ));
        assert!(matches!(
            decode(39, &words(&[0x100]), vec![]),
            Err(MessageError::Value { code: 39 })
        ));
    }

    proptest! {
        #[test]
        fn any_message_is_answered(code in 0u32..50, body in prop::collection::vec(any::<u8>(), 0..200), files in 0usize..3) {
            let files = (0..files).map(|_| file()).collect();
            if let Err(error) = decode(code, &body, files) {
                prop_assert!(error.label().starts_with("message_"));
            }
        }
    }
}
