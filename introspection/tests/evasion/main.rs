//! What senders do to have a filter and a receiver read different things: the cases of Ptacek and Newsham, "Insertion, Evasion, and Denial
//! of Service: Eluding Network Intrusion Detection" (1998), and of those who came after them, as far as they concern a switch.

mod cases;
mod cuts;
mod fragments;
mod packets;
mod scene;
mod scopes;
mod selective;
