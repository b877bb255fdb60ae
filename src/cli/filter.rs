//! `enlight filter`.

use std::path::PathBuf;

use anyhow::Result;
use introspection::Profile;
use vswitch::control::FilterInfo;

use super::{Common, port_target, table};
use crate::config::load_rules;
use crate::daemon::api::filter_body;
use crate::explain::Explanation;
use crate::spec::{FilterSpec, Profiles};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Put a filter on a port, or change it, while traffic flows
    #[command(after_help = "Examples:
  enlight filter set v0 inspect --rules rules.toml
      Look at every frame, hold none.
  enlight filter set v0 hold --deadline 5
      Hold segments until a message is complete, but no longer than 5 ms.
  enlight filter set v0 inspect,thin-acks:rx --rules rules.toml --ratio 8
      Apply rules, and leave out seven of eight acknowledgements that enter the guest.")]
    Set(SetArgs),
    /// Take a port's filter out of the path
    #[command(after_help = "Example:\n  enlight filter off v0")]
    Off(OffArgs),
    /// Say what a port's filter costs, in which flows, and why
    #[command(after_help = "Example:
  enlight filter explain v0
      What it adds to a frame, stalls with their cause and remedy, and the flows that suffer most.")]
    Explain(ExplainArgs),
    /// Show the filters of all ports
    #[command(after_help = "Examples:\n  enlight filter show\n  enlight filter show --json")]
    Show(ShowArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct SetArgs {
    /// The port
    port: String,
    /// off, inspect, hold, serialize, coalesce or thin-acks; or several with commas between, which see frames in this order. PROFILE:tx
    /// and PROFILE:rx act on one direction only
    #[arg(value_name = "PROFILE,...")]
    profile: Profiles,
    /// The longest that it may hold a frame, in milliseconds, 1 to 60000
    #[arg(long, value_name = "MS", allow_negative_numbers = true)]
    deadline: Option<i64>,
    /// thin-acks: let one acknowledgement of N pass at once, 1 to 64
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    ratio: Option<i64>,
    /// coalesce: payload octets of a merged frame at most; serialize: octets that may be unacknowledged; 1 to 65535
    #[arg(long, value_name = "OCTETS", allow_negative_numbers = true)]
    chunk: Option<i64>,
    /// Flows that it keeps track of at most, 1 to 4194304; 65536 without
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    flows: Option<i64>,
    /// What it may take for a burst, in milliseconds, 1 to 60000; who takes longer again and again is taken out of the path
    #[arg(long, value_name = "MS", allow_negative_numbers = true)]
    budget: Option<i64>,
    /// A TOML file of `[[rule]]` tables, as docs/rules.md has them
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
pub(super) struct OffArgs {
    /// The port
    port: String,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
pub(super) struct ExplainArgs {
    /// The port
    port: String,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
pub(super) struct ShowArgs {
    #[command(flatten)]
    common: Common,
}

pub(super) fn run(command: Command) -> Result<()> {
    match command {
        Command::Set(args) => {
            let rule = args
                .rules
                .as_deref()
                .map(load_rules)
                .transpose()?
                .unwrap_or_default()
                .rule;
            let spec = FilterSpec {
                profile: args.profile,
                deadline_ms: args.deadline,
                ratio: args.ratio,
                chunk: args.chunk,
                flows: args.flows,
                budget_ms: args.budget,
                rule,
            };
            // Mistakes are told even when no switch runs.
            spec.clone().check()?;
            put(&args.common, &args.port, &spec)
        }
        Command::Off(args) => put(&args.common, &args.port, &filter_body(Profile::Off)),
        Command::Explain(args) => {
            let target = port_target(&args.port, "/filter/explanation")?;
            let explanation: Explanation = args.common.client().get(&target)?;
            args.common
                .print(&explanation, |explanation| explanation.sentences.join("\n"))
        }
        Command::Show(args) => {
            let filters: Vec<FilterInfo> = args.common.client().get("/v1/filters")?;
            args.common.print(&filters, |filters| show(filters))
        }
    }
}

fn put(common: &Common, port: &str, spec: &FilterSpec) -> Result<()> {
    let info: FilterInfo = common
        .client()
        .send("PUT", &port_target(port, "/filter")?, spec)?;
    common.print(&info, |info| {
        format!("port {}: filter {}", info.port, stages(info))
    })
}

fn show(filters: &[FilterInfo]) -> String {
    let rows: Vec<Vec<String>> = filters
        .iter()
        .map(|filter| {
            let counters = &filter.counters;
            vec![
                filter.port.clone(),
                stages(filter),
                deadline(filter),
                filter.rules.to_string(),
                filter.changes.to_string(),
                counters.frames.to_string(),
                counters.flows.to_string(),
                counters.held.to_string(),
                counters.deadline_released.to_string(),
                counters.matches.to_string(),
                counters.dropped.to_string(),
                counters.failed_open.to_string(),
                filter.over_budget.to_string(),
            ]
        })
        .collect();
    let heading = [
        "PORT", "PROFILE", "DEADLINE", "RULES", "CHANGES", "FRAMES", "FLOWS", "HELD", "OVERDUE", "MATCHES",
        "DROPPED", "UNJUDGED", "SLOW",
    ];
    let mut text = table::render(&heading, &rows);
    for filter in filters {
        if let Some(failure) = &filter.failure {
            text.push_str(&format!(
                "\nport {}: the filter is out of the path since it {failure}; set it again to use it",
                filter.port
            ));
        }
    }
    text
}

/// The profiles in their order.
fn stages(filter: &FilterInfo) -> String {
    if filter.stages.is_empty() {
        return filter.profile.to_string();
    }
    filter.stages.join(",")
}

/// The longest that a filter holds a frame; the profile's own choice if nobody made another.
fn deadline(filter: &FilterInfo) -> String {
    let default = || {
        filter
            .profile
            .default_deadline()
            .map(|deadline| deadline.as_millis())
    };
    let ms = filter.deadline_ms.map(u128::from).or_else(default);
    ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms"))
}
