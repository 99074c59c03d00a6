//! Who may use whom, and what may reach the outside: the rules behind `src/manual/layout.md`.

use crate::source::{Source, has_word, is_test_path, places};
use crate::tree::{Tree, Violation};

/// A room and the rooms it may use. The words of the log (`model`), the configuration and the counters are for everyone.
const ROOMS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("config", &["model"]),
    ("metrics", &["model"]),
    ("log", &[]),
    ("route", &[]),
    ("kafka_wire", &[]),
    ("group", &["log", "route"]),
    ("mqtt", &["log", "route"]),
    ("compact", &["log", "route"]),
    ("kafka", &["log", "route", "kafka_wire", "group"]),
    ("mirror", &["log", "route", "kafka_wire"]),
    ("upstream", &["log", "route", "kafka_wire"]),
    ("http", BELOW_HTTP),
    ("net", BELOW_NET),
    ("cli", ALL),
];
const FOR_ALL: &[&str] = &["model", "config", "metrics"];
const BELOW_HTTP: &[&str] = &[
    "log",
    "route",
    "kafka_wire",
    "group",
    "mqtt",
    "compact",
    "kafka",
    "mirror",
    "upstream",
];
const BELOW_NET: &[&str] = &[
    "log",
    "route",
    "kafka_wire",
    "group",
    "mqtt",
    "compact",
    "kafka",
    "mirror",
    "upstream",
    "http",
];
const ALL: &[&str] = &[
    "log",
    "route",
    "kafka_wire",
    "group",
    "mqtt",
    "compact",
    "kafka",
    "mirror",
    "upstream",
    "http",
    "net",
];

/// A crate and the only places whose code may name it.
const OWNED: &[(&str, &[&str])] = &[
    ("redb", &["src/log/redb.rs", "src/log/redb/"]),
    ("rumqttd", &["src/mqtt/codec.rs", "src/mqtt/codec/"]),
    ("smol", &["src/net/", "src/cli/"]),
    ("async_io", &["src/net/", "src/cli/"]),
    ("async_signal", &["src/net/", "src/cli/"]),
    ("smol_hyper", &["src/net/", "src/http/"]),
    ("socket2", &["src/net/", "src/cli/"]),
    ("clap", &["src/cli/"]),
    (
        "kafka_protocol",
        &[
            "src/kafka_wire/",
            "src/kafka/",
            "src/upstream/",
            "src/mirror/",
            "src/group/",
            "src/cli/",
        ],
    ),
    (
        "headwater_wire",
        &["src/compact/", "src/device/", "src/net/", "src/cli/"],
    ),
    ("headwater_device", &["src/net/", "src/cli/"]),
];

/// Words that reach the outside; below `net` the caller hands in `Now` and bytes instead.
const OUTSIDE: &[&str] = &[
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "UnixListener",
    "Instant::now",
    "SystemTime::now",
    "Utc::now",
    "thread::spawn",
    "thread::Builder",
    "thread::scope",
    "thread::sleep",
    "fastrand",
    "std::fs",
    "fs::read",
    "fs::write",
    "File::open",
    "File::create",
    "OpenOptions",
    "std::env",
    "env::var",
    "std::process",
    "process::Command",
];

/// Where a word of `OUTSIDE` may stand all the same, and why.
const RIM_EXCEPTIONS: &[(&str, &str, &str)] = &[
    ("src/log/", "std::fs", "the store's files are the log's own"),
    ("src/log/", "File::open", "the store's files are the log's own"),
    ("src/log/", "File::create", "the store's files are the log's own"),
    ("src/log/", "OpenOptions", "the store's files are the log's own"),
    ("src/log/", "fs::read", "the store's files are the log's own"),
    ("src/log/", "fs::write", "the store's files are the log's own"),
    (
        "src/log/writer",
        "Instant::now",
        "measures a commit for its histogram and the gathering, decides nothing else",
    ),
    (
        "src/log/",
        "std::process",
        "a data directory says which process holds it",
    ),
    ("src/config/", "std::fs", "reads the file it is named for"),
    ("src/config/", "fs::read", "reads the file it is named for"),
    ("src/config/", "std::env", "secrets may come from the environment"),
    ("src/config/", "env::var", "secrets may come from the environment"),
    (
        "src/compact/psk.rs",
        "std::fs",
        "reads the key file that a listener names",
    ),
    (
        "src/compact/psk.rs",
        "fs::read",
        "reads the key file that a listener names",
    ),
];

/// Rooms and files that decode what peers sent.
const PEER_BYTES: &[&str] = &[
    "src/mqtt",
    "src/compact",
    "src/kafka",
    "src/kafka_wire",
    "src/upstream",
    "src/wire/src",
    "src/model/batch",
];

/// The lints that stand at the top of each.
const PEER_LINTS: &[&str] = &[
    "clippy::unwrap_used",
    "clippy::expect_used",
    "clippy::indexing_slicing",
    "clippy::arithmetic_side_effects",
];

/// Rooms use only the rooms of their row.
pub fn rooms(tree: &Tree) -> Vec<Violation> {
    let mut found = Vec::new();
    for (path, text) in tree.matching("src/", ".rs") {
        let Some(module) = module_of(path) else { continue };
        let room = module[0];
        let Some((_, uses)) = ROOMS.iter().find(|(name, _)| *name == room) else {
            found.push(Violation::at(
                path,
                0,
                format!("{room} is no room of the table in tests/tidy/layers.rs. Try: a row of its own there"),
            ));
            continue;
        };
        let source = Source::parse(text, is_test_path(path));
        for (line, used) in mentions(&source, module.len()) {
            let known = ROOMS.iter().any(|(name, _)| *name == used);
            let allowed = used == room
                || uses.contains(&used.as_str())
                || (FOR_ALL.contains(&used.as_str()) && !FOR_ALL.contains(&room));
            if known && !allowed {
                found.push(Violation::at(
                    path,
                    line,
                    format!("{room} may not use {used} (src/manual/layout.md)"),
                ));
            }
        }
    }
    found
}

/// Crates that one place hides are named nowhere else.
pub fn owned_crates(tree: &Tree) -> Vec<Violation> {
    let mut found = Vec::new();
    for (path, text) in tree.matching("src/", ".rs") {
        let source = Source::parse(text, is_test_path(path));
        for (name, homes) in OWNED {
            if homes.iter().any(|home| path.starts_with(home)) {
                continue;
            }
            // Only as a crate: `redb::`, `use redb;`. A module of that name (`mod redb;`, `super::redb`) is the room's own.
            let lines = source.product().filter(|(_, line)| names_crate(line, name));
            found.extend(
                lines.map(|(n, _)| Violation::at(path, n, format!("only {} may name the crate {name}", homes[0]))),
            );
        }
    }
    found
}

fn names_crate(line: &str, name: &str) -> bool {
    places(line, name).any(|at| {
        let (before, after) = (line[..at].trim_end(), &line[at + name.len()..]);
        let is_path =
            after.starts_with("::") || (before.ends_with("use") && after.trim_start().starts_with([';', ' ']));
        is_path && (!before.ends_with("::") || before.ends_with(" ::") || before == "::")
    })
}

/// Rooms below `net` touch no sockets, clocks, threads, randomness or files.
pub fn rim(tree: &Tree) -> Vec<Violation> {
    let mut found = Vec::new();
    for (path, text) in tree.matching("src/", ".rs") {
        let above = ["src/net/", "src/http/", "src/cli/", "src/main.rs"];
        if above.iter().any(|a| path.starts_with(a)) {
            continue;
        }
        let source = Source::parse(text, is_test_path(path));
        for (n, line) in source.product() {
            let excepted = |word: &str| {
                RIM_EXCEPTIONS
                    .iter()
                    .any(|(place, w, _)| path.starts_with(place) && *w == word)
            };
            let words = OUTSIDE.iter().filter(|word| has_word(line, word) && !excepted(word));
            found.extend(words.map(|word| {
                Violation::at(
                    path,
                    n,
                    format!("{word} below net. Try: let the caller hand in Now or bytes"),
                )
            }));
        }
    }
    found
}

/// The crates for microcontrollers say `#![no_std]` and use neither std nor alloc outside of tests.
pub fn no_std(tree: &Tree) -> Vec<Violation> {
    let mut found = Vec::new();
    for home in ["src/wire/src/", "src/device/src/"] {
        for (path, text) in tree.matching(home, ".rs") {
            if path.ends_with("/lib.rs")
                && !text.contains("#![no_std]")
                && !text.contains("#![cfg_attr(not(test), no_std)]")
            {
                found.push(Violation::at(path, 0, "this crate must be #![no_std]"));
            }
            let source = Source::parse(text, is_test_path(path));
            for (n, line) in source.product() {
                let words = ["std::", "alloc::", "extern crate std", "extern crate alloc"];
                if words.iter().any(|word| has_word(line, word)) {
                    found.push(Violation::at(
                        path,
                        n,
                        "std or alloc in a crate for boards without them",
                    ));
                }
            }
        }
    }
    found
}

/// Where peers' bytes are decoded the lints that keep it from panicking are on: in the room's first file, or in every file.
pub fn peer_bytes(tree: &Tree) -> Vec<Violation> {
    let mut found = Vec::new();
    let guarded = |text: &str| PEER_LINTS.iter().all(|lint| text.contains(lint)) && text.contains("#![deny(");
    for home in PEER_BYTES {
        let roots = [format!("{home}/mod.rs"), format!("{home}/lib.rs"), format!("{home}.rs")];
        if roots
            .iter()
            .filter_map(|root| tree.files.get(root))
            .any(|text| guarded(text))
        {
            continue;
        }
        let files = tree.matching(home, ".rs").filter(|(path, text)| {
            let inside = path.starts_with(&format!("{home}/")) || *path == format!("{home}.rs");
            inside && !is_test_path(path) && !guarded(text)
        });
        found.extend(files.map(|(path, _)| {
            Violation::at(
                path,
                1,
                format!(
                    "peer bytes are handled here. Try: #![deny({})] at the top",
                    PEER_LINTS.join(", ")
                ),
            )
        }));
    }
    found
}

/// The module path of a file of the package, without `mod`; `None` for the roots and the crates beside it.
fn module_of(path: &str) -> Option<Vec<&str>> {
    let inner = path.strip_prefix("src/")?.strip_suffix(".rs")?;
    let crates = ["wire/", "device/", "timex/"];
    if inner == "lib" || inner == "main" || crates.iter().any(|begin| inner.starts_with(begin)) {
        return None;
    }
    Some(inner.split('/').filter(|part| *part != "mod").collect())
}

/// Line and name of everything that the code names from the package's root: `crate::x`, `crate::{x, y}`, and `super` chains
/// that climb as far.
fn mentions(source: &Source, depth: usize) -> Vec<(usize, String)> {
    let code = source.lines.join("\n");
    let mut found = Vec::new();
    for root in ["crate::", "headwater::"] {
        for at in places(&code, root) {
            // `$crate::` and `pub(in crate::…)` are paths from the root as well.
            collect(&code, at + root.len(), &mut found);
        }
    }
    let climb = "super::".repeat(depth);
    for at in places(&code, &climb) {
        let longer = code[..at].ends_with("super::") || code[at + climb.len()..].starts_with("super::");
        if !longer {
            collect(&code, at + climb.len(), &mut found);
        }
    }
    found
        .into_iter()
        .map(|(at, name)| (code[..at].matches('\n').count() + 1, name))
        .collect()
}

/// The first name of the path at `at`, or of each path in the group there.
fn collect(code: &str, at: usize, found: &mut Vec<(usize, String)>) {
    let name_at = |at: usize| -> String {
        code[at..]
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect()
    };
    if !code[at..].starts_with('{') {
        found.push((at, name_at(at)));
        return;
    }
    let (mut depth, mut fresh) = (0, false);
    for (offset, c) in code[at..].char_indices() {
        match c {
            '{' => (depth, fresh) = (depth + 1, depth == 0),
            '}' if depth == 1 => return,
            '}' => depth -= 1,
            ',' if depth == 1 => fresh = true,
            _ if c.is_whitespace() => {}
            _ if fresh => {
                found.push((at + offset, name_at(at + offset)));
                fresh = false;
            }
            _ => {}
        }
    }
}
