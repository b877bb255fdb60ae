//! The lines that a guest writes to its serial port and the host reads.
//!
//! Each is [`PREFIX`], a word, `key=value` words and a line feed. [`Line`] displays as one and is parsed from one, so
//! both sides share a single description.

use core::fmt;

/// What each line starts with.
pub const PREFIX: &str = "enlight-guest: ";

/// One report line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// The application runs in ring 3.
    Boot {
        /// The time-stamp counter at entry.
        tsc: u64,
        /// Microseconds from entry to ring 3.
        us: u64,
    },
    /// The first frame is on the transmit ring.
    FirstFrame {
        /// Microseconds since entry.
        us: u64,
    },
    /// The network device is up.
    Link {
        /// Its hardware address.
        mac: [u8; 6],
        /// Whether it interrupts; else it is polled.
        msix: bool,
        /// Negotiated virtio feature bits.
        features: u64,
    },
    /// The server waits for connections.
    Listening {
        /// On this TCP port.
        port: u16,
    },
    /// The client has its connection.
    Connected,
    /// Traffic flows unmeasured until the host says go.
    Ready {
        /// The phase to come.
        phase: u32,
    },
    /// Measuring starts.
    Begin {
        /// The phase.
        phase: u32,
    },
    /// Measuring ended.
    End {
        /// The phase.
        phase: u32,
        /// Measured transactions.
        transactions: u64,
        /// How long it took, in microseconds.
        us: u64,
    },
    /// How the phase's open loop kept its schedule.
    Load {
        /// The phase.
        phase: u32,
        /// Requests that were due in it.
        due: u64,
        /// Responses that came during it.
        in_time: u64,
        /// How late requests were written, all of them together, in nanoseconds.
        late: u64,
    },
    /// Summary of the phase's round-trip times, in nanoseconds.
    Rtt {
        /// The phase.
        phase: u32,
        /// Measured transactions.
        count: u64,
        /// Shortest.
        min: u64,
        /// Longest.
        max: u64,
        /// All of them together.
        sum: u64,
    },
    /// Some of the phase's histogram buckets.
    Hist {
        /// The phase.
        phase: u32,
        /// As [`Histogram::encode`](crate::histogram::Histogram::encode) makes them.
        buckets: &'a str,
    },
    /// One of the phase's slowest transactions.
    Slow {
        /// The phase.
        phase: u32,
        /// Its number in the phase, from 0.
        n: u64,
        /// How long it took, in microseconds.
        us: u64,
    },
    /// The stream so far.
    Hash {
        /// The phase that ended here; none when the connection was closed.
        phase: Option<u32>,
        /// Octets since the connection was made.
        octets: u64,
        /// Their checksum, as [`Fletcher`](crate::workload::Fletcher) makes it.
        sum: u64,
    },
    /// The client is done and switches off.
    Done,
    /// A round of [`chaos`](crate::chaos) is over.
    Round {
        /// Which one, from 0.
        n: u32,
    },
    /// All rounds of [`chaos`](crate::chaos) are over.
    Chaos {
        /// Virtio devices that were there.
        devices: u64,
        /// Reads of ports and registers.
        reads: u64,
        /// Writes to ports and registers.
        writes: u64,
        /// Devices that were set up as a correct driver does it.
        setups: u64,
        /// Whether the entropy device then served a correct driver.
        recovered: bool,
    },
    /// The processor found a fault; the machine switches off.
    Fault {
        /// Exception number.
        vector: u64,
        /// Instruction pointer.
        rip: u64,
        /// Error code.
        error: u64,
        /// The address of a page fault.
        address: u64,
    },
    /// The guest gives up, and why; the machine switches off.
    Error(&'a str),
}

/// Why a line was not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineError {
    /// It has another prefix: firmware, perhaps.
    Foreign,
    /// Its first word is unknown.
    Unknown,
    /// A key is missing or has a value that cannot be taken.
    Malformed(&'static str),
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign => f.write_str("not a line of the guest's"),
            Self::Unknown => f.write_str("a line of an unknown kind"),
            Self::Malformed(key) => write!(f, "{key} is missing or malformed"),
        }
    }
}

impl core::error::Error for LineError {}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        match *self {
            Self::Boot { tsc, us } => write!(f, "boot tsc={tsc} us={us}"),
            Self::FirstFrame { us } => write!(f, "first-frame us={us}"),
            Self::Link { mac, msix, features } => {
                write!(f, "link mac={} ", Mac(mac))?;
                write!(f, "msix={} features={features:#x}", u8::from(msix))
            }
            Self::Listening { port } => write!(f, "listening port={port}"),
            Self::Connected => f.write_str("connected"),
            Self::Ready { phase } => write!(f, "ready phase={phase}"),
            Self::Begin { phase } => write!(f, "begin phase={phase}"),
            Self::End {
                phase,
                transactions,
                us,
            } => write!(f, "end phase={phase} transactions={transactions} us={us}"),
            Self::Load {
                phase,
                due,
                in_time,
                late,
            } => write!(f, "load phase={phase} due={due} in-time={in_time} late={late}"),
            Self::Rtt {
                phase,
                count,
                min,
                max,
                sum,
            } => write!(f, "rtt phase={phase} count={count} min={min} max={max} sum={sum}"),
            Self::Hist { phase, buckets } => write!(f, "hist phase={phase} {buckets}"),
            Self::Slow { phase, n, us } => write!(f, "slow phase={phase} n={n} us={us}"),
            Self::Hash { phase, octets, sum } => write_hash(f, phase, octets, sum),
            Self::Done => f.write_str("done"),
            Self::Round { n } => write!(f, "round n={n}"),
            Self::Chaos {
                devices,
                reads,
                writes,
                setups,
                recovered,
            } => {
                write!(f, "chaos devices={devices} reads={reads} writes={writes} ")?;
                write!(f, "setups={setups} recovered={}", u8::from(recovered))
            }
            Self::Fault {
                vector,
                rip,
                error,
                address,
            } => write!(
                f,
                "fault vector={vector} rip={rip:#x} error={error:#x} address={address:#x}"
            ),
            Self::Error(what) => write!(f, "error {what}"),
        }
    }
}

fn write_hash(f: &mut fmt::Formatter<'_>, phase: Option<u32>, octets: u64, sum: u64) -> fmt::Result {
    f.write_str("hash ")?;
    phase.map_or(Ok(()), |phase| write!(f, "phase={phase} "))?;
    write!(f, "octets={octets} sum={sum:016x}")
}

impl<'a> Line<'a> {
    /// Understands one line, with or without its line feed. Words that follow those expected are ignored.
    pub fn parse(line: &'a str) -> Result<Self, LineError> {
        let rest = line
            .trim_end_matches(['\r', '\n'])
            .strip_prefix(PREFIX)
            .ok_or(LineError::Foreign)?;
        let (word, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        let fields = Fields(rest);
        Ok(match word {
            "boot" | "first-frame" | "link" | "listening" | "fault" => fields.machine(word)?,
            "connected" => Self::Connected,
            "ready" => Self::Ready {
                phase: fields.small("phase")?,
            },
            "begin" => Self::Begin {
                phase: fields.small("phase")?,
            },
            "end" | "load" | "rtt" | "hist" | "slow" => fields.measurement(word, fields.small("phase")?)?,
            "hash" => Self::Hash {
                phase: fields.small("phase").ok(),
                octets: fields.number("octets")?,
                sum: fields.hex("sum")?,
            },
            "done" => Self::Done,
            "round" => Self::Round {
                n: fields.small("n")?,
            },
            "chaos" => Self::Chaos {
                devices: fields.number("devices")?,
                reads: fields.number("reads")?,
                writes: fields.number("writes")?,
                setups: fields.number("setups")?,
                recovered: fields.number("recovered")? != 0,
            },
            "error" => Self::Error(rest),
            _ => return Err(LineError::Unknown),
        })
    }
}

/// A hardware address in the usual form.
struct Mac([u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, octet) in self.0.iter().enumerate() {
            let separator = if i == 0 { "" } else { ":" };
            write!(f, "{separator}{octet:02x}")?;
        }
        Ok(())
    }
}

/// The `key=value` words of a line.
#[derive(Clone, Copy)]
struct Fields<'a>(&'a str);

impl<'a> Fields<'a> {
    fn get(self, key: &'static str) -> Result<&'a str, LineError> {
        self.0
            .split(' ')
            .filter_map(|word| word.split_once('='))
            .find(|(found, _)| *found == key)
            .map(|(_, value)| value)
            .ok_or(LineError::Malformed(key))
    }

    fn number(self, key: &'static str) -> Result<u64, LineError> {
        self.get(key)?.parse().map_err(|_| LineError::Malformed(key))
    }

    fn small<T: TryFrom<u64>>(self, key: &'static str) -> Result<T, LineError> {
        T::try_from(self.number(key)?).map_err(|_| LineError::Malformed(key))
    }

    fn hex(self, key: &'static str) -> Result<u64, LineError> {
        let value = self.get(key)?;
        u64::from_str_radix(value.strip_prefix("0x").unwrap_or(value), 16)
            .map_err(|_| LineError::Malformed(key))
    }

    fn mac(self, key: &'static str) -> Result<[u8; 6], LineError> {
        let mut mac = [0; 6];
        let mut parts = self.get(key)?.split(':');
        for octet in &mut mac {
            *octet = parts
                .next()
                .and_then(|part| u8::from_str_radix(part, 16).ok())
                .ok_or(LineError::Malformed(key))?;
        }
        parts.next().map_or(Ok(mac), |_| Err(LineError::Malformed(key)))
    }

    /// A line about the machine.
    fn machine(self, word: &str) -> Result<Line<'a>, LineError> {
        Ok(match word {
            "boot" => Line::Boot {
                tsc: self.number("tsc")?,
                us: self.number("us")?,
            },
            "first-frame" => Line::FirstFrame {
                us: self.number("us")?,
            },
            "link" => Line::Link {
                mac: self.mac("mac")?,
                msix: self.number("msix")? != 0,
                features: self.hex("features")?,
            },
            "listening" => Line::Listening {
                port: self.small("port")?,
            },
            "fault" => Line::Fault {
                vector: self.number("vector")?,
                rip: self.hex("rip")?,
                error: self.hex("error")?,
                address: self.hex("address")?,
            },
            _ => return Err(LineError::Unknown),
        })
    }

    /// A line about what `phase` measured.
    fn measurement(self, word: &str, phase: u32) -> Result<Line<'a>, LineError> {
        Ok(match word {
            "end" => Line::End {
                phase,
                transactions: self.number("transactions")?,
                us: self.number("us")?,
            },
            "load" => Line::Load {
                phase,
                due: self.number("due")?,
                in_time: self.number("in-time")?,
                late: self.number("late")?,
            },
            "rtt" => Line::Rtt {
                phase,
                count: self.number("count")?,
                min: self.number("min")?,
                max: self.number("max")?,
                sum: self.number("sum")?,
            },
            "hist" => Line::Hist {
                phase,
                buckets: self.0.split_once(' ').map_or("", |(_, buckets)| buckets),
            },
            "slow" => Line::Slow {
                phase,
                n: self.number("n")?,
                us: self.number("us")?,
            },
            _ => return Err(LineError::Unknown),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_line_survives_the_serial_port() {
        let phase = 3;
        let lines = [
            Line::Boot { tsc: 1 << 60, us: 5 },
            Line::FirstFrame { us: 1234 },
            Line::Link {
                mac: [2, 0, 0xff, 3, 4, 5],
                msix: true,
                features: 0x1_0000_0021,
            },
            Line::Listening { port: 7000 },
            Line::Connected,
            Line::Ready { phase },
            Line::Begin { phase },
            Line::End {
                phase,
                transactions: 9,
                us: 10,
            },
            Line::Rtt {
                phase,
                count: 1,
                min: 2,
                max: 3,
                sum: 4,
            },
            Line::Hist {
                phase,
                buckets: "1:2 3:4",
            },
            Line::Slow { phase, n: 1, us: 2 },
            Line::Hash {
                phase: Some(phase),
                octets: 1,
                sum: u64::MAX,
            },
            Line::Hash {
                phase: None,
                octets: 0,
                sum: 0,
            },
            Line::Done,
            Line::Fault {
                vector: 14,
                rip: 0x10_0000,
                error: 6,
                address: 0xdead,
            },
            Line::Error("connection lost"),
        ];
        for line in lines {
            let text = format!("{line}\r\n");
            assert!(text.starts_with("enlight-guest: ") && text.len() < 400);
            assert_eq!(Line::parse(&text), Ok(line));
        }
    }

    #[test]
    fn the_line_of_an_open_loop_survives_it() {
        let line = Line::Load {
            phase: 3,
            due: 9,
            in_time: 8,
            late: 7,
        };
        assert_eq!(Line::parse(&format!("{line}\r\n")), Ok(line));
    }

    #[test]
    fn lines_of_chaos_survive_it() {
        let last = Line::Chaos {
            devices: 5,
            reads: 1,
            writes: 2,
            setups: 3,
            recovered: true,
        };
        for line in [Line::Round { n: 3 }, last] {
            assert_eq!(Line::parse(&format!("{line}\r\n")), Ok(line));
        }
    }

    #[test]
    fn exact_text() {
        let line = Line::Link {
            mac: [2, 0, 0xff, 3, 4, 5],
            msix: false,
            features: 0x21,
        };
        assert_eq!(
            line.to_string(),
            "enlight-guest: link mac=02:00:ff:03:04:05 msix=0 features=0x21"
        );
        let line = Line::Hash {
            phase: None,
            octets: 7,
            sum: 0xab,
        };
        assert_eq!(
            line.to_string(),
            "enlight-guest: hash octets=7 sum=00000000000000ab"
        );
    }

    #[test]
    fn other_lines_are_refused() {
        assert_eq!(Line::parse("SeaBIOS (version 1.16.2)"), Err(LineError::Foreign));
        assert_eq!(Line::parse("enlight-guest: hello"), Err(LineError::Unknown));
        assert_eq!(
            Line::parse("enlight-guest: begin"),
            Err(LineError::Malformed("phase"))
        );
        assert_eq!(
            Line::parse("enlight-guest: link mac=1:2:3 msix=0 features=0"),
            Err(LineError::Malformed("mac"))
        );
    }

    proptest! {
        #[test]
        fn any_text_is_judged_without_panic(text in "\\PC{0,80}", prefixed: bool) {
            let line = if prefixed { format!("{PREFIX}{text}") } else { text };
            if let Ok(parsed) = Line::parse(&line) {
                let again = parsed.to_string();
                prop_assert_eq!(Line::parse(&again), Ok(parsed));
            }
        }
    }
}
