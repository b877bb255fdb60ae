//! Opens what a port connects.

use std::error::Error;
use std::sync::Arc;

use crate::control::{ControlError, PortConfig, PortKind, mac_of_name};
use crate::descriptors::FileLimit;
use crate::port::Backend;
use crate::port::endpoint::{Application, EndpointPort};
use crate::port::pcap::{RecordPort, ReplayPort};
use crate::port::tap::TapPort;
use crate::port::uplink;
use crate::port::vhost_user::VhostUserPort;

/// Opens what a port connects, or says what is missing.
pub(super) fn open(
    config: &PortConfig,
    applications: Vec<Box<dyn Application>>,
) -> Result<Arc<dyn Backend>, ControlError> {
    backend(config, applications).map_err(|error| {
        let port = config.name.clone();
        match FileLimit::behind(&*error) {
            Some(limit) => ControlError::OpenFiles { port, limit },
            None => ControlError::Backend {
                port,
                reason: error.to_string(),
            },
        }
    })
}

fn backend(
    config: &PortConfig,
    applications: Vec<Box<dyn Application>>,
) -> Result<Arc<dyn Backend>, Box<dyn Error>> {
    Ok(match &config.kind {
        PortKind::VhostUser(path) => VhostUserPort::listen(path, config.queues, config.mtu)?,
        PortKind::Tap(interface) => TapPort::open(interface, config.mtu, config.queues)?,
        PortKind::Uplink(kind) => uplink::open(kind, config)?,
        PortKind::PcapReplay(replay) => ReplayPort::open(replay)?,
        PortKind::PcapRecord(file) => RecordPort::create(file, &config.name)?,
        PortKind::Endpoint(cidr) => {
            EndpointPort::new(cidr, mac_of_name(&config.name), config.mtu, applications)?
        }
    })
}
