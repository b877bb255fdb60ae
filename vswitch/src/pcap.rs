//! Reading capture files: pcap (draft-ietf-opsawg-pcap) and pcapng (draft-ietf-opsawg-pcapng), in either byte order.
//!
//! A file may be anything: what is read of it is bounded, and what is wrong with it is an error, never a panic. The parsers
//! of the registry were no help: those that are kept well misread some resolutions of pcapng's timestamps, or leave the bounds
//! to their user.

mod link;

use std::io::{self, Read};

pub use link::{LinkType, Station};

/// Largest packet record or block that is read, in octets.
const MAX_RECORD: usize = 1 << 20;
/// Most interfaces of a section.
const MAX_INTERFACES: usize = 4096;
const NANOSECONDS: u64 = 1_000_000_000;

/// What is wrong with a capture file.
#[derive(Debug, thiserror::Error)]
pub enum PcapError {
    /// It cannot be read.
    #[error("{0}")]
    Read(#[from] io::Error),
    /// It begins like no capture.
    #[error("this is neither pcap nor pcapng")]
    NoCapture,
    /// It ends inside a record.
    #[error("it ends in the middle of a record; what wrote it was stopped, or it was cut off")]
    CutShort,
    /// Its frames are of another link, and only Ethernet is wanted.
    #[error("its frames are no Ethernet frames but of link type {0}")]
    NotEthernet(u16),
    /// Its packets begin with something that is not read.
    #[error(
        "its frames are of link type {0}, which is none of Ethernet (1), Linux cooked (113, 276), raw IP (101, 228, 229) and loopback (0, 108)"
    )]
    Link(u16),
    /// A part of it contradicts the format.
    #[error("{0}")]
    Malformed(&'static str),
}

/// A frame of a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Nanoseconds since 1970.
    pub time_ns: u64,
    /// What was kept of the frame, which begins with an Ethernet header.
    pub octets: &'a [u8],
    /// Its whole length in octets.
    pub len: u32,
    /// Where the frame was met, in a capture of all interfaces.
    pub station: Option<Station>,
    /// The interface that it was captured on, counted over all sections of the file; 0 in a pcap file.
    pub interface: u32,
}

/// A capture file that is being read.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    order: Order,
    format: Format,
    /// The record or block at hand.
    buffer: Vec<u8>,
    /// The frame at hand, if it was captured without an Ethernet header.
    frame: Vec<u8>,
    /// Whether frames of other links than Ethernet are wanted.
    any_link: bool,
    /// Time of the last frame: a simple packet block has none of its own.
    last: u64,
    foreign: u64,
    /// Interfaces of the sections before this one.
    sections: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Little,
    Big,
}

#[derive(Debug)]
enum Format {
    Pcap { ticks: u64, link: LinkType },
    Pcapng { interfaces: Vec<Interface> },
}

/// An interface of a pcapng section.
#[derive(Clone, Copy, Debug)]
struct Interface {
    /// `None` when its frames are not wanted.
    link: Option<LinkType>,
    snap_len: u32,
    /// Timestamps' units in a second.
    ticks: u64,
    /// Seconds to be added to them.
    offset: i64,
}

/// A frame's place in the buffer.
struct Found {
    time: u64,
    start: usize,
    end: usize,
    len: u32,
    interface: u32,
    link: LinkType,
}

impl Order {
    fn u16(self, octets: &[u8], at: usize) -> Option<u16> {
        let word = *octets.get(at..)?.first_chunk()?;
        Some(match self {
            Self::Little => u16::from_le_bytes(word),
            Self::Big => u16::from_be_bytes(word),
        })
    }

    fn u32(self, octets: &[u8], at: usize) -> Option<u32> {
        let word = *octets.get(at..)?.first_chunk()?;
        Some(match self {
            Self::Little => u32::from_le_bytes(word),
            Self::Big => u32::from_be_bytes(word),
        })
    }
}

impl<R: Read> Reader<R> {
    /// Reads the beginning of a file, of which Ethernet frames are wanted.
    pub fn new(input: R) -> Result<Self, PcapError> {
        Self::begin(input, false)
    }

    /// Reads the beginning of a file of any [`LinkType`]s. Frames of others than Ethernet get an Ethernet header without addresses in
    /// place of what they begin with.
    pub fn any_link(input: R) -> Result<Self, PcapError> {
        Self::begin(input, true)
    }

    fn begin(mut input: R, any_link: bool) -> Result<Self, PcapError> {
        let mut magic = [0; 4];
        input
            .read_exact(&mut magic)
            .map_err(|error| missing(error, PcapError::NoCapture))?;
        let (order, ticks) = match magic {
            [0x0a, 0x0d, 0x0d, 0x0a] => return Self::pcapng(input, any_link),
            [0xd4, 0xc3, 0xb2, 0xa1] => (Order::Little, 1_000_000),
            [0xa1, 0xb2, 0xc3, 0xd4] => (Order::Big, 1_000_000),
            [0x4d, 0x3c, 0xb2, 0xa1] => (Order::Little, NANOSECONDS),
            [0xa1, 0xb2, 0x3c, 0x4d] => (Order::Big, NANOSECONDS),
            _ => return Err(PcapError::NoCapture),
        };
        let mut rest = [0; 20];
        input.read_exact(&mut rest).map_err(cut_short)?;
        // The upper half tells of checksums behind frames.
        let kind = order.u32(&rest, 16).unwrap_or(0) as u16;
        let link = wanted(kind, any_link).ok_or(if any_link {
            PcapError::Link(kind)
        } else {
            PcapError::NotEthernet(kind)
        })?;
        Ok(Self::with(input, any_link, order, Format::Pcap { ticks, link }))
    }

    fn pcapng(input: R, any_link: bool) -> Result<Self, PcapError> {
        let interfaces = Vec::new();
        let mut reader = Self::with(input, any_link, Order::Little, Format::Pcapng { interfaces });
        reader.section()?;
        Ok(reader)
    }

    fn with(input: R, any_link: bool, order: Order, format: Format) -> Self {
        Self {
            input,
            order,
            format,
            buffer: Vec::new(),
            frame: Vec::new(),
            any_link,
            last: 0,
            foreign: 0,
            sections: 0,
        }
    }

    /// Frames of links that are not wanted, which were passed over.
    pub fn foreign(&self) -> u64 {
        self.foreign
    }

    /// The next frame that is wanted; `None` at the file's end.
    pub fn next_record(&mut self) -> Result<Option<Record<'_>>, PcapError> {
        let found = match self.format {
            Format::Pcap { ticks, link } => self.next_pcap(ticks, link)?,
            Format::Pcapng { .. } => self.next_pcapng()?,
        };
        let Some(found) = found else { return Ok(None) };
        self.last = found.time;
        let kept = self.buffer.get(found.start..found.end).unwrap_or(&[]);
        let (octets, len, station) = if found.link == LinkType::Ethernet {
            (kept, found.len, None)
        } else {
            let (len, station) = found.link.as_ethernet(kept, found.len, &mut self.frame);
            (self.frame.as_slice(), len, station)
        };
        Ok(Some(Record {
            time_ns: found.time,
            octets,
            len,
            station,
            interface: self.sections.saturating_add(found.interface),
        }))
    }

    fn next_pcap(&mut self, ticks: u64, link: LinkType) -> Result<Option<Found>, PcapError> {
        let mut head = [0; 16];
        if !fill(&mut self.input, &mut head)? {
            return Ok(None);
        }
        let word = |at| self.order.u32(&head, at).unwrap_or(0);
        let (seconds, fraction, kept, len) = (word(0), word(4), word(8), word(12));
        let kept = kept as usize;
        if kept > MAX_RECORD {
            return Err(PcapError::Malformed("a frame of more than a mebioctet"));
        }
        self.read_more(0, kept)?;
        let fraction = u128::from(fraction) * u128::from(NANOSECONDS / ticks);
        let time = u128::from(seconds) * u128::from(NANOSECONDS) + fraction;
        Ok(Some(Found {
            time: u64::try_from(time).unwrap_or(u64::MAX),
            start: 0,
            end: kept,
            len,
            interface: 0,
            link,
        }))
    }

    fn next_pcapng(&mut self) -> Result<Option<Found>, PcapError> {
        /// Block types (section 4).
        const SECTION: u32 = 0x0a0d_0d0a;
        const INTERFACE: u32 = 1;
        const SIMPLE: u32 = 3;
        const ENHANCED: u32 = 6;
        loop {
            let mut head = [0; 4];
            if !fill(&mut self.input, &mut head)? {
                return Ok(None);
            }
            let kind = self.order.u32(&head, 0).unwrap_or(0);
            if kind == SECTION {
                self.section()?;
                continue;
            }
            let len = self.block_len()?;
            if !matches!(kind, INTERFACE | SIMPLE | ENHANCED) {
                self.skip(len)?;
                continue;
            }
            self.block(len)?;
            let found = match kind {
                INTERFACE => {
                    self.interface()?;
                    None
                }
                SIMPLE => self.simple()?,
                _ => self.enhanced()?,
            };
            if found.is_some() {
                return Ok(found);
            }
        }
    }

    /// Reads the rest of a section header, its type aside (section 4.1): a section has its own byte order and interfaces.
    fn section(&mut self) -> Result<(), PcapError> {
        let mut head = [0; 8];
        self.input.read_exact(&mut head).map_err(cut_short)?;
        self.order = match head {
            [.., 0x4d, 0x3c, 0x2b, 0x1a] => Order::Little,
            [.., 0x1a, 0x2b, 0x3c, 0x4d] => Order::Big,
            _ => return Err(PcapError::Malformed("a section without a byte order")),
        };
        let len = self.order.u32(&head, 0).unwrap_or(0) as usize;
        if len < 28 || !len.is_multiple_of(4) {
            return Err(PcapError::Malformed("a section header of an impossible length"));
        }
        self.skip(len - 12)?;
        if let Format::Pcapng { interfaces } = &self.format {
            self.sections = self.sections.saturating_add(interfaces.len() as u32);
        }
        self.format = Format::Pcapng {
            interfaces: Vec::new(),
        };
        Ok(())
    }

    /// Reads a block's length; what is left of the block, its second length included.
    fn block_len(&mut self) -> Result<usize, PcapError> {
        let mut len = [0; 4];
        self.input.read_exact(&mut len).map_err(cut_short)?;
        let len = self.order.u32(&len, 0).unwrap_or(0) as usize;
        if len < 12 || !len.is_multiple_of(4) {
            return Err(PcapError::Malformed("a block of an impossible length"));
        }
        Ok(len - 8)
    }

    /// Reads what is left of a block; its body is then in the buffer.
    fn block(&mut self, left: usize) -> Result<(), PcapError> {
        if left > MAX_RECORD {
            return Err(PcapError::Malformed("a frame of more than a mebioctet"));
        }
        self.read_more(0, left)?;
        self.buffer.truncate(left - 4);
        Ok(())
    }

    fn skip(&mut self, octets: usize) -> Result<(), PcapError> {
        let wanted = octets as u64;
        let skipped = io::copy(&mut self.input.by_ref().take(wanted), &mut io::sink())?;
        if skipped == wanted {
            Ok(())
        } else {
            Err(PcapError::CutShort)
        }
    }

    fn read_more(&mut self, at: usize, octets: usize) -> Result<(), PcapError> {
        self.buffer.resize(at + octets, 0);
        let place = self.buffer.get_mut(at..).unwrap_or_default();
        self.input.read_exact(place).map_err(cut_short)
    }

    /// Takes an interface description in (section 4.2).
    fn interface(&mut self) -> Result<(), PcapError> {
        let odd = || PcapError::Malformed("an interface description that is too short");
        let body = &self.buffer;
        let mut interface = Interface {
            link: wanted(self.order.u16(body, 0).ok_or_else(odd)?, self.any_link),
            snap_len: self.order.u32(body, 4).ok_or_else(odd)?,
            ticks: 1_000_000,
            offset: 0,
        };
        let mut at = 8;
        while let (Some(code @ 1..), Some(len)) = (self.order.u16(body, at), self.order.u16(body, at + 2)) {
            let len = usize::from(len);
            let value = body.get(at + 4..at + 4 + len).unwrap_or(&[]);
            match (code, value) {
                (9, [resolution, ..]) => interface.ticks = ticks(*resolution)?,
                (14, [_, _, _, _, _, _, _, _]) => {
                    let word = |at| self.order.u32(value, at).unwrap_or(0);
                    let (first, second) = (u64::from(word(0)), u64::from(word(4)));
                    let bits = match self.order {
                        Order::Little => second << 32 | first,
                        Order::Big => first << 32 | second,
                    };
                    interface.offset = bits.cast_signed();
                }
                _ => {}
            }
            at += 4 + len.next_multiple_of(4);
        }
        match &mut self.format {
            Format::Pcapng { interfaces } if interfaces.len() < MAX_INTERFACES => {
                interfaces.push(interface);
                Ok(())
            }
            _ => Err(PcapError::Malformed("a section of more than 4096 interfaces")),
        }
    }

    fn interface_of(&self, number: u32) -> Result<Interface, PcapError> {
        match &self.format {
            Format::Pcapng { interfaces } => interfaces.get(number as usize).copied(),
            Format::Pcap { .. } => None,
        }
        .ok_or(PcapError::Malformed(
            "a frame of an interface that is not described",
        ))
    }

    /// Finds the frame of an enhanced packet block (section 4.3); `None` when it is of a link that is not wanted.
    fn enhanced(&mut self) -> Result<Option<Found>, PcapError> {
        let odd = || PcapError::Malformed("a packet block that is shorter than its frame");
        let word = |at| self.order.u32(&self.buffer, at).ok_or_else(odd);
        let (number, high, low) = (word(0)?, word(4)?, word(8)?);
        let (kept, len) = (word(12)? as usize, word(16)?);
        let end = kept
            .checked_add(20)
            .filter(|end| *end <= self.buffer.len())
            .ok_or_else(odd)?;
        let interface = self.interface_of(number)?;
        let Some(link) = interface.link else {
            self.foreign += 1;
            return Ok(None);
        };
        Ok(Some(Found {
            time: interface.time(u64::from(high) << 32 | u64::from(low)),
            start: 20,
            end,
            len,
            interface: number,
            link,
        }))
    }

    /// The same of a simple packet block (section 4.4), which is of the first interface and has no time.
    fn simple(&mut self) -> Result<Option<Found>, PcapError> {
        let odd = || PcapError::Malformed("a packet block that is shorter than its frame");
        let len = self.order.u32(&self.buffer, 0).ok_or_else(odd)?;
        let interface = self.interface_of(0)?;
        let Some(link) = interface.link else {
            self.foreign += 1;
            return Ok(None);
        };
        let kept = match interface.snap_len {
            0 => len,
            snap_len => len.min(snap_len),
        };
        let end = (kept as usize)
            .checked_add(4)
            .filter(|end| *end <= self.buffer.len())
            .ok_or_else(odd)?;
        Ok(Some(Found {
            time: self.last,
            start: 4,
            end,
            len,
            interface: 0,
            link,
        }))
    }
}

impl Interface {
    /// Nanoseconds since 1970 of a timestamp.
    fn time(&self, stamp: u64) -> u64 {
        let ticks = u128::from(self.ticks.max(1));
        let time = u128::from(stamp) * u128::from(NANOSECONDS) / ticks;
        let time = i128::try_from(time).unwrap_or(i128::MAX);
        let time = time.saturating_add(i128::from(self.offset) * i128::from(NANOSECONDS));
        u64::try_from(time.max(0)).unwrap_or(u64::MAX)
    }
}

/// The link type with this number, if its frames are wanted.
fn wanted(number: u16, any_link: bool) -> Option<LinkType> {
    LinkType::from_number(number).filter(|link| any_link || *link == LinkType::Ethernet)
}

/// The units in a second that `if_tsresol` stands for: a power of ten, or of two.
fn ticks(resolution: u8) -> Result<u64, PcapError> {
    let exponent = u32::from(resolution & 0x7f);
    let ticks = if resolution & 0x80 == 0 {
        10_u64.checked_pow(exponent)
    } else {
        1_u64.checked_shl(exponent)
    };
    ticks.ok_or(PcapError::Malformed("timestamps of an impossible resolution"))
}

/// Fills a record's beginning; false at the end of the input.
fn fill(input: &mut impl Read, head: &mut [u8]) -> Result<bool, PcapError> {
    let mut got = 0;
    while got < head.len() {
        match input.read(head.get_mut(got..).unwrap_or_default()) {
            Ok(0) if got == 0 => return Ok(false),
            Ok(0) => return Err(PcapError::CutShort),
            Ok(n) => got += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

fn missing(error: io::Error, at_end: PcapError) -> PcapError {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        at_end
    } else {
        error.into()
    }
}

fn cut_short(error: io::Error) -> PcapError {
    missing(error, PcapError::CutShort)
}

#[cfg(test)]
mod tests;
