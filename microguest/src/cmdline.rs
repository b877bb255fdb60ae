//! The command line: what the host asks of the guest, as `key=value` words separated by spaces.
//!
//! [`Parameters`] is parsed from a line and displays as one, so host and guest share a single description. Unknown
//! keys are ignored: loaders add words of their own.

use core::fmt;
use core::net::Ipv4Addr;
use core::str::FromStr;

/// Which end of the connection the guest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Listens, one connection after the other.
    Server,
    /// Connects, measures, ends.
    Client,
}

/// What the two ends say to each other over one persistent connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// One small write each way.
    Rr,
    /// Write, write, read: the request leaves in two segments.
    Wwr,
    /// The server sends records of several segments, the next one when the last was acknowledged.
    Records,
    /// The client sends pseudo-random octets as fast as it can, hashed at both ends.
    Stream,
}

/// What starts a phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Go {
    /// The end of the phase before.
    Auto,
    /// An octet `g` from the serial port.
    Serial,
}

/// How the requests of an open loop are spaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spacing {
    /// At equal distances.
    Even,
    /// As a Poisson process: distances are distributed exponentially.
    Poisson,
}

/// What the command line says. [`Parameters::new`] has the defaults of everything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// `role`: which end.
    pub role: Role,
    /// `ip`: own address.
    pub ip: Ipv4Addr,
    /// Bits of the network in `ip`.
    pub prefix: u8,
    /// `peer`: whom a client connects to.
    pub peer: Ipv4Addr,
    /// `port`: where the server listens.
    pub port: u16,
    /// `workload`: what is said.
    pub workload: Workload,
    /// `size`: octets of a request and of a response; of a record's last segment.
    pub size: u32,
    /// `segments`: segments of a record, all but the last one full.
    pub segments: u32,
    /// `ack-delay`: milliseconds that an acknowledgement may wait; 0 sends it at once.
    pub ack_delay_ms: u32,
    /// `nagle`: whether small segments wait for acknowledgements (RFC 896).
    pub nagle: bool,
    /// `warmup`: transactions that are not counted at the start of a phase.
    pub warmup: u32,
    /// `phases`: how many times to measure.
    pub phases: u32,
    /// `phase-ms`: milliseconds that a phase takes.
    pub phase_ms: u32,
    /// `min-transactions`: a phase goes on until there are so many, up to four times as long.
    pub min_transactions: u32,
    /// `go`: what starts a phase.
    pub go: Go,
    /// `gap-us`: microseconds between transactions.
    pub gap_us: u32,
    /// `rate`: requests a second of an open loop, sent on a schedule whatever becomes of those before; 0 for a closed loop, in
    /// which a request waits for the response before it.
    pub rate: u32,
    /// `spacing`: the open loop's schedule.
    pub spacing: Spacing,
    /// `seed`: what a Poisson schedule is drawn from.
    pub seed: u64,
    /// `tsc_khz`: frequency of the time-stamp counter; measured when absent.
    pub tsc_khz: Option<u32>,
    /// `poll`: spin instead of halting.
    pub poll: bool,
    /// `lso`: send and receive TCP segments larger than the MTU at once, if the device can cut and merge them.
    pub lso: bool,
}

/// Most octets of a request, a response or a record's last segment.
pub const MAX_SIZE: u32 = 1 << 20;
/// Most requests a second.
pub const MAX_RATE: u32 = 1_000_000;
/// Most segments of a record.
pub const MAX_SEGMENTS: u32 = 15;

/// A word that cannot be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParameterError {
    /// The key's value is not one of those that it takes.
    Invalid(&'static str),
    /// The key is needed and absent.
    Missing(&'static str),
}

impl fmt::Display for ParameterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(key) => write!(f, "command line: {key} has an invalid value"),
            Self::Missing(key) => write!(f, "command line: {key} is missing"),
        }
    }
}

impl core::error::Error for ParameterError {}

impl Parameters {
    /// The defaults for `role` at address `ip` in a /24 network; a client connects to `peer`.
    pub const fn new(role: Role, ip: Ipv4Addr, peer: Ipv4Addr) -> Self {
        Self {
            role,
            ip,
            prefix: 24,
            peer,
            port: 7000,
            workload: Workload::Rr,
            size: 64,
            segments: 3,
            ack_delay_ms: 0,
            nagle: false,
            warmup: 32,
            phases: 1,
            phase_ms: 5000,
            min_transactions: 0,
            go: Go::Auto,
            gap_us: 0,
            rate: 0,
            spacing: Spacing::Poisson,
            seed: 0,
            tsc_khz: None,
            poll: false,
            lso: false,
        }
    }

    fn set(&mut self, key: &str, value: &str) -> Result<Option<Required>, ParameterError> {
        match key {
            "role" => self.role = Role::from_word(value)?,
            "ip" => (self.ip, self.prefix) = cidr(value)?,
            "peer" => self.peer = number("peer", value)?,
            "port" => self.port = in_range("port", value, 1, 65535)? as u16,
            "workload" => self.workload = Workload::from_word(value)?,
            "size" => self.size = in_range("size", value, 1, MAX_SIZE)?,
            "segments" => self.segments = in_range("segments", value, 1, MAX_SEGMENTS)?,
            "ack-delay" => self.ack_delay_ms = in_range("ack-delay", value, 0, 60_000)?,
            "nagle" => self.nagle = flag("nagle", value)?,
            "warmup" => self.warmup = number("warmup", value)?,
            "phases" => self.phases = in_range("phases", value, 1, 100_000)?,
            "phase-ms" => self.phase_ms = in_range("phase-ms", value, 1, 86_400_000)?,
            "min-transactions" => self.min_transactions = number("min-transactions", value)?,
            "go" => self.go = Go::from_word(value)?,
            "gap-us" => self.gap_us = number("gap-us", value)?,
            "rate" => self.rate = in_range("rate", value, 0, MAX_RATE)?,
            "spacing" => self.spacing = Spacing::from_word(value)?,
            "seed" => self.seed = number("seed", value)?,
            "tsc_khz" => self.tsc_khz = Some(in_range("tsc_khz", value, 1, u32::MAX)?),
            "poll" => self.poll = flag("poll", value)?,
            "lso" => self.lso = flag("lso", value)?,
            _ => {}
        }
        Ok(match key {
            "role" => Some(Required::Role),
            "ip" => Some(Required::Ip),
            "peer" => Some(Required::Peer),
            _ => None,
        })
    }
}

/// Keys without a default.
#[derive(Clone, Copy)]
enum Required {
    Role = 1,
    Ip = 2,
    Peer = 4,
}

impl FromStr for Parameters {
    type Err = ParameterError;

    fn from_str(line: &str) -> Result<Self, ParameterError> {
        let mut parameters = Self::new(Role::Server, Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED);
        let mut seen = 0;
        for word in line.split_ascii_whitespace() {
            if let Some((key, value)) = word.split_once('=') {
                seen |= parameters.set(key, value)?.map_or(0, |required| required as u8);
            }
        }
        let needed = [
            (Required::Role, "role"),
            (Required::Ip, "ip"),
            (Required::Peer, "peer"),
        ];
        for (required, key) in needed {
            let optional = matches!(required, Required::Peer) && parameters.role == Role::Server;
            if seen & required as u8 == 0 && !optional {
                return Err(ParameterError::Missing(key));
            }
        }
        if parameters.workload == Workload::Wwr && parameters.size < 2 {
            return Err(ParameterError::Invalid("size"));
        }
        if parameters.rate > 0 && parameters.workload != Workload::Rr {
            return Err(ParameterError::Invalid("rate"));
        }
        Ok(parameters)
    }
}

impl fmt::Display for Parameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "role={} ip={}/{} ", self.role, self.ip, self.prefix)?;
        if self.role == Role::Client {
            write!(f, "peer={} ", self.peer)?;
        }
        write!(
            f,
            "port={} workload={} size={} ",
            self.port, self.workload, self.size
        )?;
        write!(f, "segments={} ack-delay={} ", self.segments, self.ack_delay_ms)?;
        write!(f, "nagle={} warmup={} ", u8::from(self.nagle), self.warmup)?;
        write!(f, "phases={} phase-ms={} ", self.phases, self.phase_ms)?;
        write!(f, "min-transactions={} go={} ", self.min_transactions, self.go)?;
        write!(f, "gap-us={} poll={} ", self.gap_us, u8::from(self.poll))?;
        write!(f, "lso={}", u8::from(self.lso))?;
        write!(
            f,
            " rate={} spacing={} seed={}",
            self.rate, self.spacing, self.seed
        )?;
        self.tsc_khz.map_or(Ok(()), |khz| write!(f, " tsc_khz={khz}"))
    }
}

/// An enum of the command line: its words, both ways.
macro_rules! words {
    ($name:ident, $key:literal, $($variant:ident = $word:literal),+) => {
        impl $name {
            fn from_word(word: &str) -> Result<Self, ParameterError> {
                match word {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(ParameterError::Invalid($key)),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $word,)+ })
            }
        }

        impl FromStr for $name {
            type Err = ParameterError;

            fn from_str(word: &str) -> Result<Self, ParameterError> {
                Self::from_word(word)
            }
        }
    };
}

words!(Role, "role", Server = "server", Client = "client");
words!(
    Workload,
    "workload",
    Rr = "rr",
    Wwr = "wwr",
    Records = "records",
    Stream = "stream"
);
words!(Spacing, "spacing", Even = "even", Poisson = "poisson");
words!(Go, "go", Auto = "auto", Serial = "serial");

fn number<T: FromStr>(key: &'static str, value: &str) -> Result<T, ParameterError> {
    value.parse().map_err(|_| ParameterError::Invalid(key))
}

pub(crate) fn in_range(key: &'static str, value: &str, low: u32, high: u32) -> Result<u32, ParameterError> {
    let parsed = number(key, value)?;
    if (low..=high).contains(&parsed) {
        Ok(parsed)
    } else {
        Err(ParameterError::Invalid(key))
    }
}

fn flag(key: &'static str, value: &str) -> Result<bool, ParameterError> {
    Ok(in_range(key, value, 0, 1)? == 1)
}

fn cidr(value: &str) -> Result<(Ipv4Addr, u8), ParameterError> {
    let (address, prefix) = value.split_once('/').unwrap_or((value, "24"));
    Ok((number("ip", address)?, in_range("ip", prefix, 1, 32)? as u8))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn full_line() {
        let line = "console=ttyS0 quiet role=client ip=192.0.2.1/25 peer=192.0.2.2 port=80 workload=wwr size=100 \
                    ack-delay=200 nagle=1 warmup=3 phases=4 phase-ms=1000 min-transactions=9 go=serial gap-us=7 \
                    tsc_khz=2400000 poll=1 lso=1 segments=2";
        let parsed: Parameters = line.parse().expect("valid");
        let expected = Parameters {
            prefix: 25,
            port: 80,
            workload: Workload::Wwr,
            size: 100,
            segments: 2,
            ack_delay_ms: 200,
            nagle: true,
            warmup: 3,
            phases: 4,
            phase_ms: 1000,
            min_transactions: 9,
            go: Go::Serial,
            gap_us: 7,
            tsc_khz: Some(2_400_000),
            poll: true,
            lso: true,
            ..Parameters::new(
                Role::Client,
                Ipv4Addr::new(192, 0, 2, 1),
                Ipv4Addr::new(192, 0, 2, 2),
            )
        };
        assert_eq!(parsed, expected);
        assert_eq!(parsed.to_string().parse(), Ok(parsed));
    }

    #[test]
    fn an_open_loop_is_described_both_ways() {
        let line = "role=server ip=192.0.2.1/24 rate=5000 spacing=even seed=7";
        let parsed: Parameters = line.parse().expect("valid");
        assert_eq!(
            (parsed.rate, parsed.spacing, parsed.seed),
            (5000, Spacing::Even, 7)
        );
        assert_eq!(parsed.to_string().parse(), Ok(parsed));
    }

    #[test]
    fn needed_keys() {
        let parse = |line: &str| line.parse::<Parameters>();
        assert_eq!(parse("ip=192.0.2.1"), Err(ParameterError::Missing("role")));
        assert_eq!(parse("role=server"), Err(ParameterError::Missing("ip")));
        assert_eq!(
            parse("role=client ip=192.0.2.1"),
            Err(ParameterError::Missing("peer"))
        );
        let server = parse("role=server ip=192.0.2.1").expect("enough for a server");
        assert_eq!(
            (server.port, server.size, server.nagle, server.prefix),
            (7000, 64, false, 24)
        );
    }

    #[test]
    fn values_out_of_range() {
        for (word, key) in [
            ("port=0", "port"),
            ("port=65536", "port"),
            ("size=0", "size"),
            ("size=1048577", "size"),
            ("nagle=2", "nagle"),
            ("ip=192.0.2.1/33", "ip"),
            ("ip=192.0.2", "ip"),
            ("workload=x", "workload"),
            ("tsc_khz=0", "tsc_khz"),
            ("workload=wwr size=1", "size"),
            ("workload=wwr rate=5", "rate"),
            ("rate=1000001", "rate"),
            ("spacing=odd", "spacing"),
        ] {
            let line = format!("role=server ip=192.0.2.1 {word}");
            assert_eq!(
                line.parse::<Parameters>(),
                Err(ParameterError::Invalid(key)),
                "{word}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_line_is_judged_without_panic(line in "[ -~]{0,200}") {
            if let Ok(parameters) = line.parse::<Parameters>() {
                prop_assert_eq!(parameters.to_string().parse(), Ok(parameters));
            }
        }
    }
}
