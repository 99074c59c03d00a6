//! `headwater-wire` and `headwater-device` run where there is no std and no heap. `firmware.rs` is compiled around them as the
//! last crate of a program, which brings its own panic handler and no allocator: the compiler refuses it as soon as anything in
//! the tree uses std (whose panic handler would be a second one) or alloc (whose allocator nobody gives). And no crate in the
//! tree has a feature `std` or `alloc` on. That both are noticed is proven with a planted crate.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The program as a package of its own, outside of the workspace: other members' features must not be mixed into it.
struct Firmware(PathBuf);

impl Firmware {
    fn new(name: &str, planted: &str) -> Self {
        let top = Path::new(env!("CARGO_MANIFEST_DIR"));
        let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("no-std-{name}"));
        fs::create_dir_all(place.join("planted")).expect("a directory");
        let write = |file: &str, text: String| fs::write(place.join(file), text).expect("a file");
        let (device, source) = (top.join("src/device"), top.join("tests/no_std/firmware.rs"));
        write(
            "Cargo.toml",
            format!(
                "[package]\nname = \"firmware\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[workspace]\n\
                 [lib]\npath = {source:?}\ncrate-type = [\"staticlib\"]\n\
                 [profile.dev]\npanic = \"abort\"\n\
                 [features]\npsk = [\"headwater-device/psk\"]\ncrc-small = [\"headwater-device/crc-small\"]\n\
                 planted = [\"dep:planted\"]\n\
                 [dependencies]\nheadwater-device = {{ path = {device:?} }}\n\
                 planted = {{ path = \"planted\", optional = true }}\n"
            ),
        );
        write(
            "planted/Cargo.toml",
            "[package]\nname = \"planted\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[lib]\npath = \"lib.rs\"\n\
             [features]\ndefault = [\"std\"]\nstd = []\n"
                .into(),
        );
        write("planted/lib.rs", planted.into());
        // The same versions as in the workspace, and nothing is downloaded.
        fs::copy(top.join("Cargo.lock"), place.join("Cargo.lock")).expect("the lock file");
        Self(place)
    }

    fn cargo(&self, arguments: &[&str]) -> Output {
        // One directory for all: what they share is compiled once.
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("no-std-target");
        let mut command = Command::new(env!("CARGO"));
        command.args(arguments).arg("--offline").current_dir(&self.0);
        command.env("CARGO_TARGET_DIR", target).env_remove("RUSTFLAGS");
        command.output().expect("cargo")
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Packages that end up in the program, as `name version features`.
fn packages(firmware: &Firmware, features: &str) -> Vec<String> {
    let format = [
        "--prefix",
        "none",
        "--format",
        "{p} [{f}]",
        "--edges",
        "normal,no-proc-macro",
    ];
    let output = firmware.cargo(&[&["tree", "--features", features][..], &format].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout).lines().map(str::to_owned).collect()
}

fn has_std_or_alloc(package: &str) -> bool {
    let (_, features) = package.rsplit_once('[').expect("features");
    let mut features = features.trim_end_matches([']', ' ', '(', ')', '*']).split(',');
    features.any(|feature| ["std", "alloc", "use-std"].contains(&feature.trim()))
}

#[test]
fn wire_and_device_compile_without_std_and_without_a_heap() {
    let firmware = Firmware::new("clean", "#![no_std]");
    for features in ["", "psk", "crc-small"] {
        let output = firmware.cargo(&["build", "--features", features]);
        assert!(
            output.status.success(),
            "features {features:?}:\n{}",
            text(&output.stderr)
        );
    }
}

#[test]
fn no_crate_below_them_has_std_or_alloc_switched_on() {
    let firmware = Firmware::new("tree", "#![no_std]");
    for features in ["", "psk", "crc-small"] {
        let packages = packages(&firmware, features);
        for wanted in [
            "headwater-wire",
            "headwater-device",
            "postcard",
            "serde",
            "embedded-io",
            "crc",
        ] {
            assert!(
                packages.iter().any(|p| p.starts_with(&format!("{wanted} v"))),
                "{wanted}: {packages:?}"
            );
        }
        let bad: Vec<_> = packages.iter().filter(|p| has_std_or_alloc(p)).collect();
        assert!(bad.is_empty(), "features {features:?}: {bad:?}");
    }
}

#[test]
fn a_planted_use_of_either_is_noticed() {
    for (name, planted, error) in [
        ("std", "pub fn f() -> u64 { std::process::id().into() }", "panic_impl"),
        (
            "alloc",
            "#![no_std]\nextern crate alloc;\npub fn f(n: u8) -> alloc::vec::Vec<u8> { alloc::vec![n; 3] }",
            "allocator",
        ),
    ] {
        let firmware = Firmware::new(name, planted);
        let output = firmware.cargo(&["build", "--features", "planted"]);
        let said = text(&output.stderr);
        assert!(!output.status.success() && said.contains(error), "{name}:\n{said}");
        let bad = packages(&firmware, "planted")
            .into_iter()
            .filter(|p| has_std_or_alloc(p));
        assert_eq!(bad.count(), 1, "the planted crate's feature is seen");
    }
}
