//! Whole files in each compression, and what can be wrong with them.

use super::*;

/// Packs as the usual tools do.
pub(super) fn pack(compression: Compression, octets: &[u8]) -> Vec<u8> {
    match compression {
        Compression::Gzip => {
            let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            packer.write_all(octets).expect("packed");
            packer.finish().expect("packed")
        }
        Compression::Xz => xz(octets),
        Compression::Lz4 => {
            let mut packed = vec![0x02, 0x21, 0x4c, 0x18];
            for block in octets.chunks(8 << 20) {
                let block = lz4_flex::block::compress(block);
                packed.extend((block.len() as u32).to_le_bytes());
                packed.extend(block);
            }
            packed
        }
        Compression::Zstd => {
            let mut packed = vec![0; zstd_safe::compress_bound(octets.len())];
            let len = zstd_safe::compress(&mut packed[..], octets, 3).expect("packed");
            packed.truncate(len);
            packed
        }
    }
}

/// With the filter for x86 code and CRC-32, as Linux' build has it.
fn xz(octets: &[u8]) -> Vec<u8> {
    use liblzma::stream::{Action, Check, Filters, LzmaOptions, Stream};
    let mut filters = Filters::new();
    filters.x86();
    filters.lzma2(&LzmaOptions::new_preset(6).expect("a preset"));
    let mut stream = Stream::new_stream_encoder(&filters, Check::Crc32).expect("an encoder");
    let mut packed = Vec::with_capacity(octets.len() + 4096);
    stream
        .process_vec(octets, &mut packed, Action::Finish)
        .expect("packed");
    packed
}

/// An image whose code repeats itself, as code does, with calls that the filter for x86 changes.
pub(super) fn image() -> Vec<u8> {
    let code: Vec<u8> = (0..0x4000_u32)
        .flat_map(|call| [0xe8, call as u8, (call >> 8) as u8, 0, 0, 0x90, 0x55, 0xc3])
        .collect();
    PvhImage::new(&code).build()
}

#[test]
fn each_compression_is_undone() {
    let image = image();
    for compression in Compression::ALL {
        let ram = ram();
        let loaded = super::super::load_octets(&pack(compression, &image), &ram, TOP).expect("loads");
        assert_eq!(
            loaded.info.to_string(),
            format!("ELF in a {compression} file, PVH")
        );
        assert!(loaded.unpacked.is_some());
        let mut octets = vec![0; image.len() - 196];
        ram.read_slice(&mut octets, GuestAddress(0x10_0000))
            .expect("in memory");
        assert!(octets == image[196..], "{compression}");
    }
}

#[test]
fn todays_frames_of_lz4_and_several_streams_are_read() {
    let image = image();
    let mut packer = lz4_flex::frame::FrameEncoder::new(Vec::new());
    packer.write_all(&image).expect("packed");
    let packed = packer.finish().expect("packed");
    assert!(load_octets(&packed).is_ok());
    for compression in Compression::ALL {
        let (first, second) = image.split_at(1000);
        let packed = [pack(compression, first), pack(compression, second)].concat();
        let loaded = load_octets(&packed).unwrap_or_else(|fault| panic!("{compression}: {fault}"));
        assert_eq!(loaded.info.file, Some(compression));
    }
}

#[test]
fn truncated_streams_are_told() {
    for compression in Compression::ALL {
        let packed = pack(compression, &image());
        for len in [packed.len() - 1, packed.len() / 2, 40] {
            let fault = load_octets(&packed[..len]).expect_err("cut off");
            assert!(
                matches!(fault, KernelFault::CutOff(_)),
                "{compression} {len}: {fault}"
            );
        }
    }
}

#[test]
fn damaged_streams_never_load_as_something_else() {
    let image = image();
    for compression in Compression::ALL {
        let packed = pack(compression, &image);
        for at in (0..packed.len()).step_by(packed.len() / 97 + 1) {
            let mut damaged = packed.clone();
            damaged[at] ^= 0x55;
            match load_octets(&damaged) {
                // A name in a header of gzip, a checksum that nobody asked for.
                Ok(loaded) => assert_eq!(loaded.entry, 0x10_0000, "{compression} at {at}"),
                Err(fault) => assert!(
                    !fault.to_string().contains('\n'),
                    "{compression} at {at}: {fault}"
                ),
            }
        }
    }
    let mut damaged = pack(Compression::Xz, &image);
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    let error = load_path(&damaged);
    assert!(matches!(error.reason, KernelFault::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains("corrupt xz stream"), "{error}");
}

#[test]
fn a_bomb_ends_at_the_size_of_memory() {
    let zeros = vec![0; 2 * TOP as usize];
    for compression in Compression::ALL {
        let error = load_path(&pack(compression, &zeros));
        assert!(
            matches!(error.reason, KernelFault::TooLarge(TOP)),
            "{compression}: {error}"
        );
        assert!(
            error.to_string().contains("give the guest more memory"),
            "{error}"
        );
    }
}

/// A file of holes costs its owner nothing; reading it would cost the host all its memory.
#[test]
fn what_is_larger_than_memory_is_not_read() {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    for start in [
        &b"\x1f\x8b\x08\0"[..],
        b"\xfd7zXZ\0",
        b"\x04\x22\x4d\x18",
        b"\x28\xb5\x2f\xfd",
    ] {
        file.as_file_mut().set_len(0).expect("empty");
        std::os::unix::fs::FileExt::write_all_at(file.as_file(), start, 0).expect("written");
        file.as_file_mut().set_len(1 << 42).expect("a sparse file");
        let kernel = crate::config::Kernel::File(file.path().to_owned());
        let opened = super::super::Opened::open(&kernel).expect("a file");
        let error = opened.load(&ram(), TOP).expect_err("refused");
        let expected =
            matches!(error.reason, KernelFault::PackedTooLarge { len, limit: TOP } if len == 1 << 42);
        assert!(expected, "{error}");
    }
}

#[test]
fn what_is_inside_must_be_a_kernel() {
    for compression in Compression::ALL {
        let error = load_path(&pack(compression, b"#!/bin/sh\n"));
        assert!(
            matches!(error.reason, KernelFault::NoKernelInside { .. }),
            "{error}"
        );
        assert!(error.to_string().contains("\"#!/bin/s\""), "{error}");
        let twice = pack(compression, &pack(compression, &image()));
        assert!(matches!(
            load_octets(&twice),
            Err(KernelFault::NoKernelInside { .. })
        ));
    }
    for (start, name) in [
        (&b"BZh91AY"[..], "bzip2"),
        (b"\x5d\0\0\x80", "lzma"),
        (b"\x89LZO\0\r\n", "lzo"),
    ] {
        let error = load_path(start);
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
fn a_greedy_dictionary_is_refused() {
    let mut packed = pack(Compression::Xz, &image());
    // Stream header (12), block header: size, flags, x86 filter (2), LZMA2 filter id and size, dictionary size code.
    assert_eq!(packed[12 + 2..12 + 6], [4, 0, 0x21, 1]);
    packed[12 + 6] = 39;
    let size = (usize::from(packed[12]) + 1) * 4;
    let mut crc = flate2::Crc::new();
    crc.update(&packed[12..12 + size - 4]);
    packed[12 + size - 4..12 + size].copy_from_slice(&crc.sum().to_le_bytes());
    assert!(matches!(load_octets(&packed), Err(KernelFault::Greedy { .. })));
}
