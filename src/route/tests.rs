//! Routing, escaping and the way back.

use super::*;

fn entry(filter: &str, topic: &str, key: Option<&str>, headers: &[(&str, &str)]) -> RouteEntry {
    RouteEntry {
        line: 7,
        filter: filter.to_owned(),
        topic: topic.to_owned(),
        key: key.map(str::to_owned),
        headers: headers
            .iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect(),
    }
}

fn route(entries: &[RouteEntry], name: &str) -> Result<Routed, Code> {
    let router = Router::compile(entries).expect("routes that compile");
    router.route(&Source {
        name: &Bytes::copy_from_slice(name.as_bytes()),
        client: "c1",
        user: "anna",
    })
}

fn topic_of(entries: &[RouteEntry], name: &str) -> String {
    route(entries, name).expect("a route").topic.as_str().to_owned()
}

#[test]
fn without_a_route_the_key_is_the_mqtt_topic() {
    let routed = route(&[], "a/b").unwrap();
    assert_eq!(routed.topic.as_str(), "telemetry");
    assert_eq!(routed.key.as_deref(), Some(&b"a/b"[..]));
}

#[test]
fn named_wildcards_fill_topic_key_and_headers() {
    let routes = [entry(
        "plant/+line/+machine/#rest",
        "plant-{line}",
        Some("{machine}"),
        &[("path", "{mqtt_topic}|{topic}|{client}|{user}|{rest}|{{}}")],
    )];
    let routed = route(&routes, "plant/north/press 7/a/b").unwrap();
    assert_eq!(routed.topic.as_str(), "plant-north");
    assert_eq!(routed.key.as_deref(), Some(&b"press 7"[..]));
    assert_eq!(
        routed.headers[0].value.as_deref(),
        Some(&b"plant/north/press 7/a/b|plant-north|c1|anna|a/b|{}"[..])
    );
}

#[test]
fn the_first_match_wins() {
    let routes = [entry("a/#", "one", None, &[]), entry("#", "two", None, &[])];
    assert_eq!(topic_of(&routes, "a/x"), "one");
    assert_eq!(topic_of(&routes, "a"), "one");
    assert_eq!(topic_of(&routes, "b"), "two");
}

#[test]
fn a_leading_wildcard_never_matches_a_dollar_name() {
    let routes = [entry("#", "all", None, &[]), entry("$app/+x", "app", None, &[])];
    assert_eq!(topic_of(&routes, "$app/1"), "app");
    assert_eq!(topic_of(&routes, "$other/1"), "telemetry");
}

#[test]
fn names_are_escaped_reversibly() {
    for (text, escaped) in [
        ("plain-1.x", "plain-1.x"),
        ("a_b", "a_b"),
        ("a_bc", "a_5fbc"),
        ("a_4", "a_4"),
        ("a_4g", "a_4g"),
        ("a/b", "a_2fb"),
        ("été/x", "_c3_a9t_c3_a9_2fx"),
        ("_é", "__c3_a9"),
        ("__", "__"),
        ("..", ".."),
    ] {
        assert_eq!(escape(text), escaped);
        assert_eq!(unescape(escaped).as_deref(), Some(text));
    }
}

#[test]
fn any_text_comes_back_from_its_escaped_name() {
    let mut rng = fastrand::Rng::with_seed(7);
    let alphabet: Vec<char> = "_a5F/é.$+ -g".chars().collect();
    for _ in 0..20_000 {
        let text: String = (0..rng.usize(1..12))
            .map(|_| alphabet[rng.usize(..alphabet.len())])
            .collect();
        let routed = topic_of(
            &[entry("+x/#y", "{x}", None, &[]), entry("#", "{mqtt_topic}", None, &[])],
            "t",
        );
        assert_eq!(routed, "t");
        let name = escape(&text);
        assert_eq!(unescape(&name).as_deref(), Some(text.as_str()), "{name}");
        // And filled into a template, where `.`, `..` and `__` get an escape more.
        if is_topic_name(&text) && !text.starts_with('$') {
            let name = topic_of(&[entry("#", "{mqtt_topic}", None, &[])], &text);
            assert_eq!(unescape(&name).as_deref(), Some(text.as_str()), "{name}");
        }
    }
}

#[test]
fn an_underscore_at_the_end_of_a_value_looks_at_what_follows() {
    assert_eq!(topic_of(&[entry("+x", "{x}41", None, &[])], "a_"), "a_5f41");
    assert_eq!(topic_of(&[entry("+x", "{x}-", None, &[])], "a_"), "a_-");
    assert_eq!(topic_of(&[entry("+x/+y", "{x}{y}", None, &[])], "_/41"), "_5f41");
}

#[test]
fn what_the_template_says_is_not_escaped() {
    assert_eq!(topic_of(&[entry("+x", "line_01-{x}", None, &[])], "a"), "line_01-a");
    assert_eq!(topic_of(&[entry("x", "line_01", None, &[])], "x"), "line_01");
}

#[test]
fn dots_and_internal_names_are_escaped() {
    let routes = [entry("+x", "{x}", None, &[])];
    assert_eq!(topic_of(&routes, ".."), "_2e_2e");
    assert_eq!(topic_of(&routes, "."), "_2e");
    assert_eq!(topic_of(&routes, "__state"), "_5f_state");
    assert_eq!(topic_of(&[entry("+x", "_{x}", None, &[])], "_s"), "_5f_s");
}

#[test]
fn a_name_too_long_or_empty_is_refused() {
    let routes = [entry("+x/#", "{x}", None, &[])];
    assert_eq!(route(&routes, &"x".repeat(250)), Err(Code::InvalidTopic));
    assert!(route(&routes, &"x".repeat(249)).is_ok());
    // 84 characters of three bytes each, three for each byte.
    assert_eq!(route(&routes, &"€".repeat(84)), Err(Code::InvalidTopic));
    assert_eq!(route(&routes, "/a"), Err(Code::InvalidTopic));
}

#[test]
fn errors_name_the_line_and_what_to_try() {
    for (e, says) in [
        (entry("a/#/b", "t", None, &[]), "last level"),
        (entry("a+", "t", None, &[]), "must begin its level"),
        (entry("+x/+x", "t", None, &[]), "two wildcards"),
        (entry("+topic", "t", None, &[]), "means something else"),
        (entry("+line", "t-{lime}", None, &[]), "Try: {line}"),
        (entry("+line", "{topic}", None, &[]), "Try: {mqtt_topic}"),
        (entry("+line", "a/b", None, &[]), "'/' at byte 1"),
        (entry("+line", "__x-{line}", None, &[]), "headwater's own"),
        (entry("+line", "", None, &[]), "cannot be empty"),
        (entry("+line", "t{", None, &[]), "not closed"),
        (entry("+line", "t", None, &[("mqtt.qos", "1")]), "headwater's own"),
    ] {
        let error = Router::compile(&[e]).expect_err(says);
        assert_eq!(error.line, 7);
        assert!(error.why.contains(says) && error.why.contains("Try:"), "{error}");
    }
}

#[test]
fn a_message_comes_back_as_it_was_sent() {
    let router = Router::compile(&[entry(
        "k/#",
        "t",
        Some(""),
        &[("site", "x"), ("content-type", "text/plain")],
    )])
    .unwrap();
    let user = [
        ("unit".to_owned(), "°C".to_owned()),
        ("mqtt.topic".to_owned(), "spoof".to_owned()),
    ];
    for name in ["k/1", "other"] {
        let name = Bytes::copy_from_slice(name.as_bytes());
        let source = Source {
            name: &name,
            client: "c",
            user: "",
        };
        let message = Message {
            payload: Bytes::from_static(b"21.5"),
            qos: 2,
            retain: true,
            payload_is_text: true,
            content_type: Some("application/json"),
            response_topic: Some("r/1"),
            correlation: Some(b"\xff\x00"),
            expiry_s: Some(60),
            user: &user,
            origin: Some("c"),
        };
        let (_, record) = router.record(&source, message, 1).unwrap();
        let headers = record.headers.iter().map(|h| (h.name.as_str(), h.value.as_deref()));
        let back = outgoing(record.key.as_deref(), headers).unwrap();
        assert_eq!(back.topic.as_bytes(), &name[..]);
        assert_eq!((back.qos, back.retain, back.payload_is_text), (2, true, true));
        assert_eq!(back.content_type, Some("application/json"));
        assert_eq!(back.response_topic, Some("r/1"));
        assert_eq!(back.correlation, Some(&b"\xff\x00"[..]));
        assert_eq!((back.expiry_s, back.origin), (Some(60), Some("c")));
        assert!(back.user.ends_with(&[("unit", "°C"), ("mqtt.topic", "spoof")]));
    }
}

#[test]
fn an_ordinary_message_needs_no_header() {
    let router = Router::compile(&[]).unwrap();
    let name = Bytes::from_static(b"a/b");
    let source = Source {
        name: &name,
        client: "c",
        user: "",
    };
    let message = Message {
        qos: 1,
        ..Message::default()
    };
    assert!(router.record(&source, message, 1).unwrap().1.headers.is_empty());
}

#[test]
fn a_device_is_one_level_of_its_name() {
    assert_eq!(device_name("dev-1", 3).as_ref(), b"device/dev-1/3");
    assert_eq!(
        device_name("a/+#é", "t").as_ref(),
        "device/a_2f_2b_23_c3_a9/t".as_bytes()
    );
}

#[test]
fn a_record_without_a_topic_is_no_message() {
    assert_eq!(outgoing(None, std::iter::empty()), None);
    assert_eq!(outgoing(Some(b"a/+"), std::iter::empty()), None);
    assert_eq!(outgoing(Some(b"\xff"), std::iter::empty()), None);
}
