//! Survives a peer that truncates memory which it shared.
//!
//! The pages of a shared file vanish when its owner shortens the file; whoever touches one then gets SIGBUS. One
//! handler for the process looks the address up in a fixed table of mappings that were registered here. On a hit it
//! puts zero pages in the mapping's place and flags it as lost, and the interrupted instruction goes on; the port
//! finds the flag after its burst and lets the peer go. Any other address goes to the handler that was there before.
//!
//! The handler runs inside of whatever was interrupted, so it takes no lock and allocates nothing: it reads the
//! table through sequence counters and makes one `mmap` call.
//!
//! `unsafe` is needed to install a signal handler and to replace a mapping in place.
#![allow(unsafe_code)]

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering, fence};

/// Mappings that can be registered at a time.
const SLOTS: usize = 2048;

/// Why a mapping could not be guarded.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// All [`SLOTS`] are taken.
    #[error("{SLOTS} shared memory regions are mapped already, which is the most there can be")]
    TableFull,
    /// The handler could not be installed.
    #[error("no handler for SIGBUS could be installed: {0}")]
    Install(#[source] io::Error),
}

/// A registered mapping; dropping it ends the registration. It must be dropped before the range is unmapped.
#[derive(Debug)]
pub struct Registration {
    slot: &'static Slot,
}

/// One mapping. `sequence` is odd while the slot changes.
#[derive(Debug)]
struct Slot {
    claimed: AtomicBool,
    sequence: AtomicU32,
    start: AtomicUsize,
    len: AtomicUsize,
    lost: AtomicBool,
}

static TABLE: [Slot; SLOTS] = [const { Slot::new() }; SLOTS];
static PREVIOUS: OnceLock<Previous> = OnceLock::new();

struct Previous(libc::sigaction);

/// Guards `len` octets of address space from `start`, both multiples of the page size.
///
/// # Safety
/// The range is one whole live mapping of the caller's, made by `mmap`, that nobody borrows as a slice or a value,
/// and stays so until the registration is dropped: on a fault all of it is replaced by zero pages.
pub unsafe fn register(start: *mut u8, len: usize) -> Result<Registration, GuardError> {
    install()?;
    let slot = TABLE
        .iter()
        .find(|slot| {
            !slot.claimed.load(Ordering::Relaxed)
                && slot
                    .claimed
                    .compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed)
                    .is_ok()
        })
        .ok_or(GuardError::TableFull)?;
    slot.lost.store(false, Ordering::Relaxed);
    slot.set(start as usize, len);
    Ok(Registration { slot })
}

impl Registration {
    /// Whether the mapping was lost, and zero pages are in its place.
    pub fn is_lost(&self) -> bool {
        self.slot.lost.load(Ordering::Relaxed)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.slot.set(0, 0);
        self.slot.claimed.store(false, Ordering::Release);
    }
}

impl Slot {
    const fn new() -> Self {
        Self {
            claimed: AtomicBool::new(false),
            sequence: AtomicU32::new(0),
            start: AtomicUsize::new(0),
            len: AtomicUsize::new(0),
            lost: AtomicBool::new(false),
        }
    }

    /// Changes the range; only the slot's claimer does.
    fn set(&self, start: usize, len: usize) {
        self.sequence.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::Release);
        self.start.store(start, Ordering::Relaxed);
        self.len.store(len, Ordering::Relaxed);
        self.sequence.fetch_add(1, Ordering::Release);
    }

    /// The range, if it contains `address` and was not changing meanwhile.
    fn range_around(&self, address: usize) -> Option<(usize, usize)> {
        let before = self.sequence.load(Ordering::Acquire);
        let start = self.start.load(Ordering::Relaxed);
        let len = self.len.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        let steady = before.is_multiple_of(2) && before == self.sequence.load(Ordering::Relaxed);
        (steady && start != 0 && address >= start && address - start < len).then_some((start, len))
    }
}

/// Installs the handler, once per process.
fn install() -> Result<(), GuardError> {
    static FAILED: OnceLock<Option<i32>> = OnceLock::new();
    let failed = FAILED.get_or_init(|| {
        install_handler()
            .err()
            .map(|error| error.raw_os_error().unwrap_or(0))
    });
    match failed {
        None => Ok(()),
        Some(code) => Err(GuardError::Install(io::Error::from_raw_os_error(*code))),
    }
}

fn install_handler() -> io::Result<()> {
    // SAFETY: a `sigaction` of zeroes is a valid value of that plain C struct: no flags, an empty mask, SIG_DFL.
    let (mut old, mut new): (libc::sigaction, libc::sigaction) =
        unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    // SAFETY: a null new action only reads the present one, into a local.
    if unsafe { libc::sigaction(libc::SIGBUS, std::ptr::null(), &raw mut old) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // Known before the handler can run for the first time.
    let _ = PREVIOUS.set(Previous(old));
    new.sa_sigaction = on_sigbus as extern "C" fn(_, _, _) as usize;
    new.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: `on_sigbus` has the signature that SA_SIGINFO asks for and calls async-signal-safe functions only.
    if unsafe { libc::sigaction(libc::SIGBUS, &raw const new, std::ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

extern "C" fn on_sigbus(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: `__errno_location` gives this thread's own errno, which the interrupted code may be about to read.
    let errno = unsafe { *libc::__errno_location() };
    // SAFETY: the kernel passes a valid siginfo to an SA_SIGINFO handler, and for a SIGBUS of its own making (a
    // positive code) the union holds the address.
    let address = unsafe { ((*info).si_code > 0).then(|| (*info).si_addr() as usize) };
    let rescued = address.is_some_and(replace_lost);
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
    if !rescued {
        chain(signal, info, context);
    }
}

/// Puts zero pages in the place of the registered mapping around `address`.
fn replace_lost(address: usize) -> bool {
    let Some((slot, (start, len))) = TABLE
        .iter()
        .find_map(|slot| slot.range_around(address).map(|range| (slot, range)))
    else {
        return false;
    };
    // SAFETY: the range is a registered mapping. It is alive: this thread was touching it when it faulted, and who
    // touches it holds its owner. By the contract of `register` nothing in it is borrowed.
    let mapped = unsafe {
        libc::mmap(
            start as *mut libc::c_void,
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    if mapped == libc::MAP_FAILED {
        return false;
    }
    slot.lost.store(true, Ordering::Relaxed);
    true
}

/// Does what would have been done without our handler.
fn chain(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let action = PREVIOUS.get().map(|previous| previous.0);
    match action {
        Some(action) if action.sa_sigaction != libc::SIG_DFL && action.sa_sigaction != libc::SIG_IGN => {
            if action.sa_flags & libc::SA_SIGINFO != 0 {
                // SAFETY: the kernel would have called this address with this signature, as SA_SIGINFO says.
                let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                    unsafe { std::mem::transmute(action.sa_sigaction) };
                handler(signal, info, context);
            } else {
                // SAFETY: the same for a handler that was installed without SA_SIGINFO.
                let handler: extern "C" fn(libc::c_int) = unsafe { std::mem::transmute(action.sa_sigaction) };
                handler(signal);
            }
        }
        _ => {
            // The instruction faults again on return and takes the process down, as it would have.
            // SAFETY: `signal` with SIG_DFL installs no code of ours.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::FromRawFd;

    use super::*;

    fn memfd(len: u64) -> std::fs::File {
        // SAFETY: the name is a C string; the descriptor is new and owned by nobody else.
        let file =
            unsafe { std::fs::File::from_raw_fd(libc::memfd_create(c"guard".as_ptr(), libc::MFD_CLOEXEC)) };
        file.set_len(len).unwrap();
        file
    }

    fn map(file: &std::fs::File, len: usize) -> *mut u8 {
        use std::os::fd::AsRawFd;
        // SAFETY: a fresh shared mapping at an address of the kernel's choice.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        assert_ne!(at, libc::MAP_FAILED);
        at.cast()
    }

    #[test]
    fn a_truncated_mapping_reads_as_zero_and_is_flagged() {
        let (kept, cut) = (memfd(8192), memfd(8192));
        let (kept_at, cut_at) = (map(&kept, 8192), map(&cut, 8192));
        // SAFETY: both are whole mappings made above; they are only touched through raw pointers.
        let (kept_guard, cut_guard) =
            unsafe { (register(kept_at, 8192).unwrap(), register(cut_at, 8192).unwrap()) };
        // SAFETY: inside the mappings.
        unsafe {
            kept_at.write_volatile(7);
            cut_at.add(4096).write_volatile(9);
        }
        cut.set_len(0).unwrap();
        // SAFETY: inside the mapping, whose pages are gone: the handler puts zero pages there.
        let (first, second) = unsafe { (cut_at.read_volatile(), cut_at.add(4096).read_volatile()) };
        assert_eq!((first, second), (0, 0));
        assert!(cut_guard.is_lost());
        assert!(!kept_guard.is_lost());
        // SAFETY: inside the other mapping.
        assert_eq!(unsafe { kept_at.read_volatile() }, 7);
        drop((kept_guard, cut_guard));
        // SAFETY: the mappings made above, which nobody uses any more.
        unsafe {
            libc::munmap(kept_at.cast(), 8192);
            libc::munmap(cut_at.cast(), 8192);
        }
    }

    #[test]
    fn a_slot_matches_its_own_range_only_and_is_used_again() {
        let slot = Slot::new();
        assert_eq!(slot.range_around(0), None);
        slot.set(0x1000, 0x2000);
        assert_eq!(slot.range_around(0xfff), None);
        assert_eq!(slot.range_around(0x1000), Some((0x1000, 0x2000)));
        assert_eq!(slot.range_around(0x2fff), Some((0x1000, 0x2000)));
        assert_eq!(slot.range_around(0x3000), None);
        slot.set(0, 0);
        assert_eq!(slot.range_around(0x1000), None);
        slot.sequence.fetch_add(1, Ordering::Relaxed);
        slot.start.store(0x1000, Ordering::Relaxed);
        slot.len.store(0x1000, Ordering::Relaxed);
        assert_eq!(
            slot.range_around(0x1000),
            None,
            "a slot that changes matches nothing"
        );
    }
}
