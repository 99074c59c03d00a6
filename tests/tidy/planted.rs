//! A planted violation for each rule: a rule that does not bite is worse than none.

use crate::tree::Tree;
use crate::{RULES, Rule};

/// Path and text.
type File = (&'static str, &'static str);

fn rule(name: &str) -> &'static Rule {
    RULES
        .iter()
        .find(|(n, _)| *n == name)
        .unwrap_or_else(|| panic!("no rule is called {name:?}"))
}

/// The places where the rule bites in a tree of these files.
fn bites(name: &str, files: &[(&str, &str)]) -> Vec<(String, usize)> {
    let (_, rule) = rule(name);
    rule(&Tree::of(files)).into_iter().map(|v| (v.path, v.line)).collect()
}

/// Each rule, a violation and the line it stands on, and the same without the violation.
const PLANTED: &[(&str, File, usize, File)] = &[
    (
        "who may use whom",
        ("src/mqtt/session.rs", "//! x\nuse crate::kafka::Session;\n"),
        2,
        ("src/mqtt/session.rs", "//! x\nuse crate::log::Log;\n"),
    ),
    (
        "who may use whom",
        (
            "src/log/writer.rs",
            "//! x\nuse crate::{\n    model::Topic,\n    net::Clock,\n};\n",
        ),
        4,
        (
            "src/log/writer.rs",
            "//! x\nuse crate::{model::{Topic, Now}, log::Store};\n",
        ),
    ),
    (
        "who may use whom",
        ("src/model/name.rs", "//! x\nfn a() { super::super::log::b() }\n"),
        2,
        (
            "src/model/name.rs",
            "//! x\nfn a() { super::record::b() } // crate::log\n",
        ),
    ),
    (
        "who may use whom",
        ("src/attic/mod.rs", "//! x\n"),
        0,
        ("src/route/mod.rs", "//! x\n"),
    ),
    (
        "one file names a crate",
        ("src/log/memory.rs", "//! x\nuse redb::Database;\n"),
        2,
        ("src/log/memory.rs", "//! x\nuse super::redb::Store; // redb::\n"),
    ),
    (
        "one file names a crate",
        ("src/mqtt/session.rs", "//! x\nfn a(p: rumqttd::protocol::Packet) {}\n"),
        2,
        ("src/mqtt/codec.rs", "//! x\nuse rumqttd::protocol::Packet;\n"),
    ),
    (
        "one file names a crate",
        ("src/kafka/mod.rs", "//! x\nuse smol::Timer;\n"),
        2,
        ("src/net/mod.rs", "//! x\nuse smol::Timer;\n"),
    ),
    (
        "nothing below net touches the outside",
        ("src/upstream/mod.rs", "//! x\nlet t = Instant::now();\n"),
        2,
        ("src/net/clock.rs", "//! x\nlet t = Instant::now();\n"),
    ),
    (
        "nothing below net touches the outside",
        ("src/kafka/mod.rs", "//! x\nuse std::net::TcpStream;\n"),
        2,
        (
            "src/kafka/mod.rs",
            "//! x\n#[cfg(test)]\nmod tests { use std::net::TcpStream; }\n",
        ),
    ),
    (
        "wire and device do without std",
        ("src/wire/src/frame.rs", "//! x\nuse std::vec::Vec;\n"),
        2,
        ("src/wire/src/lib.rs", "//! x\n#![no_std]\nuse core::fmt;\n"),
    ),
    (
        "wire and device do without std",
        ("src/device/src/lib.rs", "//! x\n"),
        0,
        ("src/device/src/lib.rs", "//! x\n#![no_std]\n"),
    ),
    (
        "peer bytes never panic",
        ("src/mqtt/guard.rs", "//! x\n"),
        1,
        (
            "src/mqtt/guard.rs",
            "//! x\n#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)]\n",
        ),
    ),
    (
        "every module opens with what it is",
        ("src/log/seal.rs", "use std::fmt;\n"),
        1,
        ("src/log/seal.rs", "//! Sealing.\n"),
    ),
    (
        "the top level is what is listed",
        ("notes/a.md", "x"),
        0,
        (".ci/run", "x"),
    ),
    (
        "no channel without a bound",
        ("src/net/mod.rs", "//! x\nlet (a, b) = std::sync::mpsc::channel();\n"),
        2,
        (
            "src/net/mod.rs",
            "//! x\nlet (a, b) = std::sync::mpsc::sync_channel(1);\n",
        ),
    ),
    (
        "no channel without a bound",
        ("src/net/mod.rs", "//! x\nuse std::sync::mpsc::{channel, Sender};\n"),
        2,
        (
            "src/net/mod.rs",
            "//! x\nuse std::sync::mpsc::{sync_channel, SyncSender};\n",
        ),
    ),
    (
        "no channel without a bound",
        (
            "src/net/mod.rs",
            "//! x\nlet (a, b) = smol::channel::unbounded::<u8>();\n",
        ),
        2,
        (
            "src/net/mod.rs",
            "//! x\nlet (a, b) = smol::channel::bounded::<u8>(1); // not unbounded\n",
        ),
    ),
    (
        "no unsafe code",
        ("src/net/mod.rs", concat!("//! x\nun", "safe { a() }\n")),
        2,
        ("src/net/mod.rs", "//! x\n#![forbid(unsafe_code)]\n"),
    ),
    (
        "no unsafe code",
        ("src/wire/Cargo.toml", "[package]\n"),
        0,
        ("src/wire/Cargo.toml", "[package]\n[lints]\nworkspace = true\n"),
    ),
    (
        "nothing is left unfinished",
        ("src/net/mod.rs", concat!("//! x\nfn a() { to", "do!() }\n")),
        2,
        ("src/net/mod.rs", "//! x\nfn todos() {}\n"),
    ),
    (
        "nothing is left unfinished",
        ("README.md", concat!("x\n\nFIX", "ME later\n")),
        3,
        ("README.md", "fixed later\n"),
    ),
    (
        "tests do not sleep",
        (
            "src/net/mod.rs",
            "//! x\n#[cfg(test)]\nmod tests {\n    fn a() { std::thread::sleep(b); }\n}\n",
        ),
        4,
        ("src/net/mod.rs", "//! x\nfn a() { std::thread::sleep(b); }\n"),
    ),
    (
        "no paths of one machine, no registry hosts",
        ("scripts/a", concat!("x\ncd /ro", "ot/b\n")),
        2,
        ("scripts/a", "cd \"$root\"/b\n"),
    ),
    (
        "no paths of one machine, no registry hosts",
        ("README.md", concat!("see https://crates", ".io/x\n")),
        1,
        (
            "Cargo.lock",
            concat!(
                "source = \"registry+https://github.com/rust-lang/crates",
                ".io-index\"\n"
            ),
        ),
    ),
    (
        "every direct dependency has its reason",
        ("Cargo.toml", "[dependencies]\nredb = \"4\"\n"),
        2,
        ("Cargo.toml", "[dependencies]\n# redb = \"4\"\n"),
    ),
    (
        "every direct dependency has its reason",
        ("src/manual/dependencies.md", "x\n| `gone` | for nothing |\n"),
        2,
        ("src/manual/dependencies.md", "x\n"),
    ),
    (
        "links in the documents lead somewhere",
        ("src/manual/a.md", "x\n[b](b.md)\n"),
        2,
        ("src/manual/a.md", "[a](a.md#b) [c](https://example.org)\n"),
    ),
];

#[test]
fn each_rule_bites_at_the_line_of_its_planted_violation_and_nowhere_else() {
    for (name, bad, line, good) in PLANTED {
        assert_eq!(bites(name, &[*bad]), [(top(name, bad.0), *line)], "{name}: {bad:?}");
        assert_eq!(bites(name, &[*good]), [], "{name}: {good:?}");
    }
}

/// The rule on the top level names the entry there, not the file in it.
fn top(name: &str, path: &str) -> String {
    let first = path.split('/').next().unwrap_or(path);
    if name.contains("top level") {
        first.into()
    } else {
        path.into()
    }
}

#[test]
fn a_file_past_the_bound_is_found() {
    let (fits, long) = ("//! x\n".repeat(600), "//! x\n".repeat(601));
    assert_eq!(bites("files stay short", &[("src/a.rs", &fits)]), []);
    assert_eq!(
        bites("files stay short", &[("tests/a.py", &long)]),
        [("tests/a.py".into(), 601)]
    );
}

#[test]
fn no_rule_goes_without_a_planted_violation() {
    for (name, _) in RULES {
        let planted = PLANTED.iter().any(|(planted, ..)| planted == name) || *name == "files stay short";
        assert!(planted, "{name} has no planted violation");
    }
}
