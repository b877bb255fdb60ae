//! Commands of a virtio-net control queue (virtio 1.2, 5.1.6.5), from octets to what they ask for.
//!
//! A guest writes them. Every number is checked against what the device has and what was agreed on, and what does not fit
//! is refused with a [`CommandError`], whose label is a counter.

#[cfg(test)]
mod tests;

use offload::MacAddr;
use offload::rss::{HashTypes, Hasher, Indirection, TableLength, Toeplitz};

/// Feature bits that commands belong to (virtio 1.2, 5.1.3).
pub mod feature {
    /// There is a control queue.
    pub const CTRL_VQ: u64 = 1 << 17;
    /// Receive modes, and the table of addresses to receive.
    pub const CTRL_RX: u64 = 1 << 18;
    /// The table of VLANs to receive.
    pub const CTRL_VLAN: u64 = 1 << 19;
    /// More receive modes.
    pub const CTRL_RX_EXTRA: u64 = 1 << 20;
    /// The driver announces itself when asked to.
    pub const GUEST_ANNOUNCE: u64 = 1 << 21;
    /// Several queue pairs.
    pub const MQ: u64 = 1 << 22;
    /// The driver changes its MAC address.
    pub const CTRL_MAC_ADDR: u64 = 1 << 23;
    /// What the driver receives without help changes at run time.
    pub const CTRL_GUEST_OFFLOADS: u64 = 1 << 2;
    /// The driver is told each frame's hash.
    pub const HASH_REPORT: u64 = 1 << 57;
    /// The driver chooses queues by hash.
    pub const RSS: u64 = 1 << 60;
    /// The driver receives partial checksums; large TCP over IPv4, over IPv6, with ECN; large UDP over IPv4, over IPv6.
    pub const GUEST_OFFLOADS: u64 = 1 << 1 | 1 << 7 | 1 << 8 | 1 << 9 | 1 << 54 | 1 << 55;
}

/// Addresses of each kind that are compared; more than Linux gives one interface without being told to. A longer table is
/// an [`MacList::Overflow`].
pub const MAC_TABLE_MAX: usize = 64;

/// The VLAN identifiers there are.
const VLANS: u16 = 4096;

/// What a device has, and what its driver agreed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Virtio features.
    pub features: u64,
    /// Queue pairs.
    pub queue_pairs: u16,
}

/// What a command asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Switches a receive mode on or off.
    ReceiveMode(ReceiveMode, bool),
    /// The addresses to receive, in the place of those before.
    MacTable {
        /// Unicast.
        unicast: MacList,
        /// Multicast.
        multicast: MacList,
    },
    /// The device's own address.
    MacAddress(MacAddr),
    /// Receives a VLAN, or no longer.
    Vlan {
        /// The VLAN.
        id: u16,
        /// Whether it is received.
        receive: bool,
    },
    /// The driver has announced itself.
    Announced,
    /// So many queue pairs are in use, and the device spreads flows over them as it likes.
    QueuePairs(u16),
    /// Frames are hashed, and queue pairs chosen by the hash.
    Rss {
        /// The hash.
        hasher: Hasher,
        /// Its use.
        indirection: Indirection,
    },
    /// Frames are hashed.
    Hash(Hasher),
    /// What the driver receives without help: bits of [`feature::GUEST_OFFLOADS`].
    GuestOffloads(u64),
}

/// Receive modes (virtio 1.2, 5.1.6.5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiveMode {
    /// Everything.
    Promiscuous,
    /// All multicast.
    AllMulticast,
    /// All unicast.
    AllUnicast,
    /// No multicast.
    NoMulticast,
    /// No unicast.
    NoUnicast,
    /// No broadcast.
    NoBroadcast,
}

/// A list of addresses to receive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MacList {
    /// These, up to [`MAC_TABLE_MAX`].
    Some(Vec<MacAddr>),
    /// More than are compared: all.
    Overflow,
}

impl Default for MacList {
    fn default() -> Self {
        Self::Some(Vec::new())
    }
}

impl MacList {
    /// Whether it has an address.
    pub fn contains(&self, mac: MacAddr) -> bool {
        match self {
            Self::Some(list) => list.contains(&mac),
            Self::Overflow => true,
        }
    }
}

/// Why a command is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// No class and command, or not the octets that the command has.
    #[error("control command {class}/{command} with {len} octets of data, which is not its length")]
    Length {
        /// Its class.
        class: u8,
        /// Its number in the class.
        command: u8,
        /// Octets behind these two.
        len: usize,
    },
    /// There is none.
    #[error("control command {class}/{command}, which does not exist")]
    Unknown {
        /// Its class.
        class: u8,
        /// Its number in the class.
        command: u8,
    },
    /// Its feature was not agreed on.
    #[error("control command {class}/{command}, whose feature was not agreed on")]
    Feature {
        /// Its class.
        class: u8,
        /// Its number in the class.
        command: u8,
    },
    /// A group address for a device.
    #[error("{0} as the device's address, which is a group's")]
    Address(MacAddr),
    /// No VLAN has this identifier.
    #[error("VLAN {0}, which does not exist")]
    Vlan(u16),
    /// A queue pair that does not exist, or none.
    #[error("queue pair {0}, which does not exist")]
    Queue(u16),
    /// An indirection table of an impossible length.
    #[error(transparent)]
    Table(#[from] TableLength),
    /// A key that is too long.
    #[error("a hash key of {0} octets: {max} are possible", max = Toeplitz::KEY_LEN)]
    Key(usize),
    /// Hash types that do not exist.
    #[error("hash types {0:#x}, which do not exist")]
    HashTypes(u32),
    /// Offloads that were not agreed on.
    #[error("offloads {0:#x}, which were not agreed on")]
    Offloads(u64),
}

impl CommandError {
    /// A word for counters.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Length { .. } => "control_length",
            Self::Unknown { .. } => "control_unknown",
            Self::Feature { .. } => "control_feature",
            Self::Address(_) => "control_address",
            Self::Vlan(_) => "control_vlan",
            Self::Queue(_) => "control_queue",
            Self::Table(_) => "control_table",
            Self::Key(_) => "control_key",
            Self::HashTypes(_) => "control_hash_types",
            Self::Offloads(_) => "control_offloads",
        }
    }
}

/// Reads a command: class, number and data, without the place for the answer.
///
/// A MAC address needs no feature: the device's side gives the first one in the same way.
pub fn decode(octets: &[u8], limits: Limits) -> Result<Command, CommandError> {
    let (class, command, rest) = match *octets {
        [class, command, ref rest @ ..] => (class, command, rest),
        _ => (octets.first().copied().unwrap_or(0), 0, [].as_slice()),
    };
    let mut data = Data {
        class,
        command,
        len: rest.len(),
        rest,
    };
    if octets.len() < 2 {
        return Err(data.wrong_length());
    }
    let needed = needed_feature(class, command).ok_or(CommandError::Unknown { class, command })?;
    if limits.features & needed != needed {
        return Err(CommandError::Feature { class, command });
    }
    let decoded = match (class, command) {
        (0, _) => Command::ReceiveMode(mode(command), data.u8()? != 0),
        (1, 0) => Command::MacTable {
            unicast: data.mac_list()?,
            multicast: data.mac_list()?,
        },
        (1, _) => Command::MacAddress(own_address(data.mac()?)?),
        (2, _) => Command::Vlan {
            id: vlan(data.u16()?)?,
            receive: command == 0,
        },
        (3, _) => Command::Announced,
        (4, 0) => Command::QueuePairs(pairs(data.u16()?, limits)?),
        (4, 1) => rss(&mut data, limits)?,
        (4, _) => hash(&mut data)?,
        _ => Command::GuestOffloads(offloads(data.u64()?, limits)?),
    };
    data.end()?;
    Ok(decoded)
}

/// The feature that a command belongs to, 0 for one that needs none; `None` for one that does not exist.
const fn needed_feature(class: u8, command: u8) -> Option<u64> {
    Some(match (class, command) {
        (0, 0..=1) | (1, 0) => feature::CTRL_RX,
        (0, 2..=5) => feature::CTRL_RX_EXTRA,
        (1, 1) => 0,
        (2, 0..=1) => feature::CTRL_VLAN,
        (3, 0) => feature::GUEST_ANNOUNCE,
        (4, 0) => feature::MQ,
        (4, 1) => feature::RSS,
        (4, 2) => feature::HASH_REPORT,
        (5, 0) => feature::CTRL_GUEST_OFFLOADS,
        _ => return None,
    })
}

const fn mode(command: u8) -> ReceiveMode {
    match command {
        0 => ReceiveMode::Promiscuous,
        1 => ReceiveMode::AllMulticast,
        2 => ReceiveMode::AllUnicast,
        3 => ReceiveMode::NoMulticast,
        4 => ReceiveMode::NoUnicast,
        _ => ReceiveMode::NoBroadcast,
    }
}

fn own_address(mac: MacAddr) -> Result<MacAddr, CommandError> {
    if mac.is_multicast() {
        Err(CommandError::Address(mac))
    } else {
        Ok(mac)
    }
}

const fn vlan(id: u16) -> Result<u16, CommandError> {
    if id < VLANS {
        Ok(id)
    } else {
        Err(CommandError::Vlan(id))
    }
}

/// A number of queue pairs.
fn pairs(count: u16, limits: Limits) -> Result<u16, CommandError> {
    if (1..=limits.queue_pairs).contains(&count) {
        Ok(count)
    } else {
        Err(CommandError::Queue(count))
    }
}

const fn offloads(wanted: u64, limits: Limits) -> Result<u64, CommandError> {
    let more = wanted & !(limits.features & feature::GUEST_OFFLOADS);
    if more == 0 {
        Ok(wanted)
    } else {
        Err(CommandError::Offloads(more))
    }
}

/// `struct virtio_net_rss_config` (virtio 1.2, 5.1.6.5.7.1).
fn rss(data: &mut Data<'_>, limits: Limits) -> Result<Command, CommandError> {
    let types = data.hash_types()?;
    let len = usize::from(data.u16()?) + 1;
    if len > Indirection::MAX_LEN {
        return Err(TableLength(len).into());
    }
    let unclassified = data.u16()?;
    let table = (0..len).map(|_| data.u16()).collect::<Result<Box<[u16]>, _>>()?;
    let indirection = Indirection::new(table, unclassified)?;
    if indirection.highest() >= limits.queue_pairs {
        return Err(CommandError::Queue(indirection.highest()));
    }
    pairs(data.u16()?, limits)?;
    let hasher = data.hasher(types)?;
    Ok(Command::Rss { hasher, indirection })
}

/// `struct virtio_net_hash_config` (virtio 1.2, 5.1.6.5.6.4), whose reserved fields mean nothing.
fn hash(data: &mut Data<'_>) -> Result<Command, CommandError> {
    let types = data.hash_types()?;
    data.u64()?;
    Ok(Command::Hash(data.hasher(types)?))
}

/// What is left of a command's data, little-endian.
struct Data<'a> {
    class: u8,
    command: u8,
    len: usize,
    rest: &'a [u8],
}

impl Data<'_> {
    fn wrong_length(&self) -> CommandError {
        CommandError::Length {
            class: self.class,
            command: self.command,
            len: self.len,
        }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], CommandError> {
        let (value, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or_else(|| self.wrong_length())?;
        self.rest = rest;
        Ok(*value)
    }

    fn u8(&mut self) -> Result<u8, CommandError> {
        self.take().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Result<u16, CommandError> {
        self.take().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, CommandError> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, CommandError> {
        self.take().map(u64::from_le_bytes)
    }

    fn mac(&mut self) -> Result<MacAddr, CommandError> {
        self.take().map(MacAddr)
    }

    /// `struct virtio_net_ctrl_mac` (virtio 1.2, 5.1.6.5.2). A number of all ones stands for a list too long to be passed on.
    fn mac_list(&mut self) -> Result<MacList, CommandError> {
        let count = self.u32()?;
        if count == u32::MAX {
            return Ok(MacList::Overflow);
        }
        let octets = usize::try_from(count).ok().and_then(|count| count.checked_mul(6));
        let (list, rest) = octets
            .and_then(|octets| self.rest.split_at_checked(octets))
            .ok_or_else(|| self.wrong_length())?;
        self.rest = rest;
        let macs = list.as_chunks::<6>().0;
        if macs.len() > MAC_TABLE_MAX {
            return Ok(MacList::Overflow);
        }
        Ok(MacList::Some(macs.iter().copied().map(MacAddr).collect()))
    }

    fn hash_types(&mut self) -> Result<HashTypes, CommandError> {
        let types = HashTypes(self.u32()?);
        let unknown = types.0 & !HashTypes::ALL.0;
        if unknown == 0 {
            Ok(types)
        } else {
            Err(CommandError::HashTypes(unknown))
        }
    }

    /// The key, which is all that is left.
    fn hasher(&mut self, types: HashTypes) -> Result<Hasher, CommandError> {
        let len = usize::from(self.u8()?);
        if len > Toeplitz::KEY_LEN {
            return Err(CommandError::Key(len));
        }
        let (key, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or_else(|| self.wrong_length())?;
        self.rest = rest;
        Ok(Hasher::new(key, types))
    }

    fn end(&self) -> Result<(), CommandError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(self.wrong_length())
        }
    }
}
