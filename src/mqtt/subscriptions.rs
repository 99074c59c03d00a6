//! Who wants which messages: a tree of filter levels. A message walks it once and finds every subscription that matches
//! (MQTT 5.0, section 4.7): `+` is one level, `#` the rest and its parent, and neither at the start matches a name that
//! begins with `$`.

use std::collections::HashMap;

/// Levels that a filter may have: bounds the depth of the tree.
const LEVELS_MAX: usize = 128;

/// One subscription of one session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Subscription {
    /// Granted: 0 or 1.
    pub(super) qos: u8,
    /// Not its own messages.
    pub(super) no_local: bool,
    /// Retain flag as the publisher set it.
    pub(super) retain_as_published: bool,
    /// The subscriber's own number for it.
    pub(super) id: Option<u32>,
}

/// Whether a filter may be subscribed to.
pub(super) fn is_filter(filter: &str) -> bool {
    if filter.is_empty() || filter.split('/').count() > LEVELS_MAX {
        return false;
    }
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        let legal = match level {
            "+" => true,
            "#" => levels.peek().is_none(),
            other => !other.contains(['+', '#']),
        };
        if !legal {
            return false;
        }
    }
    true
}

/// All subscriptions, by session number.
#[derive(Debug, Default)]
pub(super) struct Tree {
    root: Node,
    count: usize,
}

#[derive(Debug, Default)]
struct Node {
    levels: HashMap<Box<str>, Node>,
    here: Vec<(u64, Subscription)>,
}

impl Tree {
    /// Adds or replaces; true when it is new.
    pub(super) fn insert(&mut self, filter: &str, session: u64, subscription: Subscription) -> bool {
        let mut node = &mut self.root;
        for level in filter.split('/') {
            node = node.levels.entry(level.into()).or_default();
        }
        if let Some(old) = node.here.iter_mut().find(|(s, _)| *s == session) {
            old.1 = subscription;
            return false;
        }
        node.here.push((session, subscription));
        self.count = self.count.saturating_add(1);
        true
    }

    /// Removes; false when it was not there.
    pub(super) fn remove(&mut self, filter: &str, session: u64) -> bool {
        let levels: Vec<&str> = filter.split('/').collect();
        let removed = Self::remove_in(&mut self.root, &levels, session);
        self.count = self.count.saturating_sub(usize::from(removed));
        removed
    }

    /// Subscriptions in all.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Every subscription that matches the name.
    pub(super) fn matches<'a>(&'a self, name: &str, found: &mut Vec<(u64, &'a Subscription)>) {
        Self::walk(&self.root, Some(name), !name.starts_with('$'), found);
    }

    fn walk<'a>(node: &'a Node, rest: Option<&str>, wildcards: bool, found: &mut Vec<(u64, &'a Subscription)>) {
        if wildcards && let Some(all) = node.levels.get("#") {
            found.extend(all.here.iter().map(|(session, s)| (*session, s)));
        }
        let Some(rest) = rest else {
            found.extend(node.here.iter().map(|(session, s)| (*session, s)));
            return;
        };
        let (level, after) = match rest.split_once('/') {
            Some((level, after)) => (level, Some(after)),
            None => (rest, None),
        };
        if wildcards && let Some(one) = node.levels.get("+") {
            Self::walk(one, after, true, found);
        }
        if let Some(next) = node.levels.get(level) {
            Self::walk(next, after, true, found);
        }
    }

    fn remove_in(node: &mut Node, levels: &[&str], session: u64) -> bool {
        let Some((level, after)) = levels.split_first() else {
            let before = node.here.len();
            node.here.retain(|(s, _)| *s != session);
            return node.here.len() != before;
        };
        let Some(next) = node.levels.get_mut(*level) else {
            return false;
        };
        let removed = Self::remove_in(next, after, session);
        if next.here.is_empty() && next.levels.is_empty() {
            node.levels.remove(*level);
        }
        removed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(qos: u8) -> Subscription {
        Subscription {
            qos,
            no_local: false,
            retain_as_published: false,
            id: None,
        }
    }

    fn matching(filters: &[&str], name: &str) -> Vec<u64> {
        let mut tree = Tree::default();
        for (i, filter) in filters.iter().enumerate() {
            assert!(is_filter(filter), "{filter}");
            assert!(tree.insert(filter, i as u64, plain(0)));
        }
        let mut found = Vec::new();
        tree.matches(name, &mut found);
        let mut found: Vec<u64> = found.into_iter().map(|(s, _)| s).collect();
        found.sort_unstable();
        found
    }

    #[test]
    fn wildcards_match_as_the_specification_says() {
        assert_eq!(
            matching(&["a/b", "a/+", "a/#", "#", "+/b", "+", "a"], "a/b"),
            [0, 1, 2, 3, 4]
        );
        assert_eq!(matching(&["a/#", "a/+", "a"], "a"), [0, 2]);
        assert_eq!(matching(&["+/+", "/+", "+"], "/x"), [0, 1]);
        assert_eq!(matching(&["a/+/c"], "a//c"), [0]);
        assert_eq!(matching(&["a/+", "a/#"], "a/"), [0, 1]);
    }

    #[test]
    fn a_leading_wildcard_leaves_dollar_names_alone() {
        assert_eq!(matching(&["#", "+/x", "$SYS/#", "$SYS/+"], "$SYS/x"), [2, 3]);
        assert_eq!(matching(&["#", "+"], "$SYS"), [] as [u64; 0]);
    }

    #[test]
    fn filters_are_checked() {
        for bad in ["", "a/#/b", "a#", "a+", "+a/b", "##"] {
            assert!(!is_filter(bad), "{bad}");
        }
        assert!(!is_filter(&"a/".repeat(200)));
        assert!(is_filter("/"));
    }

    #[test]
    fn removing_leaves_nothing_behind() {
        let mut tree = Tree::default();
        tree.insert("a/b/c", 1, plain(0));
        tree.insert("a/b", 2, plain(1));
        assert!(!tree.insert("a/b", 2, plain(0)));
        assert!(tree.remove("a/b/c", 1));
        assert!(!tree.remove("a/b/c", 1));
        assert!(tree.remove("a/b", 2));
        assert_eq!(tree.len(), 0);
        assert!(tree.root.levels.is_empty());
    }
}
