use super::super::{Descriptor, Document, Manifest, StatedMediaTypes};
use super::*;
use crate::Digest;

const MIB: u64 = 1 << 20;
const ROOTFS_BYTES: u64 = 256 * MIB;

fn layer(part: Part, name: &str) -> Descriptor {
    part.descriptor(Digest::of(name.as_bytes()), 1000, Digest::of(b"plain"))
}

fn chunk(offset_bytes: u64, size_bytes: u64) -> Descriptor {
    let part = Part::Chunk {
        offset_bytes,
        size_bytes,
    };
    layer(part, &offset_bytes.to_string())
}

fn parsed(bytes: &[u8]) -> Manifest {
    let document = Document::parse_any(bytes, StatedMediaTypes::default(), 4 << 20).unwrap();
    match document {
        Document::Manifest(manifest) => manifest,
        Document::Index(_) => panic!("an index"),
    }
}

fn manifest(layers: &[Descriptor]) -> Manifest {
    let config = BootableConfig::new("amd64", ROOTFS_BYTES);
    parsed(&BootableManifest::write(&config, layers).unwrap().manifest)
}

fn good() -> Vec<Descriptor> {
    vec![
        chunk(0, 64 * MIB),
        chunk(128 * MIB, 64 * MIB),
        layer(Part::Kernel, "kernel"),
        layer(Part::Initrd, "initrd"),
        layer(Part::Modules, "modules"),
        layer(Part::Sums, "sums"),
    ]
}

#[test]
fn what_is_written_is_read_and_twice_it_is_the_same() {
    let mut config = BootableConfig::new("arm64", ROOTFS_BYTES);
    config.source = Some(BootableSource {
        reference: Some("docker.io/library/debian:12".to_owned()),
        manifest_digest: Some(Digest::of(b"manifest")),
    });
    config.boot = Some(BootWords {
        choice: "auto".to_owned(),
        mode: "init".to_owned(),
        init_path: Some("/sbin/init".to_owned()),
        reason: "the image's command is one".to_owned(),
        monitors: vec!["qemu".to_owned()],
    });

    let written = BootableManifest::write(&config, &good()).unwrap();

    assert_eq!(BootableConfig::parse(&written.config).unwrap(), config);
    let read = parsed(&written.manifest);
    assert!(read.is_bootable() && !read.is_image());
    let layers = BootableLayers::of(&read, ROOTFS_BYTES).unwrap();
    let places: Vec<_> = layers
        .chunks
        .iter()
        .map(|chunk| (chunk.offset_bytes, chunk.size_bytes))
        .collect();
    assert_eq!(places, [(0, 64 * MIB), (128 * MIB, 64 * MIB)]);
    assert_eq!(layers.data_bytes(), 128 * MIB);
    assert_eq!(layers.files().count(), 4);
    assert_eq!(BootableManifest::write(&config, &good()).unwrap(), written);
    let base = &read.annotations["org.opencontainers.image.base.digest"];
    assert_eq!(*base, Digest::of(b"manifest").to_string());
}

/// Who reads kernels from artifacts finds this one: the words are those of LF Edge.
#[test]
fn its_kernel_is_one_that_others_find() {
    let read = manifest(&good());

    let found = super::super::KernelLayers::of(&read).unwrap().unwrap();

    assert_eq!(found.kernel, &layer(Part::Kernel, "kernel"));
    assert_eq!(found.initrd, Some(&layer(Part::Initrd, "initrd")));
}

#[test]
fn chunks_that_cannot_be_are_refused() {
    let noted = |key: &str, value: Option<&str>| {
        let mut chunk = chunk(0, 64 * MIB);
        match value {
            Some(value) => chunk.annotations.insert(key.to_owned(), value.to_owned()),
            None => chunk.annotations.remove(key),
        };
        vec![chunk]
    };
    let mut swollen = chunk(0, 4096);
    swollen.size_bytes = 4096 + 16 + 1025;
    let cases = [
        (
            vec![chunk(64 * MIB, 64 * MIB), chunk(0, 64 * MIB)],
            "begins before the one in front of it ends",
        ),
        (
            vec![chunk(0, 64 * MIB), chunk(64 * MIB - 4096, 4096)],
            "begins before the one in front of it ends",
        ),
        (
            vec![chunk(ROOTFS_BYTES - 4096, 8192)],
            "ends behind the root filesystem",
        ),
        (
            vec![chunk(u64::MAX - 4095, 4096)],
            "ends behind the root filesystem",
        ),
        (vec![chunk(1, 4096)], "is not of whole blocks"),
        (vec![chunk(0, 4097)], "is not of whole blocks"),
        (vec![chunk(0, 0)], "is not of whole blocks"),
        (
            vec![chunk(0, MAX_CHUNK_BYTES + 4096)],
            "is longer than 512 MiB",
        ),
        (vec![swollen], "is compressed to more bytes than it has"),
        (noted(OFFSET, None), "does not say where it begins"),
        (noted(OFFSET, Some("-0")), "does not say where it begins"),
        (noted(OFFSET, Some("+0")), "does not say where it begins"),
        (noted(SIZE, Some("04096")), "does not say how long it is"),
        (noted(SIZE, Some("1e9")), "does not say how long it is"),
        (
            noted(DIGEST, Some("md5:00")),
            "does not say what it hashes to",
        ),
    ];
    for (mut layers, want) in cases {
        layers.push(layer(Part::Kernel, "kernel"));
        match BootableLayers::of(&manifest(&layers), ROOTFS_BYTES) {
            Err(BootableError::Chunk { problem, .. }) => assert_eq!(problem, want),
            other => panic!("{want}: {other:?}"),
        }
    }
}

#[test]
fn few_blobs_that_say_they_unpack_to_a_great_deal_are_refused() {
    // One blob again and again, as nobody's data is.
    let again = |count: u64, blob_bytes: u64| {
        let mut layers: Vec<_> = (0..count)
            .map(|number| {
                let part = Part::Chunk {
                    offset_bytes: number * MAX_CHUNK_BYTES,
                    size_bytes: MAX_CHUNK_BYTES,
                };
                let plain = Digest::of(b"plain");
                part.descriptor(Digest::of(b"blob"), blob_bytes, plain)
            })
            .collect();
        layers.push(layer(Part::Kernel, "kernel"));
        BootableLayers::of(&manifest(&layers), MAX_ROOTFS_BYTES)
    };
    // A gibibyte is never too much, and a thousand for one is not.
    again(2, 16 << 10).unwrap();
    again(4, 2_147_484).unwrap();
    for (count, packed_bytes) in [(3, 16 << 10), (4, 2_147_483), (1000, 16 << 10)] {
        let data_bytes = count * MAX_CHUNK_BYTES;
        let want = BootableError::Ratio {
            data_bytes,
            packed_bytes,
        };
        assert_eq!(again(count, packed_bytes), Err(want));
    }
}

#[test]
fn parts_are_there_once_and_no_longer_than_any() {
    let without = |role: &str| {
        let mut layers = good();
        layers.retain(|layer| layer.annotations[ROLE] != role);
        BootableLayers::of(&manifest(&layers), ROOTFS_BYTES)
    };
    let role = |role, count| Err(BootableError::Role { role, count });
    assert_eq!(without("kernel"), role("kernel", 0));
    assert_eq!(without("rootfs"), role("rootfs", 0));
    assert!(without("initrd").unwrap().initrd.is_none());
    for (part, name) in [(Part::Kernel, "kernel"), (Part::Sums, "sums")] {
        let mut layers = good();
        layers.push(layer(part, "another"));
        assert_eq!(
            BootableLayers::of(&manifest(&layers), ROOTFS_BYTES),
            role(name, 2)
        );
    }
    for (index, name) in [(2, "kernel"), (3, "initrd"), (4, "modules"), (5, "sums")] {
        let mut layers = good();
        layers[index].size_bytes = 2 << 30;
        match BootableLayers::of(&manifest(&layers), ROOTFS_BYTES) {
            Err(BootableError::TooLarge { role, .. }) => assert_eq!(role, name),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn what_nobody_reads_is_not_written() {
    let check = |layers: &[Descriptor]| {
        let config = BootableConfig::new("amd64", ROOTFS_BYTES);
        BootableManifest::write(&config, layers).unwrap().check()
    };
    check(&good()).unwrap();
    let mut long = good();
    long[2].size_bytes = MAX_KERNEL_BYTES + 1;
    let mut many = vec![layer(Part::Kernel, "kernel")];
    many.extend((0..1024).map(|number| chunk(number * BLOCK_BYTES, BLOCK_BYTES)));

    let long = check(&long).unwrap_err();
    let many = check(&many).unwrap_err();

    assert!(matches!(
        long,
        UnreadableError::Parts(BootableError::TooLarge { role: "kernel", .. })
    ));
    assert!(matches!(many, UnreadableError::Manifest(_)), "{many}");
}

#[test]
fn configs_that_cannot_be_are_refused() {
    let good = || serde_json::to_value(BootableConfig::new("amd64", ROOTFS_BYTES)).unwrap();
    let with = |path: &str, value: serde_json::Value| {
        let mut config = good();
        config["boot"] = serde_json::json!({ "choice": "auto", "mode": "init" });
        config["source"] = serde_json::json!({});
        *config
            .pointer_mut(path.rsplit_once('/').unwrap().0)
            .unwrap() = {
            let (parent, key) = path.rsplit_once('/').unwrap();
            let mut parent = config.pointer(parent).unwrap().clone();
            parent[key] = value;
            parent
        };
        BootableConfig::parse(config.to_string().as_bytes())
    };
    with("/format", 1.into()).unwrap();
    let format = BootableError::Format { found: 2 };
    assert_eq!(with("/format", 2.into()), Err(format));
    for size_bytes in [0, 4095, (16 << 40) + 4096] {
        let want = BootableError::RootfsSize { size_bytes };
        assert_eq!(with("/rootfs/size_bytes", size_bytes.into()), Err(want));
    }
    let found = "xfs".to_owned();
    let want = BootableError::Filesystem { found };
    assert_eq!(with("/rootfs/filesystem", "xfs".into()), Err(want));
    for os in ["", "windows"] {
        let refused = with("/os", os.into());
        assert!(
            matches!(refused, Err(BootableError::Platform(_))),
            "{refused:?}"
        );
    }
    let long = "x".repeat(4097);
    let texts = [
        ("/source/reference", "the reference"),
        ("/boot/init_path", "the init"),
        ("/boot/reason", "why it boots as it does"),
    ];
    for (path, noun) in texts {
        for text in ["a\u{1b}[2Jb", &long] {
            assert_eq!(with(path, text.into()), Err(BootableError::Text { noun }));
        }
    }
    let twice = br#"{"format":1,"format":1}"#;
    assert!(matches!(
        BootableConfig::parse(twice),
        Err(BootableError::Config(_))
    ));
}

#[test]
fn cells_grow_with_the_root_filesystem() {
    let cases = [
        (1 << 30, 64 * MIB),
        (1000 * 64 * MIB, 64 * MIB),
        (1000 * 64 * MIB + 1, 128 * MIB),
        (1 << 40, 512 * MIB),
    ];
    for (rootfs_bytes, want) in cases {
        assert_eq!(chunk_grid_bytes(rootfs_bytes), want, "{rootfs_bytes}");
    }
}
