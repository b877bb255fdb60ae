//! VLANs: which one a frame belongs to, who may have it, and in which form (IEEE 802.1Q-2018, clauses 6.9 and 8.6).
//!
//! Pure functions. Inside the switch a frame belongs to a VLAN by number; its octets keep the tag state in which
//! they came until a receiver wants another one.

use std::fmt;

use offload::VlanTag;

use crate::control::VlanMode;
use crate::counters::DropReason;

/// Octets of an 802.1Q tag.
pub const TAG_LEN: usize = 4;

/// Where a tag stands: behind the two addresses.
const TAG_OFFSET: usize = 12;

/// Ethernet header without a tag.
const ETHERNET_LEN: usize = 14;

/// The tag protocol identifier of a customer VLAN tag (IEEE 802.1Q-2018, table 9-1).
const TPID: [u8; 2] = [0x81, 0x00];

/// A set of VLAN identifiers; asking it costs one load.
#[derive(Clone, PartialEq, Eq)]
pub struct VlanSet([u64; 64]);

impl VlanSet {
    /// The empty set.
    pub const EMPTY: Self = Self([0; 64]);

    /// Adds a VLAN; its low 12 bits count.
    pub fn insert(&mut self, vlan: u16) {
        let (word, bit) = Self::place(vlan);
        self.0[word] |= bit;
    }

    /// Takes a VLAN away; its low 12 bits count.
    pub fn remove(&mut self, vlan: u16) {
        let (word, bit) = Self::place(vlan);
        self.0[word] &= !bit;
    }

    /// Whether it holds a VLAN; its low 12 bits count.
    pub const fn contains(&self, vlan: u16) -> bool {
        let (word, bit) = Self::place(vlan);
        self.0[word] & bit != 0
    }

    /// How many VLANs it holds.
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// The VLANs in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        (0..4096).filter(|vlan| self.contains(*vlan))
    }

    const fn place(vlan: u16) -> (usize, u64) {
        (((vlan & 0x0fff) >> 6) as usize, 1 << (vlan & 63))
    }
}

impl FromIterator<u16> for VlanSet {
    fn from_iter<I: IntoIterator<Item = u16>>(vlans: I) -> Self {
        let mut set = Self::EMPTY;
        for vlan in vlans {
            set.insert(vlan);
        }
        set
    }
}

impl fmt::Debug for VlanSet {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_set().entries(self.iter()).finish()
    }
}

/// A port's [`VlanMode`] in the form that the data path asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Membership {
    /// Untagged frames of one VLAN.
    Access(u16),
    /// Tagged frames of these VLANs.
    Trunk(Box<VlanSet>),
}

impl From<&VlanMode> for Membership {
    fn from(mode: &VlanMode) -> Self {
        match mode {
            VlanMode::Access(vlan) => Self::Access(*vlan),
            VlanMode::Trunk(vlans) => Self::Trunk(Box::new(vlans.iter().copied().collect())),
        }
    }
}

impl Membership {
    /// The VLAN of a frame that the port's guest sent.
    ///
    /// An access port takes untagged and priority-tagged frames, a trunk tagged ones of its VLANs.
    pub fn ingress(&self, tag: Option<VlanTag>) -> Result<u16, DropReason> {
        let tagged = tag.map(VlanTag::id).filter(|id| *id != 0);
        match (self, tagged) {
            (Self::Access(vlan), None) => Ok(*vlan),
            (Self::Trunk(vlans), Some(id)) if vlans.contains(id) => Ok(id),
            _ => Err(DropReason::Vlan),
        }
    }

    /// The form in which the port's guest gets frames of `vlan`; `None` when it gets none.
    pub fn egress(&self, vlan: u16) -> Option<TagForm> {
        match self {
            Self::Access(own) => (*own == vlan).then_some(TagForm::Untagged),
            Self::Trunk(vlans) => vlans.contains(vlan).then_some(TagForm::Tagged(vlan)),
        }
    }
}

/// Whether a receiver wants a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TagForm {
    /// No tag.
    Untagged,
    /// A tag with this VLAN identifier.
    Tagged(u16),
}

impl TagForm {
    /// Whether a frame that has the tag `present` is in this form already.
    pub fn fits(self, present: Option<VlanTag>) -> bool {
        match (self, present) {
            (Self::Untagged, None) => true,
            (Self::Tagged(vlan), Some(tag)) => tag.id() == vlan,
            _ => false,
        }
    }

    /// Octets by which everything behind the addresses moves when a frame with the tag `present` is brought into
    /// this form: +4, 0 or -4.
    pub const fn shift(self, present: Option<VlanTag>) -> Shift {
        match (self, present) {
            (Self::Untagged, Some(_)) => Shift(-(TAG_LEN as i8)),
            (Self::Tagged(_), None) => Shift(TAG_LEN as i8),
            _ => Shift(0),
        }
    }

    /// Writes `header`, the first octets of a frame whose outermost tag is `present`, in this form to the start of
    /// `scratch`; returns how many octets it wrote. The priority bits and the kind of a tag that stays are kept.
    ///
    /// `None` when `header` does not hold the Ethernet header and its tag, or `scratch` is too short for
    /// `header` and one more tag.
    pub fn rewrite(self, header: &[u8], present: Option<VlanTag>, scratch: &mut [u8]) -> Option<usize> {
        let tag_len = if present.is_some() { TAG_LEN } else { 0 };
        if header.len() < ETHERNET_LEN + tag_len {
            return None;
        }
        let (addresses, rest) = header.split_at_checked(TAG_OFFSET)?;
        let (old_tag, behind) = rest.split_at_checked(tag_len)?;
        let mut new_tag = [0; TAG_LEN];
        let new_tag: &[u8] = match self {
            Self::Untagged => &[],
            Self::Tagged(vlan) => {
                let priority = present.map_or(0, |tag| tag.0 & 0xf000);
                new_tag[..2].copy_from_slice(old_tag.get(..2).unwrap_or(&TPID));
                new_tag[2..].copy_from_slice(&(priority | vlan & 0x0fff).to_be_bytes());
                &new_tag
            }
        };
        let mut at = 0;
        for part in [addresses, new_tag, behind] {
            scratch.get_mut(at..at + part.len())?.copy_from_slice(part);
            at += part.len();
        }
        Some(at)
    }
}

/// How far a frame's octets behind the addresses moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shift(i8);

impl Shift {
    /// Whether nothing moved.
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// An offset (`csum_start`, a header's length, a position in [`offload::FrameMeta`]) in the moved frame.
    #[must_use]
    pub const fn offset(self, offset: u16) -> u16 {
        offset.saturating_add_signed(self.0 as i16)
    }

    /// A frame's length, moved.
    #[must_use]
    pub const fn len(self, len: u32) -> u32 {
        len.saturating_add_signed(self.0 as i32)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn access(vlan: u16) -> Membership {
        Membership::from(&VlanMode::Access(vlan))
    }

    fn trunk(vlans: &[u16]) -> Membership {
        Membership::from(&VlanMode::Trunk(vlans.to_vec()))
    }

    #[test]
    fn an_access_port_takes_what_has_no_vlan() {
        let port = access(7);
        assert_eq!(port.ingress(None), Ok(7));
        assert_eq!(port.ingress(Some(VlanTag(0xa000))), Ok(7), "a priority tag");
        assert_eq!(port.ingress(Some(VlanTag(7))), Err(DropReason::Vlan));
        assert_eq!(port.egress(7), Some(TagForm::Untagged));
        assert_eq!(port.egress(8), None);
        assert_eq!(access(0).ingress(None), Ok(0));
    }

    #[test]
    fn a_trunk_takes_its_own_vlans_with_tags_only() {
        let port = trunk(&[1, 64, 4094]);
        assert_eq!(port.ingress(Some(VlanTag(0x6040))), Ok(64));
        assert_eq!(port.ingress(Some(VlanTag(4094))), Ok(4094));
        for tag in [None, Some(VlanTag(0)), Some(VlanTag(0xe000)), Some(VlanTag(2))] {
            assert_eq!(port.ingress(tag), Err(DropReason::Vlan), "{tag:?}");
        }
        assert_eq!(port.egress(1), Some(TagForm::Tagged(1)));
        assert_eq!(port.egress(0), None, "the default VLAN has no tag");
    }

    #[test]
    fn a_set_holds_exactly_what_was_put_in() {
        let set: VlanSet = [0, 1, 63, 64, 4095, 64].into_iter().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 1, 63, 64, 4095]);
        assert_eq!(set.len(), 5);
        assert!(!set.is_empty() && VlanSet::EMPTY.is_empty());
        assert_eq!(format!("{set:?}"), "{0, 1, 63, 64, 4095}");
    }

    const UNTAGGED: [u8; 18] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 8, 0, 0x45, 0, 0, 40];

    #[test]
    fn a_tag_is_put_in_changed_and_taken_out() {
        let mut tagged = [0; 22];
        assert_eq!(TagForm::Tagged(5).rewrite(&UNTAGGED, None, &mut tagged), Some(22));
        assert_eq!(tagged[12..18], [0x81, 0, 0, 5, 8, 0]);
        assert_eq!(tagged[18..], UNTAGGED[14..]);

        let mut service = tagged;
        service[12..15].copy_from_slice(&[0x88, 0xa8, 0x60]);
        let mut changed = [0; 26];
        let tag = Some(VlanTag(0x6005));
        assert_eq!(TagForm::Tagged(9).rewrite(&service, tag, &mut changed), Some(22));
        assert_eq!(
            changed[12..18],
            [0x88, 0xa8, 0x60, 9, 8, 0],
            "kind and priority are kept"
        );

        let mut plain = [0; 22];
        assert_eq!(
            TagForm::Untagged.rewrite(&tagged, Some(VlanTag(5)), &mut plain),
            Some(18)
        );
        assert_eq!(plain[..18], UNTAGGED);
    }

    #[test]
    fn shifts_move_offsets_and_lengths() {
        let tag = Some(VlanTag(5));
        assert_eq!(TagForm::Tagged(5).shift(None).offset(34), 38);
        assert_eq!(TagForm::Untagged.shift(tag).offset(38), 34);
        assert_eq!(TagForm::Untagged.shift(tag).len(64), 60);
        assert_eq!(TagForm::Untagged.shift(tag).offset(2), 0);
        assert!(TagForm::Tagged(6).shift(tag).is_none() && !TagForm::Tagged(6).fits(tag));
        assert!(TagForm::Untagged.shift(None).is_none() && TagForm::Untagged.fits(None));
    }

    proptest! {
        /// There and back leaves the header as it was; the length changes by the announced shift.
        #[test]
        fn putting_a_tag_in_and_taking_it_out_is_nothing(
            header in prop::collection::vec(any::<u8>(), 14..192),
            vlan in 0..4096_u16,
        ) {
            let mut tagged = [0; 196];
            let form = TagForm::Tagged(vlan);
            let len = form.rewrite(&header, None, &mut tagged).expect("room for all");
            prop_assert_eq!(len as u32, form.shift(None).len(header.len() as u32));
            let tag = Some(VlanTag(u16::from_be_bytes([tagged[14], tagged[15]])));
            prop_assert!(form.fits(tag));
            let mut plain = [0; 196];
            let back = TagForm::Untagged.rewrite(&tagged[..len], tag, &mut plain).expect("room for all");
            prop_assert_eq!(&plain[..back], &header[..]);
        }

        /// Whatever the octets and lengths, it writes within the scratch or refuses.
        #[test]
        fn any_input_is_written_or_refused(
            header in prop::collection::vec(any::<u8>(), 0..64),
            tci: Option<u16>,
            want: Option<u16>,
            room in 0..80_usize,
        ) {
            let mut scratch = vec![0; room];
            let present = tci.map(VlanTag);
            let form = want.map_or(TagForm::Untagged, TagForm::Tagged);
            let written = form.rewrite(&header, present, &mut scratch);
            let needed = 14 + if present.is_some() { 4 } else { 0 };
            let len = form.shift(present).len(header.len() as u32) as usize;
            prop_assert_eq!(written, (header.len() >= needed && len <= room).then_some(len));
        }

        /// What a port sends it would also take, in the same VLAN.
        #[test]
        fn egress_and_ingress_agree(vlans in prop::collection::vec(1..4095_u16, 0..20), vlan in 0..4096_u16) {
            let port = trunk(&vlans);
            let member = vlans.contains(&vlan);
            prop_assert_eq!(port.egress(vlan), member.then_some(TagForm::Tagged(vlan)));
            prop_assert_eq!(port.ingress(Some(VlanTag(vlan))).ok(), member.then_some(vlan));
        }
    }
}
