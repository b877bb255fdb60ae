//! What a worker remembers of the forwarding table, so that a flow costs it no look into shared memory.
//!
//! Both caches are small and direct-mapped, and both forget by the second: as long as the table's second and number of
//! changes are the same, so are its answers.

use offload::MacAddr;

use crate::port::PortId;
use crate::table::ForwardingTable;

/// Entries of each cache: a power of two.
const ENTRIES: usize = 256;

/// A worker's caches.
#[derive(Debug)]
pub(super) struct Recent {
    learned: Box<[Entry; ENTRIES]>,
    found: Box<[Entry; ENTRIES]>,
    /// Of the table when the burst began.
    now: u32,
    changes: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Address and VLAN; 0 for none, which no key is.
    key: u64,
    second: u32,
    port: PortId,
    changes: u64,
}

const NONE: Entry = Entry {
    key: 0,
    second: 0,
    port: PortId(0),
    changes: 0,
};

impl Default for Recent {
    fn default() -> Self {
        Self {
            learned: Box::new([NONE; ENTRIES]),
            found: Box::new([NONE; ENTRIES]),
            now: 0,
            changes: 0,
        }
    }
}

impl Recent {
    /// A burst begins, in this second.
    pub(super) fn begin(&mut self, table: &ForwardingTable, now: u32) {
        self.now = now;
        self.changes = table.changes();
    }

    /// Has the table learn an address, unless it did this second.
    #[inline]
    pub(super) fn learn(&mut self, table: &ForwardingTable, mac: MacAddr, vlan: u16, port: PortId) {
        let key = key(mac, vlan);
        let entry = &mut self.learned[place(key)];
        if entry.key == key && entry.port == port && entry.second == self.now && entry.changes == self.changes
        {
            return;
        }
        table.learn(mac, vlan, port, self.now);
        self.changes = table.changes();
        *entry = Entry {
            key,
            second: self.now,
            port,
            changes: self.changes,
        };
    }

    /// The port of an address.
    #[inline]
    pub(super) fn lookup(&mut self, table: &ForwardingTable, mac: MacAddr, vlan: u16) -> Option<PortId> {
        let key = key(mac, vlan);
        let entry = &mut self.found[place(key)];
        if entry.key == key && entry.second == self.now && entry.changes == self.changes {
            return Some(entry.port);
        }
        let port = table.lookup(mac, vlan, self.now)?;
        *entry = Entry {
            key,
            second: self.now,
            port,
            changes: self.changes,
        };
        Some(port)
    }
}

/// Address and VLAN in one word. Unicast addresses of all zeroes do not get this far.
const fn key(mac: MacAddr, vlan: u16) -> u64 {
    let [m0, m1, m2, m3, m4, m5] = mac.0;
    let high = u32::from_be_bytes([m0, m1, m2, m3]) as u64;
    let low = u16::from_be_bytes([m4, m5]) as u64;
    (vlan as u64) << 48 | high << 16 | low | 1 << 63
}

const fn place(key: u64) -> usize {
    (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as usize % ENTRIES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::TableConfig;

    const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const B: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

    #[test]
    fn answers_are_the_tables() {
        let table = ForwardingTable::new(&TableConfig::default());
        let mut recent = Recent::default();
        recent.begin(&table, 10);
        recent.learn(&table, A, 0, PortId(1));
        assert_eq!(recent.lookup(&table, A, 0), Some(PortId(1)));
        assert_eq!(recent.lookup(&table, A, 1), None);
        assert_eq!(recent.lookup(&table, B, 0), None, "a miss is not remembered");
        table.learn(B, 0, PortId(2), 10);
        assert_eq!(recent.lookup(&table, B, 0), Some(PortId(2)));
    }

    #[test]
    fn what_another_worker_changes_is_seen_with_the_next_burst() {
        let table = ForwardingTable::new(&TableConfig::default());
        let mut recent = Recent::default();
        recent.begin(&table, 10);
        recent.learn(&table, A, 0, PortId(1));
        assert_eq!(recent.lookup(&table, A, 0), Some(PortId(1)));
        table.learn(A, 0, PortId(2), 10);
        recent.begin(&table, 10);
        assert_eq!(recent.lookup(&table, A, 0), Some(PortId(2)), "it moved");
        recent.learn(&table, A, 0, PortId(1));
        assert_eq!(table.lookup(A, 0, 10), Some(PortId(1)), "and back");
        table.forget_port(PortId(1));
        recent.begin(&table, 10);
        assert_eq!(recent.lookup(&table, A, 0), None);
    }

    #[test]
    fn an_address_is_renewed_each_second() {
        let table = ForwardingTable::new(&TableConfig::default());
        let mut recent = Recent::default();
        for now in [10, 11, 300] {
            recent.begin(&table, now);
            recent.learn(&table, A, 0, PortId(1));
            assert_eq!(table.entries(now)[0].seen, now);
        }
        recent.begin(&table, 700);
        assert_eq!(recent.lookup(&table, A, 0), None, "it is old");
    }
}
