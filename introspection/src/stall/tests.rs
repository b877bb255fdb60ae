//! Scripted traces in virtual time: the guest is the client, 192.0.2.1; times are microseconds.

use offload::TcpFlags;

use super::*;
use crate::testing::{Port, Segment};
use crate::{FilterOptions, Profile, build};

const MS: u64 = 1000;
const SYN: u8 = TcpFlags::SYN;
const ACK: u8 = TcpFlags::ACK;

/// Two ends that talk through a port, close to the wraparound of their sequence numbers.
struct Talk {
    port: Port,
    now: u64,
    /// Next sequence numbers of the guest and of its peer.
    guest: u32,
    peer: u32,
}

impl Talk {
    /// A connection, picked up behind its handshake.
    fn midway(profile: Profile) -> Self {
        Self {
            port: Port::new(profile),
            now: 1_000_000,
            guest: u32::MAX - 20,
            peer: u32::MAX - 70,
        }
    }

    /// A new connection to a peer `rtt` microseconds away.
    fn open(profile: Profile, rtt: u64) -> Self {
        let mut talk = Self::midway(profile);
        let syn = Segment::tx().data(talk.guest.wrapping_sub(1), 0).flags(SYN);
        talk.port.carry(talk.now, syn);
        talk.now += rtt;
        let answer = Segment::rx()
            .data(talk.peer.wrapping_sub(1), 0)
            .ack(talk.guest)
            .flags(SYN | ACK);
        talk.port.carry(talk.now, answer);
        talk.now += 20;
        talk.guest_acks();
        talk
    }

    fn wait(&mut self, us: u64) {
        self.now += us;
        self.port.wait(self.now);
    }

    fn guest_sends(&mut self, len: u32) {
        let segment = Segment::tx().data(self.guest, len).ack(self.peer);
        self.port.carry(self.now, segment);
        self.guest = self.guest.wrapping_add(len);
    }

    /// The peer sends, having received all but the last `missing` octets of the guest's.
    fn peer_sends(&mut self, len: u32, missing: u32) {
        let segment = Segment::rx()
            .data(self.peer, len)
            .ack(self.guest.wrapping_sub(missing));
        self.port.carry(self.now, segment);
        self.peer = self.peer.wrapping_add(len);
    }

    fn guest_acks(&mut self) {
        self.port
            .carry(self.now, Segment::tx().data(self.guest, 0).ack(self.peer));
    }

    fn peer_acks(&mut self, missing: u32) {
        self.peer_sends(0, missing);
    }

    /// Request in two small writes, then a response. Either the filter or the sender keeps the second write back.
    fn wwr(&mut self, ack_delay: u64, kept_by_sender: bool) {
        self.guest_sends(32);
        self.wait(10);
        let missing = if kept_by_sender { 0 } else { 32 };
        if !kept_by_sender {
            self.guest_sends(32);
        }
        self.wait(ack_delay);
        self.peer_acks(missing);
        if kept_by_sender {
            self.wait(60);
            self.guest_sends(32);
        }
        self.wait(150);
        self.peer_sends(100, 0);
        self.wait(80);
    }

    fn counts(&self) -> [u64; 3] {
        let counts = self.port.watcher.counts();
        [counts.delayed_ack, counts.filter_hold, counts.retransmission]
    }

    fn only(&self) -> Stall {
        let mut recent = self.port.watcher.recent();
        let stall = recent.next().expect("a stall").clone();
        assert_eq!(recent.next(), None);
        stall
    }
}

#[test]
fn wwr_through_serialize_stalls_once_a_transaction() {
    for delay in [200 * MS, 40 * MS] {
        for mut talk in [
            Talk::open(Profile::Serialize, 120),
            Talk::midway(Profile::Serialize),
        ] {
            for _ in 0..20 {
                talk.wwr(delay, false);
            }
            assert_eq!(talk.counts(), [20, 0, 0]);
            for stall in talk.port.watcher.recent() {
                assert!(stall.gap_ns.abs_diff(delay * 1000) < 100_000, "{}", stall.gap_ns);
                let roles: Vec<Role> = stall.evidence.iter().map(|frame| frame.role).collect();
                assert_eq!(
                    roles,
                    [Role::Delivered, Role::Held, Role::Acknowledgement, Role::Released]
                );
            }
            assert_eq!(
                talk.port.watcher.totals().delayed_ack_ns / 1_000_000,
                20 * delay / MS
            );
        }
    }
}

#[test]
fn wwr_without_an_ack_delay_or_a_filter_is_quick() {
    let mut serialize = Talk::open(Profile::Serialize, 120);
    let mut off = Talk::open(Profile::Off, 120);
    let mut inspect = Talk::open(Profile::Inspect, 120);
    for _ in 0..20 {
        serialize.wwr(100, false);
        off.wwr(100, false);
        inspect.wwr(100, false);
    }
    assert_eq!([serialize.counts(), off.counts(), inspect.counts()], [[0; 3]; 3]);
}

#[test]
fn a_sender_with_nagle_stalls_without_a_filter() {
    let mut talk = Talk::open(Profile::Off, 120);
    for _ in 0..10 {
        talk.wwr(200 * MS, true);
    }
    assert_eq!(talk.counts(), [10, 0, 0]);
    let stall = talk.port.watcher.recent().next().expect("one").clone();
    let roles: Vec<Role> = stall.evidence.iter().map(|frame| frame.role).collect();
    assert_eq!(
        roles,
        [Role::Delivered, Role::Acknowledgement, Role::Continuation]
    );
    assert_eq!(stall.ack_delay_ns(), Some(200_010_000));
    assert_eq!(
        stall.explain(),
        "200 ms: 192.0.2.1:4000 kept back seq 33..65 until 192.0.2.2 acknowledged seq 1..33; \
         that ACK came 200 ms late (delayed ACK)"
    );
}

#[test]
fn records_stall_on_the_receivers_ack_without_a_filter() {
    for mut talk in [Talk::open(Profile::Off, 120), Talk::midway(Profile::Off)] {
        for _ in 0..10 {
            talk.peer_sends(1448, 0);
            talk.wait(5);
            talk.peer_sends(1448, 0);
            talk.wait(20);
            talk.guest_acks(); // every second segment
            talk.peer_sends(1104, 0);
            talk.wait(200 * MS);
            talk.guest_acks();
            talk.wait(90);
        }
        // The last acknowledgement has nothing behind it.
        assert_eq!(talk.counts(), [9, 0, 0]);
    }
}

#[test]
fn a_hold_until_the_deadline_is_the_filters() {
    let mut talk = Talk::open(Profile::Hold, 120);
    for _ in 0..5 {
        talk.guest_sends(32);
        talk.wait(50 * MS + 100);
        talk.peer_sends(100, 0);
        talk.wait(50 * MS + 100);
    }
    // Requests are the guest's longest segments and responses the peer's: both are held.
    assert_eq!(talk.counts(), [0, 10, 0]);
    let stall = talk.port.watcher.recent().next().expect("one").clone();
    assert_eq!(stall.gap_ns, 50_000_000);
    assert_eq!(
        stall.explain(),
        "50 ms: the filter kept segment seq 1..33 of 192.0.2.1:4000, and no late ACK was awaited"
    );
}

#[test]
fn frames_let_go_together_are_one_stall() {
    let mut talk = Talk::open(Profile::Hold, 120);
    for _ in 0..6 {
        talk.guest_sends(1448);
        talk.wait(10);
    }
    talk.wait(60 * MS);
    assert_eq!(talk.counts(), [0, 1, 0]);
}

#[test]
fn a_hold_of_the_ack_is_the_filters() {
    let mut talk = Talk::open(Profile::Hold, 120);
    talk.guest_sends(1000); // held, and so is the ACK behind it
    talk.peer_sends(200, 1000);
    talk.wait(10);
    let push = Segment::rx()
        .data(talk.peer, 1)
        .flags(ACK | TcpFlags::PSH)
        .ack(talk.guest.wrapping_sub(1000));
    talk.port.carry(talk.now, push); // lets the peer's data go
    talk.peer = talk.peer.wrapping_add(1);
    talk.wait(20);
    talk.guest_acks();
    talk.wait(50 * MS);
    talk.peer_sends(200, 0); // comes as soon as the ACK is there
    let causes: Vec<_> = talk.port.watcher.recent().map(|stall| stall.cause).collect();
    assert_eq!(causes, [StallCause::FilterHold; 2]);
    let stall = talk.port.watcher.recent().nth(1).expect("two");
    assert_eq!(
        stall.explain(),
        "50 ms: the filter kept the ACK of 192.0.2.1:4000 that seq 202..402 waited for"
    );
}

#[test]
fn a_deadline_that_cuts_the_wait_short_is_the_filters() {
    let options = FilterOptions {
        deadline: Some(Duration::from_millis(100)),
        ..FilterOptions::default()
    };
    let mut talk = Talk::midway(Profile::Off);
    talk.port = Port::with(build(Profile::Serialize, options));
    talk.wwr(200 * MS, false);
    assert_eq!(talk.counts(), [0, 1, 0]);
    assert_eq!(talk.only().gap_ns, 100_000_000);
    assert_eq!(talk.only().ack_delay_ns(), None);
}

#[test]
fn waiting_a_round_trip_for_a_prompt_ack_is_the_filters() {
    let mut talk = Talk::open(Profile::Serialize, 50 * MS);
    talk.wwr(50 * MS, false);
    assert_eq!(talk.counts(), [0, 1, 0]);
}

#[test]
fn a_lost_segment_is_a_retransmission() {
    for profile in [Profile::Off, Profile::Inspect, Profile::Serialize] {
        let mut talk = Talk::open(profile, 120);
        talk.guest_sends(32);
        talk.wait(210 * MS);
        talk.guest = talk.guest.wrapping_sub(32);
        talk.guest_sends(32);
        talk.wait(100);
        talk.peer_sends(100, 0);
        talk.wait(100);
        talk.guest_acks();
        assert_eq!(talk.counts(), [0, 0, 1], "{profile}");
        let stall = talk.only();
        assert_eq!(
            stall.explain(),
            "210 ms: 192.0.2.1:4000 got no answer and sent seq 1..33 again (retransmission)"
        );
        assert_eq!(stall.evidence.len(), 2);
    }
}

#[test]
fn a_fast_retransmission_and_a_lost_syn() {
    let mut talk = Talk::open(Profile::Off, 120);
    talk.guest_sends(1000);
    talk.wait(300);
    talk.guest = talk.guest.wrapping_sub(1000);
    talk.guest_sends(1000);
    assert_eq!(talk.counts(), [0; 3]);
    let mut port = Port::new(Profile::Off);
    for us in [0, 1_000_000] {
        port.carry(us, Segment::tx().data(77, 0).flags(SYN));
    }
    assert_eq!(port.watcher.counts().retransmission, 1);
    assert_eq!(
        port.watcher.recent().next().map(|stall| stall.gap_ns),
        Some(1_000_000_000)
    );
}

#[test]
fn an_impatient_sender_does_not_hide_the_filter() {
    // The sender's timer runs out while the filter still has its segment (TCP-level retransmission into a hold).
    let options = FilterOptions {
        deadline: Some(Duration::from_secs(1)),
        ..FilterOptions::default()
    };
    let mut talk = Talk::midway(Profile::Off);
    talk.port = Port::with(build(Profile::Hold, options));
    talk.guest_sends(1000);
    talk.wait(250 * MS);
    talk.guest = talk.guest.wrapping_sub(1000);
    talk.guest_sends(1000);
    assert_eq!(talk.counts(), [0, 1, 0]);
    assert_eq!(talk.only().gap_ns, 250_000_000);
}

#[test]
fn think_time_is_no_stall() {
    for profile in [Profile::Off, Profile::Inspect, Profile::Serialize] {
        let mut talk = Talk::open(profile, 120);
        for _ in 0..10 {
            talk.wwr(100, false);
            talk.wait(300 * MS);
        }
        assert_eq!(talk.counts(), [0; 3], "{profile}");
    }
}

#[test]
fn a_late_ack_that_nobody_waits_for_is_no_stall() {
    let mut talk = Talk::open(Profile::Serialize, 120);
    for _ in 0..10 {
        talk.guest_sends(32);
        talk.wait(100);
        talk.peer_sends(100, 0);
        talk.wait(40 * MS);
        talk.guest_acks(); // late; the peer has nothing more to say
        talk.wait(260 * MS);
    }
    assert_eq!(talk.counts(), [0; 3]);
    // Nor when the receiver of the ACK sends much later.
    talk.peer_sends(100, 0);
    talk.wait(200 * MS);
    talk.guest_acks();
    talk.wait(100 * MS);
    talk.peer_sends(100, 0);
    assert_eq!(talk.counts(), [0; 3]);
}

#[test]
fn a_sender_that_does_not_wait_follows_a_late_ack_by_chance() {
    let mut talk = Talk::open(Profile::Off, 120);
    for _ in 0..5 {
        talk.wwr(100, false); // both writes leave at once: no Nagle here
        talk.wwr(40 * MS, true); // the guest stood still between its writes, and the peer's timer ran out
    }
    assert_eq!(talk.counts(), [0; 3]);
    // Full segments are another matter: a window may have kept them back.
    talk.guest_sends(32);
    talk.wait(40 * MS);
    talk.peer_acks(0);
    talk.wait(60);
    talk.guest_sends(1448);
    assert_eq!(talk.counts(), [1, 0, 0]);
    // What was seen long ago tells nothing.
    talk.wait(100);
    talk.peer_sends(100, 0);
    talk.wait(2000 * MS);
    talk.wwr(40 * MS, true);
    assert_eq!(talk.counts(), [2, 0, 0]);
}

#[test]
fn an_answer_with_payload_is_no_delayed_ack() {
    let mut talk = Talk::open(Profile::Off, 120);
    talk.guest_sends(32);
    talk.wait(120 * MS); // the peer thinks
    talk.peer_sends(10, 0);
    talk.wait(50);
    talk.guest_sends(32);
    // A late pure ACK, then payload of the same end: it is the payload that the other end goes on for.
    talk.wait(80 * MS);
    talk.peer_acks(0);
    talk.wait(1000);
    talk.peer_sends(10, 0);
    talk.wait(50);
    talk.guest_sends(32);
    assert_eq!(talk.counts(), [0; 3]);
}

#[test]
fn keep_alive_probes_repeat_nothing() {
    let mut talk = Talk::open(Profile::Off, 120);
    talk.wwr(100, false);
    for len in [0, 1] {
        talk.wait(2_000 * MS);
        let probe = Segment::tx().data(talk.guest.wrapping_sub(1), len).ack(talk.peer);
        talk.port.carry(talk.now, probe);
        talk.wait(100);
        talk.peer_acks(0);
    }
    assert_eq!(talk.counts(), [0; 3]);
}

#[test]
fn bulk_data_is_no_stall() {
    for profile in [Profile::Off, Profile::Inspect, Profile::Serialize] {
        let mut talk = Talk::open(profile, 200);
        for _ in 0..2_000 {
            talk.guest_sends(65_160);
            talk.wait(100);
            talk.peer_acks(0);
            talk.wait(100);
        }
        assert_eq!(talk.counts(), [0; 3], "{profile}");
    }
}

#[test]
fn a_queue_in_serialize_stalls_once_for_each_ack() {
    let mut talk = Talk::open(Profile::Serialize, 120);
    for _ in 0..36 {
        talk.guest_sends(100); // more than the lane remembers
    }
    for left in (0..36).rev() {
        talk.wait(27 * MS); // the last one leaves before its deadline of a second
        talk.peer_acks(left * 100);
    }
    assert_eq!(talk.counts(), [35, 0, 0]);
}

#[test]
fn frames_that_the_filter_drops_leave_no_trace() {
    let mut watcher = StallWatcher::default();
    let mut at = 0;
    for round in 0..100 {
        let (dropped, lost) = (
            Segment::tx().data(round * 20, 10),
            Segment::tx().ack(round * 10 + 1),
        );
        for segment in [dropped, lost] {
            watcher.observe(Instant(at), Point::Near, Direction::Tx, &segment.meta());
        }
        let passed = Segment::tx().data(round * 20 + 10, 10);
        watcher.observe_both(Instant(at + 1), Direction::Tx, &passed.meta());
        at += 100_000_000;
    }
    assert_eq!(watcher.counts(), StallCounts::default());
}

#[test]
fn one_capture_point_is_enough_for_what_no_filter_causes() {
    let mut watcher = StallWatcher::default();
    let (mut seq, mut at) = (1, 0);
    for _ in 0..3 {
        for (wait, segment) in [
            (0, Segment::tx().data(seq, 32).ack(1)),
            (200_000_000, Segment::rx().data(1, 0).ack(seq + 32)),
            (60_000, Segment::tx().data(seq + 32, 32).ack(1)),
            (50_000, Segment::rx().data(1, 0).ack(seq + 64)),
        ] {
            at += wait;
            let meta = segment.meta();
            let (_, direction) = FlowKey::canonical(&meta).expect("TCP");
            watcher.observe_both(Instant(at), direction, &meta);
        }
        seq += 64;
        at += 400_000_000;
    }
    assert_eq!(watcher.counts().delayed_ack, 3);
    assert_eq!(watcher.counts().total(), 3);
}

#[test]
fn memory_is_bounded_and_floods_leave_known_flows_alone() {
    let mut watcher = StallWatcher::new(StallOptions {
        flows: 100,
        recent: 3,
        ..StallOptions::default()
    });
    let talk = |watcher: &mut StallWatcher, at: u64, segment: Segment| {
        watcher.observe_both(Instant(at), segment.direction(), &segment.meta());
    };
    talk(&mut watcher, 0, Segment::tx().data(1, 10));
    talk(&mut watcher, 1, Segment::rx().ack(11));
    for port in 10_000..20_000 {
        talk(&mut watcher, 2, Segment::tx().port(port).flags(SYN));
    }
    assert!(watcher.flows() <= 100);
    for again in 0..10 {
        talk(&mut watcher, 50_000_000 * (again + 1), Segment::tx().data(11, 10));
    }
    assert_eq!(watcher.counts().retransmission, 9);
    assert_eq!(watcher.recent().count(), 3);
}

#[test]
fn stalls_and_counts_are_written_as_json_friendly_values() {
    let mut talk = Talk::open(Profile::Serialize, 120);
    talk.wwr(200 * MS, false);
    let stall = talk.only();
    let text = toml::to_string(&stall).expect("writes");
    assert!(text.contains("cause = \"delayed_ack\""));
    assert_eq!(toml::from_str::<Stall>(&text).as_ref(), Ok(&stall));
    assert_eq!(
        stall.explain(),
        "200 ms: the filter kept segment seq 33..65 until 192.0.2.2 acknowledged seq 1..33; \
         that ACK came 200 ms late (delayed ACK)"
    );
}
