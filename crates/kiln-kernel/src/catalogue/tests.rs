//! Claims about the catalogue and about staging from it, on real directories.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use tempfile::TempDir;

use super::*;
use crate::facts::{Architecture, Compression};
use crate::stage::{KernelForm, ModulesSource, stage};
use crate::testing::{self, Elf, Entry as Built, RELEASE};

static GO_ON: AtomicBool = AtomicBool::new(false);

fn in_a_new_directory() -> (TempDir, Catalogue) {
    let root = tempfile::tempdir().unwrap();
    let catalogue = Catalogue::open(&root.path().join("kernels")).unwrap();
    (root, catalogue)
}

fn names_below(path: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn kernels_of(catalogue: &Catalogue) -> Vec<String> {
    names_below(catalogue.kernels.path())
}

fn files(kernel: &[u8]) -> Import {
    let modules = testing::tar(&[Built::File("modules.dep", b"kernel/a.ko:")]);
    Import::Files {
        files: KernelFiles {
            kernel: testing::file(kernel),
            initrd: Some(testing::file(b"initrd")),
            modules: Some(ModulesSource::Tar(Box::new(std::io::Cursor::new(modules)))),
        },
        config: None,
    }
}

fn package(kernel: &[u8]) -> Import {
    let data = testing::pack(Compression::Xz, &testing::kernel_package_tar(kernel));
    Import::Deb {
        package: testing::file(&testing::deb("data.tar.xz", &data)),
        initrd: None,
    }
}

fn describe_bytes(content: &[u8]) -> FileFacts {
    FileFacts {
        size_bytes: content.len() as u64,
        sha256: kiln_domain::Digest::of(content),
    }
}

#[test]
fn an_imported_kernel_is_complete_and_unpacked() {
    let (_root, catalogue) = in_a_new_directory();
    let image = testing::packed_kernel(Compression::Zstd);
    let elf = testing::elf(&Elf::default());

    let kernel = catalogue.import("debian", files(&image), &GO_ON).unwrap();

    assert_eq!(kernel.facts.release.as_deref(), Some(RELEASE));
    assert_eq!(kernel.facts.architecture, Architecture::X86_64);
    assert_eq!(kernel.vmlinux, Some(describe_bytes(&elf)));
    assert_eq!(kernel.initrd, Some(describe_bytes(b"initrd")));
    assert_eq!(
        kernel.modules,
        Some(ModulesStaged {
            files: 1,
            bytes: 12
        })
    );
    assert_eq!(
        names_below(&kernel.directory),
        ["initrd.img", "kernel", "kernel.json", "modules", "vmlinux"]
    );
    assert!(fs::read(kernel.directory.join("kernel")).unwrap() == image);
    assert!(fs::read(kernel.directory.join("vmlinux")).unwrap() == elf);
    for file in ["kernel", "vmlinux", "kernel.json", "modules/modules.dep"] {
        let mode = fs::metadata(kernel.directory.join(file)).unwrap();
        assert_eq!(mode.permissions().mode() & 0o7777, 0o400, "{file}");
    }
    assert_eq!(catalogue.get("debian").unwrap(), Some(kernel));
}

#[test]
fn a_package_is_imported_with_its_configuration() {
    let (_root, catalogue) = in_a_new_directory();
    let image = testing::packed_kernel(Compression::Lz4);

    let kernel = catalogue.import("debian", package(&image), &GO_ON).unwrap();

    assert_eq!(kernel.facts.compression, Some(Compression::Lz4));
    assert_eq!(kernel.config, Some(describe_bytes(b"CONFIG_EXT4_FS=y\n")));
    assert_eq!(
        kernel.modules,
        Some(ModulesStaged {
            files: 2,
            bytes: 26
        })
    );
    assert_eq!(kernel.initrd, None);
    assert_eq!(
        names_below(&kernel.directory),
        ["config", "kernel", "kernel.json", "modules", "vmlinux"]
    );
    assert_eq!(catalogue.get("debian").unwrap(), Some(kernel));
}

#[test]
fn a_kernel_that_needs_no_unpacking_is_kept_as_it_is() {
    let (_root, catalogue) = in_a_new_directory();
    let import = Import::Files {
        files: KernelFiles {
            kernel: testing::file(&testing::elf(&Elf::default())),
            initrd: None,
            modules: None,
        },
        config: None,
    };

    let kernel = catalogue.import("plain", import, &GO_ON).unwrap();

    assert_eq!(
        (kernel.vmlinux, kernel.initrd, kernel.modules),
        (None, None, None)
    );
    assert_eq!(names_below(&kernel.directory), ["kernel", "kernel.json"]);
}

#[test]
fn a_failed_import_leaves_nothing() {
    let (_root, catalogue) = in_a_new_directory();
    let image = testing::packed_kernel(Compression::Gzip);
    let bad_modules = Import::Files {
        files: KernelFiles {
            kernel: testing::file(&image),
            initrd: None,
            modules: Some(ModulesSource::Tar(Box::new(&b"no archive"[..]))),
        },
        config: None,
    };
    let no_initrd = Import::Files {
        files: KernelFiles {
            kernel: testing::file(&image),
            initrd: Some(File::open("/dev/null").unwrap()),
            modules: None,
        },
        config: None,
    };

    let errors = [
        catalogue.import("a", files(b"text"), &GO_ON).unwrap_err(),
        catalogue.import("b", bad_modules, &GO_ON).unwrap_err(),
        catalogue.import("c", no_initrd, &GO_ON).unwrap_err(),
        catalogue.import("d", package(b"text"), &GO_ON).unwrap_err(),
        catalogue
            .import("e", files(&image), &AtomicBool::new(true))
            .unwrap_err(),
    ];

    assert!(matches!(
        errors,
        [
            CatalogueError::Kernel(KernelError::NotAKernel),
            CatalogueError::Stage(StageError::Modules(_)),
            CatalogueError::Stage(StageError::File(FileError::NotRegular { .. })),
            CatalogueError::Kernel(KernelError::NotAKernel),
            CatalogueError::Stage(StageError::File(FileError::Cancelled { .. })),
        ]
    ));
    assert_eq!(kernels_of(&catalogue), Vec::<String>::new());
}

#[test]
fn a_name_is_taken_once() {
    let (_root, catalogue) = in_a_new_directory();
    let image = testing::packed_kernel(Compression::Gzip);
    catalogue.import("debian", files(&image), &GO_ON).unwrap();
    fs::create_dir(catalogue.kernels.child_path(".other.staging")).unwrap();

    let errors = [
        catalogue
            .import("debian", files(&image), &GO_ON)
            .unwrap_err(),
        // Somebody else is importing it.
        catalogue
            .import("other", files(&image), &GO_ON)
            .unwrap_err(),
    ];
    let name = catalogue.import("../x", files(&image), &GO_ON).unwrap_err();

    for error in errors {
        assert!(
            matches!(error, CatalogueError::AlreadyExists { .. }),
            "{error}"
        );
    }
    assert!(matches!(name, CatalogueError::InvalidName { .. }), "{name}");
    assert_eq!(kernels_of(&catalogue), [".other.staging", "debian"]);
}

#[test]
fn a_kernel_that_cannot_be_read_does_not_hide_the_others() {
    let (_root, catalogue) = in_a_new_directory();
    let image = testing::packed_kernel(Compression::Gzip);
    catalogue.import("a", files(&image), &GO_ON).unwrap();
    for (name, record) in [("b", r#"{"format": 2}"#), ("c", "{")] {
        let directory = catalogue.kernels.child_path(name);
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("kernel.json"), record).unwrap();
    }

    let list = catalogue.list().unwrap();

    let names: Vec<&str> = list.iter().map(|line| line.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    assert_eq!(list[0].kernel.as_ref().unwrap().name, "a");
    assert!(matches!(
        list[1].kernel,
        Err(CatalogueError::Record {
            source: RecordError::Newer { found: 2 },
            ..
        })
    ));
    assert!(matches!(
        list[2].kernel,
        Err(CatalogueError::Record {
            source: RecordError::Damaged { .. },
            ..
        })
    ));
}

#[test]
fn removing_takes_everything_and_says_when_there_was_nothing() {
    let (_root, catalogue) = in_a_new_directory();
    let image = testing::packed_kernel(Compression::Gzip);
    catalogue.import("debian", files(&image), &GO_ON).unwrap();

    assert_eq!(catalogue.remove("debian").unwrap(), Removal::Removed);
    assert_eq!(catalogue.remove("debian").unwrap(), Removal::Absent);

    assert_eq!(catalogue.get("debian").unwrap(), None);
    assert_eq!(kernels_of(&catalogue), Vec::<String>::new());
}

#[test]
fn a_sweep_removes_leftovers_and_nothing_else() {
    let (_root, catalogue) = in_a_new_directory();
    let image = testing::packed_kernel(Compression::Gzip);
    // Allowed, and not to be mistaken for a directory in the making.
    catalogue
        .import("x.staging", files(&image), &GO_ON)
        .unwrap();
    let kernels = catalogue.kernels.path().to_owned();
    for leftover in [".a.staging", ".b.removing", "lost+found"] {
        fs::create_dir_all(kernels.join(leftover).join("modules")).unwrap();
    }

    let swept = catalogue.sweep().unwrap();

    assert_eq!(swept.staging, ["a"]);
    assert_eq!(swept.removing, ["b"]);
    assert_eq!(swept.foreign, ["lost+found"]);
    assert!(swept.failures.is_empty(), "{:?}", swept.failures);
    assert_eq!(kernels_of(&catalogue), ["lost+found", "x.staging"]);
}

#[test]
fn an_announced_removal_is_told_until_it_is_withdrawn_or_done() {
    let (_root, catalogue) = in_a_new_directory();
    let image = testing::packed_kernel(Compression::Gzip);
    for name in ["stays", "goes"] {
        catalogue.import(name, files(&image), &GO_ON).unwrap();
    }
    for name in ["stays", "goes", "gone"] {
        catalogue.announce_removal(name).unwrap();
        catalogue.announce_removal(name).unwrap();
    }

    let swept = catalogue.sweep().unwrap();

    assert_eq!(swept.unwanted, ["goes", "stays"]);
    assert_eq!(swept.foreign, Vec::<OsString>::new());
    let all = [".goes.unwanted", ".stays.unwanted", "goes", "stays"];
    assert_eq!(kernels_of(&catalogue), all);
    catalogue.remove("goes").unwrap();
    catalogue.withdraw_removal("stays").unwrap();
    assert_eq!(kernels_of(&catalogue), ["stays"]);
}

#[test]
fn planted_links_are_not_followed() {
    let (root, catalogue) = in_a_new_directory();
    let victim = root.path().join("victim");
    fs::create_dir(&victim).unwrap();
    fs::write(victim.join("kernel.json"), "precious").unwrap();
    symlink(&victim, catalogue.kernels.child_path("debian")).unwrap();

    let get = catalogue.get("debian").unwrap_err();
    catalogue.remove("debian").unwrap();

    assert!(matches!(get, CatalogueError::File(_)), "{get}");
    assert_eq!(fs::read(victim.join("kernel.json")).unwrap(), b"precious");
}

#[test]
fn an_image_gets_copies_in_the_form_it_asks_for() {
    let (root, catalogue) = in_a_new_directory();
    let image = testing::packed_kernel(Compression::Lz4);
    let elf = testing::elf(&Elf::default());
    let kernel = catalogue.import("debian", files(&image), &GO_ON).unwrap();

    for (form, want) in [(KernelForm::AsGiven, &image), (KernelForm::Unpacked, &elf)] {
        let into = root.path().join(format!("{form:?}"));
        fs::create_dir(&into).unwrap();

        let staged = stage(&kernel, form, &into, &GO_ON).unwrap();

        assert_eq!(staged.kernel, describe_bytes(want));
        assert!(fs::read(into.join("kernel")).unwrap() == *want);
        assert_eq!(fs::read(into.join("initrd.img")).unwrap(), b"initrd");
        assert_eq!(names_below(&into), ["initrd.img", "kernel", "modules"]);
        assert_eq!(names_below(&into.join("modules")), ["modules.dep"]);
        assert_eq!(staged.modules, kernel.modules);
    }
    catalogue.remove("debian").unwrap();
    assert!(root.path().join("AsGiven/kernel").exists());
}

#[test]
fn damage_in_the_catalogue_is_noticed_when_it_is_used() {
    let (root, catalogue) = in_a_new_directory();
    let image = testing::packed_kernel(Compression::Lz4);
    let kernel = catalogue.import("debian", files(&image), &GO_ON).unwrap();
    let initrd = kernel.directory.join("initrd.img");
    fs::set_permissions(&initrd, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&initrd, "inItrd").unwrap();

    let error = stage(&kernel, KernelForm::AsGiven, root.path(), &GO_ON).unwrap_err();

    match error {
        StageError::Damaged { path, .. } => assert_eq!(path, initrd),
        other => panic!("{other}"),
    }
}

#[test]
fn what_is_not_understood_is_staged_and_said() {
    let into = tempfile::tempdir().unwrap();
    let files = KernelFiles {
        kernel: testing::file(b"unikernel"),
        initrd: None,
        modules: None,
    };

    let staged = stage_files(files, into.path(), &GO_ON).unwrap();

    assert_eq!(staged.kernel, describe_bytes(b"unikernel"));
    assert!(matches!(staged.recognised, Err(KernelError::NotAKernel)));
    assert_eq!(fs::read(into.path().join("kernel")).unwrap(), b"unikernel");
}

#[test]
fn a_configuration_is_kept_as_text_and_anything_else_refused() {
    let (_root, catalogue) = in_a_new_directory();
    let text = b"# a comment\nCONFIG_EXT4_FS=y\n";
    let with_config = |name: &str, config: &[u8]| {
        let import = Import::Files {
            files: KernelFiles {
                kernel: testing::file(&testing::elf(&Elf::default())),
                initrd: None,
                modules: None,
            },
            config: Some(testing::file(config)),
        };
        catalogue.import(name, import, &AtomicBool::new(false))
    };

    let plain = with_config("plain", text).unwrap();
    let packed = with_config("packed", &testing::pack(Compression::Gzip, text)).unwrap();
    let refused = with_config("refused", b"no option\n").unwrap_err();

    assert_eq!(plain.config, Some(describe_bytes(text)));
    assert_eq!(packed.config, plain.config);
    assert_eq!(fs::read(packed.directory.join("config")).unwrap(), text);
    assert_eq!(catalogue.get("packed").unwrap(), Some(packed));
    assert!(
        matches!(refused, CatalogueError::Config(ConfigError::NotAConfig)),
        "{refused:?}"
    );
    assert_eq!(kernels_of(&catalogue), ["packed", "plain"]);
}
