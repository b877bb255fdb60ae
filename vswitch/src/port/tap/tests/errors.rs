//! What goes wrong when a tap is opened, and when it goes away.

use std::ptr;

use super::*;
use crate::frame::Segment;

/// A broadcast frame of a made-up protocol (IEEE 802 local experimental EtherType 1).
fn frame() -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend_from_slice(&[2, 0, 0, 0, 0, 1, 0x88, 0xb5]);
    frame.resize(60, 0);
    frame
}

fn refusal(port: &TapPort, vnet: VnetHeader, octets: &[u8]) -> Option<Refusal> {
    port.deliver(&[outgoing(vnet, octets)]).refusal
}

#[test]
fn each_reason_to_fail_is_named() {
    if skip("each_reason_to_fail_is_named") {
        return;
    }
    in_namespace(|| {
        let first = TapPort::open("tap-busy", 1500, 1).expect("a new tap");
        assert_eq!(first.name(), "tap-busy");
        let message = |name, mtu| {
            TapPort::open(name, mtu, 1)
                .err()
                .map(|error| error.to_string())
                .expect("an error")
        };
        assert!(message("tap-busy", 1500).contains("another program has the interface open"));
        assert!(message("lo", 1500).contains("is no single-queue tap; choose another name"));
        assert!(message("tap-mtu", 65_535).contains("cannot set the MTU to 65535"));
        assert!(message("tap-mtu2", 67).contains("choose 68 to 65521"));
    });
}

/// A user without privileges gets a clear refusal, but can use a tap that was made for them.
#[test]
fn an_ordinary_user_needs_a_tap_of_their_own() {
    if skip("an_ordinary_user_needs_a_tap_of_their_own") {
        return;
    }
    in_namespace(|| {
        ip("tuntap add dev tap-user mode tap user 65534");
        ip("link set tap-user mtu 9000 up");
        ip("tuntap add dev tap-mtu mode tap user 65534");
        ip("tuntap add dev tap-down mode tap user 65534");
        // SAFETY: the raw call changes the ids of the calling thread alone, and takes no pointers.
        let result = unsafe { libc::syscall(libc::SYS_setresuid, 65_534, 65_534, 65_534) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());

        let error = TapPort::open("tap-new", 1500, 1).err().expect("not allowed");
        if matches!(error, TapError::NoTunDevice { .. }) {
            eprintln!("skipped: the rest of an_ordinary_user_needs_a_tap_of_their_own ({error})");
            return;
        }
        assert!(matches!(error, TapError::Denied { .. }), "{error}");
        assert!(
            error
                .to_string()
                .contains("ip tuntap add dev tap-new mode tap user"),
            "{error}"
        );
        assert!(TapPort::open("tap-user", 9000, 1).is_ok());
        assert!(matches!(
            TapPort::open("tap-mtu", 9000, 1),
            Err(TapError::Mtu { .. })
        ));
        assert!(matches!(
            TapPort::open("tap-down", 1500, 1),
            Err(TapError::Up { .. })
        ));
    });
}

#[test]
fn a_frame_that_the_kernel_refuses_is_counted_and_the_next_one_goes() {
    if skip("a_frame_that_the_kernel_refuses_is_counted_and_the_next_one_goes") {
        return;
    }
    in_namespace(|| {
        let port = TapPort::open("tap0", 1500, 1).expect("a new tap");
        let drop = |reason| Some(Refusal::Drop(reason));
        let beyond = VnetHeader {
            flags: VnetHeader::NEEDS_CSUM,
            csum_start: 5000,
            csum_offset: 16,
            ..VnetHeader::default()
        };
        assert_eq!(refusal(&port, beyond, &frame()), drop(DropReason::DeviceError));
        let no_kind = VnetHeader {
            gso_type: 0x55,
            ..VnetHeader::default()
        };
        assert_eq!(refusal(&port, no_kind, &frame()), drop(DropReason::DeviceError));
        assert_eq!(
            refusal(&port, VnetHeader::default(), &[0; 13]),
            drop(DropReason::DeviceError)
        );
        assert_eq!(refusal(&port, VnetHeader::default(), &frame()), None);

        let octets = frame();
        let piece = Segment {
            ptr: octets.as_ptr(),
            len: 1,
        };
        let pieces = vec![piece; 1_030];
        let shattered = Outgoing {
            tail: &pieces,
            ..outgoing(VnetHeader::default(), &octets)
        };
        let plain = outgoing(VnetHeader::default(), &octets);
        let delivery = port.deliver(&[plain, shattered, plain]);
        assert_eq!(
            delivery,
            Delivery {
                accepted: 1,
                refusal: drop(DropReason::DeviceError)
            }
        );

        let status = port.status();
        assert_eq!(status.refusals.get("frame_refused"), Some(&4));
        assert!(status.up && status.last_error.is_some());
    });
}

#[test]
fn memory_that_vanished_costs_the_frame_only() {
    if skip("memory_that_vanished_costs_the_frame_only") {
        return;
    }
    in_namespace(|| {
        let port = TapPort::open("tap0", 1500, 1).expect("a new tap");
        // SAFETY: a new anonymous mapping at an address of the kernel's choice.
        let page = unsafe {
            libc::mmap(
                ptr::null_mut(),
                4096,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert_ne!(page, libc::MAP_FAILED);
        let octets = frame();
        let tail = [Segment {
            ptr: page.cast(),
            len: 100,
        }];
        let lost = Outgoing {
            tail: &tail,
            ..outgoing(VnetHeader::default(), &octets)
        };
        assert_eq!(
            port.deliver(&[lost]).refusal,
            Some(Refusal::Drop(DropReason::MemoryLost))
        );
        assert_eq!(refusal(&port, VnetHeader::default(), &octets), None);
        // SAFETY: the mapping that was made above, which nobody uses any more.
        unsafe { libc::munmap(page, 4096) };
    });
}

#[test]
fn a_link_that_is_down_drops_until_it_is_up() {
    if skip("a_link_that_is_down_drops_until_it_is_up") {
        return;
    }
    in_namespace(|| {
        let port = TapPort::open("tap0", 1500, 1).expect("a new tap");
        ip("link set tap0 down");
        let down = Some(Refusal::Drop(DropReason::PortDown));
        assert_eq!(refusal(&port, VnetHeader::default(), &frame()), down);
        assert_eq!(port.status().refusals.get("link_down"), Some(&1));
        ip("link set tap0 up");
        assert_eq!(refusal(&port, VnetHeader::default(), &frame()), None);
        assert!(port.status().up);
    });
}

#[test]
fn an_interface_that_is_removed_takes_the_port_down_for_good() {
    if skip("an_interface_that_is_removed_takes_the_port_down_for_good") {
        return;
    }
    in_namespace(|| {
        let port = TapPort::open("tap0", 1500, 1).expect("a new tap");
        let waker = Arc::new(NotingWaker::default());
        port.attach(waker.clone());
        assert_eq!(waker.noted(), ["watch"]);
        ip("link delete tap0");
        port.woken(0);
        assert_eq!(waker.noted(), ["unwatch"], "a dead descriptor is ready for ever");
        let mut burst = Burst::default();
        port.take(0, Instant(0), &mut burst);
        assert!(burst.frames().is_empty());
        let down = Some(Refusal::Drop(DropReason::PortDown));
        assert_eq!(refusal(&port, VnetHeader::default(), &frame()), down);
        assert!(!port.arm(0, true), "nothing to stay awake for");
        port.disarm(0);
        let status = port.status();
        assert!(!status.up);
        assert!(
            status
                .last_error
                .expect("a reason")
                .contains("tap tap0: the interface was removed")
        );
        assert!(waker.noted().is_empty());
    });
}

/// The same, noticed by whoever touches the interface first.
#[test]
fn reading_and_writing_notice_a_removal_as_well() {
    if skip("reading_and_writing_notice_a_removal_as_well") {
        return;
    }
    in_namespace(|| {
        let reader = TapPort::open("tap0", 1500, 1).expect("a new tap");
        let writer = TapPort::open("tap1", 1500, 1).expect("a new tap");
        ip("link delete tap0");
        ip("link delete tap1");
        reader.take(0, Instant(0), &mut Burst::default());
        assert!(!reader.status().up);
        let down = Some(Refusal::Drop(DropReason::PortDown));
        assert_eq!(refusal(&writer, VnetHeader::default(), &frame()), down);
        assert!(!writer.status().up);
    });
}

#[test]
fn sleeping_asks_for_room_only_when_wanted() {
    if skip("sleeping_asks_for_room_only_when_wanted") {
        return;
    }
    in_namespace(|| {
        let port = TapPort::open("tap0", 1500, 1).expect("a new tap");
        let waker = Arc::new(NotingWaker::default());
        port.attach(waker.clone());
        // What the kernel says by itself when an interface comes up.
        let mut burst = Burst::default();
        loop {
            port.take(0, Instant(0), &mut burst);
            if burst.frames().is_empty() {
                break;
            }
            burst.clear();
        }
        waker.noted();
        assert!(port.arm(0, true), "a tap has room");
        port.disarm(0);
        port.arm(0, false);
        port.disarm(0);
        assert_eq!(waker.noted(), ["room on", "room off"]);

        port.close();
        assert_eq!(waker.noted(), ["unwatch"]);
        assert!(!port.status().up && !port.arm(0, true));
    });
}

#[test]
fn an_mtu_is_set_and_a_tap_goes_with_its_port() {
    if skip("an_mtu_is_set_and_a_tap_goes_with_its_port") {
        return;
    }
    in_namespace(|| {
        let port = TapPort::open("tap0", 9000, 1).expect("a new tap");
        let show = || {
            Command::new("ip")
                .args(["-o", "link", "show", "tap0"])
                .output()
                .expect("the ip command")
        };
        let text = String::from_utf8_lossy(&show().stdout).into_owned();
        assert!(text.contains("mtu 9000") && text.contains("UP"), "{text}");
        let capabilities = port.capabilities();
        assert!(capabilities.checksum && capabilities.tso4 && capabilities.tso6 && capabilities.ecn);
        drop(port);
        // A process that another test is just starting has the file for a moment longer.
        let start = WallClock::now();
        while show().status.success() {
            assert!(start.elapsed() < LIMIT, "the interface is still there");
        }
    });
}

/// A port that was removed may be added again at once, although some worker still has the old one.
#[test]
fn a_closed_port_lets_its_interface_go() {
    if skip("a_closed_port_lets_its_interface_go") {
        return;
    }
    in_namespace(|| {
        let old = TapPort::open("tap0", 1500, 1).expect("a new tap");
        old.close();
        let start = WallClock::now();
        let new = loop {
            match TapPort::open("tap0", 1500, 1) {
                // A process that another test is just starting has the file for a moment longer.
                Err(TapError::Busy { .. }) if start.elapsed() < LIMIT => {}
                result => break result.expect("the name is free"),
            }
        };
        let down = Some(Refusal::Drop(DropReason::PortDown));
        assert_eq!(refusal(&old, VnetHeader::default(), &frame()), down);
        assert_eq!(refusal(&new, VnetHeader::default(), &frame()), None);
        old.close();
        assert!(new.status().up);
    });
}
