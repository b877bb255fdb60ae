//! Images of disks, made without other programs.

/// Octets of a cluster.
const CLUSTER: u64 = 1 << 16;

/// An empty qcow2 image, version 3, of up to 512 MiB: header, refcount table, refcount block, level 1 table (QEMU's
/// `docs/interop/qcow2.rst`).
pub fn qcow2(size: u64) -> Vec<u8> {
    let words = |words: &[u32]| {
        words
            .iter()
            .flat_map(|word| word.to_be_bytes())
            .collect::<Vec<_>>()
    };
    let places = |places: &[u64]| {
        places
            .iter()
            .flat_map(|place| place.to_be_bytes())
            .collect::<Vec<_>>()
    };
    let header = [
        b"QFI\xfb".to_vec(),
        words(&[3]),
        places(&[0]),
        words(&[0, CLUSTER.trailing_zeros()]),
        places(&[size]),
        words(&[0, 1]),
        places(&[3 * CLUSTER, CLUSTER]),
        words(&[1, 0]),
        places(&[0, 0, 0, 0]),
        words(&[4, 104]),
    ];
    let mut image = header.concat();
    image.resize(4 * CLUSTER as usize, 0);
    let mut put = |at: u64, octets: &[u8]| image[at as usize..][..octets.len()].copy_from_slice(octets);
    put(CLUSTER, &places(&[2 * CLUSTER]));
    // All four clusters are in use, once each.
    put(2 * CLUSTER, &[0, 1, 0, 1, 0, 1, 0, 1]);
    image
}
