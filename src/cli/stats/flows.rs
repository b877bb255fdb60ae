//! `enlight stats --flows`.

use anyhow::Result;
use introspection::FlowKey;
use introspection::stall::CauseTable;
use vswitch::control::{Attribution, PortFlows, PortInfo};

use super::super::{Common, port_target, table};
use crate::explain::{FlowShare, Time};

/// A flow in the list.
#[derive(Debug, Default)]
struct Row {
    frames: u64,
    octets: u64,
    residence_ns: u64,
    hold_ns: u64,
    longest_ns: u64,
    added_ns: u64,
    stalls: CauseTable,
}

pub(super) fn run(common: &Common, port: Option<&str>, top: usize) -> Result<()> {
    let client = common.client();
    let ports = if let Some(port) = port {
        vec![port.to_owned()]
    } else {
        let all: Vec<PortInfo> = client.get("/v1/ports")?;
        all.into_iter().map(|port| port.name).collect()
    };
    let mut lists: Vec<PortFlows> = Vec::new();
    for port in ports {
        lists.push(client.get(&port_target(&port, &format!("/flows?top={top}"))?)?);
    }
    common.print(&lists, |lists| {
        let texts: Vec<String> = lists.iter().map(|list| show(list, top)).collect();
        texts.join("\n")
    })
}

fn show(list: &PortFlows, top: usize) -> String {
    let which = match list.attribution {
        Attribution::Off => "no frame is stamped, `enlight switch attribution auto` has some be".to_owned(),
        Attribution::Full => "every frame is stamped".to_owned(),
        Attribution::OneOf(step) => format!("one frame of {step} is stamped, and counts here"),
        Attribution::Auto => "some frames are stamped, and count here".to_owned(),
    };
    let mut text = format!(
        "port {}: {} of {} frames from its guest; {which}\n",
        list.port, list.stamped, list.frames
    );
    let rows: Vec<Vec<String>> = merged(list)
        .into_iter()
        .take(top)
        .map(|(flow, row)| cells(&flow, &row))
        .collect();
    if rows.is_empty() {
        return text;
    }
    text.push_str(&table::render(
        &[
            "FLOW",
            "FRAMES",
            "OCTETS",
            "IN SWITCH",
            "LONGEST",
            "HELD",
            "FILTER ADDED",
            "STALLS",
            "STALLED",
            "LONGEST",
            "MOSTLY",
        ],
        &rows,
    ));
    let replaced = list.residence.replaced;
    if replaced > 0 {
        text.push_str(&format!(
            "{replaced} times a flow gave its place to another one: small flows may be missing\n"
        ));
    }
    text
}

fn cells(flow: &FlowKey, row: &Row) -> Vec<String> {
    let stalls = row.stalls.total();
    let mostly = row.stalls.iter().max_by_key(|(_, gaps)| gaps.total_ns);
    let protocol = if flow.protocol == 17 { "UDP " } else { "" };
    vec![
        format!("{protocol}{flow}"),
        row.frames.to_string(),
        row.octets.to_string(),
        Time(row.residence_ns).to_string(),
        Time(row.longest_ns).to_string(),
        Time(row.hold_ns).to_string(),
        Time(row.added_ns).to_string(),
        stalls.stalls.to_string(),
        Time(stalls.total_ns).to_string(),
        Time(stalls.longest_ns).to_string(),
        mostly.map_or_else(|| "-".to_owned(), |(cause, _)| cause.to_string()),
    ]
}

/// The flows of all lists: those that stood still first, then those that were in the switch for longest.
fn merged(list: &PortFlows) -> Vec<(FlowKey, Row)> {
    let mut rows: Vec<(FlowKey, Row)> = Vec::new();
    let row = |rows: &mut Vec<(FlowKey, Row)>, flow: FlowKey| -> usize {
        rows.iter()
            .position(|(known, _)| *known == flow)
            .unwrap_or_else(|| {
                rows.push((flow, Row::default()));
                rows.len() - 1
            })
    };
    for one in &list.residence.flows {
        let at = row(&mut rows, one.flow);
        if let Some((_, row)) = rows.get_mut(at) {
            (row.frames, row.octets) = (one.cost.frames, one.cost.octets);
            (row.residence_ns, row.longest_ns) = (one.cost.total_ns, one.cost.longest_ns);
            row.hold_ns = one.cost.hold_ns;
        }
    }
    for share in FlowShare::of(list) {
        let at = row(&mut rows, share.flow);
        if let Some((_, row)) = rows.get_mut(at) {
            (row.added_ns, row.stalls) = (share.added_ns, share.stalls);
        }
    }
    rows.sort_by_key(|(flow, row)| {
        let stalled = row.stalls.total().total_ns;
        (
            std::cmp::Reverse((stalled, row.residence_ns, row.added_ns)),
            *flow,
        )
    });
    rows
}

#[cfg(test)]
mod tests {
    use introspection::diagnosis::Cause;
    use introspection::flow::{FlowCost, TopFlow};
    use introspection::stall::{FlowStalls, Gaps};
    use std::collections::BTreeMap;
    use vswitch::control::FlowList;

    use super::*;

    fn listed(number: u16, total_ns: u64) -> TopFlow<FlowCost> {
        TopFlow {
            flow: FlowKey::sample(number),
            cost: FlowCost {
                frames: 3,
                octets: 300,
                total_ns,
                ..FlowCost::default()
            },
            missed_ns: 0,
        }
    }

    #[test]
    fn who_stood_still_is_first() {
        let gaps = Gaps {
            stalls: 2,
            total_ns: 80_000_000,
            longest_ns: 41_000_000,
        };
        let list = |flows| FlowList {
            flows,
            ..FlowList::default()
        };
        let list = PortFlows {
            port: "v0".to_owned(),
            attribution: Attribution::Full,
            stamped: 6,
            frames: 6,
            residence: list(vec![listed(1, 9_000_000), listed(2, 5_000)]),
            filter: list(vec![listed(2, 2_500), listed(3, 100)]),
            stalls: vec![TopFlow {
                flow: FlowKey::sample(2),
                cost: FlowStalls {
                    causes: BTreeMap::from([(Cause::NagleDelayedAck, gaps)]).into(),
                },
                missed_ns: 0,
            }],
        };
        let text = show(&list, 9);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            "port v0: 6 of 6 frames from its guest; every frame is stamped"
        );
        let words: Vec<&str> = lines[2]
            .split("  ")
            .map(str::trim)
            .filter(|word| !word.is_empty())
            .collect();
        assert_eq!(
            words,
            [
                "192.0.2.1:2 - 192.0.2.2:80",
                "3",
                "300",
                "5.00 us",
                "0 ns",
                "0 ns",
                "2.50 us",
                "2",
                "80.0 ms",
                "41.0 ms",
                "nagle-delayed-ack"
            ]
        );
        assert!(
            lines[3].contains("192.0.2.1:1 ") && lines[4].contains("192.0.2.1:3 "),
            "{text}"
        );
        assert_eq!(show(&list, 1).lines().count(), 3);
    }
}
