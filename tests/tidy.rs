//! The house rules, held by reading the source tree. Each rule is a function over an in-memory tree (`tidy/rules.rs` and its
//! neighbours), so that `tidy/planted.rs` can hand it a tree with one violation and prove that it bites.

#[path = "tidy/layers.rs"]
mod layers;
#[path = "tidy/planted.rs"]
mod planted;
#[path = "tidy/rules.rs"]
mod rules;
#[path = "tidy/source.rs"]
mod source;
#[path = "tidy/tree.rs"]
mod tree;

use tree::{Tree, Violation};

/// A rule's name and the function that holds it.
type Rule = (&'static str, fn(&Tree) -> Vec<Violation>);

/// Every rule; `tidy/planted.rs` has a planted violation for each and checks that none is missing there.
const RULES: &[Rule] = &[
    ("who may use whom", layers::rooms),
    ("one file names a crate", layers::owned_crates),
    ("nothing below net touches the outside", layers::rim),
    ("wire and device do without std", layers::no_std),
    ("peer bytes never panic", layers::peer_bytes),
    ("every module opens with what it is", rules::module_docs),
    ("the top level is what is listed", rules::top_level),
    ("no channel without a bound", rules::channels),
    ("files stay short", rules::long_files),
    ("no unsafe code", rules::unsafe_code),
    ("nothing is left unfinished", rules::unfinished),
    ("tests do not sleep", rules::sleeps),
    ("no paths of one machine, no registry hosts", rules::machine),
    ("every direct dependency has its reason", rules::dependencies),
    ("links in the documents lead somewhere", rules::links),
];

#[test]
fn the_tree_keeps_every_rule() {
    let tree = Tree::load();
    assert!(
        tree.files.contains_key("src/lib.rs"),
        "the tree was not read: {} files",
        tree.files.len()
    );
    let mut report = String::new();
    for (name, rule) in RULES {
        for violation in rule(&tree) {
            report.push_str(&format!("{violation}  [{name}]\n"));
        }
    }
    assert!(report.is_empty(), "\n{report}");
}
