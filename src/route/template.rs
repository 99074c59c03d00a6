//! Texts with `{names}` in them. `{{` and `}}` stand for the braces themselves.

use super::escape::{escape_before, push_escaped};
use crate::model::{Topic, nearest};

/// Names that every template knows.
pub(super) const RESERVED: [&str; 4] = ["mqtt_topic", "topic", "client", "user"];

#[derive(Debug)]
pub(super) struct Template {
    pieces: Vec<Piece>,
}

#[derive(Debug)]
enum Piece {
    Text(String),
    /// The nth wildcard.
    Wildcard(usize),
    MqttTopic,
    Topic,
    Client,
    User,
}

/// What the names stand for.
pub(super) struct Values<'a> {
    pub(super) wildcards: &'a [&'a str],
    pub(super) mqtt_topic: &'a str,
    pub(super) topic: &'a str,
    pub(super) client: &'a str,
    pub(super) user: &'a str,
}

impl Template {
    /// Parses; `names` are the wildcards', `{topic}` is known only once the topic is.
    pub(super) fn parse(text: &str, names: &[Option<String>], topic_known: bool) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '{' | '}' if chars.peek() == Some(&c) => {
                    chars.next();
                    literal.push(c);
                }
                '}' => {
                    return Err(format!(
                        "{text:?}: '}}' without '{{'. Try: \"}}}}\" for the brace itself"
                    ));
                }
                '{' => {
                    let mut name = String::new();
                    loop {
                        match chars.next() {
                            Some('}') => break,
                            Some(c) => name.push(c),
                            None => {
                                return Err(format!(
                                    "{text:?}: '{{' is not closed. Try: \"{{{{\" for the brace itself"
                                ));
                            }
                        }
                    }
                    if !literal.is_empty() {
                        pieces.push(Piece::Text(std::mem::take(&mut literal)));
                    }
                    pieces.push(Piece::named(&name, names, topic_known)?);
                }
                c => literal.push(c),
            }
        }
        if !literal.is_empty() || pieces.is_empty() {
            pieces.push(Piece::Text(literal));
        }
        Ok(Self { pieces })
    }

    /// The text when it names nothing.
    pub(super) fn fixed(&self) -> Option<&str> {
        match self.pieces.as_slice() {
            [Piece::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// What the template itself says must be legal in a topic name; only what it is filled with is escaped.
    pub(super) fn check_topic_literals(&self) -> Result<(), String> {
        for piece in &self.pieces {
            if let Piece::Text(text) = piece
                && !matches!(text.as_str(), "." | "..")
            {
                Topic::parse(text).map_err(|e| e.to_string())?;
            }
        }
        if matches!(self.pieces.first(), Some(Piece::Text(text)) if text.starts_with("__")) {
            return Err("names that begin with \"__\" are headwater's own. Try: another name".to_owned());
        }
        Ok(())
    }

    /// Fills the names in, as they are.
    pub(super) fn fill(&self, values: &Values<'_>) -> String {
        self.pieces.iter().map(|piece| piece.value(values)).collect()
    }

    /// Fills a topic's name in, escaping what the names stand for. From the back, because whether a `_` is escaped depends
    /// on what follows it.
    pub(super) fn fill_topic(&self, values: &Values<'_>) -> String {
        let mut name = String::new();
        for piece in self.pieces.iter().rev() {
            let value = piece.value(values);
            let value = match piece {
                Piece::Text(_) => value.into(),
                _ => escape_before(value, &name),
            };
            name.insert_str(0, &value);
        }
        // Kafka refuses these two, and `__` is headwater's own: escape what makes them so.
        if name == "." || name == ".." {
            name = name.replace('.', "_2e");
        } else if let Some(rest) = name.strip_prefix("__") {
            let mut escaped = String::new();
            push_escaped(&mut escaped, b'_');
            escaped.push('_');
            escaped.push_str(rest);
            name = escaped;
        }
        name
    }
}

impl Piece {
    fn named(name: &str, names: &[Option<String>], topic_known: bool) -> Result<Self, String> {
        if let Some(at) = names.iter().position(|n| n.as_deref() == Some(name)) {
            return Ok(Self::Wildcard(at));
        }
        match name {
            "mqtt_topic" => Ok(Self::MqttTopic),
            "topic" if topic_known => Ok(Self::Topic),
            "topic" => Err("{topic} is what this template makes. Try: {mqtt_topic}".to_owned()),
            "client" => Ok(Self::Client),
            "user" => Ok(Self::User),
            _ => {
                let known = names.iter().flatten().map(String::as_str).chain(RESERVED);
                let nearest = nearest(name, known).unwrap_or("mqtt_topic");
                Err(format!("nothing is named {{{name}}}. Try: {{{nearest}}}"))
            }
        }
    }

    fn value<'a>(&'a self, values: &Values<'a>) -> &'a str {
        match self {
            Self::Text(text) => text,
            Self::Wildcard(at) => values.wildcards.get(*at).copied().unwrap_or(""),
            Self::MqttTopic => values.mqtt_topic,
            Self::Topic => values.topic,
            Self::Client => values.client,
            Self::User => values.user,
        }
    }
}
