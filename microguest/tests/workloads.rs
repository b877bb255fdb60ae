//! Both ends of each workload over two network stacks in virtual time.

mod network;

use std::net::Ipv4Addr;

use microguest::cmdline::{Go, Parameters, Role, Spacing, Workload};
use microguest::histogram::Histogram;
use microguest::report::Line;
use network::{CLIENT, CutAfter, Direct, LATENCY, MS, Network, Path, SERVER, Serialize};

const HOUR: u64 = 3_600_000 * MS;

fn parameters(workload: Workload, ack_delay_ms: u32) -> Parameters {
    let any = Ipv4Addr::UNSPECIFIED;
    Parameters {
        workload,
        ack_delay_ms,
        warmup: 4,
        phase_ms: 50,
        ..Parameters::new(Role::Client, any, any)
    }
}

/// Long enough for some transactions that stall.
fn long(parameters: Parameters) -> Parameters {
    Parameters {
        phase_ms: 2000,
        ..parameters
    }
}

/// What one phase measured, as the host reads it from the lines.
#[derive(Debug, PartialEq)]
struct Phase {
    transactions: u64,
    p50: u64,
    min: u64,
    max: u64,
}

fn phases(lines: &[String]) -> Vec<Phase> {
    let mut found = Vec::new();
    let mut histogram = Histogram::new();
    for line in lines {
        match Line::parse(line).expect("a line of the guest's") {
            Line::End { transactions, .. } => {
                histogram.clear();
                found.push(Phase {
                    transactions,
                    p50: 0,
                    min: 0,
                    max: 0,
                });
            }
            Line::Rtt { count, min, max, .. } => {
                let phase = found.last_mut().expect("after the end");
                assert_eq!(count, phase.transactions);
                (phase.min, phase.max) = (min, max);
            }
            Line::Hist { buckets, .. } => {
                histogram.decode(buckets).expect("own encoding");
                found.last_mut().expect("after the end").p50 = histogram.quantile(0.5);
            }
            _ => {}
        }
    }
    found
}

/// Runs one phase to its end.
fn measure(parameters: &Parameters, path: impl Path) -> Phase {
    let mut network = Network::new(parameters, path);
    network.run_until(HOUR);
    assert!(network.client().is_over() && !network.client().has_failed());
    assert_eq!(
        network.lines[CLIENT].last().map(String::as_str),
        Some("enlight-guest: done")
    );
    phases(&network.lines[CLIENT]).remove(0)
}

#[test]
fn rr_takes_one_round_trip() {
    let phase = measure(&parameters(Workload::Rr, 0), Direct);
    let expected = 2 * LATENCY;
    assert_eq!((phase.min, phase.max), (expected, expected));
    // The one that would end with the phase does not count.
    assert_eq!(phase.transactions, 50 * MS / expected - 1);
}

#[test]
fn an_open_loop_keeps_its_schedule_and_counts_from_when_requests_were_due() {
    for spacing in [Spacing::Even, Spacing::Poisson] {
        let parameters = Parameters {
            rate: 20_000,
            spacing,
            phases: 2,
            ..parameters(Workload::Rr, 0)
        };
        let mut network = Network::new(&parameters, Direct);
        network.run_until(HOUR);
        let lines = &network.lines[CLIENT];
        let loads: Vec<_> = lines
            .iter()
            .filter_map(|line| match Line::parse(line) {
                Ok(Line::Load { due, in_time, .. }) => Some((due, in_time)),
                _ => None,
            })
            .collect();
        assert_eq!(loads.len(), 2, "{lines:?}");
        for ((due, in_time), phase) in loads.into_iter().zip(phases(lines)) {
            // 1,000 are due in 50 ms, and four are under way at a time: none waits for another.
            assert!((850..1150).contains(&due), "{due}");
            assert!(
                spacing == Spacing::Poisson || (999..=1001).contains(&due),
                "{due}"
            );
            assert_eq!(phase.transactions, due);
            assert!(
                due.abs_diff(in_time) < 20 && phase.min >= 2 * LATENCY && phase.max < 3 * LATENCY,
                "{phase:?}"
            );
        }
    }
}

/// Keeps everything back for a while, once.
struct Pause {
    frames: usize,
    kept: Vec<(usize, Vec<u8>)>,
}

impl Path for Pause {
    fn pass(&mut self, from: usize, frame: Vec<u8>) -> Vec<(usize, Vec<u8>)> {
        self.frames += 1;
        self.kept.push((from, frame));
        if (2_000..2_100).contains(&self.frames) {
            return vec![];
        }
        std::mem::take(&mut self.kept)
    }
}

#[test]
fn a_pause_delays_every_request_that_falls_into_it() {
    let parameters = Parameters {
        rate: 10_000,
        spacing: Spacing::Even,
        phase_ms: 200,
        ..parameters(Workload::Rr, 0)
    };
    let path = Pause {
        frames: 0,
        kept: vec![],
    };
    let mut network = Network::new(&parameters, path);
    network.run_until(HOUR);
    let mut histogram = Histogram::new();
    for line in &network.lines[CLIENT] {
        if let Ok(Line::Hist { buckets, .. }) = Line::parse(line) {
            histogram.decode(buckets).expect("own encoding");
        }
    }
    let longest = histogram.quantile(1.0);
    let late = histogram
        .buckets()
        .filter(|(low, _)| *low > 3 * LATENCY)
        .map(|(_, count)| u64::from(count))
        .sum::<u64>();
    assert!(longest > 20 * LATENCY, "{longest}");
    // One request every 100 us, so as many are late as the pause has tenths of a millisecond.
    let expected = (longest - 2 * LATENCY) / 100_000;
    assert!(late.abs_diff(expected) <= 3, "{late} late, {expected} expected");
}

#[test]
fn rr_never_waits_for_acknowledgements() {
    let phase = measure(&parameters(Workload::Rr, 200), Serialize::default());
    assert_eq!(phase.max, 2 * LATENCY);
}

#[test]
fn wwr_sends_each_write_in_a_segment_of_its_own() {
    let parameters = Parameters {
        size: 101,
        ..parameters(Workload::Wwr, 200)
    };
    let mut network = Network::new(&parameters, Direct);
    network.run_until(HOUR);
    let transactions = phases(&network.lines[CLIENT])[0].transactions as usize;
    let requests = &network.segments[CLIENT];
    assert!(requests.len() >= 2 * transactions);
    // Pairs, and the FIN at the end.
    let (pairs, fin) = requests.split_at(requests.len() - 1);
    assert!(pairs.chunks(2).all(|pair| pair == [50, 51]) && fin == [1]);
    let responses = &network.segments[SERVER];
    assert!(responses[..responses.len() - 1].iter().all(|len| *len == 101));
}

#[test]
fn wwr_stalls_behind_one_unacknowledged_segment_for_the_ack_delay() {
    for delay in [200, 40] {
        let phase = measure(&long(parameters(Workload::Wwr, delay)), Serialize::default());
        let floor = u64::from(delay) * MS;
        assert!(phase.min >= floor && phase.max < floor + MS, "{delay}: {phase:?}");
        assert!(phase.transactions >= 2000 / u64::from(delay) - 1);
    }
    let at_once = measure(&parameters(Workload::Wwr, 0), Serialize::default());
    assert_eq!(at_once.max, 3 * LATENCY);
    let direct = measure(&parameters(Workload::Wwr, 200), Direct);
    assert_eq!(direct.max, 2 * LATENCY);
}

#[test]
fn nagle_makes_the_second_write_wait_by_itself() {
    let parameters = Parameters {
        nagle: true,
        ..long(parameters(Workload::Wwr, 200))
    };
    let phase = measure(&parameters, Direct);
    assert!(
        phase.min >= 200 * MS && phase.max < 201 * MS && phase.transactions >= 9,
        "{phase:?}"
    );
}

#[test]
fn odd_records_wait_for_the_acknowledgement_of_their_last_segment() {
    let odd = parameters(Workload::Records, 200);
    for phase in [
        measure(&long(odd), Direct),
        measure(&long(Parameters { segments: 1, ..odd }), Direct),
    ] {
        assert!(phase.min >= 200 * MS && phase.max < 201 * MS, "{phase:?}");
    }
    assert!(
        measure(
            &Parameters {
                ack_delay_ms: 0,
                ..odd
            },
            Direct
        )
        .max <= 2 * LATENCY
    );
}

#[test]
fn even_records_stall_only_behind_one_unacknowledged_segment() {
    let even = Parameters {
        segments: 2,
        ..parameters(Workload::Records, 200)
    };
    assert!(measure(&even, Direct).max <= 2 * LATENCY);
    let phase = measure(&long(even), Serialize::default());
    assert!(phase.min >= 400 * MS && phase.max < 401 * MS, "{phase:?}");
}

#[test]
fn records_have_the_segments_asked_for() {
    let mut network = Network::new(&parameters(Workload::Records, 0), Direct);
    network.run_until(100 * MS);
    let segments = &network.segments[SERVER];
    assert!(segments.len() > 30);
    assert!(segments.chunks_exact(3).all(|record| record == [1460, 1460, 64]));
}

/// The hashes that one end reported: phase, octets, value.
fn hashes(lines: &[String]) -> Vec<(Option<u32>, u64, u64)> {
    let hash = |line: &String| match Line::parse(line) {
        Ok(Line::Hash { phase, octets, sum }) => Some((phase, octets, sum)),
        _ => None,
    };
    lines.iter().filter_map(hash).collect()
}

fn stream(path: impl Path, phase_ms: u32) {
    let parameters = Parameters {
        phases: 2,
        phase_ms,
        ..parameters(Workload::Stream, 1)
    };
    let mut network = Network::new(&parameters, path);
    network.run_until(HOUR);
    let client = hashes(&network.lines[CLIENT]);
    let mut server = hashes(&network.lines[SERVER]);
    let closed = server.pop().expect("a hash at the end");
    assert_eq!(client, server);
    assert_eq!(client.len(), 2);
    assert!(client[0].1.is_multiple_of(65536) && client[1].1 > client[0].1);
    assert_eq!((closed.0, closed.1, closed.2), (None, client[1].1, client[1].2));
    assert!(
        phases(&network.lines[CLIENT])
            .iter()
            .all(|phase| phase.transactions > 0)
    );
}

#[test]
fn stream_hashes_are_equal_at_both_ends() {
    stream(Direct, 2);
    stream(Serialize::default(), 100);
}

#[test]
fn traffic_flows_while_the_host_has_not_said_go() {
    let parameters = Parameters {
        go: Go::Serial,
        phases: 2,
        ..parameters(Workload::Rr, 0)
    };
    let mut network = Network::new(&parameters, Direct);
    for phase in 0..2 {
        let end = network.now + 20 * MS;
        network.run_until(end);
        let before = network.segments[CLIENT].len();
        network.run_until(end + 20 * MS);
        assert!(network.client().wants_go());
        assert_eq!(
            network.segments[CLIENT].len() - before,
            (20 * MS / (2 * LATENCY)) as usize
        );
        assert_eq!(
            network.lines[CLIENT].last(),
            Some(&Line::Ready { phase }.to_string())
        );
        network.go();
        network.run_until(network.now + 70 * MS);
    }
    assert!(network.client().is_over());
    assert_eq!(phases(&network.lines[CLIENT]).len(), 2);
}

#[test]
fn pauses_between_transactions_are_kept() {
    let parameters = Parameters {
        gap_us: 800,
        ..parameters(Workload::Rr, 0)
    };
    let phase = measure(&parameters, Direct);
    assert_eq!((phase.max, phase.transactions), (2 * LATENCY, 50 - 1));
}

#[test]
fn a_server_that_never_appears_is_given_up() {
    let mut network = Network::new(&parameters(Workload::Rr, 0), CutAfter(0));
    network.run_until(HOUR);
    assert!(network.client().has_failed());
    assert_eq!(
        network.lines[CLIENT],
        ["enlight-guest: error no connection to the server"]
    );
    assert!(network.now >= 60_000 * MS && network.now < 62_000 * MS);
}

#[test]
fn a_path_that_dies_is_an_error_or_an_empty_phase() {
    let long = Parameters {
        phase_ms: 100_000,
        ..parameters(Workload::Rr, 0)
    };
    let mut network = Network::new(&long, CutAfter(500));
    network.run_until(HOUR);
    assert_eq!(
        network.lines[CLIENT].last().map(String::as_str),
        Some("enlight-guest: error connection lost")
    );
    let mut network = Network::new(&parameters(Workload::Rr, 0), CutAfter(50));
    network.run_until(HOUR);
    assert!(network.client().is_over() && !network.client().has_failed());
    assert!(phases(&network.lines[CLIENT])[0].transactions < 50);
}
