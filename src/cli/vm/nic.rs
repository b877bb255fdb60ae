//! Network interfaces on the command line, and where the switch has them.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use offload::MacAddr;
use vmm::NicConfig;
use vswitch::control::{PortInfo, PortKind, mac_of_name};

use super::super::{client, port_target};

/// How long a machine goes on looking for a switch that vanished.
const DEFAULT_RECONNECT: Duration = Duration::from_secs(10);

/// An interface as it is written on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NicArg {
    back_end: BackEnd,
    mac: Option<MacAddr>,
    queues: Option<u8>,
    mtu: Option<u16>,
    reconnect: Option<u64>,
    packed: Option<bool>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum BackEnd {
    Port(String),
    Socket(PathBuf),
}

impl FromStr for NicArg {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (mut back_end, mut nic) = (None, (None, None, None, None, None));
        for part in text.split(',') {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            let number = |low: u16, high: u16| {
                let number = value
                    .parse::<u16>()
                    .ok()
                    .filter(|number| (low..=high).contains(number));
                number.ok_or_else(|| anyhow!("{key} must be {low} to {high}"))
            };
            let old = match key {
                "port" if !value.is_empty() => back_end.replace(BackEnd::Port(value.to_owned())).map(drop),
                "vhost-user" if !value.is_empty() => {
                    back_end.replace(BackEnd::Socket(value.into())).map(drop)
                }
                "mac" => nic.0.replace(unicast(value)?).map(drop),
                "queues" => nic
                    .1
                    .replace(number(1, u16::from(vmm::MAX_QUEUE_PAIRS))? as u8)
                    .map(drop),
                "mtu" => nic.2.replace(number(68, u16::MAX)?).map(drop),
                "reconnect" => nic.3.replace(u64::from(number(0, u16::MAX)?)).map(drop),
                "packed" if ["on", "off"].contains(&value) => nic.4.replace(value == "on").map(drop),
                "model" if value == "virtio" => None,
                _ => bail!(
                    "\"{part}\" is none of port=NAME, vhost-user=PATH, mac=M, queues=N, mtu=N, reconnect=S, packed=on"
                ),
            };
            if old.is_some() {
                bail!("an interface has one port or socket, and each setting once: {part}");
            }
        }
        let back_end = back_end.context("an interface needs port=NAME or vhost-user=PATH")?;
        let (mac, queues, mtu, reconnect, packed) = nic;
        Ok(Self {
            back_end,
            mac,
            queues,
            mtu,
            reconnect,
            packed,
        })
    }
}

fn unicast(text: &str) -> Result<MacAddr> {
    let mac: MacAddr = text.parse()?;
    if mac.is_multicast() || mac == MacAddr::default() {
        bail!("{mac} is no address of one interface; its first octet must be even, such as 02");
    }
    Ok(mac)
}

/// Finds an interface's socket, and takes from the switch what the command line left open.
pub(super) fn resolve(nic: &NicArg, control: Option<&PathBuf>) -> Result<NicConfig> {
    let (socket, name, queues, mtu) = match &nic.back_end {
        BackEnd::Socket(path) => (path.clone(), path.display().to_string(), 1, 1500),
        BackEnd::Port(name) => {
            let port: PortInfo = client(control).get(&port_target(name, "")?)?;
            let PortKind::VhostUser(socket) = port.kind else {
                bail!("port {name} is no vhost-user port; a virtual machine needs one");
            };
            (socket, name.clone(), port.queues, port.mtu)
        }
    };
    let packed = nic.packed.unwrap_or(false);
    // Several queue pairs need a control queue, and that is not served in a packed ring.
    let queues = if packed { 1 } else { queues };
    Ok(NicConfig {
        socket,
        mac: nic.mac.unwrap_or_else(|| mac_of_name(&name)),
        queue_pairs: nic
            .queues
            .unwrap_or(u8::try_from(queues).unwrap_or(vmm::MAX_QUEUE_PAIRS)),
        mtu: nic.mtu.unwrap_or(mtu),
        reconnect: nic.reconnect.map_or(DEFAULT_RECONNECT, Duration::from_secs),
        packed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_read() {
        let nic: NicArg =
            "port=v0,mac=02:00:00:00:00:07,queues=16,mtu=9000,reconnect=0,model=virtio,packed=on"
                .parse()
                .unwrap();
        assert_eq!(nic.back_end, BackEnd::Port("v0".to_owned()));
        assert_eq!(nic.mac, Some(MacAddr([2, 0, 0, 0, 0, 7])));
        assert_eq!(
            (nic.queues, nic.mtu, nic.reconnect, nic.packed),
            (Some(16), Some(9000), Some(0), Some(true))
        );
        let nic: NicArg = "vhost-user=/tmp/a.sock".parse().unwrap();
        assert_eq!(nic.back_end, BackEnd::Socket("/tmp/a.sock".into()));
    }

    #[test]
    fn bad_interfaces_are_refused_with_what_would_do() {
        for (text, needle) in [
            ("", "port=NAME"),
            ("mac=02:00:00:00:00:01", "needs port=NAME"),
            ("port=", "port=NAME"),
            ("port=a,vhost-user=b", "one port or socket"),
            ("port=a,queues=1,queues=2", "each setting once"),
            ("port=a,queues=0", "1 to 16"),
            ("port=a,queues=17", "1 to 16"),
            ("port=a,mtu=67", "68 to 65535"),
            ("port=a,mac=01:00:00:00:00:01", "even"),
            ("port=a,mac=02:00", "six octets"),
            ("port=a,model=e1000", "none of"),
        ] {
            let error = text.parse::<NicArg>().expect_err(text);
            assert!(error.to_string().contains(needle), "{text}: {error}");
        }
    }

    #[test]
    fn a_socket_gets_an_address_of_its_own_and_one_queue_pair() {
        let nic = resolve(&"vhost-user=/tmp/a.sock".parse().unwrap(), None).unwrap();
        assert_eq!((nic.queue_pairs, nic.mtu), (1, 1500));
        assert_eq!(nic.mac, mac_of_name("/tmp/a.sock"));
        assert!(!nic.mac.is_multicast());
    }
}
