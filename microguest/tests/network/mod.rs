//! Two stations and the path between them, in virtual time.
#![allow(unreachable_pub)] // A test's module: nothing outside reaches it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::rc::Rc;

use microguest::cmdline::{Parameters, Role};
use microguest::station::{Link, Station};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, TcpPacket};

pub const MS: u64 = 1_000_000;
/// One way, nanoseconds.
pub const LATENCY: u64 = 100_000;
pub const CLIENT: usize = 0;
pub const SERVER: usize = 1;

/// What stands between the stations: decides when frames go on.
pub trait Path {
    /// Takes a frame from station `from`; returns the frames to deliver now, each to the other side of its sender.
    fn pass(&mut self, from: usize, frame: Vec<u8>) -> Vec<(usize, Vec<u8>)>;
}

/// Nothing in between.
pub struct Direct;

impl Path for Direct {
    fn pass(&mut self, from: usize, frame: Vec<u8>) -> Vec<(usize, Vec<u8>)> {
        vec![(from, frame)]
    }
}

/// Lets nothing through after some frames.
pub struct CutAfter(pub usize);

impl Path for CutAfter {
    fn pass(&mut self, from: usize, frame: Vec<u8>) -> Vec<(usize, Vec<u8>)> {
        let Some(left) = self.0.checked_sub(1) else {
            return vec![];
        };
        self.0 = left;
        vec![(from, frame)]
    }
}

/// Lets one unacknowledged data segment through in each direction; the next waits for its acknowledgement.
#[derive(Default)]
pub struct Serialize {
    outstanding: [Option<u32>; 2],
    waiting: [VecDeque<Vec<u8>>; 2],
}

impl Path for Serialize {
    fn pass(&mut self, from: usize, frame: Vec<u8>) -> Vec<(usize, Vec<u8>)> {
        let mut out = Vec::new();
        let Some(segment) = Segment::parse(&frame) else {
            return vec![(from, frame)];
        };
        let other = 1 - from;
        if segment.len > 0 && self.outstanding[from].is_some() {
            self.waiting[from].push_back(frame);
        } else {
            self.send(from, frame, &mut out);
        }
        let acknowledged = |end: u32| segment.ack.wrapping_sub(end).cast_signed() >= 0;
        if self.outstanding[other].is_some_and(acknowledged) {
            self.outstanding[other] = None;
            if let Some(next) = self.waiting[other].pop_front() {
                self.send(other, next, &mut out);
            }
        }
        out
    }
}

impl Serialize {
    fn send(&mut self, from: usize, frame: Vec<u8>, out: &mut Vec<(usize, Vec<u8>)>) {
        if let Some(segment) = Segment::parse(&frame).filter(|segment| segment.len > 0) {
            self.outstanding[from] = Some(segment.seq.wrapping_add(segment.len));
        }
        out.push((from, frame));
    }
}

/// A TCP segment, its FIN counted as an octet.
pub struct Segment {
    pub seq: u32,
    pub ack: u32,
    pub len: u32,
}

impl Segment {
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let ethernet = EthernetFrame::new_checked(frame).ok()?;
        if ethernet.ethertype() != EthernetProtocol::Ipv4 {
            return None;
        }
        let ip = Ipv4Packet::new_checked(ethernet.payload()).ok()?;
        if ip.next_header() != IpProtocol::Tcp {
            return None;
        }
        let tcp = TcpPacket::new_checked(ip.payload()).ok()?;
        Some(Self {
            seq: tcp.seq_number().0.cast_unsigned(),
            ack: tcp.ack_number().0.cast_unsigned(),
            len: tcp.payload().len() as u32 + u32::from(tcp.fin()),
        })
    }
}

#[derive(Default)]
pub struct Cable {
    arrived: VecDeque<Vec<u8>>,
    sent: Rc<RefCell<Vec<Vec<u8>>>>,
}

pub struct Arrived(Vec<u8>);
pub struct Sending(Rc<RefCell<Vec<Vec<u8>>>>);

impl RxToken for Arrived {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Sending {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.borrow_mut().push(frame);
        result
    }
}

impl Device for Cable {
    type RxToken<'a> = Arrived;
    type TxToken<'a> = Sending;

    fn receive(&mut self, _: Instant) -> Option<(Arrived, Sending)> {
        let frame = self.arrived.pop_front()?;
        Some((Arrived(frame), Sending(self.sent.clone())))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sending> {
        Some(Sending(self.sent.clone()))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

impl Link for Cable {}

/// The simulation: what each station reported, and the payload lengths of the data segments that each sent.
pub struct Network<P> {
    pub lines: [Vec<String>; 2],
    pub segments: [Vec<u32>; 2],
    pub now: u64,
    stations: [Station; 2],
    cables: [Cable; 2],
    wakes: [Option<u64>; 2],
    flying: VecDeque<(u64, usize, Vec<u8>)>,
    path: P,
}

impl<P: Path> Network<P> {
    pub fn new(parameters: &Parameters, path: P) -> Self {
        let mut cables = [Cable::default(), Cable::default()];
        let stations = [CLIENT, SERVER].map(|i| {
            let addresses = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)];
            let end = Parameters {
                role: [Role::Client, Role::Server][i],
                ip: addresses[i],
                peer: addresses[1 - i],
                ..*parameters
            };
            Station::new(&end, &mut cables[i], [2, 0, 0, 0, 0, i as u8], 7 + i as u64)
        });
        Self {
            lines: [vec![], vec![]],
            segments: [vec![], vec![]],
            now: 0,
            stations,
            cables,
            wakes: [Some(0), Some(0)],
            flying: VecDeque::new(),
            path,
        }
    }

    pub fn client(&mut self) -> &mut Station {
        &mut self.stations[CLIENT]
    }

    /// Says go to the client if it waits for it.
    pub fn go(&mut self) {
        let lines = &mut self.lines[CLIENT];
        self.stations[CLIENT].go(self.now, &mut |line| lines.push(line.to_string()));
        self.wakes[CLIENT] = Some(self.now);
    }

    /// Runs until the client is done and nothing flies any more, or until `end`.
    pub fn run_until(&mut self, end: u64) {
        loop {
            for i in [CLIENT, SERVER] {
                self.step(i);
            }
            let over = self.stations[CLIENT].is_over() && self.flying.is_empty();
            let arrival = self.flying.front().map(|(at, ..)| *at);
            let next = self.wakes.iter().flatten().copied().chain(arrival).min();
            match next {
                Some(next) if !over && next < end => self.now = self.now.max(next),
                _ => break,
            }
        }
    }

    fn step(&mut self, i: usize) {
        let mut due = self.wakes[i].is_some_and(|wake| wake <= self.now);
        while let Some((at, to, _)) = self.flying.front()
            && *at <= self.now
            && *to == i
        {
            let arrived = self.flying.pop_front().map(|(.., frame)| frame);
            self.cables[i].arrived.extend(arrived);
            due = true;
        }
        if !due {
            return;
        }
        let clock = Cell::new(self.now);
        let lines = &mut self.lines[i];
        self.wakes[i] = self.stations[i].step(&|| clock.get(), &mut self.cables[i], &mut |line| {
            lines.push(line.to_string());
        });
        let sent: Vec<_> = self.cables[i].sent.borrow_mut().drain(..).collect();
        for frame in sent {
            if let Some(segment) = Segment::parse(&frame).filter(|segment| segment.len > 0) {
                self.segments[i].push(segment.len);
            }
            for (from, frame) in self.path.pass(i, frame) {
                self.flying.push_back((self.now + LATENCY, 1 - from, frame));
            }
        }
    }
}
