//! Profiles and the wear budget, as the log goes by them.

use std::time::Duration;

use super::*;
use crate::config::Profile;

#[test]
fn a_pace_above_the_budget_makes_commits_wait_and_health_tells_when_that_is_not_enough() {
    let folder = Folder::new();
    let mut options = folder.options();
    options.storage.wear_budget = Some(1);
    options.storage.linger_us_max = 2_000;
    let metrics = Arc::clone(&options.metrics);
    let log = inline::open_directory(options).unwrap();
    assert_eq!(log.shared.linger(), None);
    let mut lingers = Vec::new();
    for look in 0..10 {
        append(&log, "t", None, "x", 1).unwrap();
        log.set_now(now(10 + look * 6_000));
        lingers.push(log.shared.linger());
    }
    assert!(lingers.is_sorted(), "{lingers:?}");
    assert_eq!(lingers.last(), Some(&Some(Duration::from_millis(2))));
    let degraded = metrics.health.degraded();
    assert!(
        degraded
            .iter()
            .any(|(part, why)| part == "wear" && why.contains("Try: ")),
        "{degraded:?}"
    );
    log.measure();
    assert!(metrics.wear.store_bytes.get() > 10 * 4096 && metrics.wear.pace_bytes.get() > 1.0);
}

#[test]
fn the_profile_of_a_card_has_its_own_ring_and_wait_and_is_told() {
    for (profile, ring_bytes, linger) in [
        (Profile::Sd, 16 << 20, Some(Duration::from_millis(5))),
        (Profile::Ssd, 8 << 20, None),
    ] {
        let folder = Folder::new();
        let mut options = folder.options();
        options.storage.profile = profile;
        let metrics = Arc::clone(&options.metrics);
        let opening = Log::open(options).unwrap();
        let ring = std::fs::metadata(folder.path().join(depot::RING)).unwrap();
        assert_eq!(ring.len(), ring_bytes);
        assert_eq!(opening.log.shared.linger(), linger);
        opening.log.measure();
        assert_eq!(
            metrics.wear.linger_seconds.get(),
            linger.map_or(0.0, |linger| linger.as_secs_f64())
        );
        let mut registry = prometheus_client::registry::Registry::default();
        metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(text.contains("cause=\"configured\""), "{text}");
    }
}
