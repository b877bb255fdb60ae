//! Flows: how they are named, and the bounded table that keeps something for each.

mod datagrams;
mod key;
mod table;
mod top;

pub use datagrams::{DatagramCounts, Datagrams};
pub use key::{Endpoint, FlowKey};
pub use table::{Activity, Evicted, FlowTable, Slot};
pub use top::{Cost, FlowCost, TopFlow, TopFlows};
