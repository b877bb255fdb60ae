//! A split ring beside the `virtio-queue` crate's: two drivers do the same, one served by ours and one by theirs, and see the same.

use offload::VnetHeader;
use proptest::prelude::*;
use virtio_queue::{Queue, QueueT};
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap};

use super::{MODERN, Side, framed};
use crate::frame::Burst;
use crate::ring::feature;
use crate::ring::mock::Shape;

const SIZE: u16 = 8;
const BUFFER: u64 = 1024;
const VNET: usize = 12;

/// One thing that a driver or a device does.
#[derive(Clone, Copy, Debug)]
enum Step {
    Send {
        len: usize,
        pieces: usize,
        indirect: bool,
    },
    MustKick,
    WantInterrupts(bool),
    Collect,
    Take,
    Notify,
    Enable,
    Disable,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (14usize..900, 1usize..5, any::<bool>())
            .prop_map(|(len, pieces, indirect)| Step::Send { len, pieces, indirect }),
        2 => Just(Step::MustKick),
        1 => any::<bool>().prop_map(Step::WantInterrupts),
        2 => Just(Step::Collect),
        3 => Just(Step::Take),
        2 => Just(Step::Notify),
        2 => Just(Step::Enable),
        1 => Just(Step::Disable),
    ]
}

/// The other device.
struct Theirs {
    driver: Side,
    queue: Queue,
    memory: GuestMemoryMmap,
}

impl Theirs {
    fn new(features: u64, start: u16) -> Self {
        let driver = Side::new(SIZE, BUFFER, features, start);
        let guest = driver.driver.guest();
        let region = guest.region();
        let file = guest.file().try_clone().expect("a descriptor can be duplicated");
        let range = (
            GuestAddress(region.guest),
            region.size as usize,
            Some(FileOffset::new(file, 0)),
        );
        let memory = GuestMemoryMmap::from_ranges_with_files([range]).expect("the file can be mapped");
        let (descriptors, available, used) = driver.driver.parts();
        let halves = |address: u64| (Some(address as u32), Some((address >> 32) as u32));
        let mut queue = Queue::new(SIZE).expect("a good size");
        queue.set_size(SIZE);
        let (low, high) = halves(descriptors);
        queue.set_desc_table_address(low, high);
        let (low, high) = halves(available);
        queue.set_avail_ring_address(low, high);
        let (low, high) = halves(used);
        queue.set_used_ring_address(low, high);
        queue.set_event_idx(features & feature::EVENT_IDX != 0);
        queue.set_next_avail(start);
        queue.set_next_used(start);
        queue.set_ready(true);
        assert!(queue.is_valid(&memory));
        Self {
            driver,
            queue,
            memory,
        }
    }

    /// Takes all chains and gives them back; their heads and lengths.
    fn take(&mut self) -> Vec<(u16, usize)> {
        let mut taken = Vec::new();
        while let Some(chain) = self.queue.pop_descriptor_chain(&self.memory) {
            let head = chain.head_index();
            taken.push((head, chain.map(|descriptor| descriptor.len() as usize).sum()));
            self.queue
                .add_used(&self.memory, head, 0)
                .expect("a chain of this ring");
        }
        taken
    }
}

fn take(ours: &mut Side) -> Vec<(u16, usize)> {
    let mut burst = Burst::default();
    ours.ring.take(0, &mut burst);
    ours.ring.complete();
    let frames = burst.frames().iter();
    frames
        .map(|frame| (frame.token, frame.len as usize + VNET))
        .collect()
}

/// Does the same on both sides; what each saw.
fn both(step: Step, ours: &mut Side, theirs: &mut Theirs) -> [String; 2] {
    let drivers = |ours: &mut Side, theirs: &mut Theirs, does: &dyn Fn(&mut Side) -> String| {
        [does(ours), does(&mut theirs.driver)]
    };
    match step {
        Step::Send {
            len,
            pieces,
            indirect,
        } => drivers(ours, theirs, &|side| {
            let shape = if indirect {
                Shape::Indirect(pieces)
            } else {
                Shape::Chain(pieces)
            };
            let octets = framed(VNET, VnetHeader::default(), len, 1);
            side.driver.send(&octets, shape).to_string()
        }),
        Step::MustKick => drivers(ours, theirs, &|side| side.driver.must_kick().to_string()),
        Step::WantInterrupts(on) => drivers(ours, theirs, &|side| {
            side.driver.want_interrupts(on);
            String::new()
        }),
        Step::Collect => drivers(ours, theirs, &|side| {
            let used: Vec<_> = std::iter::from_fn(|| side.driver.used()).collect();
            format!("{used:?}")
        }),
        Step::Take => [format!("{:?}", take(ours)), format!("{:?}", theirs.take())],
        Step::Notify => {
            let theirs = theirs.queue.needs_notification(&theirs.memory);
            [ours.ring.needs_notification(), theirs.expect("good memory")].map(|says| says.to_string())
        }
        Step::Enable => {
            let theirs = theirs.queue.enable_notification(&theirs.memory);
            [ours.ring.enable_notifications(), theirs.expect("good memory")].map(|says| says.to_string())
        }
        Step::Disable => {
            ours.ring.disable_notifications();
            let theirs = theirs.queue.disable_notification(&theirs.memory);
            [
                String::new(),
                theirs.map_or_else(|error| error.to_string(), |()| String::new()),
            ]
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn both_devices_look_the_same_to_a_driver(
        steps in prop::collection::vec(step(), 1..150),
        start in prop_oneof![Just(0u16), 65_500u16..=65_535, any::<u16>()],
        events: bool,
    ) {
        let features = MODERN | if events { feature::EVENT_IDX } else { 0 };
        let mut ours = Side::new(SIZE, BUFFER, features, start);
        let mut theirs = Theirs::new(features, start);
        // The first interrupt is one that ours always gives.
        let first = Step::Send { len: 60, pieces: 1, indirect: false };
        for step in [first, Step::Take, Step::Collect, Step::WantInterrupts(true)] {
            both(step, &mut ours, &mut theirs);
        }
        ours.ring.needs_notification();
        theirs.queue.needs_notification(&theirs.memory).unwrap();
        // Without event indices theirs does not look at what the driver wants.
        let comparable = |step: &&Step| events || !matches!(step, Step::Notify);
        for step in steps.iter().filter(comparable) {
            let [ours_saw, theirs_saw] = both(*step, &mut ours, &mut theirs);
            prop_assert_eq!(ours_saw, theirs_saw, "{:?}", step);
        }
        prop_assert_eq!(ours.ring.base(), theirs.queue.next_avail());
        prop_assert_eq!(ours.ring.fault(), None);
    }
}
