//! Ports and filters as people describe them, in the configuration file and on the control socket alike.

mod filter;

use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use introspection::Rule;
use serde::{Deserialize, Serialize};
use vswitch::control::{
    PortConfig, PortKind, Replay, ReplaySpeed, Uplink, UplinkMode, VlanMode, is_port_name,
};

pub use filter::{FilterSpec, Profiles};

/// Longest path of a Unix socket in octets (unix(7)).
const MAX_SOCKET_PATH: usize = 107;
/// Longest name of a network interface in octets (`IFNAMSIZ` less its terminator).
const MAX_INTERFACE_NAME: usize = 15;
/// Largest factor by which a replay may be faster than its recording.
const MAX_SPEED: u32 = 1_000_000;

/// A port: a `[[port]]` of the configuration file, and the body of `POST /v1/ports`.
///
/// Numbers are wider than they need to be, so that one out of range is told with what would do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PortSpec {
    /// Its name.
    pub name: String,
    /// The vhost-user socket that the switch makes and listens on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vhost_user: Option<PathBuf>,
    /// A tap interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tap: Option<String>,
    /// A network interface of the host, with the wire behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplink: Option<String>,
    /// How the uplink's frames are carried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplink_mode: Option<String>,
    /// A capture file whose frames enter the switch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pcap_replay: Option<PathBuf>,
    /// How fast it is replayed: `max`, or how many times as fast as it was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pcap_speed: Option<String>,
    /// How often; 0 for without end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pcap_loops: Option<i64>,
    /// A capture file that keeps the frames for the port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pcap_record: Option<PathBuf>,
    /// The address and prefix length of a small IP host inside the switch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The VLAN of an access port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<i64>,
    /// The VLANs of a trunk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trunk: Option<Vec<i64>>,
    /// Queue pairs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queues: Option<i64>,
    /// Largest IP packet in octets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<i64>,
    /// The filter's profile, or several in the order in which they see frames.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<Profiles>,
    /// The longest that the filter may hold a frame, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<i64>,
    /// `thin-acks`: one acknowledgement of so many passes at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio: Option<i64>,
    /// `coalesce`, `serialize`: octets of a chunk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk: Option<i64>,
    /// Flows that the filter keeps track of at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flows: Option<i64>,
    /// What the filter may take for a burst, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget_ms: Option<i64>,
    /// The filter's rules.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rule: Vec<Rule>,
}

/// What is wrong with a description: the key, and the reason with its remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SpecError {
    /// The key at fault.
    pub key: &'static str,
    /// Reason and remedy, in one line.
    pub message: String,
}

type Checked<T> = Result<T, SpecError>;

fn refuse<T>(key: &'static str, message: String) -> Checked<T> {
    Err(SpecError { key, message })
}

impl PortSpec {
    /// What the switch is to be told.
    pub fn check(self) -> Checked<PortConfig> {
        if !is_port_name(&self.name) {
            let error = vswitch::control::ControlError::BadName(shorten(&self.name));
            return refuse("name", error.to_string());
        }
        let vlan = self.vlan_mode()?;
        let queues = self.number("queues", self.queues, 1, 1, 16)?;
        let mtu = self.number("mtu", self.mtu, 1500, 68, 65_535)?;
        let kind = self.kind()?;
        let filter = FilterSpec {
            profile: self.filter.unwrap_or_default(),
            deadline_ms: self.deadline_ms,
            ratio: self.ratio,
            chunk: self.chunk,
            flows: self.flows,
            budget_ms: self.budget_ms,
            rule: self.rule,
        };
        let filter = filter.check().map_err(|error| SpecError {
            // Here a filter's profile is called `filter`.
            key: if error.key == "profile" {
                "filter"
            } else {
                error.key
            },
            message: format!("port \"{}\": {}", self.name, error.message),
        })?;
        Ok(PortConfig {
            name: self.name,
            kind,
            vlan,
            queues,
            mtu,
            filter,
        })
    }

    fn kind(&self) -> Checked<PortKind> {
        let name = &self.name;
        let given = [
            ("vhost-user", self.vhost_user.is_some()),
            ("tap", self.tap.is_some()),
            ("uplink", self.uplink.is_some()),
            ("pcap-replay", self.pcap_replay.is_some()),
            ("pcap-record", self.pcap_record.is_some()),
            ("endpoint", self.endpoint.is_some()),
        ];
        let mut given = given.into_iter().filter(|(_, given)| *given).map(|(key, _)| key);
        if let (Some(first), Some(second)) = (given.next(), given.next()) {
            return refuse(
                second,
                format!(
                    "port \"{name}\" has both {first} and {second}; a port is one thing, keep one of them"
                ),
            );
        }
        self.refuse_strays()?;
        if let Some(path) = &self.vhost_user {
            return self.socket(path.clone());
        }
        if let Some(interface) = &self.tap {
            return Ok(PortKind::Tap(self.interface("tap", interface)?));
        }
        if let Some(interface) = &self.uplink {
            return Ok(PortKind::Uplink(Uplink {
                interface: self.interface("uplink", interface)?,
                mode: self.uplink_mode()?,
            }));
        }
        if let Some(file) = &self.pcap_replay {
            return self.replay(file.clone());
        }
        if let Some(file) = &self.pcap_record {
            return Ok(PortKind::PcapRecord(file.clone()));
        }
        match &self.endpoint {
            Some(cidr) => self.address(cidr),
            None => refuse(
                "name",
                format!(
                    "port \"{name}\" connects nothing; give it one of vhost-user (a socket's path), tap, uplink (interfaces), \
                     pcap-replay, pcap-record (files) or endpoint (ADDRESS/LENGTH)"
                ),
            ),
        }
    }

    /// Refuses keys that go with others which are not there.
    fn refuse_strays(&self) -> Checked<()> {
        let strays = [
            (
                "uplink-mode",
                self.uplink_mode.is_some(),
                "uplink",
                self.uplink.is_some(),
            ),
            (
                "pcap-speed",
                self.pcap_speed.is_some(),
                "pcap-replay",
                self.pcap_replay.is_some(),
            ),
            (
                "pcap-loops",
                self.pcap_loops.is_some(),
                "pcap-replay",
                self.pcap_replay.is_some(),
            ),
        ];
        match strays.into_iter().find(|(_, given, _, host)| *given && !host) {
            None => Ok(()),
            Some((key, _, host, _)) => refuse(
                key,
                format!(
                    "port \"{}\" has {key} and no {host}; add {host}, or leave {key} out",
                    self.name
                ),
            ),
        }
    }

    fn replay(&self, file: PathBuf) -> Checked<PortKind> {
        let word = self.pcap_speed.as_deref().unwrap_or("1");
        let speed = match (word, word.parse()) {
            ("max", _) => ReplaySpeed::Max,
            (_, Ok(times @ 1..=MAX_SPEED)) => ReplaySpeed::Times(times),
            _ => {
                let message = format!(
                    "port \"{}\": pcap-speed is {:?}; use max, or 1 to {MAX_SPEED} times as fast as recorded",
                    self.name,
                    shorten(word)
                );
                return refuse("pcap-speed", message);
            }
        };
        let loops = self.number("pcap-loops", self.pcap_loops, 1, 0, u16::MAX)?;
        Ok(PortKind::PcapReplay(Replay {
            file,
            speed,
            loops: loops.into(),
        }))
    }

    fn socket(&self, path: PathBuf) -> Checked<PortKind> {
        let octets = path.as_os_str().as_bytes();
        if octets.is_empty() || octets.len() > MAX_SOCKET_PATH || octets.contains(&0) {
            let message = format!(
                "port \"{}\": a socket's path has 1 to {MAX_SOCKET_PATH} octets, this one has {}; choose a shorter one",
                self.name,
                octets.len()
            );
            return refuse("vhost-user", message);
        }
        Ok(PortKind::VhostUser(path))
    }

    fn interface(&self, key: &'static str, interface: &str) -> Checked<String> {
        let allowed = |octet: u8| octet.is_ascii_graphic() && octet != b'/' && octet != b':' && octet != b'%';
        let right = (1..=MAX_INTERFACE_NAME).contains(&interface.len()) && interface.bytes().all(allowed);
        if !right || interface == "." || interface == ".." {
            let message = format!(
                "port \"{}\": {:?} is no name of an interface; use 1 to {MAX_INTERFACE_NAME} letters, digits, dots and dashes",
                self.name,
                shorten(interface)
            );
            return refuse(key, message);
        }
        Ok(interface.to_owned())
    }

    fn uplink_mode(&self) -> Checked<UplinkMode> {
        let word = self.uplink_mode.as_deref().unwrap_or(UplinkMode::Auto.name());
        let known = UplinkMode::ALL.into_iter().find(|mode| mode.name() == word);
        known.map_or_else(
            || {
                let message = format!(
                    "port \"{}\": uplink-mode is {:?}; use auto, af-packet or af-xdp",
                    self.name,
                    shorten(word)
                );
                refuse("uplink-mode", message)
            },
            Ok,
        )
    }

    fn address(&self, cidrs: &str) -> Checked<PortKind> {
        let right = |cidr: &str| {
            let parts = cidr.trim().split_once('/');
            let parts = parts.and_then(|(address, length)| {
                Some((address.parse::<IpAddr>().ok()?, length.parse::<u8>().ok()?))
            });
            parts.is_some_and(|(address, length)| length <= if address.is_ipv4() { 32 } else { 128 })
        };
        if !cidrs.split(',').all(right) {
            let message = format!(
                "port \"{}\": {:?} is no address with a prefix length; write it like 192.0.2.1/24",
                self.name,
                shorten(cidrs)
            );
            return refuse("endpoint", message);
        }
        Ok(PortKind::Endpoint(cidrs.to_owned()))
    }

    fn vlan_mode(&self) -> Checked<VlanMode> {
        match (&self.vlan, &self.trunk) {
            (Some(_), Some(_)) => refuse(
                "trunk",
                format!(
                    "port \"{}\" has both vlan and trunk; keep vlan for untagged frames or trunk for tagged ones",
                    self.name
                ),
            ),
            (Some(vlan), None) => Ok(VlanMode::Access(self.vlan_id("vlan", *vlan)?)),
            (None, Some(vlans)) => self.trunk_vlans(vlans),
            (None, None) => Ok(VlanMode::default()),
        }
    }

    fn trunk_vlans(&self, vlans: &[i64]) -> Checked<VlanMode> {
        let mut ids = vlans
            .iter()
            .map(|vlan| self.vlan_id("trunk", *vlan))
            .collect::<Checked<Vec<u16>>>()?;
        ids.sort_unstable();
        ids.dedup();
        if ids.is_empty() {
            let message = format!(
                "port \"{}\": a trunk without VLANs carries nothing; list them, or leave trunk out",
                self.name
            );
            return refuse("trunk", message);
        }
        Ok(VlanMode::Trunk(ids))
    }

    fn vlan_id(&self, key: &'static str, vlan: i64) -> Checked<u16> {
        match u16::try_from(vlan) {
            Ok(id @ 1..=4094) => Ok(id),
            _ => refuse(
                key,
                format!(
                    "port \"{}\": VLAN {vlan} is out of range; VLANs are 1 to 4094",
                    self.name
                ),
            ),
        }
    }

    fn number(
        &self,
        key: &'static str,
        value: Option<i64>,
        default: u16,
        low: u16,
        high: u16,
    ) -> Checked<u16> {
        match u16::try_from(value.unwrap_or(default.into())) {
            Ok(number) if (low..=high).contains(&number) => Ok(number),
            _ => {
                let value = value.unwrap_or_default();
                refuse(
                    key,
                    format!(
                        "port \"{}\": {key} is {value}; it must be {low} to {high}",
                        self.name
                    ),
                )
            }
        }
    }
}

/// A text from outside, short enough for an error message.
fn shorten(text: &str) -> String {
    const KEPT: usize = 64;
    if text.chars().count() <= KEPT {
        return text.to_owned();
    }
    text.chars().take(KEPT).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(name: &str) -> PortSpec {
        PortSpec {
            name: name.to_owned(),
            endpoint: Some("192.0.2.1/24".to_owned()),
            ..PortSpec::default()
        }
    }

    #[test]
    fn what_is_left_out_gets_its_default() {
        let config = endpoint("a").check().unwrap();
        assert_eq!(
            config,
            PortConfig::new("a", PortKind::Endpoint("192.0.2.1/24".to_owned()))
        );
    }

    #[test]
    fn limits_are_inside() {
        let spec = PortSpec {
            vlan: Some(4094),
            queues: Some(16),
            mtu: Some(65_535),
            ..endpoint("a")
        };
        let config = spec.check().unwrap();
        assert_eq!(
            (config.vlan, config.queues, config.mtu),
            (VlanMode::Access(4094), 16, 65_535)
        );
        let spec = PortSpec {
            trunk: Some(vec![7, 1, 7]),
            mtu: Some(68),
            ..endpoint("a")
        };
        assert_eq!(spec.check().unwrap().vlan, VlanMode::Trunk(vec![1, 7]));
    }

    /// Each description, in JSON without its braces, is refused because of this key, with this remedy.
    fn refused(cases: &[(&str, &str, &str)]) {
        for (spec, key, needle) in cases {
            let spec: PortSpec = serde_json::from_str(&format!("{{{spec}}}")).unwrap();
            let error = spec.clone().check().expect_err("refused");
            assert_eq!(error.key, *key, "{spec:?}: {error}");
            assert!(error.message.contains(needle), "{spec:?}: {error}");
            assert!(
                !error.message.contains('\n') && error.message.len() < 250,
                "{error}"
            );
        }
    }

    #[test]
    fn each_mistake_names_its_key_and_a_remedy() {
        let long = "x".repeat(200);
        let long_name = format!(r#""name":"{long}""#);
        refused(&[
            (r#""name":"a b","tap":"t""#, "name", "use 1 to 32"),
            (&long_name, "name", "use 1 to 32"),
            (r#""name":"a","tap":"t","vlan":5000"#, "vlan", "1 to 4094"),
            (
                r#""name":"a","tap":"t","vlan":1,"trunk":[2]"#,
                "trunk",
                "both vlan and trunk",
            ),
            (r#""name":"a","tap":"t","trunk":[1,-1]"#, "trunk", "1 to 4094"),
            (r#""name":"a","tap":"t","trunk":[]"#, "trunk", "list them"),
            (r#""name":"a","tap":"t","queues":0"#, "queues", "1 to 16"),
            (r#""name":"a","tap":"t","queues":17"#, "queues", "1 to 16"),
            (
                r#""name":"a","tap":"t","queues":9223372036854775807"#,
                "queues",
                "1 to 16",
            ),
            (r#""name":"a","tap":"t","mtu":67"#, "mtu", "68 to 65535"),
            (
                r#""name":"a","tap":"t","filter":"nagle""#,
                "filter",
                "off, inspect, hold",
            ),
            (
                r#""name":"a","tap":"t","deadline-ms":0"#,
                "deadline-ms",
                "1 to 60000",
            ),
        ]);
    }

    #[test]
    fn a_port_connects_one_thing_that_can_be() {
        let long_path = format!(r#""name":"a","vhost-user":"{}""#, "x".repeat(200));
        refused(&[
            (r#""name":"a""#, "name", "give it one of"),
            (
                r#""name":"a","tap":"t","endpoint":"192.0.2.1/24""#,
                "endpoint",
                "keep one",
            ),
            (r#""name":"a","tap":"t","uplink":"u""#, "uplink", "keep one"),
            (r#""name":"a","endpoint":"192.0.2.1""#, "endpoint", "192.0.2.1/24"),
            (
                r#""name":"a","endpoint":"192.0.2.1/33""#,
                "endpoint",
                "192.0.2.1/24",
            ),
            (r#""name":"a","tap":"a/b""#, "tap", "1 to 15"),
            (r#""name":"a","uplink":"a/b""#, "uplink", "1 to 15"),
            (
                r#""name":"a","uplink":"u","uplink-mode":"dpdk""#,
                "uplink-mode",
                "af-packet or af-xdp",
            ),
            (
                r#""name":"a","tap":"t","uplink-mode":"auto""#,
                "uplink-mode",
                "add uplink",
            ),
            (
                r#""name":"a","tap":"t","pcap-loops":2"#,
                "pcap-loops",
                "add pcap-replay",
            ),
            (
                r#""name":"a","pcap-replay":"f","pcap-speed":"0""#,
                "pcap-speed",
                "use max",
            ),
            (
                r#""name":"a","pcap-replay":"f","pcap-loops":-1"#,
                "pcap-loops",
                "0 to 65535",
            ),
            (
                r#""name":"a","pcap-replay":"f","pcap-record":"g""#,
                "pcap-record",
                "keep one",
            ),
            (r#""name":"a","vhost-user":"""#, "vhost-user", "1 to 107"),
            (&long_path, "vhost-user", "shorter"),
        ]);
    }
}
