//! Whether a frame may enter the switch.

use offload::{Link, MacAddr, Offloads};

use crate::counters::DropReason;
use crate::frame::{Frame, MAX_FRAME};
use crate::packet::Packet;
use crate::switch::Port;

/// Decides whether a frame may enter the switch, and notes what is known of it in `packet`. All of its headers are read if that
/// is wanted (`deep`), or if it asks for something that depends on them. Returns its source, which could not be loaded from `packet`
/// without waiting for the stores.
#[inline]
pub(super) fn judge(
    port: &Port,
    head: &[u8],
    frame: &Frame,
    deep: bool,
    packet: &mut Packet,
) -> Result<MacAddr, DropReason> {
    let len = frame.len as usize;
    if len > MAX_FRAME {
        return Err(DropReason::BadLength);
    }
    let asks = frame.vnet.flags != 0 || frame.vnet.gso_type != 0;
    packet.is_parsed = deep || asks;
    let (src, vlan) = if packet.is_parsed {
        offload::parse_into(&mut packet.meta, head, len).map_err(|_| DropReason::BadLength)?;
        (packet.meta.src, packet.meta.vlan)
    } else {
        let link = Link::read(head, len).map_err(|_| DropReason::BadLength)?;
        packet.set_link(&link, frame.len);
        (link.src, link.vlan)
    };
    if src.is_multicast() {
        return Err(DropReason::BadSource);
    }
    packet.vlan = port.vlans.ingress(vlan)?;
    packet.offloads = if asks {
        Offloads::from_header(&frame.vnet, &packet.meta).map_err(|_| DropReason::BadOffload)?
    } else {
        Offloads::default()
    };
    Ok(src)
}
