//! Judges a frame that reaches a receiver, by rules of its own: none of the switch's parsing is used.

use offload::VnetHeader;
use vswitch::port::Capabilities;

use super::headers::{self, Headers, ones_complement};

/// What a receiver agreed to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) can: Capabilities,
    /// Octets of the largest IP packet.
    pub(crate) mtu: u16,
    pub(crate) vlan: Option<u16>,
    /// The header comes from the switch itself: lengths in it are exact.
    pub(crate) exact: bool,
}

/// Judges a frame on its own; `tag` is a tag that was taken out of it before. Returns its headers if it is an IP packet.
pub(crate) fn judge(
    limits: &Limits,
    vnet: &VnetHeader,
    tag: Option<u16>,
    frame: &[u8],
) -> Result<Option<Headers>, String> {
    judge_request(limits, vnet)?;
    let Some(headers) = headers::read(frame)? else {
        let plain = vnet.flags == 0 && vnet.gso_type == 0;
        expect(plain, || "an offload of a frame that is not IP".to_owned())?;
        return Ok(None);
    };
    let vlan = tag.or(headers.vlan);
    expect(vlan == limits.vlan, || format!("VLAN {vlan:?}"))?;
    let padded = frame.len() == 60 && headers.end < 60;
    expect(frame.len() == headers.end || padded, || {
        format!("a packet that ends at {}", headers.end)
    })?;
    judge_length(limits, vnet, &headers)?;
    judge_checksums(vnet, &headers, frame)?;
    Ok(Some(headers))
}

/// Nothing that was not negotiated.
fn judge_request(limits: &Limits, vnet: &VnetHeader) -> Result<(), String> {
    let can = limits.can;
    let known = VnetHeader::NEEDS_CSUM | VnetHeader::DATA_VALID;
    expect(vnet.flags & !known == 0, || "unknown flags".to_owned())?;
    expect(vnet.flags == 0 || can.checksum, || {
        "a checksum flag that was not negotiated".to_owned()
    })?;
    let agreed = match vnet.gso_type & !VnetHeader::GSO_ECN {
        VnetHeader::GSO_NONE => vnet.gso_type == 0 && vnet.gso_size == 0,
        VnetHeader::GSO_TCPV4 => can.tso4,
        VnetHeader::GSO_TCPV6 => can.tso6,
        VnetHeader::GSO_UDP_L4 => can.uso4 || can.uso6,
        _ => false,
    };
    expect(agreed, || "a large send that was not negotiated".to_owned())?;
    let ecn = vnet.gso_type & VnetHeader::GSO_ECN != 0;
    expect(!ecn || can.ecn, || "ECN that was not negotiated".to_owned())
}

/// Within the MTU, or cut into what is.
fn judge_length(limits: &Limits, vnet: &VnetHeader, headers: &Headers) -> Result<(), String> {
    let mtu = usize::from(limits.mtu);
    let len = headers.end - headers.network;
    if vnet.gso_type == VnetHeader::GSO_NONE {
        return expect(len <= mtu, || format!("a packet of {len} octets"));
    }
    let (protocol, v6) = match vnet.gso_type & !VnetHeader::GSO_ECN {
        VnetHeader::GSO_TCPV4 => (headers::TCP, Some(false)),
        VnetHeader::GSO_TCPV6 => (headers::TCP, Some(true)),
        _ => (headers::UDP, None),
    };
    let fits = headers.protocol == protocol && v6.is_none_or(|v6| v6 == headers.is_v6());
    expect(fits && headers.fragment.is_none(), || {
        "a large send of another kind".to_owned()
    })?;
    let segment = headers.payload - headers.network + usize::from(vnet.gso_size);
    expect(segment <= mtu, || format!("segments of {segment} octets"))?;
    let payload = headers.end - headers.payload;
    expect(payload > usize::from(vnet.gso_size), || {
        "a large send of one segment".to_owned()
    })?;
    expect(vnet.flags & VnetHeader::NEEDS_CSUM != 0, || {
        "a large send without a partial checksum".to_owned()
    })?;
    let exact = !limits.exact || usize::from(vnet.hdr_len) == headers.payload;
    expect(exact, || format!("headers of {} octets", headers.payload))
}

/// Complete, or partial in the proper way.
fn judge_checksums(vnet: &VnetHeader, headers: &Headers, frame: &[u8]) -> Result<(), String> {
    if !headers.is_v6() {
        let header = &frame[headers.network..headers.transport];
        expect(ones_complement(header, 0) == 0xffff, || {
            "a wrong IPv4 checksum".to_owned()
        })?;
    }
    let partial = vnet.flags & VnetHeader::NEEDS_CSUM != 0;
    if headers.fragment.is_some() {
        return expect(!partial, || "a partial checksum of a fragment".to_owned());
    }
    let Some(field) = headers.checksum_field() else {
        return expect(!partial, || {
            "a partial checksum of an unknown protocol".to_owned()
        });
    };
    let segment = &frame[headers.transport..headers.end];
    let stored = u16::from_be_bytes([segment[field], segment[field + 1]]);
    if partial {
        let place = (usize::from(vnet.csum_start), usize::from(vnet.csum_offset));
        expect(place == (headers.transport, field), || {
            "a checksum in another place".to_owned()
        })?;
        let pseudo = ones_complement(&[], headers.pseudo_header());
        return expect(stored == pseudo, || {
            format!("{stored:#x} where {pseudo:#x} is the pseudo-header's sum")
        });
    }
    let sum = ones_complement(segment, headers.pseudo_header());
    let absent = headers.protocol == headers::UDP && stored == 0;
    expect(sum == 0xffff && !absent, || {
        "a wrong transport checksum".to_owned()
    })
}

pub(crate) fn expect(condition: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if condition { Ok(()) } else { Err(otherwise()) }
}
