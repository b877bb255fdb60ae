//! What the port offers to peers, and what an agreement means.

use vhost::vhost_user::VhostUserProtocolFeatures as Protocol;

use crate::net_control::feature::{
    CTRL_GUEST_OFFLOADS, CTRL_MAC_ADDR, CTRL_RX, CTRL_RX_EXTRA, CTRL_VLAN, CTRL_VQ, HASH_REPORT, MQ, RSS,
};
use crate::port::Capabilities;
use crate::ring::feature;

/// The device takes frames with partial checksums (virtio 1.2, 5.1.3, as all of these).
const CSUM: u64 = 1 << 0;
/// The driver takes frames with partial checksums.
const GUEST_CSUM: u64 = 1 << 1;
/// The device's configuration has the largest packet size; the front end fills it in.
const MTU: u64 = 1 << 3;
/// The driver takes large TCP over IPv4, over IPv6, with ECN.
const GUEST_TSO4: u64 = 1 << 7;
const GUEST_TSO6: u64 = 1 << 8;
const GUEST_ECN: u64 = 1 << 9;
/// The device takes large TCP over IPv4, over IPv6, with ECN.
const HOST_TSO4: u64 = 1 << 11;
const HOST_TSO6: u64 = 1 << 12;
const HOST_ECN: u64 = 1 << 13;
/// The device has a link status. Front ends serve it and the control queue by themselves, but offer them to the guest
/// only when the back end knows the bits.
const STATUS: u64 = 1 << 16;
/// `VHOST_USER_F_PROTOCOL_FEATURES`: the vhost-user protocol's own features can be agreed on.
pub(super) const PROTOCOL_FEATURES: u64 = 1 << 30;
/// The driver takes large UDP over IPv4, over IPv6; the device takes large UDP.
const GUEST_USO4: u64 = 1 << 54;
const GUEST_USO6: u64 = 1 << 55;
const HOST_USO: u64 = 1 << 56;

/// Virtio features of a port with this many queue pairs. What needs control commands is only for peers that pass them on.
pub(super) const fn offered(queue_pairs: u16, passes_on: bool) -> u64 {
    let offloads = CSUM
        | GUEST_CSUM
        | GUEST_TSO4
        | GUEST_TSO6
        | GUEST_ECN
        | GUEST_USO4
        | GUEST_USO6
        | HOST_TSO4
        | HOST_TSO6
        | HOST_ECN
        | HOST_USO;
    let device = MTU | STATUS | CTRL_VQ | CTRL_RX | CTRL_VLAN | CTRL_RX_EXTRA | CTRL_MAC_ADDR;
    let rings = feature::MRG_RXBUF
        | feature::NOTIFY_ON_EMPTY
        | feature::ANY_LAYOUT
        | feature::INDIRECT_DESC
        | feature::EVENT_IDX
        | feature::VERSION_1
        | feature::RING_PACKED
        | feature::IN_ORDER;
    let queues = if queue_pairs > 1 { MQ } else { 0 };
    let controlled = match (passes_on, queue_pairs) {
        (false, _) => 0,
        (true, 0..=1) => CTRL_GUEST_OFFLOADS | HASH_REPORT,
        (true, _) => CTRL_GUEST_OFFLOADS | HASH_REPORT | RSS,
    };
    offloads | device | rings | queues | controlled | PROTOCOL_FEATURES
}

/// Protocol features of a port with this many queue pairs.
///
/// Front ends that ask for the number of queues read the answer as pairs (QEMU, DPDK) or as rings (Cloud Hypervisor, crosvm).
/// Without MQ nobody asks, and all assume one pair, which is two rings.
pub(super) const fn protocol(queue_pairs: u16) -> u64 {
    let queues = if queue_pairs > 1 { Protocol::MQ.bits() } else { 0 };
    queues
        | Protocol::REPLY_ACK.bits()
        | Protocol::MTU.bits()
        | Protocol::BACKEND_REQ.bits()
        | Protocol::INFLIGHT_SHMFD.bits()
        | Protocol::RESET_DEVICE.bits()
        | Protocol::CONFIGURE_MEM_SLOTS.bits()
        | Protocol::STATUS.bits()
        | NET_CONTROL
}

/// A protocol feature of our own: the peer passes its guest's control commands on ([`super::message::NET_CONTROL`]), and the
/// number of queues is one of pairs. The bit is far above those that the protocol gives out, from the lowest.
pub(super) const NET_CONTROL: u64 = 1 << 62;

/// The one that makes the peer wait for replies.
pub(super) const REPLY_ACK: u64 = Protocol::REPLY_ACK.bits();

/// The bit of the device status that says that features were agreed on (virtio 1.2, 2.1).
pub(super) const FEATURES_OK: u8 = 8;

/// Whether each feature has those that it needs (virtio 1.2, 5.1.3.1 and 6). The control queue and what needs it are the
/// front end's business, which need not tell of it.
pub(super) fn fit(agreed: u64) -> bool {
    [
        (GUEST_TSO4 | GUEST_TSO6 | GUEST_USO4 | GUEST_USO6, GUEST_CSUM),
        (HOST_TSO4 | HOST_TSO6 | HOST_USO, CSUM),
        (GUEST_ECN, GUEST_TSO4 | GUEST_TSO6),
        (HOST_ECN, HOST_TSO4 | HOST_TSO6),
        (feature::RING_PACKED | feature::IN_ORDER, feature::VERSION_1),
    ]
    .iter()
    .all(|(dependent, one_of)| agreed & dependent == 0 || agreed & one_of != 0)
}

/// What the driver takes without help, by the features agreed.
pub(super) const fn capabilities(agreed: u64) -> Capabilities {
    let checksum = agreed & GUEST_CSUM != 0;
    Capabilities {
        checksum,
        tso4: checksum && agreed & GUEST_TSO4 != 0,
        tso6: checksum && agreed & GUEST_TSO6 != 0,
        uso4: checksum && agreed & GUEST_USO4 != 0,
        uso6: checksum && agreed & GUEST_USO6 != 0,
        ecn: checksum && agreed & GUEST_ECN != 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_without_checksums_gets_nothing_large() {
        assert_eq!(capabilities(GUEST_TSO4 | GUEST_USO6), Capabilities::default());
        let all = capabilities(offered(1, false));
        assert!(all.checksum && all.tso4 && all.tso6 && all.uso4 && all.uso6 && all.ecn);
    }

    #[test]
    fn rings_know_of_all_that_a_driver_may_ask_for() {
        let known = CSUM | HOST_TSO4 | HOST_TSO6 | HOST_ECN | HOST_USO;
        assert_eq!(offered(1, false) & known, feature::REQUESTS);
    }

    #[test]
    fn a_feature_without_those_that_it_needs_does_not_fit() {
        assert!(fit(0) && fit(offered(16, true)));
        assert!(!fit(GUEST_TSO4) && fit(GUEST_TSO4 | GUEST_CSUM));
        assert!(!fit(HOST_USO) && !fit(HOST_ECN | CSUM) && fit(MQ));
        assert!(!fit(feature::RING_PACKED) && fit(feature::RING_PACKED | feature::VERSION_1));
    }

    #[test]
    fn several_queue_pairs_are_offered_only_where_there_are_some() {
        assert_eq!(offered(2, false) & !offered(1, false), MQ);
        assert_eq!(protocol(2) & !protocol(1), Protocol::MQ.bits());
    }

    #[test]
    fn what_needs_commands_is_for_peers_that_pass_them_on() {
        let more = CTRL_GUEST_OFFLOADS | HASH_REPORT;
        assert_eq!(offered(1, true) & !offered(1, false), more);
        assert_eq!(offered(2, true) & !offered(2, false), more | RSS);
    }
}
