//! Counters as Prometheus text (exposition format 0.0.4).

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};

use introspection::Profile;
use introspection::diagnosis::Cause;
use introspection::stage::Stage;
use introspection::stall::Gaps;
use vswitch::control::{
    AttributionStats, FilterInfo, PortInfo, PortStats, QueueStats, SwitchStats, WorkerMode, WorkerStats,
};
use vswitch::counters::DropReason;

/// A metric's name, its help, and where its value is.
type Series<T> = (&'static str, &'static str, fn(&T) -> u64);

/// Renders everything.
pub(crate) fn render(stats: &SwitchStats, ports: &[PortInfo], filters: &[FilterInfo]) -> String {
    let mut page = Page::default();
    port_states(&mut page, ports);
    port_counters(&mut page, &stats.ports);
    drops(&mut page, &stats.ports);
    stages(&mut page, &stats.ports);
    filter_stages(&mut page, &stats.ports);
    stalls(&mut page, &stats.ports);
    stall_causes(&mut page, &stats.ports);
    attribution(&mut page, &stats.attribution);
    filter_counters(&mut page, filters);
    workers(&mut page, stats);
    queues(&mut page, &stats.queues);
    page.family("learned_addresses", "gauge", "Addresses in the forwarding table");
    page.sample("learned_addresses", &[], stats.learned);
    page.0
}

fn port_states(page: &mut Page, ports: &[PortInfo]) {
    page.family("port_up", "gauge", "Whether frames can flow");
    for port in ports {
        page.sample("port_up", &[("port", &port.name)], u8::from(port.peer.up));
    }
    page.family("port_connections_total", "counter", "Peers that connected");
    for port in ports {
        page.sample(
            "port_connections_total",
            &[("port", &port.name)],
            port.peer.connections,
        );
    }
    page.family(
        "port_refusals_total",
        "counter",
        "What a peer did against the rules, by kind",
    );
    for port in ports {
        for (kind, count) in &port.peer.refusals {
            page.sample(
                "port_refusals_total",
                &[("port", &port.name), ("kind", kind)],
                count,
            );
        }
    }
}

fn port_counters(page: &mut Page, ports: &[PortStats]) {
    page.family(
        "port_frames_total",
        "counter",
        "Frames; tx leaves the guest, rx enters it",
    );
    for port in ports {
        let sample = |direction| [("port", port.name.as_str()), ("direction", direction)];
        page.sample("port_frames_total", &sample("tx"), port.counters.tx_frames);
        page.sample("port_frames_total", &sample("rx"), port.counters.rx_frames);
    }
    page.family(
        "port_octets_total",
        "counter",
        "Octets of frames; tx leaves the guest, rx enters it",
    );
    for port in ports {
        let sample = |direction| [("port", port.name.as_str()), ("direction", direction)];
        page.sample("port_octets_total", &sample("tx"), port.counters.tx_octets);
        page.sample("port_octets_total", &sample("rx"), port.counters.rx_octets);
    }
    port_events(page, ports);
    page.family("port_backlog_frames", "gauge", "Frames kept for the guest now");
    for port in ports {
        page.sample("port_backlog_frames", &[("port", &port.name)], port.backlog);
    }
}

/// What happened to some frames only.
fn port_events(page: &mut Page, ports: &[PortStats]) {
    let singles: [Series<PortStats>; 6] = [
        (
            "port_flooded_frames_total",
            "Frames from the guest that were flooded",
            |port| port.counters.flooded,
        ),
        (
            "port_segmented_frames_total",
            "Large frames cut in software for the guest",
            |port| port.counters.segmented,
        ),
        (
            "port_coalesced_frames_total",
            "Segments from uplinks merged into others for the guest",
            |port| port.counters.coalesced,
        ),
        (
            "port_checksummed_frames_total",
            "Checksums finished in software for the guest",
            |port| port.counters.checksummed,
        ),
        (
            "port_backlogged_frames_total",
            "Frames kept until the guest had room",
            |port| port.counters.backlogged,
        ),
        (
            "port_filtered_frames_total",
            "Frames that the guest's receive filters left out",
            |port| port.counters.filtered,
        ),
    ];
    for (name, help, value) in singles {
        page.family(name, "counter", help);
        for port in ports {
            page.sample(name, &[("port", &port.name)], value(port));
        }
    }
}

fn drops(page: &mut Page, ports: &[PortStats]) {
    page.family(
        "port_dropped_frames_total",
        "counter",
        "Frames dropped, by direction and reason",
    );
    for port in ports {
        for (direction, dropped) in [
            ("tx", &port.counters.tx_dropped),
            ("rx", &port.counters.rx_dropped),
        ] {
            for reason in DropReason::ALL {
                let labels = [
                    ("port", port.name.as_str()),
                    ("direction", direction),
                    ("reason", reason.label()),
                ];
                page.sample(
                    "port_dropped_frames_total",
                    &labels,
                    dropped.get(reason).copied().unwrap_or(0),
                );
            }
        }
    }
}

fn stages(page: &mut Page, ports: &[PortStats]) {
    page.family(
        "port_stage_seconds_total",
        "counter",
        "Time that frames from the guest spent, by stage",
    );
    for port in ports {
        for stage in Stage::ALL {
            let name = stage.name();
            let seconds = port.stages.stages.get(stage).total_ns as f64 / 1e9;
            page.sample(
                "port_stage_seconds_total",
                &[("port", &port.name), ("stage", name)],
                seconds,
            );
        }
    }
    page.family(
        "port_staged_frames_total",
        "counter",
        "Frames behind port_stage_seconds_total",
    );
    for port in ports {
        page.sample(
            "port_staged_frames_total",
            &[("port", &port.name)],
            port.stages.frames,
        );
    }
}

fn filter_stages(page: &mut Page, ports: &[PortStats]) {
    page.family(
        "filter_stage_seconds_total",
        "counter",
        "Time that each profile of a port's filter added to frames of both directions, by stage",
    );
    for port in ports {
        for part in &port.filter.parts {
            for (stage, spent) in [("filter", &part.filter), ("hold", &part.hold)] {
                let labels = [
                    ("port", port.name.as_str()),
                    ("part", &part.part),
                    ("stage", stage),
                ];
                page.sample("filter_stage_seconds_total", &labels, spent.total_ns as f64 / 1e9);
            }
        }
    }
    page.family(
        "filter_staged_frames_total",
        "counter",
        "Frames behind filter_stage_seconds_total",
    );
    for port in ports {
        let labels = [("port", port.name.as_str())];
        page.sample("filter_staged_frames_total", &labels, port.filter.frames);
    }
}

fn attribution(page: &mut Page, stats: &AttributionStats) {
    for (name, help, ns) in [
        (
            "busy_seconds_total",
            "Time that workers were busy with queues",
            stats.busy_ns,
        ),
        (
            "attribution_seconds_total",
            "What of that went into stamps, histograms and lists of flows",
            stats.spent_ns,
        ),
    ] {
        page.family(name, "counter", help);
        page.sample(name, &[], ns as f64 / 1e9);
    }
}

fn stalls(page: &mut Page, ports: &[PortStats]) {
    page.family(
        "port_stalls_total",
        "counter",
        "Stalls of flows through the port, by cause",
    );
    for port in ports {
        for (cause, count) in numbers(&port.stalls) {
            page.sample(
                "port_stalls_total",
                &[("port", &port.name), ("cause", &cause)],
                count,
            );
        }
    }
}

/// Stalls as the diagnosis judges them.
fn stall_causes(page: &mut Page, ports: &[PortStats]) {
    let mut family = |name: &str, help: &str, value: &dyn Fn(Gaps) -> f64| {
        page.family(name, "counter", help);
        for port in ports {
            for cause in Cause::ALL {
                let labels = [("port", port.name.as_str()), ("cause", cause.name())];
                page.sample(name, &labels, value(port.stall_causes.causes.get(cause)));
            }
        }
    };
    family(
        "port_judged_stalls_total",
        "Stalls of flows through the port, by the diagnosis' cause",
        &|gaps| gaps.stalls as f64,
    );
    family(
        "port_stalled_seconds_total",
        "Time that flows through the port stood still, by the diagnosis' cause",
        &|gaps| gaps.total_ns as f64 / 1e9,
    );
}

fn filter_counters(page: &mut Page, filters: &[FilterInfo]) {
    page.family("filter_active", "gauge", "1 for the profile in force");
    for filter in filters {
        for profile in Profile::ALL {
            let labels = [("port", filter.port.as_str()), ("profile", profile.name())];
            page.sample("filter_active", &labels, u8::from(filter.profile == profile));
        }
    }
    page.family("filter_changes_total", "counter", "Times that the filter was set");
    for filter in filters {
        page.sample("filter_changes_total", &[("port", &filter.port)], filter.changes);
    }
    page.family(
        "filter_events",
        "gauge",
        "What the filter in force has counted since it was set",
    );
    for filter in filters {
        for (event, count) in numbers(&filter.counters) {
            page.sample(
                "filter_events",
                &[("port", &filter.port), ("event", &event)],
                count,
            );
        }
    }
}

fn workers(page: &mut Page, stats: &SwitchStats) {
    page.family("worker_polls", "gauge", "Whether the worker polls all the time");
    for (index, worker) in stats.workers.iter().enumerate() {
        let polls = u8::from(worker.config.mode == WorkerMode::Poll);
        page.sample("worker_polls", &[("worker", &index.to_string())], polls);
    }
    let counters: [Series<WorkerStats>; 5] = [
        ("worker_rounds_total", "Rounds of the worker's loop", |worker| {
            worker.rounds
        }),
        ("worker_busy_rounds_total", "Rounds that found work", |worker| {
            worker.busy_rounds
        }),
        ("worker_bursts_total", "Bursts carried", |worker| worker.bursts),
        ("worker_frames_total", "Frames carried", |worker| worker.frames),
        (
            "worker_sleeps_total",
            "Times that the worker went to sleep",
            |worker| worker.sleeps,
        ),
    ];
    for (name, help, value) in counters {
        page.family(name, "counter", help);
        for (index, worker) in stats.workers.iter().enumerate() {
            page.sample(name, &[("worker", &index.to_string())], value(worker));
        }
    }
}

fn queues(page: &mut Page, queues: &[QueueStats]) {
    let gauges: [Series<QueueStats>; 2] = [
        ("queue_worker", "The worker that serves the queue", |queue| {
            queue.worker as u64
        }),
        (
            "queue_load_permille",
            "What of its worker's time the queue took lately",
            |queue| queue.load.into(),
        ),
    ];
    let counters: [Series<QueueStats>; 2] = [
        ("queue_frames_total", "Frames carried from the queue", |queue| {
            queue.frames
        }),
        (
            "queue_moves_total",
            "Times that the queue went to another worker",
            |queue| queue.moves,
        ),
    ];
    for (kind, families) in [("gauge", gauges), ("counter", counters)] {
        for (name, help, value) in families {
            page.family(name, kind, help);
            for queue in queues {
                let labels = [("port", queue.port.as_str()), ("queue", &queue.label())];
                page.sample(name, &labels, value(queue));
            }
        }
    }
}

/// The numbers of a record, by field.
fn numbers(record: &impl serde::Serialize) -> BTreeMap<String, u64> {
    let Ok(serde_json::Value::Object(fields)) = serde_json::to_value(record) else {
        return BTreeMap::new();
    };
    fields
        .into_iter()
        .filter_map(|(name, value)| Some((name, value.as_u64()?)))
        .collect()
}

/// The text so far.
#[derive(Default)]
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(
            self.0,
            "# HELP enlight_{name} {help}\n# TYPE enlight_{name} {kind}"
        );
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<String> = labels
            .iter()
            .map(|(label, text)| format!("{label}=\"{}\"", escaped(text)))
            .collect();
        let labels = if labels.is_empty() {
            String::new()
        } else {
            format!("{{{}}}", labels.join(","))
        };
        let _ = writeln!(self.0, "enlight_{name}{labels} {value}");
    }
}

/// A label's value as the format wants it.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use introspection::stage::{FilterStages, StageSummary};
    use introspection::stall::{StallCounts, StallSummary};

    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut page = Page::default();
        page.sample("x", &[("port", "a\"b\\c\nd")], 1);
        assert_eq!(page.0, "enlight_x{port=\"a\\\"b\\\\c\\nd\"} 1\n");
    }

    #[test]
    fn every_reason_to_drop_is_a_label() {
        let port = PortStats {
            name: "v0".to_owned(),
            counters: vswitch::counters::CounterSnapshot {
                rx_dropped: [(DropReason::ReceiverFull, 7)].into(),
                ..Default::default()
            },
            backlog: 0,
            stages: StageSummary::default(),
            stages_of: 0,
            filter: FilterStages::default(),
            stalls: StallCounts::default(),
            stall_causes: StallSummary::default(),
        };
        let mut page = Page::default();
        drops(&mut page, &[port]);
        for reason in DropReason::ALL {
            let needle = format!("reason=\"{}\"", reason.label());
            assert_eq!(page.0.matches(&needle).count(), 2, "{needle}");
        }
        let full =
            "enlight_port_dropped_frames_total{port=\"v0\",direction=\"rx\",reason=\"receiver_full\"} 7";
        assert!(page.0.contains(full), "{}", page.0);
    }
}
