//! What somebody probably meant who wrote a word that is not known.

/// Similarity (Jaro-Winkler, 0 to 1) from which on a known word is near.
const NEAR: f64 = 0.7;

/// The known word that is probably meant; `None` when none is near. Of several as near, the shortest.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |known: &&str| (strsim::damerau_levenshtein(word, known), known.len());
    let nearest = known.into_iter().min_by_key(distance)?;
    (strsim::jaro_winkler(word, nearest) > NEAR).then_some(nearest)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn a_slip_is_seen_and_another_word_is_not_taken_for_one() {
        let known = ["retention.ms", "retention.bytes", "priority"];
        assert_eq!(nearest("retention.mss", known), Some("retention.ms"));
        assert_eq!(nearest("priorty", known), Some("priority"));
        assert_eq!(nearest("x", known), None);
        assert_eq!(nearest("unclean.leader.election.enable", known), None);
        assert_eq!(nearest("x", []), None);
    }
}
