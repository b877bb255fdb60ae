//! bzImages: unpacked here or by themselves, and what can be wrong with them.

use super::unpack::{image, pack};
use super::*;

/// Octets before the protected-mode kernel, and from there to its payload.
const KERNEL_AT: usize = 5 * 512;
const PAYLOAD_AT: usize = 0x240;
const PREFERRED: u64 = 0x20_0000;

fn put(image: &mut [u8], at: usize, octets: &[u8]) {
    image[at..at + octets.len()].copy_from_slice(octets);
}

/// A bzImage of version 2.15 with this payload, its size field included.
fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut image = vec![0; KERNEL_AT + PAYLOAD_AT];
    image.extend(payload);
    image.resize(image.len().next_multiple_of(16), 0);
    let units = ((image.len() - KERNEL_AT) / 16) as u32;
    put(&mut image, 0x1f1, &[4]);
    put(&mut image, 0x1f4, &units.to_le_bytes());
    put(&mut image, 0x1fe, &0xaa55_u16.to_le_bytes());
    put(&mut image, 0x200, b"\xeb\x6aHdrS");
    put(&mut image, 0x206, &0x020f_u16.to_le_bytes());
    put(&mut image, 0x211, &[1]);
    put(&mut image, 0x22c, &0x7fff_ffff_u32.to_le_bytes());
    put(&mut image, 0x236, &1_u16.to_le_bytes());
    put(&mut image, 0x238, &2047_u32.to_le_bytes());
    put(&mut image, 0x248, &(PAYLOAD_AT as u32).to_le_bytes());
    put(&mut image, 0x24c, &(payload.len() as u32).to_le_bytes());
    put(&mut image, 0x258, &PREFERRED.to_le_bytes());
    put(&mut image, 0x260, &0x10_0000_u32.to_le_bytes());
    image
}

/// What Linux' build makes of a kernel: the compressed kernel, and its size unless gzip told it.
fn payload(compression: Compression, kernel: &[u8], said: u32) -> Vec<u8> {
    let mut packed = pack(compression, kernel);
    if compression == Compression::Gzip {
        packed.truncate(packed.len() - 4);
    }
    packed.extend(said.to_le_bytes());
    packed
}

fn packed(compression: Compression) -> Vec<u8> {
    let kernel = image();
    bzimage(&payload(compression, &kernel, kernel.len() as u32))
}

#[test]
fn each_payload_is_unpacked_here() {
    let kernel = image();
    for compression in Compression::ALL {
        let ram = ram();
        let loaded = super::super::load_octets(&packed(compression), &ram, TOP).expect("loads");
        assert_eq!(loaded.info.to_string(), format!("bzImage ({compression}), PVH"));
        assert_eq!(loaded.entry, 0x10_0000);
        let limit = loaded.header.expect("a header").cmdline_size;
        assert_eq!(limit, 2047);
        let mut octets = vec![0; kernel.len() - 196];
        ram.read_slice(&mut octets, GuestAddress(0x10_0000))
            .expect("in memory");
        assert!(octets == kernel[196..], "{compression}");
    }
}

#[test]
fn a_bzimage_is_read_from_a_file_and_from_a_compressed_one() {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(&packed(Compression::Zstd)).expect("written");
    let opened = Opened::open(&Kernel::File(file.path().to_owned())).expect("a file");
    for _ in 0..2 {
        let loaded = opened.load(&ram(), TOP).expect("loads");
        assert_eq!(loaded.info.payload, Some(Compression::Zstd));
    }
    let loaded = load_octets(&pack(Compression::Gzip, &packed(Compression::Lz4))).expect("loads");
    assert_eq!(loaded.info.to_string(), "bzImage (lz4) in a gzip file, PVH");
}

#[test]
fn a_payload_without_a_pvh_note_is_entered_in_long_mode() {
    let kernel = PvhImage::new(b"\xf4").without_note().build();
    let image = bzimage(&payload(Compression::Xz, &kernel, kernel.len() as u32));
    let loaded = load_octets(&image).expect("loads");
    assert_eq!(loaded.info.to_string(), "bzImage (xz), 64-bit boot protocol");
    let version = loaded.header.expect("a header").version;
    assert_eq!(version, 0x020f);
}

#[test]
fn an_unknown_payload_unpacks_itself() {
    let image = bzimage(b"BZh91AY&SY----");
    let ram = ram();
    let loaded = super::super::load_octets(&image, &ram, TOP).expect("loads");
    assert_eq!(
        loaded.info.to_string(),
        "bzImage (unpacks itself), 64-bit boot protocol"
    );
    assert_eq!(
        (loaded.entry, loaded.end),
        (PREFERRED + 0x200, PREFERRED + 0x10_0000)
    );
    let mut octets = [0; 3];
    ram.read_slice(&mut octets, GuestAddress(PREFERRED + PAYLOAD_AT as u64))
        .expect("in memory");
    assert_eq!(&octets, b"BZh");
    let start = loaded.header.expect("a header").code32_start;
    assert_eq!(u64::from(start), PREFERRED);

    let mut old = image.clone();
    put(&mut old, 0x236, &0_u16.to_le_bytes());
    let error = load_path(&old);
    assert!(matches!(error.reason, KernelFault::NoLongModeEntry("bzip2")));
    let mut large = image;
    put(&mut large, 0x260, &(TOP as u32).to_le_bytes());
    let error = load_path(&large);
    assert!(matches!(error.reason, KernelFault::OutsideMemory { .. }));
}

#[test]
fn sizes_that_lie_are_told() {
    let kernel = image();
    for compression in Compression::ALL {
        for (said, shorter) in [(kernel.len() as u32 - 1, false), (kernel.len() as u32 + 1, true)] {
            let lie = bzimage(&payload(compression, &kernel, said));
            let error = load_path(&lie);
            // Of gzip the size is part of the stream, which the decoder finds damaged.
            let told = match &error.reason {
                KernelFault::ShorterThanSaid { said: told, found } => {
                    shorter && *told == u64::from(said) && *found == kernel.len() as u64
                }
                KernelFault::LongerThanSaid(told) => !shorter && *told == u64::from(said),
                KernelFault::Corrupt { .. } => compression == Compression::Gzip,
                _ => false,
            };
            assert!(told, "{compression} {shorter}: {error}");
        }
        let bomb = bzimage(&payload(compression, &kernel, u32::MAX));
        let error = load_path(&bomb);
        assert!(
            matches!(error.reason, KernelFault::TooLarge(TOP)),
            "{compression}: {error}"
        );
    }
}

#[test]
fn every_truncation_is_refused() {
    let image = packed(Compression::Lz4);
    for len in (0x206..image.len() - 16).step_by(7) {
        let fault = load_octets(&image[..len]).expect_err("cut off");
        assert!(
            matches!(
                fault,
                KernelFault::Truncated { .. } | KernelFault::MalformedSetup(_)
            ),
            "{len}: {fault}"
        );
    }
    let mut own = bzimage(b"BZh91AY&SY----");
    own.truncate(own.len() - 16);
    put(&mut own, 0x24c, &0_u32.to_le_bytes());
    assert!(matches!(load_octets(&own), Err(KernelFault::Truncated { .. })));
}

#[test]
fn old_images_are_refused() {
    let mut image = packed(Compression::Lz4);
    put(&mut image, 0x211, &[0]);
    assert!(matches!(load_octets(&image), Err(KernelFault::MalformedSetup(_))));
    put(&mut image, 0x211, &[1]);
    put(&mut image, 0x1fe, &[0, 0]);
    assert!(matches!(load_octets(&image), Err(KernelFault::MalformedSetup(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn damaged_images_never_panic(
        compression in prop::sample::select(Compression::ALL.to_vec()),
        changes in prop::collection::vec((0x1f1_usize..KERNEL_AT + PAYLOAD_AT + 400, any::<u8>()), 1..12),
        len in 0_usize..8192,
    ) {
        let kernel = PvhImage::new(&[0x90; 300]).build();
        let mut image = bzimage(&payload(compression, &kernel, kernel.len() as u32));
        for (offset, value) in changes {
            if let Some(octet) = image.get_mut(offset) {
                *octet = value;
            }
        }
        image.truncate(len);
        if let Ok(loaded) = load_octets(&image) {
            prop_assert!(loaded.entry >= 1 << 20 && loaded.entry < loaded.end && loaded.end <= TOP);
        }
    }

    #[test]
    fn random_streams_never_panic(
        magic in prop::sample::select(vec![
            &b"\x1f\x8b\x08"[..], b"\xfd7zXZ\0", b"\x02\x21\x4c\x18", b"\x04\x22\x4d\x18", b"\x28\xb5\x2f\xfd", b"",
        ]),
        rest in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        let octets = [magic, &rest].concat();
        if let Err(fault) = load_octets(&octets) {
            prop_assert!(!fault.to_string().contains('\n'));
        }
    }
}
