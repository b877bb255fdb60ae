use std::cell::RefCell;
use std::rc::Rc;

use super::*;
use crate::checksum::tests::{complete, tcp_frame};
use crate::virtqueue::device::Device as Backend;

#[derive(Clone, Default)]
struct Rings(Rc<RefCell<Vec<u16>>>);

impl Doorbell for Rings {
    fn ring(&mut self, queue: u16) {
        self.0.borrow_mut().push(queue);
    }
}

struct Bench {
    nic: Nic<Rings>,
    receive: Backend,
    transmit: Backend,
    rings: Rings,
}

fn bench(features: u64, mtu: u16, size: u16) -> Bench {
    let rings = Rings::default();
    let config = NicConfig {
        features,
        mac: [2, 0, 0, 0, 0, 1],
        mtu: Some(mtu),
        queue_sizes: (size, size),
    };
    let mut nic = Nic::new(config, rings.clone());
    let [receive, transmit] = nic.queues().map(Backend::new);
    nic.fill();
    Bench {
        nic,
        receive,
        transmit,
        rings,
    }
}

impl Bench {
    /// Puts `frame` into as many buffers as it needs, as a device does.
    fn deliver(&mut self, flags: u8, frame: &[u8]) {
        let mut octets = vec![flags, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];
        octets.extend_from_slice(frame);
        let (mut buffers, mut rest) = (Vec::new(), octets.as_slice());
        while !rest.is_empty() {
            let mut buffer = self.receive.take().expect("a receive buffer");
            assert!(buffer.writable);
            let (part, after) = rest.split_at(rest.len().min(buffer.len as usize));
            buffer.octets()[..part.len()].copy_from_slice(part);
            buffers.push((buffer, part.len() as u32));
            rest = after;
        }
        let count = (buffers.len() as u16).to_le_bytes();
        buffers[0].0.octets()[10..12].copy_from_slice(&count);
        for (buffer, len) in buffers {
            self.receive.give(buffer.id, len);
        }
    }

    fn received(&mut self) -> Option<Vec<u8>> {
        let (token, _) = self.nic.receive(Instant::ZERO)?;
        Some(token.consume(<[u8]>::to_vec))
    }

    fn send(&mut self, frame: &[u8]) -> bool {
        self.send_cut(frame, None)
    }

    /// Sends a segment that is to be cut.
    fn send_cut(&mut self, frame: &[u8], payload: Option<u16>) -> bool {
        let Some(mut token) = self.nic.transmit(Instant::ZERO) else {
            return false;
        };
        let mut meta = PacketMeta::default();
        meta.segmentation_offload_size = payload.and_then(NonZeroU16::new);
        token.set_meta(meta);
        token.consume(frame.len(), |room| room.copy_from_slice(frame));
        true
    }

    /// Header and frame of the next transmitted buffer, which is returned to the driver.
    fn sent(&mut self) -> Option<(Vec<u8>, Vec<u8>)> {
        let mut buffer = self.transmit.take()?;
        assert!(!buffer.writable);
        let (header, frame) = buffer.octets().split_at(HEADER);
        let copy = (header.to_vec(), frame.to_vec());
        self.transmit.give(buffer.id, 0);
        Some(copy)
    }
}

#[test]
fn first_frame_announces_the_address() {
    let mut bench = bench(F_VERSION_1 | F_CSUM, 1500, 8);
    bench.nic.announce(Ipv4Addr::new(192, 0, 2, 1));
    let (header, frame) = bench.sent().expect("a frame");
    assert_eq!(header, [0; HEADER]);
    assert_eq!(frame.len(), 42);
    assert_eq!(
        frame[..14],
        [255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 1, 8, 6]
    );
    assert_eq!(
        (&frame[28..32], &frame[38..42]),
        (&[192, 0, 2, 1][..], &[192, 0, 2, 1][..])
    );
    assert_eq!(*bench.rings.0.borrow(), [RECEIVE_QUEUE, TRANSMIT_QUEUE]);
}

#[test]
fn checksums_are_left_to_a_device_that_completes_them() {
    let right = tcp_frame(b"hello");
    let mut bare = right.clone();
    bare[50..52].fill(0);
    let mut with = bench(F_VERSION_1 | F_CSUM, 1500, 8);
    assert!(!with.nic.capabilities().checksum.tcp.tx());
    assert!(with.send(&bare));
    let (header, mut frame) = with.sent().expect("a frame");
    assert_eq!(header, [NEEDS_CSUM, 0, 0, 0, 0, 0, 34, 0, 16, 0, 0, 0]);
    complete(&mut frame, 34, 16);
    assert_eq!(frame, right);

    let mut without = bench(F_VERSION_1, 1500, 8);
    assert!(without.nic.capabilities().checksum.tcp.tx());
    assert!(without.send(&right));
    assert_eq!(without.sent(), Some((vec![0; HEADER], right)));
}

#[test]
fn segments_larger_than_the_mtu_are_cut_by_a_device_that_can() {
    let (small, large) = (tcp_frame(&[1; 1460]), tcp_frame(&vec![2; 60_000]));
    let mut bench = bench(F_VERSION_1 | LARGE, 1500, 256);
    let capabilities = bench.nic.capabilities();
    assert_eq!(capabilities.max_transmission_unit, 1514);
    assert_eq!(capabilities.segmentation.tcpv4, NonZeroUsize::new(65535));
    assert_eq!(bench.nic.queues()[1].size(), 32);
    assert!(bench.send(&small) && bench.send_cut(&large, Some(1460)));
    let header = |bench: &mut Bench| bench.sent().expect("a frame").0;
    assert_eq!(
        header(&mut bench),
        [NEEDS_CSUM, 0, 0, 0, 0, 0, 34, 0, 16, 0, 0, 0]
    );
    let [size0, size1] = 1460_u16.to_le_bytes();
    assert_eq!(
        header(&mut bench),
        [NEEDS_CSUM, GSO_TCPV4, 54, 0, size0, size1, 34, 0, 16, 0, 0, 0]
    );
    bench.deliver(NEEDS_CSUM, &large);
    assert_eq!(bench.received(), Some(large));
    // Less than all of it is not enough.
    for missing in [F_CSUM, F_GUEST_CSUM, F_MRG_RXBUF, F_GUEST_TSO4, F_HOST_TSO4] {
        let bench = super::tests::bench(F_VERSION_1 | LARGE & !missing, 1500, 8);
        assert_eq!(bench.nic.capabilities().segmentation.tcpv4, None);
    }
}

#[test]
fn received_checksums_are_verified_unless_vouched_for() {
    let right = tcp_frame(b"hello");
    let mut wrong = right.clone();
    wrong[50] ^= 1;
    let mut bench = bench(F_VERSION_1 | F_GUEST_CSUM, 1500, 8);
    assert!(!bench.nic.capabilities().checksum.tcp.rx());
    bench.deliver(0, &wrong);
    bench.deliver(0, &right);
    assert_eq!(bench.received(), Some(right));
    assert_eq!(bench.nic.invalid_frames(), 1);
    bench.deliver(NEEDS_CSUM, &wrong);
    bench.deliver(DATA_VALID, &wrong);
    assert_eq!(bench.received().as_ref(), Some(&wrong));
    assert_eq!(bench.received().as_ref(), Some(&wrong));
    assert_eq!(bench.received(), None);
}

#[test]
fn buffers_go_back_to_the_device() {
    let mut bench = bench(F_VERSION_1, 1500, 4);
    for round in 0..100_u8 {
        bench.deliver(0, &[round; 60]);
        assert_eq!(bench.received(), Some(vec![round; 60]));
        assert!(bench.send(&[round; 70]));
        assert_eq!(bench.sent().map(|(_, frame)| frame), Some(vec![round; 70]));
    }
}

#[test]
fn large_frames_are_put_together() {
    let mut bench = bench(F_VERSION_1 | F_MRG_RXBUF, 9000, 16);
    assert_eq!(bench.nic.capabilities().max_transmission_unit, 9014);
    for round in 0..40_u8 {
        let frame: Vec<u8> = (0..9014_u32).map(|i| (i as u8).wrapping_mul(round)).collect();
        bench.deliver(0, &frame);
        bench.deliver(0, &[round; 60]);
        assert_eq!(bench.received(), Some(frame));
        assert_eq!(bench.received(), Some(vec![round; 60]));
    }
}

#[test]
fn a_full_transmit_queue_makes_the_stack_wait() {
    let mut bench = bench(F_VERSION_1, 1500, 4);
    for _ in 0..4 {
        assert!(bench.send(&[0; 60]));
    }
    assert!(!bench.send(&[0; 60]));
    bench.deliver(0, &[1; 60]);
    assert_eq!(bench.received(), None);
    assert!(bench.sent().is_some());
    assert_eq!(bench.received(), Some(vec![1; 60]));
    assert!(bench.send(&[0; 60]) && !bench.send(&[0; 60]));
}

#[test]
fn nonsense_from_the_device_is_counted() {
    let mut bench = bench(F_VERSION_1 | F_MRG_RXBUF, 1500, 4);
    let mut buffer = bench.receive.take().expect("a receive buffer");
    buffer.octets()[10..12].copy_from_slice(&500_u16.to_le_bytes());
    bench.receive.give(buffer.id, 100);
    assert_eq!(bench.received(), None);
    assert_eq!(bench.nic.invalid_frames(), 1);
    let mut buffer = bench.receive.take().expect("a receive buffer");
    buffer.octets()[10..12].copy_from_slice(&0_u16.to_le_bytes());
    bench.receive.give(buffer.id, u32::MAX);
    assert_eq!(
        bench.received().map(|frame| frame.len()),
        Some(MERGEABLE_BUFFER - HEADER)
    );
}

#[test]
fn sleeping_asks_for_interrupts_and_flushing_respects_the_device() {
    let mut bench = bench(F_VERSION_1, 1500, 4);
    assert!(!bench.receive.interrupts_wanted() && !bench.transmit.interrupts_wanted());
    assert!(bench.nic.may_sleep() && bench.receive.interrupts_wanted());
    bench.deliver(0, &[0; 60]);
    assert!(!bench.nic.may_sleep());
    bench.nic.awake();
    assert!(!bench.receive.interrupts_wanted());
    bench.rings.0.borrow_mut().clear();
    bench.transmit.suppress_doorbell(true);
    assert!(bench.send(&[0; 60]));
    bench.nic.flush();
    assert!(bench.rings.0.borrow().is_empty());
    bench.transmit.suppress_doorbell(false);
    assert!(bench.send(&[0; 60]));
    bench.nic.flush();
    bench.nic.flush();
    assert_eq!(*bench.rings.0.borrow(), [TRANSMIT_QUEUE]);
}
