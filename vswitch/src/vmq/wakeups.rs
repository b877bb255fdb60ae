//! Models of how others tell a worker of what they left in a VM queue, in every order that memory allows: it sleeps through
//! none, wherever the queue moves. A sleep that nobody ends is a deadlock, which the model reports.
//!
//! loom takes sequentially consistent accesses for weaker ones, but not such fences: a fence behind each store and before
//! each load stands for them.

use loom::sync::atomic::{AtomicUsize, Ordering, fence};
use loom::sync::{Arc, Mutex, Notify};
use loom::thread;

/// A word that is stored and loaded with sequential consistency.
struct Word(AtomicUsize);

impl Word {
    fn new(value: usize) -> Self {
        Self(AtomicUsize::new(value))
    }

    fn store(&self, value: usize) {
        self.0.store(value, Ordering::Release);
        fence(Ordering::SeqCst);
    }

    fn load(&self) -> usize {
        fence(Ordering::SeqCst);
        self.0.load(Ordering::Acquire)
    }
}

/// What is in `VmQueue`: frames behind a lock, and their number beside it.
struct Queue {
    frames: Mutex<usize>,
    len: Word,
}

impl Queue {
    fn new() -> Self {
        Self {
            frames: Mutex::new(0),
            len: Word::new(0),
        }
    }

    fn push(&self) {
        let mut frames = self.frames.lock().expect("nobody panics");
        *frames += 1;
        self.len.store(*frames);
    }

    fn take(&self) -> usize {
        let mut frames = self.frames.lock().expect("nobody panics");
        let taken = std::mem::take(&mut *frames);
        self.len.store(0);
        taken
    }
}

/// What is in `WorkerHandle`: whether it is about to sleep, and its doorbell.
struct Worker {
    drowsy: Word,
    bell: Notify,
}

impl Worker {
    fn new() -> Self {
        Self {
            drowsy: Word::new(0),
            bell: Notify::new(),
        }
    }

    fn rouse(&self) {
        if self.drowsy.load() != 0 {
            self.bell.notify();
        }
    }

    /// Sleeps if there is nothing at a last look.
    fn rest(&self, pending: impl Fn() -> bool) {
        self.drowsy.store(1);
        if !pending() {
            self.bell.wait();
        }
        self.drowsy.store(0);
    }
}

#[test]
fn a_worker_does_not_sleep_through_frames_in_a_vm_queue() {
    const FRAMES: usize = 2;
    loom::model(|| {
        let shared = Arc::new((Queue::new(), Worker::new()));
        let pusher = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                let (queue, worker) = &*shared;
                for _ in 0..FRAMES {
                    queue.push();
                    worker.rouse();
                }
            }
        });
        let (queue, worker) = &*shared;
        let mut taken = 0;
        loop {
            taken += queue.take();
            if taken == FRAMES {
                break;
            }
            worker.rest(|| queue.len.load() != 0);
        }
        pusher.join().expect("it ends");
    });
}

/// Two workers, of which the first hands its lane over, and a third thread that pushes meanwhile.
struct Move {
    queue: Queue,
    workers: [Worker; 2],
    owner: Word,
    generation: Word,
}

impl Move {
    fn push(&self) {
        self.queue.push();
        self.workers[self.owner.load()].rouse();
    }

    /// `Lane::hand_over` and `Shared::renew`.
    fn hand_over(&self) {
        self.owner.store(1);
        self.workers[1].bell.notify();
        self.generation.store(1);
        self.workers[1].bell.notify();
    }

    /// The second worker's life, until it has the frame.
    fn serve(&self) {
        let mut seen = usize::MAX;
        let mut mine = false;
        loop {
            let generation = self.generation.load();
            if seen != generation {
                mine = self.owner.load() == 1;
                seen = generation;
            }
            if mine && self.queue.take() > 0 {
                return;
            }
            self.workers[1].rest(|| mine && self.queue.len.load() != 0 || self.generation.load() != seen);
        }
    }
}

#[test]
fn frames_that_are_pushed_while_a_vm_queue_moves_are_carried_by_its_new_owner() {
    let mut model = loom::model::Builder::new();
    // With three threads, all orders are too many. What goes wrong takes fewer changes of thread than this.
    model.preemption_bound = Some(2);
    model.check(|| {
        let scene = Arc::new(Move {
            queue: Queue::new(),
            workers: [Worker::new(), Worker::new()],
            owner: Word::new(0),
            generation: Word::new(0),
        });
        let run = |work: fn(&Move)| {
            let scene = Arc::clone(&scene);
            thread::spawn(move || work(&scene))
        };
        let threads = [run(Move::push), run(Move::hand_over)];
        scene.serve();
        for thread in threads {
            thread.join().expect("it ends");
        }
    });
}
