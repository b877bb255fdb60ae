//! Uplinks without a switch; see `tests/uplink` of the root package for traffic.
#![allow(unsafe_code)]

use offload::VnetHeader;

use super::*;
use crate::control::PortKind;
use crate::counters::DropReason;
use crate::frame::Outgoing;
use crate::frame::{Burst, Segment};
use crate::port::Refusal;
use crate::port::tap::tests::{in_namespace, ip, outgoing, skip};

/// A frame of a made-up protocol (IEEE 802 local experimental EtherType 1).
fn frame() -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend_from_slice(&[2, 0, 0, 0, 0, 1, 0x88, 0xb5]);
    frame.resize(60, 0);
    frame
}

fn open_packet(link: &str) -> Result<Arc<dyn Backend>, UplinkError> {
    let uplink = Uplink {
        mode: UplinkMode::AfPacket,
        ..Uplink::new(link)
    };
    let config = PortConfig::new("wire", PortKind::Uplink(uplink.clone()));
    open(&uplink, &config)
}

/// An uplink, and another one at the wire's other end.
fn pair() -> [Arc<dyn Backend>; 2] {
    ip("link add u0 type veth peer name u1");
    for link in ["u0", "u1"] {
        ip(&format!("link set {link} up"));
    }
    for link in ["u0", "u1"] {
        await_carrier(link);
    }
    ["u0", "u1"].map(|link| open_packet(link).expect("an uplink"))
}

/// Waits until the kernel has noticed an interface's carrier, which it does once a second at times; until then it drops without a word
/// what is sent.
fn await_carrier(link: &str) {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !ip(&format!("-o link show {link}")).contains("state UP") {
        assert!(std::time::Instant::now() < end, "{link} has no carrier");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// Frames of the made-up protocol that came in, once there are as many as expected: a busy kernel lets them wait. Its own are
/// left out.
fn taken(port: &dyn Backend, expected: usize) -> Vec<Vec<u8>> {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
    let mut burst = Burst::default();
    let mut all = Vec::new();
    loop {
        port.take(0, Instant(0), &mut burst);
        let frames = (0..burst.frames().len()).filter_map(|index| burst.outgoing(index, 0));
        let frames: Vec<Vec<u8>> = frames.map(|frame| frame.head.to_vec()).collect();
        port.complete(0, &burst);
        burst.clear();
        if frames.is_empty() && (all.len() >= expected || std::time::Instant::now() > end) {
            return all;
        }
        all.extend(frames.into_iter().filter(|frame| frame[12..14] == [0x88, 0xb5]));
    }
}

#[test]
fn an_ordinary_user_is_told_what_is_missing() {
    if skip("an_ordinary_user_is_told_what_is_missing") {
        return;
    }
    in_namespace(|| {
        ip("link add u0 type veth peer name u1");
        ip("link set u0 up");
        // SAFETY: the raw call changes the ids of the calling thread alone, and takes no pointers.
        let result = unsafe { libc::syscall(libc::SYS_setresuid, 65_534, 65_534, 65_534) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
        let error = open_packet("u0").err().expect("not allowed");
        let words = error.to_string();
        assert!(matches!(error, UplinkError::Denied { .. }), "{words}");
        assert!(
            words.contains("CAP_NET_RAW") && words.contains("setcap"),
            "{words}"
        );
    });
}

#[test]
fn a_frame_that_the_kernel_refuses_is_counted_and_the_next_ones_go() {
    if skip("a_frame_that_the_kernel_refuses_is_counted_and_the_next_ones_go") {
        return;
    }
    in_namespace(|| {
        let [near, far] = pair();
        let octets = frame();
        let plain = outgoing(VnetHeader::default(), &octets);
        let beyond = Outgoing {
            vnet: VnetHeader {
                flags: VnetHeader::NEEDS_CSUM,
                csum_start: 5000,
                csum_offset: 16,
                ..VnetHeader::default()
            },
            ..plain
        };
        let pieces = vec![
            Segment {
                ptr: octets.as_ptr(),
                len: 1,
            };
            1_030
        ];
        let shattered = Outgoing {
            tail: &pieces,
            ..plain
        };
        let long = vec![0x88; 4000];
        let long = outgoing(VnetHeader::default(), &long);
        for (bad, reason) in [
            (beyond, DropReason::DeviceError),
            (shattered, DropReason::DeviceError),
            (long, DropReason::Oversize),
        ] {
            let frames = [plain, plain, bad, plain];
            let delivery = near.deliver(&frames);
            assert_eq!(
                (delivery.accepted, delivery.refusal),
                (2, Some(Refusal::Drop(reason)))
            );
            assert_eq!(near.deliver(&frames[3..]).accepted, 1);
            assert_eq!(taken(&*far, 3), vec![octets.clone(); 3]);
        }
        assert_eq!(
            taken(&*near, 0),
            Vec::<Vec<u8>>::new(),
            "its own frames do not come back"
        );
        assert_eq!(near.status().refusals["frame_refused"], 2);
        near.close();
        assert!(!near.status().up);
        assert_eq!(
            near.deliver(&[plain]).refusal,
            Some(Refusal::Drop(DropReason::PortDown))
        );
    });
}
