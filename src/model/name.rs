//! Names and positions in the log, as newtypes: a value that exists is valid.

use std::fmt;
use std::sync::Arc;

/// Longest topic name, in bytes (Kafka's limit, `Topic.MAX_NAME_LENGTH`).
pub const TOPIC_BYTES_MAX: usize = 249;

/// A valid topic name: 1 to 249 of `a-z A-Z 0-9 . _ -`, and not `.` or `..`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Topic(Arc<str>);

/// Why a name is not a topic's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicError {
    /// No characters at all.
    Empty,
    /// More than `TOPIC_BYTES_MAX` bytes.
    TooLong(usize),
    /// `.` or `..`.
    Dots,
    /// A character outside the set; its place in bytes.
    Character(char, usize),
}

impl fmt::Display for TopicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(
                f,
                "a topic name cannot be empty. Try: a name of letters, digits, '.', '_' and '-'"
            ),
            Self::TooLong(n) => write!(
                f,
                "a topic name of {n} bytes is too long. Try: at most {TOPIC_BYTES_MAX}"
            ),
            Self::Dots => write!(
                f,
                "a topic cannot be named '.' or '..'. Try: a name of letters, digits, '.', '_' and '-'"
            ),
            Self::Character(c, at) => {
                write!(
                    f,
                    "{c:?} at byte {at} cannot be in a topic name. Try: letters, digits, '.', '_' and '-' only"
                )
            }
        }
    }
}

impl std::error::Error for TopicError {}

impl Topic {
    /// Checks Kafka's rules for a name.
    pub fn parse(name: &str) -> Result<Self, TopicError> {
        if name.is_empty() {
            return Err(TopicError::Empty);
        }
        if name == "." || name == ".." {
            return Err(TopicError::Dots);
        }
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if let Some((at, c)) = name.char_indices().find(|(_, c)| !legal(*c)) {
            return Err(TopicError::Character(c, at));
        }
        if name.len() > TOPIC_BYTES_MAX {
            return Err(TopicError::TooLong(name.len()));
        }
        Ok(Self(name.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Names that begin with `__` are headwater's (and Kafka's) own.
    pub fn is_internal(&self) -> bool {
        self.0.starts_with("__")
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Topic({})", self.0)
    }
}

impl std::borrow::Borrow<str> for Topic {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// The number of a partition in its topic, from 0. Kafka's protocol has it as a non-negative int32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Partition(pub u32);

/// The place of a record in its partition, from 0. At most `i64::MAX`, so that Kafka's int64 holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Offset(pub u64);

impl Offset {
    /// Kafka's signed form.
    pub fn kafka(self) -> i64 {
        i64::try_from(self.0).unwrap_or(i64::MAX)
    }

    /// From Kafka's signed form; negative is none.
    pub fn from_kafka(offset: i64) -> Option<Self> {
        u64::try_from(offset).ok().map(Self)
    }

    /// The first offset that a leader epoch gives out: above everything that an earlier one can have given out. A negative epoch is none.
    pub fn of_epoch(epoch: i32) -> Self {
        Self(u64::from(epoch.max(0).unsigned_abs()) << 40)
    }

    /// The offset `n` further on.
    pub fn plus(self, n: u64) -> Self {
        Self(self.0.saturating_add(n))
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Kafka's murmur2 over a key, as the Java client's default partitioner has it
/// (`org.apache.kafka.common.utils.Utils.murmur2`), so that a key lands where a Java producer would put it.
pub fn partition_of_key(key: &[u8], partitions: u32) -> Partition {
    Partition((murmur2(key) & 0x7fff_ffff) % partitions.max(1))
}

fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut h: u32 = 0x9747_b28c ^ (data.len() as u32);
    let mut chunks = data.chunks_exact(4);
    for chunk in &mut chunks {
        let mut k = u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]);
        k = k.wrapping_mul(M);
        k ^= k >> 24;
        h = h.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let rest = chunks.remainder();
    for (i, byte) in rest.iter().enumerate().rev() {
        h ^= u32::from(*byte) << (8 * i);
    }
    if !rest.is_empty() {
        h = h.wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    h ^ (h >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_kafkas_rules() {
        assert!(Topic::parse("plant-a.line_1").is_ok());
        assert_eq!(Topic::parse(""), Err(TopicError::Empty));
        assert_eq!(Topic::parse(".."), Err(TopicError::Dots));
        assert_eq!(Topic::parse("a/b"), Err(TopicError::Character('/', 1)));
        assert_eq!(Topic::parse(&"x".repeat(250)), Err(TopicError::TooLong(250)));
    }

    #[test]
    fn murmur2_agrees_with_the_java_client() {
        // The vectors of Kafka's own UtilsTest.testMurmur2.
        for (key, hash) in [
            ("21", -973_932_308_i32),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()) as i32, hash, "{key}");
        }
    }
}
