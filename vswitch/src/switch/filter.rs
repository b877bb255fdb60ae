//! Filters from their configuration, with the ports that their rules copy to.

use std::collections::HashMap;
use std::sync::Arc;

use introspection::{Caps, Filter, FilterOptions, RuleSet, compose};

use super::Shared;
use crate::control::{ControlError, FilterConfig};
use crate::counters::DropReason;
use crate::probe::Mirror;
use crate::vlan::Membership;

/// Compiles a filter's rules; `None` when it has none.
pub(crate) fn rules(port: &str, config: &FilterConfig) -> Result<Option<Arc<RuleSet>>, ControlError> {
    if config.rules.is_empty() {
        return Ok(None);
    }
    let compiled = RuleSet::compile(&config.rules).map_err(|source| ControlError::Rules {
        port: port.to_owned(),
        source,
    })?;
    Ok(Some(Arc::new(compiled)))
}

/// Makes a filter; `None` for `off`.
pub(crate) fn make(
    port: &str,
    config: &FilterConfig,
    rules: Option<&Arc<RuleSet>>,
) -> Result<Option<Box<dyn Filter>>, ControlError> {
    let stages: Vec<_> = config
        .stages()
        .into_iter()
        .map(|stage| (stage.profile, stage.direction))
        .collect();
    let caps = Caps::default();
    let options = FilterOptions {
        caps: Caps {
            flows: config.flows.unwrap_or(caps.flows),
            ..caps
        },
        deadline: config.deadline,
        ratio: config.ratio,
        chunk: config.chunk,
        rules: rules.cloned(),
        ..FilterOptions::default()
    };
    compose(&stages, &options).map_err(|source| ControlError::Chain {
        port: port.to_owned(),
        source,
    })
}

/// Refuses rules that copy to a port that cannot take copies: there is none, or it is where copies are copied again. The caller
/// holds the lock on changes.
fn check_mirrors(shared: &Shared, port: &str, rules: Option<&RuleSet>) -> Result<(), ControlError> {
    let table = shared.table();
    for to in rules.into_iter().flat_map(RuleSet::mirrors) {
        let refuse = |reason| {
            Err(ControlError::Mirror {
                port: port.to_owned(),
                to: to.to_string(),
                reason,
            })
        };
        let Ok(target) = table.named(to) else {
            return refuse("which does not exist; add it first");
        };
        if **to == *port || target.probe.mirrors_to(None) {
            return refuse(
                "whose own filter mirrors; copies would be copied again, choose a port without such rules",
            );
        }
        if target.vm_lane().is_none() {
            return refuse("which is an uplink; choose a tap, a guest or a capture file");
        }
        if table.ports().any(|other| other.probe.mirrors_to(Some(port))) {
            return refuse("since this port gets copies itself; copies would be copied again");
        }
    }
    Ok(())
}

/// The ports that rules copy to. The caller holds the lock on changes.
pub(crate) fn mirrors(
    shared: &Arc<Shared>,
    port: &str,
    rules: Option<&RuleSet>,
) -> Result<HashMap<Arc<str>, Mirror>, ControlError> {
    check_mirrors(shared, port, rules)?;
    let table = shared.table();
    let mut mirrors = HashMap::new();
    for name in rules.into_iter().flat_map(RuleSet::mirrors) {
        let Ok(target) = table.named(name) else { continue };
        if let Some(queue) = target.vm_lane().and_then(|lane| lane.vm_queue.as_ref())
            && !queue.is_mirrored()
        {
            queue.begin_mirroring();
            shared.renew();
        }
        // Weak, so that a port whose copies are wanted can go, and a switch, too.
        let (target, shared) = (Arc::downgrade(target), Arc::downgrade(shared));
        let copy: Mirror = Box::new(move |now, packet, arena| {
            let (Some(target), Some(shared)) = (target.upgrade(), shared.upgrade()) else {
                return;
            };
            let Some(lane) = target.vm_lane() else { return };
            let Some(queue) = &lane.vm_queue else { return };
            let mut copy = *packet;
            // Who gets copies gets them of every VLAN: without a tag, or with the frame's own if it carries that.
            if let Membership::Access(vlan) = target.vlans {
                copy.vlan = vlan;
            }
            if queue.push(now, &[copy], arena) > 0 {
                target.counters.drop_rx(DropReason::VmQueueFull);
            }
            if let Some(owner) = shared.workers.get(lane.owner()) {
                owner.rouse();
            }
        });
        mirrors.insert(Arc::clone(name), copy);
    }
    Ok(mirrors)
}
