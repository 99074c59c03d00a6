//! The tree that rules read: every tracked text file by its path. From git where there is one, else by walking.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::process::Command;

/// Paths (with `/`, from the top) and their text.
#[derive(Default)]
pub struct Tree {
    /// Every text file.
    pub files: BTreeMap<String, String>,
}

/// One place where a rule is broken.
pub struct Violation {
    /// File.
    pub path: String,
    /// Line from 1, or 0 for the file as a whole.
    pub line: usize,
    /// What is wrong, and what to do.
    pub why: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.why)
    }
}

impl Violation {
    /// At a line.
    pub fn at(path: &str, line: usize, why: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            line,
            why: why.into(),
        }
    }
}

impl Tree {
    /// The tree of this package.
    pub fn load() -> Self {
        let top = Path::new(env!("CARGO_MANIFEST_DIR"));
        let paths = tracked(top).unwrap_or_else(|| {
            let mut found = Vec::new();
            walk(top, "", &mut found);
            found
        });
        // What is not UTF-8 (golden and regression inputs) has no rules; what is deleted but not yet committed is not there.
        let files = paths
            .into_iter()
            .filter_map(|path| Some((path.clone(), std::fs::read_to_string(top.join(&path)).ok()?)))
            .collect();
        Self { files }
    }

    /// A small tree for a planted violation.
    pub fn of(files: &[(&str, &str)]) -> Self {
        let files = files.iter().map(|(p, t)| ((*p).into(), (*t).into())).collect();
        Self { files }
    }

    /// The files whose path begins and ends so.
    pub fn matching<'a>(&'a self, begin: &'a str, end: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.files
            .iter()
            .filter(move |(path, _)| path.starts_with(begin) && path.ends_with(end))
            .map(|(path, text)| (path.as_str(), text.as_str()))
    }
}

/// What git tracks or would track; `None` outside of a repository (a tarball has none).
fn tracked(top: &Path) -> Option<Vec<String>> {
    let out = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(top)
        .output()
        .ok()?;
    let text = String::from_utf8(out.stdout).ok()?;
    (out.status.success() && !text.is_empty()).then(|| text.lines().map(Into::into).collect())
}

fn walk(top: &Path, under: &str, found: &mut Vec<String>) {
    let entries = std::fs::read_dir(top.join(under)).expect("a readable source tree");
    for entry in entries {
        let entry = entry.expect("a readable source tree");
        let name = entry.file_name().into_string().expect("UTF-8 file names");
        let path = if under.is_empty() {
            name
        } else {
            format!("{under}/{name}")
        };
        let is_dir = entry.file_type().expect("a readable source tree").is_dir();
        match path.as_str() {
            "target" | ".git" => {}
            _ if is_dir => walk(top, &path, found),
            _ => found.push(path),
        }
    }
}
