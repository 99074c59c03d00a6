//! Which topics are forwarded, and what they are called in the centre.

use crate::config;
use crate::model::{Topic, TopicError};

/// The patterns and the name template of one upstream.
#[derive(Debug)]
pub(super) struct Selection {
    include: Vec<String>,
    exclude: Vec<String>,
    template: String,
}

impl Selection {
    pub(super) fn new(upstream: &config::Upstream, node: &str) -> Self {
        let patterns = upstream.topics.iter();
        let exclude: Vec<String> = patterns
            .clone()
            .filter_map(|p| p.strip_prefix('!'))
            .map(str::to_owned)
            .collect();
        let mut include: Vec<String> = patterns.filter(|p| !p.starts_with('!')).cloned().collect();
        if include.is_empty() && !exclude.is_empty() {
            // Only exclusions: all the others.
            include.push("*".to_owned());
        }
        Self {
            include,
            exclude,
            template: upstream.topic_name.replace("{node}", node),
        }
    }

    /// Whether a topic is to be forwarded.
    pub(super) fn wants(&self, topic: &Topic) -> bool {
        let name = topic.as_str();
        let named = |patterns: &[String]| patterns.iter().any(|p| matches(p.as_bytes(), name.as_bytes()));
        // Topics of headwater's own go only where they are named in full.
        let included = named(&self.include) && (!topic.is_internal() || self.include.iter().any(|p| p == name));
        included && !named(&self.exclude)
    }

    /// The topic's name in the centre; `None` when it is not forwarded: left out by the patterns, or headwater's own. An error
    /// when it would be, but the template makes no name of it that Kafka allows.
    pub(super) fn name_there(&self, topic: &Topic) -> Option<Result<Topic, TopicError>> {
        let name = || Topic::parse(&self.template.replace("{topic}", topic.as_str()));
        self.wants(topic).then(name)
    }
}

/// Whether `name` is what `pattern` says, in which `*` stands for any run of bytes. Linear: only the last `*` is tried again.
fn matches(mut pattern: &[u8], mut name: &[u8]) -> bool {
    let mut again: Option<(&[u8], &[u8])> = None;
    loop {
        match (pattern.split_first(), name.split_first()) {
            (Some((b'*', rest)), _) => {
                again = Some((rest, name));
                pattern = rest;
            }
            (Some((p, p_rest)), Some((n, n_rest))) if p == n => (pattern, name) = (p_rest, n_rest),
            (None, None) => return true,
            _ => {
                let Some((after_star, from)) = again else { return false };
                let Some((_, from)) = from.split_first() else {
                    return false;
                };
                again = Some((after_star, from));
                (pattern, name) = (after_star, from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection(topics: &[&str], topic_name: &str) -> Selection {
        let upstream = config::Upstream {
            name: "central".into(),
            bootstrap: vec![],
            topics: topics.iter().map(|t| (*t).to_owned()).collect(),
            topic_name: topic_name.into(),
            request_timeout_ms: 0,
            backoff_ms_max: 0,
            clock_wait_ms: 120_000,
            inflight_bytes_max: 0,
        };
        Selection::new(&upstream, "gw-1")
    }

    fn there(selection: &Selection, topic: &str) -> Option<String> {
        selection
            .name_there(&Topic::parse(topic).expect("a name"))
            .map(|there| there.map_or_else(|e| format!("error: {e}"), |t| t.as_str().to_owned()))
    }

    #[test]
    fn a_star_stands_for_any_run() {
        for (pattern, name, expected) in [
            ("*", "anything", true),
            ("plant-*", "plant-a", true),
            ("plant-*", "plant", false),
            ("*-raw", "a-raw-raw", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-b-b-d", false),
            ("a**c", "ac", true),
            ("abc", "abcd", false),
        ] {
            assert_eq!(
                matches(pattern.as_bytes(), name.as_bytes()),
                expected,
                "{pattern} {name}"
            );
        }
    }

    #[test]
    fn exclusions_win_whatever_the_order() {
        let s = selection(&["!debug-*", "*"], "{topic}");
        assert_eq!(there(&s, "sensors").as_deref(), Some("sensors"));
        assert_eq!(there(&s, "debug-a"), None);
        let only = selection(&["!debug-*"], "{topic}");
        assert_eq!(there(&only, "sensors").as_deref(), Some("sensors"));
    }

    #[test]
    fn the_name_there_follows_the_template() {
        let s = selection(&["*"], "edge.{node}.{topic}");
        assert_eq!(there(&s, "sensors").as_deref(), Some("edge.gw-1.sensors"));
        let too_long = there(&s, &"x".repeat(245)).expect("it is wanted");
        assert!(too_long.starts_with("error:"), "{too_long}");
    }

    #[test]
    fn own_topics_go_only_where_named() {
        assert_eq!(there(&selection(&["*"], "{topic}"), "__headwater_x"), None);
        assert!(there(&selection(&["*", "__headwater_x"], "{topic}"), "__headwater_x").is_some());
    }
}
