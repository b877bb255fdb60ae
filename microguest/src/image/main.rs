//! The bootable image. See the library's documentation for how it is laid out.
#![no_std]
#![no_main]
#![allow(unsafe_code)] // Entry points that assembly calls.

mod chaos;
mod clock;
mod heap;
mod lapic;
mod pci;
mod ports;
mod serial;
mod start_info;
mod stub;
mod virtio;

use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use microguest::chaos::Orders;
use microguest::cmdline::Parameters;
use microguest::nic::Nic;
use microguest::report::Line;
use microguest::station::Station;

use clock::Clock;
use virtio::Bell;

/// Nanoseconds between looks at the serial port while the host's go is awaited.
const GO_POLL: u64 = 1_000_000;

/// Where ring 3 begins. `info` is the address of the PVH start of day structure.
#[unsafe(no_mangle)]
extern "C" fn guest_main(info: u64) -> ! {
    if let Err(what) = run(info) {
        serial::line(&Line::Error(what));
    }
    stub::power_off()
}

/// The processor found a fault in ring 3 or ring 0; the stub switched to a stack of its own.
#[unsafe(no_mangle)]
extern "C" fn guest_fault(vector: u64, error: u64, rip: u64, address: u64) -> ! {
    serial::line(&Line::Fault {
        vector,
        rip,
        error,
        address,
    });
    stub::power_off()
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    static PANICKING: AtomicBool = AtomicBool::new(false);
    if !PANICKING.swap(true, Ordering::Relaxed) {
        serial::panic_line(info);
    }
    stub::power_off()
}

/// Everything between boot and power-off. The device comes first: the sooner the first frame, the sooner the network
/// knows the guest; reports, whose every octet is an exit, follow.
fn run(info: u64) -> Result<(), &'static str> {
    let started = clock::ticks();
    let line = start_info::command_line(info)?;
    if let Some(orders) = Orders::parse(line) {
        chaos::run(orders.map_err(serial::parameter_error)?);
    }
    let parameters: Parameters = line.parse().map_err(serial::parameter_error)?;
    lapic::enable();
    let (mut nic, msix) = virtio::open(parameters.lso)?;
    nic.announce(parameters.ip);
    let announced = clock::ticks();
    let clock = Clock::new(parameters.tsc_khz);
    report_boot(clock, &nic, msix, (started, announced));

    let mac = nic.config().mac;
    let mut station = Station::new(&parameters, &mut nic, mac, started);
    let halt = msix && !parameters.poll;
    let mut look = 0;
    while !station.is_over() {
        stub::clear_interrupted();
        nic.awake();
        let mut wake = station.step(&|| clock.now(), &mut nic, &mut serial::line);
        if station.wants_go() {
            if clock.now() >= look {
                look = clock.now() + GO_POLL;
                if serial::read() == Some(b'g') {
                    station.go(clock.now(), &mut serial::line);
                    continue;
                }
            }
            wake = wake.into_iter().chain([look]).min();
        }
        let idle = !station.is_over() && wake.is_none_or(|at| at > clock.now());
        if halt && idle && nic.may_sleep() {
            lapic::wake_at(wake, clock.now());
            stub::halt();
        }
    }
    Ok(())
}

fn report_boot(clock: Clock, nic: &Nic<Bell>, msix: bool, (started, announced): (u64, u64)) {
    let tsc = stub::entry_ticks();
    let us = |ticks: u64| clock.nanoseconds(ticks.saturating_sub(tsc)) / 1000;
    serial::line(&Line::Boot { tsc, us: us(started) });
    serial::line(&Line::FirstFrame { us: us(announced) });
    serial::line(&Line::Link {
        mac: nic.config().mac,
        msix,
        features: nic.config().features,
    });
}
