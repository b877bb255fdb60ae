//! Which feature bits an interface offers (Virtio 1.2, 5.1.3 and 6).

use virtio_bindings::virtio_config::VIRTIO_F_IN_ORDER;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, VIRTIO_NET_F_CTRL_MAC_ADDR, VIRTIO_NET_F_CTRL_RX,
    VIRTIO_NET_F_CTRL_RX_EXTRA, VIRTIO_NET_F_CTRL_VLAN, VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_GUEST_ANNOUNCE,
    VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_GUEST_UFO, VIRTIO_NET_F_GUEST_USO4, VIRTIO_NET_F_GUEST_USO6, VIRTIO_NET_F_HASH_REPORT,
    VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_HOST_UFO,
    VIRTIO_NET_F_HOST_USO, VIRTIO_NET_F_MAC, VIRTIO_NET_F_MQ, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU,
    VIRTIO_NET_F_RSS, VIRTIO_NET_F_STATUS,
};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use crate::devices::virtio::{F_RING_PACKED, F_VERSION_1};

/// The driver may use more than one queue pair.
pub(super) const MQ: u64 = 1 << VIRTIO_NET_F_MQ;
/// There is a control queue.
pub(super) const CTRL_VQ: u64 = 1 << VIRTIO_NET_F_CTRL_VQ;
/// The driver sets the receive mode by control commands.
pub(super) const CTRL_RX: u64 = 1 << VIRTIO_NET_F_CTRL_RX;
/// The driver sets the MAC address by a control command.
pub(super) const CTRL_MAC: u64 = 1 << VIRTIO_NET_F_CTRL_MAC_ADDR;
/// The driver announces itself when asked to.
pub(super) const GUEST_ANNOUNCE: u64 = 1 << VIRTIO_NET_F_GUEST_ANNOUNCE;
/// Notifications are suppressed by index.
pub(super) const EVENT_IDX: u64 = 1 << VIRTIO_RING_F_EVENT_IDX;
/// The driver sets more receive modes by control commands.
pub(super) const CTRL_RX_EXTRA: u64 = 1 << VIRTIO_NET_F_CTRL_RX_EXTRA;
/// The driver says which VLANs it receives.
pub(super) const CTRL_VLAN: u64 = 1 << VIRTIO_NET_F_CTRL_VLAN;
/// The driver says at run time what it receives without help.
pub(super) const CTRL_GUEST_OFFLOADS: u64 = 1 << VIRTIO_NET_F_CTRL_GUEST_OFFLOADS;
/// The driver is told the hash of what it receives.
pub(super) const HASH_REPORT: u64 = 1 << VIRTIO_NET_F_HASH_REPORT;
/// The driver says by hash on which queue it receives.
pub(super) const RSS: u64 = 1 << VIRTIO_NET_F_RSS;
/// A vhost-user protocol feature that Enlight's switch has: it carries control commands out ([`super::message::CONTROL`]), and
/// counts queues in pairs.
pub(super) const NET_CONTROL: u64 = 1 << 62;
/// `VHOST_USER_F_PROTOCOL_FEATURES`: not a virtio feature, but negotiated in the same word.
pub(super) const PROTOCOL_FEATURES: u64 = 1 << 30;

/// What this process does by itself, whatever the back end can.
const OWN: u64 = 1 << VIRTIO_NET_F_MAC
    | 1 << VIRTIO_NET_F_STATUS
    | 1 << VIRTIO_NET_F_MTU
    | CTRL_VQ
    | CTRL_RX
    | CTRL_MAC
    | GUEST_ANNOUNCE;

/// What this process needs a control queue for, which it only serves in a split ring.
const CONTROL_QUEUE: u64 = MQ | CTRL_VQ | CTRL_RX | CTRL_MAC | GUEST_ANNOUNCE;

/// What the back end does, offered when it does: rings, checksums and segmentation. Packed rings are offered by choice,
/// see [`offer`]. Left out is notification data, which an ioeventfd drops.
const BACK_END: u64 = F_VERSION_1
    | EVENT_IDX
    | 1 << VIRTIO_RING_F_INDIRECT_DESC
    | 1 << VIRTIO_F_IN_ORDER
    | 1 << VIRTIO_NET_F_CSUM
    | 1 << VIRTIO_NET_F_GUEST_CSUM
    | 1 << VIRTIO_NET_F_GUEST_TSO4
    | 1 << VIRTIO_NET_F_GUEST_TSO6
    | 1 << VIRTIO_NET_F_GUEST_ECN
    | 1 << VIRTIO_NET_F_GUEST_UFO
    | 1 << VIRTIO_NET_F_HOST_TSO4
    | 1 << VIRTIO_NET_F_HOST_TSO6
    | 1 << VIRTIO_NET_F_HOST_ECN
    | 1 << VIRTIO_NET_F_HOST_UFO
    | 1 << VIRTIO_NET_F_MRG_RXBUF
    | 1 << VIRTIO_NET_F_GUEST_USO4
    | 1 << VIRTIO_NET_F_GUEST_USO6
    | 1 << VIRTIO_NET_F_HOST_USO;

/// What takes control commands that only the back end can carry out.
const CONTROLLED: u64 = CTRL_RX_EXTRA | CTRL_VLAN | CTRL_GUEST_OFFLOADS | HASH_REPORT;

/// The features offered to a driver in front of a back end that has `back_end`, and takes control commands or not.
///
/// With `packed`, packed rings take the place of the control queue. The back end must note in memory that outlives it where
/// such rings stand: the guest's memory does not tell.
pub(super) fn offer(back_end: u64, max_pairs: u16, takes_commands: bool, packed: bool) -> u64 {
    if packed {
        return OWN & !CONTROL_QUEUE | back_end & (BACK_END | F_RING_PACKED);
    }
    let controlled = if takes_commands { CONTROLLED } else { 0 };
    let several = match (max_pairs, takes_commands) {
        (0..=1, _) => 0,
        (_, false) => MQ,
        (_, true) => MQ | back_end & RSS,
    };
    OWN | several | back_end & (BACK_END | controlled)
}

/// The features to tell the back end of: what the driver accepted and the back end has a part in.
pub(super) fn for_back_end(accepted: u64, back_end: u64) -> u64 {
    let known = BACK_END | OWN | MQ | CONTROLLED | RSS | F_RING_PACKED;
    accepted & back_end & known | back_end & PROTOCOL_FEATURES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offers_what_the_back_end_can_and_the_device_knows() {
        let segmentation = 1 << VIRTIO_NET_F_HOST_TSO4 | 1 << VIRTIO_NET_F_HOST_USO;
        let offered = offer(
            F_VERSION_1 | segmentation | F_RING_PACKED | PROTOCOL_FEATURES,
            1,
            false,
            false,
        );
        assert_eq!(offered & segmentation, segmentation);
        assert_eq!(offered & (F_RING_PACKED | PROTOCOL_FEATURES | MQ), 0);
        assert_eq!(offered & OWN, OWN);
        assert_eq!(offer(0, 2, false, false) & (MQ | F_VERSION_1), MQ);
    }

    #[test]
    fn what_takes_commands_is_offered_where_they_are_taken() {
        let back_end = CONTROLLED | RSS;
        assert_eq!(offer(back_end, 2, false, false) & back_end, 0);
        assert_eq!(offer(back_end, 1, true, false) & back_end, CONTROLLED);
        assert_eq!(offer(back_end, 2, true, false) & back_end, back_end);
        assert_eq!(offer(HASH_REPORT, 2, true, false) & back_end, HASH_REPORT);
    }

    #[test]
    fn packed_rings_take_the_place_of_the_control_queue() {
        let back_end = F_VERSION_1 | F_RING_PACKED | CONTROLLED | RSS;
        let offered = offer(back_end, 2, true, true);
        assert_eq!(
            offered & (F_RING_PACKED | CONTROL_QUEUE | CONTROLLED | RSS),
            F_RING_PACKED
        );
        assert_eq!(offered & OWN, OWN & !CONTROL_QUEUE);
        assert_eq!(offer(F_VERSION_1, 1, true, true) & F_RING_PACKED, 0);
    }

    #[test]
    fn back_end_hears_only_of_its_own_features() {
        let back_end = F_VERSION_1 | EVENT_IDX | PROTOCOL_FEATURES;
        let told = for_back_end(F_VERSION_1 | EVENT_IDX | OWN, back_end);
        assert_eq!(told, back_end);
        assert_eq!(for_back_end(F_VERSION_1, F_VERSION_1 | EVENT_IDX), F_VERSION_1);
    }
}
