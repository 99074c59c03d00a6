//! Rules on files and text: what a module opens with, what stands on the top level, what is forbidden everywhere.

use crate::source::{Source, has_word, is_test_path, places};
use crate::tree::{Tree, Violation};

/// What may stand on the top level beside dotfiles.
const TOP: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "README.md",
    "CHANGELOG.md",
    "LICENSE",
    "src",
    "boards",
    "config",
    "tests",
    "scripts",
];

/// Lines that a file of code may have.
const LINES_MAX: usize = 600;

/// Marks of unfinished work, in pieces so that this file does not hold them itself.
const UNFINISHED: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("to", "do!"),
    concat!("unimple", "mented!"),
    concat!("db", "g!"),
    concat!("#[ign", "ore"),
    concat!("To be wri", "tten"),
];

/// Hosts that builds download from: a mirror is the business of the machine that builds.
const REGISTRIES: &[&str] = &[
    concat!("crates", ".io"),
    concat!("py", "pi.org"),
    concat!("pythonhosted", ".org"),
    concat!("repo.maven", ".apache.org"),
    concat!("repo1.maven", ".org"),
    concat!("deb.debian", ".org"),
    concat!("registry.npmjs", ".org"),
    concat!("proxy.golang", ".org"),
    concat!("static.rust-lang", ".org"),
];

/// Paths of one machine.
const PATHS: &[&str] = &[concat!("/wo", "rk"), concat!("/ro", "ot"), concat!("/ho", "me")];

/// The first line of every module says what it is.
pub fn module_docs(tree: &Tree) -> Vec<Violation> {
    let modules = tree
        .matching("", ".rs")
        .filter(|(path, _)| ["src/", "tests/", "boards/"].iter().any(|home| path.starts_with(home)));
    let silent = modules.filter(|(_, text)| !text.lines().next().is_some_and(|line| line.starts_with("//! ")));
    silent
        .map(|(path, _)| Violation::at(path, 1, "open with //! and say what this is and what it is not"))
        .collect()
}

/// Nothing on the top level but what is listed.
pub fn top_level(tree: &Tree) -> Vec<Violation> {
    let mut found: Vec<Violation> = Vec::new();
    for path in tree.files.keys() {
        let top = path.split('/').next().unwrap_or(path);
        let known = TOP.contains(&top) || top.starts_with('.');
        if !known && !found.iter().any(|v| v.path == top) {
            found.push(Violation::at(
                top,
                0,
                "not one of the things that stand on the top level",
            ));
        }
    }
    found
}

/// No channel without a bound.
pub fn channels(tree: &Tree) -> Vec<Violation> {
    each_line(tree, |line| {
        let group = line.contains("mpsc::{") && line.split(['{', ',', '}', ' ']).any(|name| name == "channel");
        let open = ["mpsc::channel", "unbounded", "unbounded_channel"]
            .iter()
            .any(|word| has_word(line, word));
        (group || open)
            .then(|| "a channel without a bound. Try: sync_channel or bounded, with the rule when it is full".into())
    })
}

/// A long file is several modules.
pub fn long_files(tree: &Tree) -> Vec<Violation> {
    let code = |path: &str| {
        path.ends_with(".rs") || path.ends_with(".py") || path.ends_with(".sh") || path.starts_with("scripts/")
    };
    let long = tree
        .files
        .iter()
        .filter(|(path, text)| code(path) && text.lines().count() > LINES_MAX);
    long.map(|(path, text)| {
        Violation::at(
            path,
            text.lines().count(),
            format!("more than {LINES_MAX} lines. Try: one file a concept"),
        )
    })
    .collect()
}

/// The crate that has one call without a safe wrapper, and its page.
const EXCEPTED: (&str, &str) = ("src/timex/", "src/manual/decisions/0006-clock.md");

/// No `unsafe`, and every crate takes the lints that forbid it; but for what a decision page excepts.
pub fn unsafe_code(tree: &Tree) -> Vec<Violation> {
    let word = concat!("un", "safe");
    let mut found = each_line(tree, |line| {
        has_word(line, word).then(|| format!("{word} needs a decision page first"))
    });
    let excepted = |path: &str| path.starts_with(EXCEPTED.0) && tree.files.contains_key(EXCEPTED.1);
    found.retain(|violation| !excepted(&violation.path));
    for (path, text) in tree.matching("", "Cargo.toml") {
        let lints = text.contains("unsafe_code = \"forbid\"") || text.contains("[lints]\nworkspace = true");
        if !lints && text.contains("[package]") && !path.starts_with("boards/") && !excepted(path) {
            found.push(Violation::at(
                path,
                0,
                "takes no part in the workspace's lints. Try: [lints] workspace = true",
            ));
        }
    }
    found
}

/// No marks of unfinished work, in code or in words.
pub fn unfinished(tree: &Tree) -> Vec<Violation> {
    let mut found = Vec::new();
    for (path, text) in tree.files.iter().filter(|(path, _)| path.as_str() != "Cargo.lock") {
        for (n, line) in text.lines().enumerate() {
            let marks = UNFINISHED.iter().filter(|mark| has_word(line, mark));
            found.extend(marks.map(|mark| Violation::at(path, n + 1, format!("{mark}: finish it or write an issue"))));
        }
    }
    found
}

/// Tests beside the code turn a clock; they do not sleep.
pub fn sleeps(tree: &Tree) -> Vec<Violation> {
    let mut found = Vec::new();
    for (path, text) in tree.matching("src/", ".rs") {
        let source = Source::parse(text, is_test_path(path));
        let lines = source.tests().filter(|(_, line)| {
            ["thread::sleep", "Timer::after", "sleep("]
                .iter()
                .any(|word| has_word(line, word))
        });
        found.extend(lines.map(|(n, _)| Violation::at(path, n, "a test sleeps. Try: hand in the time")));
    }
    found
}

/// Nothing of the machine it was written on.
pub fn machine(tree: &Tree) -> Vec<Violation> {
    let mut found = Vec::new();
    for (path, text) in &tree.files {
        // The lock file names its registry in each `source` line; that is its format.
        let lines = text
            .lines()
            .enumerate()
            .filter(|(_, line)| path != "Cargo.lock" || !line.starts_with("source = "));
        for (n, line) in lines {
            if let Some(host) = REGISTRIES.iter().find(|host| line.contains(*host)) {
                found.push(Violation::at(
                    path,
                    n + 1,
                    format!("{host} is the business of the machine that builds"),
                ));
            }
            if let Some(place) = PATHS.iter().find(|place| names_path(line, place)) {
                found.push(Violation::at(path, n + 1, format!("{place} is a path of one machine")));
            }
        }
    }
    found
}

/// Whether `line` names the directory itself or something in it, not a longer path that ends so.
fn names_path(line: &str, directory: &str) -> bool {
    line.match_indices(directory).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + directory.len()..].chars().next();
        let inside = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | '}' | '+' | '#' | '$' | ')');
        !before.is_some_and(inside) && after.is_none_or(|c| c == '/' || (!c.is_alphanumeric() && c != '_' && c != '-'))
    })
}

/// Each direct dependency has a row in the manual, and each row a dependency.
pub fn dependencies(tree: &Tree) -> Vec<Violation> {
    const PAGE: &str = "src/manual/dependencies.md";
    let page = tree.files.get(PAGE).map_or("", String::as_str);
    let row = |name: &str| format!("| `{name}` |");
    let mut found = Vec::new();
    let mut names = Vec::new();
    for manifest in [
        "Cargo.toml",
        "src/wire/Cargo.toml",
        "src/device/Cargo.toml",
        "src/timex/Cargo.toml",
    ] {
        let text = tree.files.get(manifest).map_or("", String::as_str);
        for (line, name) in direct(text) {
            if !page.contains(&row(name)) {
                found.push(Violation::at(manifest, line, format!("{name} has no row in {PAGE}")));
            }
            names.push(name);
        }
    }
    for (n, line) in page.lines().enumerate() {
        let named = line.strip_prefix("| `").and_then(|rest| rest.split('`').next());
        if let Some(name) = named.filter(|name| !names.contains(name)) {
            found.push(Violation::at(
                PAGE,
                n + 1,
                format!("{name} is no direct dependency any more"),
            ));
        }
    }
    found
}

/// Line and name of each entry in the dependency tables of a manifest.
fn direct(manifest: &str) -> Vec<(usize, &str)> {
    let mut inside = false;
    let mut found = Vec::new();
    for (n, line) in manifest.lines().enumerate() {
        if line.starts_with('[') {
            inside = line.ends_with("dependencies]");
        } else if let Some((name, _)) = line.split_once(['=', '.']).filter(|_| inside && !line.starts_with('#')) {
            found.push((n + 1, name.trim()));
        }
    }
    found
}

/// A relative link in a document names a file or a directory that is there.
pub fn links(tree: &Tree) -> Vec<Violation> {
    let mut found = Vec::new();
    for (path, text) in tree.matching("", ".md") {
        for (n, line) in text.lines().enumerate() {
            for (at, _) in line.match_indices("](") {
                let target = line[at + 2..].split([')', '#', ' ']).next().unwrap_or("");
                if target.is_empty() || target.contains("://") || target.starts_with("mailto:") {
                    continue;
                }
                let full = resolve(path, target);
                let there = tree
                    .files
                    .keys()
                    .any(|file| *file == full || file.starts_with(&format!("{full}/")));
                if !there {
                    found.push(Violation::at(path, n + 1, format!("the link {target} leads nowhere")));
                }
            }
        }
    }
    found
}

fn resolve(from: &str, target: &str) -> String {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in target.trim_end_matches('/').split('/') {
        match part {
            "." => {}
            ".." => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

/// Looks at every line of Rust code, comments and literals blanked out.
fn each_line(tree: &Tree, look: impl Fn(&str) -> Option<String>) -> Vec<Violation> {
    let mut found = Vec::new();
    for (path, text) in tree.matching("", ".rs") {
        let source = Source::parse(text, is_test_path(path));
        found.extend(
            source
                .numbered()
                .filter_map(|(n, line)| Some(Violation::at(path, n, look(line)?))),
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_the_machine_is_not_any_path_that_ends_so() {
        assert!(names_path(&format!("cd {}/x", PATHS[0]), PATHS[0]));
        assert!(names_path(&format!("\"{}\"", PATHS[2]), PATHS[2]));
        assert!(!names_path(&format!("plant{}/x", PATHS[2]), PATHS[2]));
        assert!(!names_path(&format!("{}er/x", PATHS[0]), PATHS[0]));
        assert_eq!(places("a b a", "a").count(), 2);
    }

    #[test]
    fn links_are_resolved_from_their_document() {
        assert_eq!(resolve("src/manual/a.md", "../../README.md"), "README.md");
        assert_eq!(resolve("README.md", "src/manual/"), "src/manual");
    }
}
