//! Which frames a receiver takes, and on which of its queue pairs, as its driver has asked by control commands (virtio 1.2,
//! 5.1.6.5).

use offload::rss::{HashReport, Hasher, Indirection};
use offload::{FrameMeta, MacAddr};

use crate::net_control::{Command, MacList, ReceiveMode, feature};
use crate::vlan::{TagForm, VlanSet};

/// All that a driver has asked for of the frames that it receives. A new one has asked for nothing, and gets everything.
#[derive(Clone, Debug, Default)]
pub struct ReceivePolicy {
    filter: ReceiveFilter,
    hasher: Option<Hasher>,
    steering: Option<Indirection>,
}

/// Which frames a driver takes: addresses and VLANs. One that was never told anything takes all.
#[derive(Clone, Debug, Default)]
struct ReceiveFilter {
    /// Whether the driver has ended promiscuous mode, which is what a device starts in.
    selective: bool,
    modes: u8,
    /// The device's address; without one it cannot tell what is its own, and takes all unicast.
    mac: Option<MacAddr>,
    unicast: MacList,
    multicast: MacList,
    /// The VLANs whose tagged frames are taken; `None` for all.
    vlans: Option<Box<VlanSet>>,
}

impl ReceivePolicy {
    /// What a driver with these features starts with.
    pub fn new(features: u64) -> Self {
        let filtered = features & feature::CTRL_VLAN != 0;
        Self {
            filter: ReceiveFilter {
                vlans: filtered.then(|| Box::new(VlanSet::EMPTY)),
                ..ReceiveFilter::default()
            },
            ..Self::default()
        }
    }

    /// Does what a command asks for; what does not concern received frames changes nothing.
    pub fn apply(&mut self, command: Command) {
        match command {
            Command::ReceiveMode(mode, on) => self.filter.set_mode(mode, on),
            Command::MacTable { unicast, multicast } => {
                self.filter.unicast = unicast;
                self.filter.multicast = multicast;
            }
            Command::MacAddress(mac) => self.filter.mac = Some(mac),
            Command::Vlan { id, receive } => self.filter.set_vlan(id, receive),
            Command::QueuePairs(_) => self.steering = None,
            Command::Rss { hasher, indirection } => {
                self.hasher = Some(hasher);
                self.steering = Some(indirection);
            }
            Command::Hash(hasher) => self.hasher = Some(hasher),
            Command::Announced | Command::GuestOffloads(_) => {}
        }
    }

    /// Whether some frames are not taken.
    pub fn is_selective(&self) -> bool {
        self.filter.selective
    }

    /// Whether the driver takes a frame to this address, which it would get in this form.
    pub fn takes(&self, dst: MacAddr, form: TagForm) -> bool {
        self.filter.takes(dst, form)
    }

    /// A frame's hash by the driver's key, and what it was taken over; `None` where there is no hash. `head` are the frame's
    /// first octets.
    pub fn hash(&self, meta: &FrameMeta, head: &[u8]) -> Option<(u32, HashReport)> {
        let (hash, report) = self.hasher.as_ref()?.hash(meta, head);
        (report != HashReport::None).then_some((hash, report))
    }

    /// Which queue pair a frame goes to, if the driver says.
    pub fn queue_pair(&self, hash: u32, report: HashReport) -> Option<u16> {
        self.steering
            .as_ref()
            .map(|indirection| indirection.queue(hash, report))
    }

    /// Whether the driver wants frames hashed by its key.
    pub fn hashes(&self) -> bool {
        self.hasher.is_some()
    }

    /// Whether the driver says which queue pair a frame goes to.
    pub fn steers(&self) -> bool {
        self.steering.is_some()
    }
}

impl ReceiveFilter {
    fn set_mode(&mut self, mode: ReceiveMode, on: bool) {
        if mode == ReceiveMode::Promiscuous {
            self.selective = !on;
        } else if on {
            self.modes |= bit(mode);
        } else {
            self.modes &= !bit(mode);
        }
    }

    fn set_vlan(&mut self, id: u16, receive: bool) {
        let Some(vlans) = &mut self.vlans else { return };
        if receive {
            vlans.insert(id);
        } else {
            vlans.remove(id);
        }
    }

    fn takes(&self, dst: MacAddr, form: TagForm) -> bool {
        if !self.selective {
            return true;
        }
        if let (TagForm::Tagged(vlan), Some(vlans)) = (form, &self.vlans)
            && !vlans.contains(vlan)
        {
            return false;
        }
        if !dst.is_multicast() {
            let own = self.mac.is_none_or(|mac| mac == dst);
            return !self.is(ReceiveMode::NoUnicast)
                && (own || self.is(ReceiveMode::AllUnicast) || self.unicast.contains(dst));
        }
        if dst == MacAddr::BROADCAST {
            return !self.is(ReceiveMode::NoBroadcast);
        }
        !self.is(ReceiveMode::NoMulticast)
            && (self.is(ReceiveMode::AllMulticast) || self.multicast.contains(dst))
    }

    const fn is(&self, mode: ReceiveMode) -> bool {
        self.modes & bit(mode) != 0
    }
}

const fn bit(mode: ReceiveMode) -> u8 {
    1 << mode as u8
}

#[cfg(test)]
mod tests {
    use offload::rss::HashTypes;
    use proptest::prelude::*;

    use super::*;
    use crate::net_control::{Limits, decode};

    const OWN: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const OTHER: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
    const GROUP: MacAddr = MacAddr([0x33, 0x33, 0, 0, 0, 1]);

    fn policy(commands: &[Command]) -> ReceivePolicy {
        let mut policy = ReceivePolicy::new(feature::CTRL_VLAN);
        commands.iter().cloned().for_each(|command| policy.apply(command));
        policy
    }

    fn takes(policy: &ReceivePolicy) -> [bool; 4] {
        [OWN, OTHER, GROUP, MacAddr::BROADCAST].map(|dst| policy.takes(dst, TagForm::Untagged))
    }

    fn mode(mode: ReceiveMode, on: bool) -> Command {
        Command::ReceiveMode(mode, on)
    }

    #[test]
    fn who_asked_for_nothing_gets_everything() {
        let policy = policy(&[Command::MacAddress(OWN)]);
        assert_eq!(takes(&policy), [true; 4]);
        assert!(policy.takes(OTHER, TagForm::Tagged(7)));
    }

    #[test]
    fn who_is_not_promiscuous_gets_its_own() {
        let selective = mode(ReceiveMode::Promiscuous, false);
        let own = Command::MacAddress(OWN);
        let with = |more: &[Command]| takes(&policy(&[&[selective.clone(), own.clone()], more].concat()));
        assert_eq!(with(&[]), [true, false, false, true]);
        assert_eq!(
            with(&[mode(ReceiveMode::AllMulticast, true)]),
            [true, false, true, true]
        );
        assert_eq!(
            with(&[mode(ReceiveMode::AllUnicast, true)]),
            [true, true, false, true]
        );
        assert_eq!(
            with(&[mode(ReceiveMode::NoBroadcast, true)]),
            [true, false, false, false]
        );
        assert_eq!(
            with(&[mode(ReceiveMode::NoUnicast, true)]),
            [false, false, false, true]
        );
        assert_eq!(with(&[mode(ReceiveMode::Promiscuous, true)]), [true; 4]);
        let on_and_off = [true, false].map(|on| mode(ReceiveMode::AllUnicast, on));
        assert_eq!(with(&on_and_off), [true, false, false, true]);
        let table = Command::MacTable {
            unicast: MacList::Some(vec![OTHER]),
            multicast: MacList::Some(vec![GROUP]),
        };
        assert_eq!(with(std::slice::from_ref(&table)), [true; 4]);
        let no_multicast = mode(ReceiveMode::NoMulticast, true);
        assert_eq!(with(&[table.clone(), no_multicast]), [true, true, false, true]);
        let empty = Command::MacTable {
            unicast: MacList::default(),
            multicast: MacList::Overflow,
        };
        assert_eq!(with(&[table, empty]), [true, false, true, true]);
        assert_eq!(
            takes(&policy(&[selective])),
            [true, true, false, true],
            "no address"
        );
    }

    #[test]
    fn vlans_are_those_that_were_added() {
        let vlan = |id, receive| Command::Vlan { id, receive };
        let policy = policy(&[
            mode(ReceiveMode::Promiscuous, false),
            vlan(7, true),
            vlan(8, true),
            vlan(8, false),
        ]);
        let takes = |vlan| policy.takes(OWN, TagForm::Tagged(vlan));
        assert_eq!((takes(7), takes(8), takes(9)), (true, false, false));
        let mut without = ReceivePolicy::new(0);
        without.apply(mode(ReceiveMode::Promiscuous, false));
        without.apply(vlan(7, true));
        assert!(
            without.takes(OWN, TagForm::Tagged(9)),
            "the feature was not agreed on"
        );
    }

    #[test]
    fn queue_pairs_end_steering_and_leave_the_hash() {
        let rss = Command::Rss {
            hasher: Hasher::new(&[1; 40], HashTypes::ALL),
            indirection: Indirection::new([3, 1].into(), 2).unwrap(),
        };
        let mut policy = policy(&[rss]);
        assert_eq!(policy.queue_pair(5, HashReport::Tcpv4), Some(1));
        assert_eq!(policy.queue_pair(5, HashReport::None), Some(2));
        policy.apply(Command::QueuePairs(2));
        assert_eq!(
            (policy.steers(), policy.queue_pair(5, HashReport::Tcpv4)),
            (false, None)
        );
        assert!(policy.hasher.is_some());
    }

    proptest! {
        #[test]
        fn any_commands_leave_queues_that_exist(
            commands in prop::collection::vec(
                (0..6_u8, 0..3_u8, prop::collection::vec(prop_oneof![Just(0), 0..4_u8, any::<u8>()], 0..80)),
                0..20,
            ),
            pairs in 1..17_u16,
            dst: [u8; 6],
            hash: u32,
        ) {
            let limits = Limits { features: u64::MAX, queue_pairs: pairs };
            let mut policy = ReceivePolicy::new(u64::MAX);
            for (class, number, data) in commands {
                if let Ok(command) = decode(&[&[class, number][..], &data].concat(), limits) {
                    policy.apply(command);
                }
                let takes = policy.takes(MacAddr(dst), TagForm::Tagged(hash as u16));
                prop_assert!(takes || policy.is_selective());
                let pair = policy.queue_pair(hash, HashReport::Tcpv4);
                prop_assert_eq!(pair.is_some(), policy.steers());
                prop_assert!(pair.is_none_or(|pair| pair < pairs));
            }
        }
    }
}
