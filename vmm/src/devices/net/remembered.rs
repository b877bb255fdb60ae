//! Control commands that are in force, for a switch that knows nothing of them.

/// VLAN commands (Virtio 1.2, 5.1.6.5.3): class, and number of the one that takes a VLAN away.
const VLAN: u8 = 2;
const DELETE: u8 = 1;

/// The last command of each kind, in the order in which they came. A VLAN is a kind of its own, so they are as many as there
/// are VLANs and a handful.
#[derive(Debug, Default)]
pub(super) struct Remembered(Vec<Box<[u8]>>);

impl Remembered {
    /// Keeps a command that was carried out in the place of an earlier one.
    pub(super) fn note(&mut self, command: &[u8]) {
        let kind = kind(command);
        self.0.retain(|earlier| self::kind(earlier) != kind);
        // A switch that starts anew has no VLANs.
        if !matches!(command, [VLAN, DELETE, ..]) {
            self.0.push(command.into());
        }
    }

    /// The commands, those that came first first.
    pub(super) fn commands(&self) -> &[Box<[u8]>] {
        &self.0
    }
}

fn kind(command: &[u8]) -> (u8, [u8; 2]) {
    match *command {
        [VLAN, _, low, high] => (VLAN, [low, high]),
        [class, number, ..] => (class, [number, 0]),
        _ => (u8::MAX, [0; 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_each_kind_is_kept_in_order() {
        let mut remembered = Remembered::default();
        let commands: [&[u8]; 9] = [
            &[0, 0, 1],
            &[4, 1, 7, 7],
            &[2, 0, 5, 0],
            &[2, 0, 6, 0],
            &[0, 1, 1],
            &[4, 0, 2, 0],
            &[0, 0, 0],
            &[2, 1, 5, 0],
            &[4, 1, 8],
        ];
        for command in commands {
            remembered.note(command);
        }
        let expected: [&[u8]; 5] = [&[2, 0, 6, 0], &[0, 1, 1], &[4, 0, 2, 0], &[0, 0, 0], &[4, 1, 8]];
        assert_eq!(
            remembered
                .commands()
                .iter()
                .map(AsRef::as_ref)
                .collect::<Vec<_>>(),
            expected
        );
    }
}
