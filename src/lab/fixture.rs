//! A made-up report for the tests of everything that renders one.

use introspection::Profile;

use super::args::Workload;
use super::explain;
use super::report::{
    DirectionStages, Evidence, GuestInfo, GuestKind, HostFacts, LabReport, RttSummary, Run, Settings, Slow,
    StageMeans, Stalls,
};
use super::timeline::{Gap, Hop, Timeline};

/// `off`, `inspect` and `serialize` under `wwr` with an ACK delay of 200 ms.
pub(super) fn report() -> LabReport {
    let settings = Settings {
        workload: Workload::Wwr,
        size: 64,
        ack_delay_ms: Some(200),
        nagle: false,
        sysctls: Vec::new(),
        duration_s: 8.0,
        deadline_ms: None,
        filter_port: "client".to_owned(),
    };
    let guest = |name: &str, ip: &str| GuestInfo {
        name: name.to_owned(),
        ip: ip.to_owned(),
        system: None,
        first_frame_ms: Some(61.0),
        memory_mib: Some(16),
        memory_overhead_kib: Some(4_200),
    };
    let guests_info = vec![guest("client", "192.0.2.1"), guest("server", "192.0.2.2")];
    let mut runs = vec![
        quick(Profile::Off, 41_000),
        quick(Profile::Inspect, 42_500),
        stalled(),
    ];
    let baseline = runs.first().cloned();
    for run in &mut runs {
        let base = baseline.as_ref().filter(|base| base.filter != run.filter);
        run.explanation = explain::sentence(run, base, &settings, &guests_info);
    }
    LabReport {
        version: "0.1.0".to_owned(),
        guests: GuestKind::Kvm,
        guests_note: None,
        host: HostFacts {
            cpu: "Example CPU <1>".to_owned(),
            cores: 2,
            memory_mib: 24_000,
            kernel: "6.1.0".to_owned(),
            kvm: "KVM works".to_owned(),
            date: "2026-01-31T12:00:00Z".to_owned(),
            command: "enlight lab".to_owned(),
        },
        settings,
        ack_delay_seen_ms: Some(200.1),
        guests_info,
        runs,
    }
}

fn quick(filter: Profile, middle_ns: u64) -> Run {
    let histogram_ns: Vec<(u64, u64)> = (0..60_u64)
        .map(|n| {
            let distance = (n as f64 - 20.0) / 8.0;
            (
                middle_ns - 6_000 + n * 300,
                (2_000.0 * (-distance * distance / 2.0).exp()) as u64 + 3,
            )
        })
        .collect();
    let transactions = histogram_ns.iter().map(|(_, count)| count).sum();
    let middle = middle_ns as f64 / 1_000.0;
    let judged = if filter == Profile::Off { 0.0 } else { 0.4 };
    Run {
        filter,
        workload: Workload::Wwr,
        transactions,
        seconds: 8.0,
        rtt_us: RttSummary {
            min: middle - 6.0,
            mean: middle + 1.0,
            p50: middle,
            p90: middle + 4.0,
            p99: middle + 9.0,
            p999: middle + 11.0,
            max: middle + 40.0,
        },
        histogram_ns,
        ..shared(filter, judged, 0.0)
    }
}

fn stalled() -> Run {
    Run {
        transactions: 38,
        rtt_us: RttSummary {
            min: 200_020.0,
            mean: 200_110.0,
            p50: 200_100.0,
            p90: 200_160.0,
            p99: 200_190.0,
            p999: 200_190.0,
            max: 200_195.0,
        },
        stalls: Stalls {
            delayed_ack: 37,
            filter_hold: 0,
            retransmission: 0,
        },
        histogram_ns: vec![(200_020_000, 12), (200_100_000, 20), (200_160_000, 6)],
        evidence: vec![Evidence {
            cause: "delayed_ack".to_owned(),
            at_ms: 412.0,
            gap_ms: 200.1,
            ack_late_ms: Some(200.1),
            proof:
                "the filter held octets 33 to 64 of the client; the ACK of octet 32 left 192.0.2.2 only then"
                    .to_owned(),
        }],
        slowest: vec![Slow { n: 4, us: 200_195 }],
        timeline: held_timeline(),
        ..shared(Profile::Serialize, 0.5, 66_690.0)
    }
}

fn shared(filter: Profile, judged: f64, held: f64) -> Run {
    let stages = |hold: f64| StageMeans {
        doorbell: 1.9,
        queue_wait: 0.3,
        parse: 0.1,
        filter: judged,
        hold,
        copy: 0.4,
        notify: 2.2,
    };
    let direction = |from: &str, hold: f64| DirectionStages {
        from: from.to_owned(),
        frames: 380,
        stages_us: stages(hold),
        residence_us: stages(hold).sum(),
    };
    Run {
        filter,
        workload: Workload::Wwr,
        transactions: 0,
        seconds: 8.0,
        rtt_us: RttSummary::default(),
        stalls: Stalls::default(),
        stages_us: stages(held / 2.0),
        directions: vec![direction("client", held), direction("server", 0.0)],
        residence_us: stages(held / 2.0).sum(),
        explanation: String::new(),
        evidence: Vec::new(),
        slowest: Vec::new(),
        histogram_ns: Vec::new(),
        timeline: quick_timeline(),
    }
}

fn hop(from_client: bool, times: (f64, f64), numbers: (u32, u32, u32), starts: u32) -> Hop {
    Hop {
        from_client,
        met_us: times.0,
        left_us: Some(times.1),
        seq: numbers.0,
        ack: numbers.1,
        len: numbers.2,
        flags: if numbers.2 == 0 { "ACK" } else { "PSH ACK" }.to_owned(),
        starts,
    }
}

fn quick_timeline() -> Timeline {
    let mut frames = Vec::new();
    for n in 0..3_u32 {
        let at = f64::from(n) * 42.0;
        let octets = n * 64;
        frames.push(hop(true, (at, at), (octets + 1, octets + 1, 32), n + 1));
        frames.push(hop(true, (at + 6.0, at + 6.0), (octets + 33, octets + 1, 32), 0));
        frames.push(hop(
            false,
            (at + 30.0, at + 30.0),
            (octets + 1, octets + 65, 64),
            0,
        ));
    }
    Timeline {
        frames,
        gaps: Vec::new(),
    }
}

fn held_timeline() -> Timeline {
    let mut frames = Vec::new();
    let mut gaps = Vec::new();
    for n in 0..2_u32 {
        let at = f64::from(n) * 200_140.0;
        let octets = n * 64;
        frames.push(hop(true, (at, at), (octets + 1, octets + 1, 32), n + 1));
        frames.push(hop(
            true,
            (at + 8.0, at + 200_100.0),
            (octets + 33, octets + 1, 32),
            0,
        ));
        frames.push(hop(
            false,
            (at + 200_100.0, at + 200_100.0),
            (octets + 1, octets + 33, 0),
            0,
        ));
        frames.push(hop(
            false,
            (at + 200_125.0, at + 200_125.0),
            (octets + 1, octets + 65, 64),
            0,
        ));
        gaps.push(Gap {
            from_us: at + 8.0,
            to_us: at + 200_100.0,
            cause: "delayed_ack".to_owned(),
        });
    }
    Timeline { frames, gaps }
}
