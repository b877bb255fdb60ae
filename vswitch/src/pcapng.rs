//! Writing pcapng files (draft-ietf-opsawg-pcapng), and cutting a stream of them into blocks.
//!
//! Blocks are written in the machine's byte order, as the format allows, with nanosecond timestamps.

use std::io::{self, Read};

/// Block types (section 4).
mod block {
    pub(super) const SECTION_HEADER: u32 = 0x0a0d_0d0a;
    pub(super) const INTERFACE: u32 = 1;
    pub(super) const STATISTICS: u32 = 5;
    pub(super) const PACKET: u32 = 6;
}

/// Option codes (sections 3.5, 4.1 to 4.6).
mod option {
    pub(super) const END: u16 = 0;
    pub(super) const COMMENT: u16 = 1;
    pub(super) const SHB_USERAPPL: u16 = 4;
    pub(super) const IF_NAME: u16 = 2;
    pub(super) const IF_DESCRIPTION: u16 = 3;
    pub(super) const IF_TSRESOL: u16 = 9;
    pub(super) const EPB_FLAGS: u16 = 2;
    pub(super) const EPB_DROPCOUNT: u16 = 4;
    pub(super) const ISB_IFRECV: u16 = 4;
    pub(super) const ISB_IFDROP: u16 = 5;
}

const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
/// `LINKTYPE_ETHERNET`.
const ETHERNET: u16 = 1;
/// Decimal digits of a second's fraction in timestamps.
const NANOSECONDS: u8 = 9;
/// Octets of a block around its body: type, length, and length again.
const FRAMING: usize = 12;
/// Octets of a packet block's body before the frame.
const PACKET_HEADER: usize = 20;
/// Largest block that is read, in octets: a frame of the largest size with room to spare.
const MAX_BLOCK: usize = 1 << 20;

/// Which way a frame went, seen from the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Towards the interface's owner.
    Inbound,
    /// Away from it.
    Outbound,
}

/// A frame to be written.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// The interface's number: the order in which they were described, from 0.
    pub interface: u32,
    /// Nanoseconds since 1970.
    pub time_ns: u64,
    /// What was kept of the frame.
    pub bytes: &'a [u8],
    /// Its whole length in octets.
    pub len: u32,
    /// Which way it went.
    pub way: Way,
    /// Frames of this interface lost since the one before.
    pub lost: u64,
    /// A word to the reader.
    pub comment: Option<&'a str>,
}

/// Starts a file.
pub fn section(out: &mut Vec<u8>, application: &str) {
    write_block(out, block::SECTION_HEADER, |body| {
        body.extend(BYTE_ORDER_MAGIC.to_ne_bytes());
        body.extend(1_u16.to_ne_bytes());
        body.extend(0_u16.to_ne_bytes());
        // The section's length is not known.
        body.extend(u64::MAX.to_ne_bytes());
        write_option(body, option::SHB_USERAPPL, application.as_bytes());
        write_option(body, option::END, &[]);
    });
}

/// Describes the next interface.
pub fn interface(out: &mut Vec<u8>, name: &str, description: &str, snap_len: u32) {
    write_block(out, block::INTERFACE, |body| {
        body.extend(ETHERNET.to_ne_bytes());
        body.extend(0_u16.to_ne_bytes());
        body.extend(snap_len.to_ne_bytes());
        write_option(body, option::IF_NAME, name.as_bytes());
        write_option(body, option::IF_DESCRIPTION, description.as_bytes());
        write_option(body, option::IF_TSRESOL, &[NANOSECONDS]);
        write_option(body, option::END, &[]);
    });
}

/// Writes a frame.
pub fn packet(out: &mut Vec<u8>, packet: &Packet<'_>) {
    write_block(out, block::PACKET, |body| {
        body.extend(packet.interface.to_ne_bytes());
        write_time(body, packet.time_ns);
        body.extend(
            u32::try_from(packet.bytes.len())
                .unwrap_or(u32::MAX)
                .to_ne_bytes(),
        );
        body.extend(packet.len.to_ne_bytes());
        body.extend(packet.bytes);
        pad(body);
        if let Some(comment) = packet.comment {
            write_option(body, option::COMMENT, comment.as_bytes());
        }
        let flags: u32 = match packet.way {
            Way::Inbound => 1,
            Way::Outbound => 2,
        };
        write_option(body, option::EPB_FLAGS, &flags.to_ne_bytes());
        if packet.lost > 0 {
            write_option(body, option::EPB_DROPCOUNT, &packet.lost.to_ne_bytes());
        }
        write_option(body, option::END, &[]);
    });
}

/// Writes how many frames an interface saw and how many of them are not in the file.
pub fn statistics(out: &mut Vec<u8>, interface: u32, time_ns: u64, received: u64, lost: u64) {
    write_block(out, block::STATISTICS, |body| {
        body.extend(interface.to_ne_bytes());
        write_time(body, time_ns);
        write_option(body, option::ISB_IFRECV, &received.to_ne_bytes());
        write_option(body, option::ISB_IFDROP, &lost.to_ne_bytes());
        write_option(body, option::END, &[]);
    });
}

fn write_block(out: &mut Vec<u8>, kind: u32, body: impl FnOnce(&mut Vec<u8>)) {
    let mut content = Vec::new();
    body(&mut content);
    let len = u32::try_from(content.len() + FRAMING)
        .unwrap_or(u32::MAX)
        .to_ne_bytes();
    out.reserve(content.len() + FRAMING);
    out.extend(kind.to_ne_bytes());
    out.extend(len);
    out.append(&mut content);
    out.extend(len);
}

/// Writes an option; a value that is too long for one is cut.
fn write_option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    let len = u16::try_from(value.len()).unwrap_or(u16::MAX);
    body.extend(code.to_ne_bytes());
    body.extend(len.to_ne_bytes());
    body.extend(value.iter().take(usize::from(len)));
    pad(body);
}

fn write_time(body: &mut Vec<u8>, time_ns: u64) {
    body.extend(((time_ns >> 32) as u32).to_ne_bytes());
    body.extend((time_ns as u32).to_ne_bytes());
}

fn pad(body: &mut Vec<u8>) {
    body.resize(body.len().next_multiple_of(4), 0);
}

/// A block as it stands in a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block(Vec<u8>);

impl Block {
    /// The next block of a stream in the machine's byte order; `None` at its end. An end inside a block is an error
    /// of kind [`io::ErrorKind::UnexpectedEof`], what is no block one of kind [`io::ErrorKind::InvalidData`].
    pub fn read(stream: &mut impl Read) -> io::Result<Option<Self>> {
        let mut head = [0; 8];
        let mut got = 0;
        while got < head.len() {
            match stream.read(head.get_mut(got..).unwrap_or_default()) {
                Ok(0) if got == 0 => return Ok(None),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => got += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let [_, _, _, _, len @ ..] = head;
        let len = u32::from_ne_bytes(len) as usize;
        if !(FRAMING..=MAX_BLOCK).contains(&len) || !len.is_multiple_of(4) {
            let message = format!("a pcapng block of {len} octets");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        let mut bytes = head.to_vec();
        bytes.resize(len, 0);
        stream.read_exact(bytes.get_mut(head.len()..).unwrap_or_default())?;
        Ok(Some(Self(bytes)))
    }

    /// The block's octets.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The interface and the number of frames lost before it, if this is a frame.
    pub fn as_packet(&self) -> Option<(u32, u64)> {
        if self.word(0)? != block::PACKET {
            return None;
        }
        let interface = self.word(8)?;
        let captured = self.word(20)? as usize;
        let mut at = (8 + PACKET_HEADER).checked_add(captured.checked_next_multiple_of(4)?)?;
        while let Some(head) = self.word(at) {
            let [c0, c1, l0, l1] = head.to_ne_bytes();
            let len = usize::from(u16::from_ne_bytes([l0, l1]));
            match u16::from_ne_bytes([c0, c1]) {
                option::END => break,
                option::EPB_DROPCOUNT => {
                    let value = self.0.get(at + 4..)?.first_chunk().copied()?;
                    return Some((interface, u64::from_ne_bytes(value)));
                }
                _ => at = at.checked_add(4 + len.next_multiple_of(4))?,
            }
        }
        Some((interface, 0))
    }

    /// Whether this is the last word on an interface.
    pub fn is_statistics(&self) -> bool {
        self.word(0) == Some(block::STATISTICS)
    }

    fn word(&self, at: usize) -> Option<u32> {
        self.0
            .get(at..)?
            .first_chunk()
            .map(|octets| u32::from_ne_bytes(*octets))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(bytes: &[u8]) -> Packet<'_> {
        Packet {
            interface: 1,
            time_ns: (7 << 32) + 5,
            bytes,
            len: 100,
            way: Way::Outbound,
            lost: 3,
            comment: Some("hello"),
        }
    }

    #[test]
    fn a_packet_stands_as_the_format_says() {
        let mut out = Vec::new();
        packet(&mut out, &sample(&[1, 2, 3, 4, 5]));
        let words: Vec<u32> = out
            .chunks(4)
            .map(|w| u32::from_ne_bytes(w.try_into().unwrap()))
            .collect();
        let len = out.len() as u32;
        assert_eq!(words[..7], [6, len, 1, 7, 5, 5, 100]);
        assert_eq!(out[28..36], [1, 2, 3, 4, 5, 0, 0, 0]);
        assert_eq!(*words.last().unwrap(), len);
        let text = [1_u16.to_ne_bytes(), 5_u16.to_ne_bytes()].concat();
        assert_eq!(out[36..48], [&text[..], b"hello\0\0\0"].concat());
        let flags = [2_u16.to_ne_bytes(), 4_u16.to_ne_bytes()].concat();
        assert_eq!(out[48..56], [&flags[..], &2_u32.to_ne_bytes()].concat());
    }

    #[test]
    fn a_stream_is_cut_into_the_blocks_it_was_made_of() {
        let mut out = Vec::new();
        section(&mut out, "test");
        interface(&mut out, "v0", "", 64);
        packet(&mut out, &sample(&[9; 61]));
        packet(
            &mut out,
            &Packet {
                lost: 0,
                comment: None,
                ..sample(&[])
            },
        );
        statistics(&mut out, 1, 8, 10, 3);
        let mut stream = &out[..];
        let mut blocks = Vec::new();
        while let Some(block) = Block::read(&mut stream).unwrap() {
            blocks.push(block);
        }
        let packets: Vec<_> = blocks.iter().map(Block::as_packet).collect();
        assert_eq!(packets, [None, None, Some((1, 3)), Some((1, 0)), None]);
        assert!(blocks[4].is_statistics());
        let joined: Vec<u8> = blocks.iter().flat_map(|block| block.bytes().to_vec()).collect();
        assert_eq!(joined, out);
    }

    #[test]
    fn an_end_inside_a_block_is_told_from_one_between_blocks() {
        let mut out = Vec::new();
        packet(&mut out, &sample(&[1; 20]));
        for cut in 1..out.len() {
            let error = Block::read(&mut &out[..cut]).expect_err("cut short");
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{cut}");
        }
        assert_eq!(Block::read(&mut &[][..]).unwrap(), None);
    }

    #[test]
    fn hostile_lengths_are_refused_before_anything_is_allocated() {
        for len in [0_u32, 11, 13, u32::MAX, MAX_BLOCK as u32 + 4] {
            let bytes = [6_u32.to_ne_bytes(), len.to_ne_bytes()].concat();
            let error = Block::read(&mut &bytes[..]).expect_err("refused");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{len}");
        }
        // A packet block whose captured length points past its end has no options.
        let mut bytes = [0; 36];
        bytes[..4].copy_from_slice(&6_u32.to_ne_bytes());
        bytes[4..8].copy_from_slice(&36_u32.to_ne_bytes());
        for captured in [4096, u32::MAX - 1, u32::MAX] {
            bytes[20..24].copy_from_slice(&captured.to_ne_bytes());
            let block = Block::read(&mut &bytes[..]).unwrap().unwrap();
            assert_eq!(block.as_packet(), Some((0, 0)), "{captured}");
        }
    }
}
