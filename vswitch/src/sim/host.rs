//! A host: smoltcp's stack, the programs on it, a link and a NIC.

use std::collections::VecDeque;

use std::time::Duration;

use introspection::Instant;
use offload::VnetHeader;
use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::phy::{DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant as SmolInstant;
use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr, Ipv4Address, Ipv6Address};

use super::headers::{self, Headers, TCP, UDP, ones_complement};
use super::judge::{Limits, judge};
use super::link::{Link, Quality};
use super::nic::{LARGE_MTU, Nic};
use super::program::{Program, USO_SIZE};
use super::random::Random;
use super::wire::{CWR, Wire};
use crate::port::Capabilities;

/// Where TCP's checksum stands in its header, its flags, and the option of the largest segment (RFC 9293, 3.1, 3.2).
const CHECKSUM: usize = 16;
const FLAGS: usize = 13;
const MSS: [u8; 2] = [2, 4];

pub(super) struct Host {
    index: usize,
    mtu: u16,
    pub(super) nic: Nic,
    pub(super) programs: Vec<Program>,
    interface: Interface,
    pub(super) sockets: SocketSet<'static>,
    ports: Ports,
    /// To the ring and from it.
    out: Link,
    into: Link,
    /// It does not touch its rings before.
    stalled: Instant,
    poll_at: Option<Instant>,
}

/// Frames between the stack and the link.
#[derive(Default)]
struct Ports {
    mtu: usize,
    received: VecDeque<Vec<u8>>,
    sent: VecDeque<Vec<u8>>,
}

pub(super) fn address(host: usize, v6: bool) -> IpAddress {
    let number = host as u16 + 1;
    if v6 {
        Ipv6Address::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number).into()
    } else {
        Ipv4Address::new(192, 0, 2, number as u8).into()
    }
}

impl Host {
    pub(super) fn new(index: usize, mtu: u16, nic: Nic, quality: [Quality; 2], random: &mut Random) -> Self {
        let large = nic.spec.leaves.tso4;
        let ip_mtu = if large { LARGE_MTU } else { mtu };
        let mut ports = Ports {
            mtu: usize::from(ip_mtu) + 14,
            ..Ports::default()
        };
        let number = index as u8 + 1;
        let mut config = Config::new(EthernetAddress([2, 0, 0, 0, 0, number]).into());
        config.random_seed = random.next();
        let mut interface = Interface::new(config, &mut ports, SmolInstant::ZERO);
        interface.update_ip_addrs(|list| {
            let local = Ipv6Address::new(0xfe80, 0, 0, 0, 0, 0, 0, number.into());
            for cidr in [
                IpCidr::new(address(index, false), 24),
                IpCidr::new(address(index, true), 64),
                IpCidr::new(local.into(), 64),
            ] {
                list.push(cidr).expect("room for three");
            }
        });
        Self {
            index,
            mtu,
            nic,
            programs: Vec::new(),
            interface,
            sockets: SocketSet::new(Vec::new()),
            ports,
            out: Link::new(quality[0]),
            into: Link::new(quality[1]),
            stalled: Instant(0),
            poll_at: Some(Instant(0)),
        }
    }

    /// Adds a program.
    pub(super) fn start(
        &mut self,
        make: impl FnOnce(&mut SocketSet<'static>, &mut smoltcp::iface::Context) -> Program,
    ) {
        self.programs
            .push(make(&mut self.sockets, self.interface.context()));
    }

    /// Keeps its hands off its rings until then.
    pub(super) fn stall(&mut self, until: Instant) {
        self.stalled = until;
    }

    /// Does what can be done now. True if that was anything.
    pub(super) fn step(&mut self, now: Instant, wire: &mut Wire, random: &mut Random) -> bool {
        let mut busy = now >= self.stalled && self.serve_rings(now, wire, random);
        while let Some(frame) = self.into.front(now) {
            self.ports.received.push_back(frame.to_vec());
            self.into.pop();
            busy = true;
        }
        if busy || self.poll_at.is_some_and(|at| at <= now) {
            self.run_stack(now);
        }
        while let Some(frame) = self.ports.sent.pop_front() {
            self.out.push(now, frame, random);
            busy = true;
        }
        busy
    }

    fn run_stack(&mut self, now: Instant) {
        let time = SmolInstant::from_micros((now.0 / 1000).cast_signed());
        for _ in 0..3 {
            self.interface.poll(time, &mut self.ports, &mut self.sockets);
            for program in &mut self.programs {
                program.run(&mut self.sockets);
            }
        }
        let soon = now.after(Duration::from_micros(1));
        let next = self.interface.poll_at(time, &self.sockets);
        let next = next.map(|at| Instant(at.total_micros().cast_unsigned() * 1000));
        let sending = self.programs.iter().any(Program::is_sending).then_some(soon);
        self.poll_at = next.into_iter().chain(sending).min().map(|at| at.max(soon));
    }

    fn serve_rings(&mut self, now: Instant, wire: &mut Wire, random: &mut Random) -> bool {
        let mut busy = false;
        while let Some((vnet, frame)) = self.nic.receive() {
            wire.leave(now, self.index, vnet, &frame);
            let limits = Limits {
                can: self.nic.spec.takes,
                mtu: self.mtu,
                vlan: None,
                exact: true,
            };
            let headers =
                judge(&limits, &vnet, None, &frame).unwrap_or_else(|what| panic!("{what}: {vnet:?}"));
            for frame in accept(vnet, headers, frame) {
                self.into.push(now, frame, random);
            }
            busy = true;
        }
        while let Some(frame) = self.out.front(now) {
            let mut frame = frame.to_vec();
            let vnet = leave_to_others(&mut frame, self.nic.spec.leaves, self.mtu, random);
            if !self.nic.send(flow_number(&frame), vnet, &frame) {
                break;
            }
            wire.enter(vnet, &frame);
            self.out.pop();
            busy = true;
        }
        busy
    }

    /// When it next has something to do by itself.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let out = self.out.due().map(|at| at.max(self.stalled));
        let stalled = Some(self.stalled).filter(|until| *until > now);
        [out, stalled, self.into.due(), self.poll_at]
            .into_iter()
            .flatten()
            .min()
    }

    /// Whether all its programs have done what they were to do.
    pub(super) fn is_done(&self) -> bool {
        self.programs.iter().all(Program::is_done)
    }
}

/// The queue that a driver puts a frame on: the same for all frames of a flow.
fn flow_number(frame: &[u8]) -> u64 {
    match headers::read(frame) {
        Ok(Some(headers)) => u64::from(headers.ports.0) + u64::from(headers.ports.1),
        _ => 0,
    }
}

/// What a driver leaves to others: checksums, and the cutting of what is larger than its MTU.
fn leave_to_others(frame: &mut [u8], leaves: Capabilities, mtu: u16, random: &mut Random) -> VnetHeader {
    let mut vnet = VnetHeader::default();
    let Ok(Some(headers)) = headers::read(frame) else {
        return vnet;
    };
    let large = headers.end - headers.network > usize::from(mtu);
    let mut flags = 0;
    if large {
        let header_len = headers.payload - headers.network;
        vnet.hdr_len = headers.payload as u16;
        (vnet.gso_type, vnet.gso_size) = match (headers.protocol, headers.is_v6()) {
            (TCP, v6) => (
                if v6 {
                    VnetHeader::GSO_TCPV6
                } else {
                    VnetHeader::GSO_TCPV4
                },
                mtu - header_len as u16,
            ),
            _ => (VnetHeader::GSO_UDP_L4, USO_SIZE),
        };
        if headers.protocol == TCP && leaves.ecn && random.once_in(8) {
            vnet.gso_type |= VnetHeader::GSO_ECN;
            flags = CWR;
        }
    }
    if headers.protocol == TCP {
        frame[headers.transport + FLAGS] |= flags;
        invite_large(frame, &headers);
    }
    let Some(field) = headers
        .checksum_field()
        .filter(|_| matches!(headers.protocol, TCP | UDP))
    else {
        return vnet;
    };
    if leaves.checksum {
        vnet.flags = VnetHeader::NEEDS_CSUM;
        vnet.csum_start = headers.transport as u16;
        vnet.csum_offset = field as u16;
        let at = headers.transport + field;
        frame[at..at + 2].copy_from_slice(&ones_complement(&[], headers.pseudo_header()).to_be_bytes());
    } else {
        complete(frame, &headers);
    }
    vnet
}

/// Has the other side send large segments although this one's MTU is small: senders with TSO cut them to theirs.
fn invite_large(frame: &mut [u8], headers: &Headers) {
    let (_, flags) = headers.tcp(frame);
    let options = headers.transport + 20;
    if flags & headers::SYN != 0 && frame[options..options + 2] == MSS {
        frame[options + 2..options + 4].copy_from_slice(&(LARGE_MTU - 80).to_be_bytes());
    }
}

/// What a driver gives its stack for a frame: whole, with complete checksums; large datagrams as those that they are.
fn accept(vnet: VnetHeader, headers: Option<Headers>, mut frame: Vec<u8>) -> Vec<Vec<u8>> {
    let Some(headers) = headers else {
        return vec![frame];
    };
    if vnet.gso_type == VnetHeader::GSO_UDP_L4 {
        let payload = frame[headers.payload..headers.end].chunks(vnet.gso_size.into());
        return payload.map(|part| datagram(&frame, &headers, part)).collect();
    }
    if vnet.flags & VnetHeader::NEEDS_CSUM != 0 {
        complete(&mut frame, &headers);
    }
    vec![frame]
}

/// One of the datagrams of a large send.
fn datagram(frame: &[u8], headers: &Headers, part: &[u8]) -> Vec<u8> {
    let mut small = [&frame[..headers.payload], part].concat();
    let put = |small: &mut Vec<u8>, at: usize, len: usize| {
        small[at..at + 2].copy_from_slice(&(len as u16).to_be_bytes());
    };
    put(&mut small, headers.transport + 4, 8 + part.len());
    let len = small.len() - headers.network;
    if headers.is_v6() {
        put(&mut small, headers.network + 4, len - 40);
    } else {
        put(&mut small, headers.network + 2, len);
        put(&mut small, headers.network + 10, 0);
        let sum = !ones_complement(&small[headers.network..headers.transport], 0);
        put(&mut small, headers.network + 10, sum.into());
    }
    let headers = headers::read(&small).ok().flatten().expect("a datagram");
    complete(&mut small, &headers);
    small
}

/// Completes a transport checksum.
fn complete(frame: &mut [u8], headers: &Headers) {
    let field = headers.checksum_field().unwrap_or(CHECKSUM);
    let segment = &mut frame[headers.transport..headers.end];
    segment[field..field + 2].fill(0);
    let sum = !ones_complement(segment, headers.pseudo_header());
    let sum = if sum == 0 && headers.protocol == UDP {
        0xffff
    } else {
        sum
    };
    segment[field..field + 2].copy_from_slice(&sum.to_be_bytes());
}

impl smoltcp::phy::Device for Ports {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sent<'a>;

    fn receive(&mut self, _: SmolInstant) -> Option<(Received, Sent<'_>)> {
        let frame = self.received.pop_front()?;
        Some((Received(frame), Sent(&mut self.sent)))
    }

    fn transmit(&mut self, _: SmolInstant) -> Option<Sent<'_>> {
        (self.sent.len() < 64).then_some(Sent(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.mtu;
        capabilities
    }
}

struct Received(Vec<u8>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

struct Sent<'a>(&'a mut VecDeque<Vec<u8>>);

impl TxToken for Sent<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let mut frame = vec![0; len];
        let result = write(&mut frame);
        self.0.push_back(frame);
        result
    }
}
