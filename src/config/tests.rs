//! What is refused and how it is said, what wins, and that the shipped file is the defaults.

use super::*;

fn variable(name: &str) -> Option<String> {
    (name == "SITE").then(|| "north".to_owned())
}

fn env() -> Env<'static> {
    Env {
        variable: &variable,
        host_name: "box 7".to_owned(),
    }
}

fn parse_with(text: &str, sets: &[&str]) -> Result<Config, ConfigError> {
    let sets: Vec<String> = sets.iter().map(|s| (*s).to_owned()).collect();
    Config::parse("headwater.toml", text, &sets, &env())
}

fn parse(text: &str) -> Config {
    parse_with(text, &[]).unwrap_or_else(|e| panic!("{e}"))
}

fn refusal(text: &str, sets: &[&str]) -> String {
    parse_with(text, sets)
        .expect_err("this configuration is wrong")
        .to_string()
}

#[test]
fn every_refusal_has_a_place_a_cause_and_something_to_try() {
    // Text, what is said. Golden: people and scripts read these.
    let cases = [
        (
            "[storage]\n\nretian = 1\nqota = \"1GiB\"\n",
            "headwater.toml:3: unknown key \"storage.retian\". Try: one of quota, profile, linger, wear_budget, linger_max, write_cycles, cache, tail, queue, commit_max",
        ),
        (
            "[storage]\nqota = \"1GiB\"\n",
            "headwater.toml:2: unknown key \"storage.qota\". Try: \"quota\"",
        ),
        (
            "[storage]\nquota = \"8MiB\"\n",
            "headwater.toml:2: storage.quota = \"8MiB\" is too small for the store's own files. Try: quota = \"80%\", or a size of at least \"64MiB\"",
        ),
        (
            "[[topic]]\nname = \"a\"\nshed = \"newest\"\n",
            "headwater.toml:3: topic.shed = \"newest\" is not known. Try: shed = \"oldest\" (when the quota is reached its oldest records go), or \"refuse\" (new ones are refused)",
        ),
        (
            "[[topics]]\nname = \"a\"\n",
            "headwater.toml:1: unknown key \"topics\". Try: \"topic\"",
        ),
        (
            "[node]\nname = \"a b\"\n",
            "headwater.toml:2: node.name = \"a b\" has characters other than letters, digits, '.', '_' and '-'. Try: name = \"gw-1\"",
        ),
        (
            "[node]\nname = 7\n",
            "headwater.toml:2: node.name cannot be a number. Try: name = \"text in quotes\"",
        ),
        (
            "[topic_defaults]\npartitions = 0\n",
            "headwater.toml:2: topic_defaults.partitions = 0 is out of range. Try: partitions = a whole number from 1 to 10000",
        ),
        (
            "[topic_defaults]\nretention_time = \"7\"\n",
            "headwater.toml:2: topic_defaults.retention_time = \"7\" is not a positive amount with a unit. Try: retention_time = \"7d\", or \"unlimited\"",
        ),
        (
            "[storage]\ncache = \"64\"\n",
            "headwater.toml:2: storage.cache = \"64\" is not a size. Try: cache = \"16MiB\"; it may be 256KiB to 16GiB",
        ),
        (
            "[listen]\nmqtt = [\"127.0.0.1:1\",\n  \"1883\"]\n",
            "headwater.toml:3: \"1883\" is not an address to listen on. Try: mqtt = \"127.0.0.1:1883\": an IP address (IPv6 in brackets), a colon and a port",
        ),
        (
            "[listen]\nmqtt = \"127.0.0.1:9092\"\n",
            "headwater.toml:1: 127.0.0.1:9092 is taken already by line 2. Try: another port",
        ),
        (
            "[listen]\nkafka = \"0.0.0.0:9092\"\n",
            "headwater.toml:2: 0.0.0.0:9092 would be open to everybody in reach, and nothing says that this is meant. Try: allow_anonymous = true in [listen], if everybody in reach may connect; else a loopback address",
        ),
        (
            "[[listener]]\nprotocol = \"mqtt\"\naddress = \"0.0.0.0:8883\"\nallow_anonymous = false\n",
            "headwater.toml:3: 0.0.0.0:8883 would be open to everybody in reach, and nothing says that this is meant. Try: allow_anonymous = true here, if everybody in reach may connect; else a loopback address",
        ),
        (
            "[[topic]]\nname = \"a\"\n[[topic]]\nname = \"a\"\n",
            "headwater.toml:3: a second [[topic]] named \"a\"; the first is at line 1. Try: one table for it, or another name",
        ),
        (
            "[[topic]]\nname = \"a/b\"\n",
            "headwater.toml:2: topic.name = \"a/b\": '/' at byte 1 cannot be in a topic name. Try: letters, digits, '.', '_' and '-' only",
        ),
        (
            "\n[[upstream]]\nname = \"c\"\n",
            "headwater.toml:2: upstream.bootstrap of \"c\" names no broker. Try: bootstrap = [\"kafka-1.example:9092\"]",
        ),
        (
            "[[upstream]]\nname = \"c\"\nbootstrap = [\n\"a:1\",\n\"b\",\n]\n",
            "headwater.toml:5: upstream.bootstrap: \"b\" is not a host and a port. Try: \"kafka-1.example:9092\"",
        ),
        (
            "[node]\nname = \"${NOWHERE}\"\n",
            "headwater.toml:2: the environment has no variable \"NOWHERE\". Try: NOWHERE=... headwater serve, or Environment= in the systemd unit",
        ),
        (
            "[[route]]\ntopic = \"x\"\n",
            "headwater.toml:1: route.match is missing. Try: match = \"plant/+line/#\"",
        ),
    ];
    for (text, said) in cases {
        assert_eq!(refusal(text, &[]), said, "{text}");
    }
}

#[test]
fn syntax_errors_and_double_keys_name_their_line() {
    let said = refusal("[node]\nname = \"a\"\nname = \"b\"\n", &[]);
    assert!(said.starts_with("headwater.toml:3: duplicate key"), "{said}");
    let said = refusal("[node]\n\nname = gw\n", &[]);
    assert!(
        said.starts_with("headwater.toml:3: ") && said.contains(". Try: "),
        "{said}"
    );
}

#[test]
fn set_wins_over_the_file_and_finds_tables_by_name_and_index() {
    let text =
        "[node]\nname = \"a\"\n[[upstream]]\nname = \"central\"\nbootstrap = [\"a:1\"]\n[[topic]]\nname = \"x.y\"\n";
    let sets = [
        "node.name=7",
        "listen.mqtt=127.0.0.1:0",
        "listen.compact=",
        "upstream.central.bootstrap=b:2,c:3",
        "upstream.1.name=second",
        "upstream.second.bootstrap=[\"d:4\"]",
        "topic.\"x.y\".partitions=3",
        "topic.new.retention_time=1h",
        "topic_defaults.auto_create=false",
    ];
    let config = parse_with(text, &sets).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(config.node.name, "7");
    assert_eq!(config.listeners.len(), 3);
    assert_eq!(config.listeners[0].address.to_string(), "127.0.0.1:0");
    assert_eq!(config.upstreams[0].bootstrap, ["b:2", "c:3"]);
    assert_eq!(
        (
            config.upstreams[1].name.as_str(),
            config.upstreams[1].bootstrap[0].as_str()
        ),
        ("second", "d:4")
    );
    assert_eq!(config.topics[0].partitions, Some(3));
    assert_eq!(
        (config.topics[1].name.as_str(), config.topics[1].retention_ms),
        ("new", Some(Some(3_600_000)))
    );
    assert!(!config.topic_defaults.auto_create);
}

#[test]
fn a_wrong_set_is_named_as_such() {
    for (set, said) in [
        (
            "listen.mqt=127.0.0.1:1",
            "--set listen.mqt: unknown key \"listen.mqt\". Try: \"mqtt\"",
        ),
        (
            "node.name",
            "--set node.name: there is no '=' in it. Try: --set listen.mqtt=127.0.0.1:1884",
        ),
        (
            "a..b=1",
            "--set a..b: that is not a dotted path. Try: --set section.key=value, or topic.\"a.b\".key for a name with dots",
        ),
        (
            "route.2.topic=x",
            "--set route.2.topic: there is no [[route]] number 2: there are 0, counted from 0. Try: route.0 to add one",
        ),
        (
            "topic_defaults.partitions=many",
            "--set topic_defaults.partitions: topic_defaults.partitions cannot be a string. Try: partitions = a whole number from 1 to 10000",
        ),
    ] {
        assert_eq!(refusal("", &[set]), said);
    }
}

#[test]
fn the_environment_fills_strings_and_is_not_shown() {
    let config = parse("[node]\nname = \"gw-${SITE}\"\ndata_dir = \"$${SITE}\"\n");
    assert_eq!(config.node.name, "gw-north");
    assert_eq!(config.node.data_dir, Path::new("${SITE}"));
    assert!(config.effective_toml().contains("name = \"gw-${SITE}\""));
    assert!(!config.effective_toml().contains("north"));
}

#[test]
fn a_key_that_proves_who_connects_opens_a_compact_listener() {
    let text = "[[listener]]\nprotocol = \"compact\"\naddress = \"0.0.0.0:7421\"\npsk_file = \"keys\"\n";
    let listener = parse(text).listeners.pop().expect("a listener");
    assert!(!listener.allow_anonymous);
    assert_eq!(listener.psk_file.as_deref(), Some(Path::new("keys")));
    let said = refusal(&text.replace("compact", "mqtt"), &[]);
    assert!(
        said.starts_with("headwater.toml:4: only the compact protocol"),
        "{said}"
    );
    let said = refusal(&format!("{text}allow_anonymous = true\n"), &[]);
    assert!(
        said.starts_with("headwater.toml:5: allow_anonymous = true contradicts"),
        "{said}"
    );
}

#[test]
fn what_is_shown_parses_to_the_same() {
    let text = "[[topic]]\nname = \"t\"\nretention_size = \"unlimited\"\n[[route]]\nmatch = \"a/#\"\ntopic = \"t\"\nheaders = { z = \"1\", a = \"2\" }\n\
                [[upstream]]\nname = \"c\"\nbootstrap = \"a:1\"\n[[listener]]\nprotocol = \"http\"\naddress = \"[::1]:80\"\n";
    let config = parse_with(text, &["upstream.c.topics=a*,!ab", "node.name=5"]).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(
        config.routes[0].headers,
        [("z".to_owned(), "1".to_owned()), ("a".to_owned(), "2".to_owned())]
    );
    let again = parse(config.effective_toml());
    // Lines differ, so what is in force is compared.
    assert_eq!(again.effective_toml(), config.effective_toml());
    assert_eq!(again.upstreams[0].topics, ["a*", "!ab"]);
}

#[test]
fn the_shipped_file_is_the_defaults() {
    let default = Config::parse("default", DEFAULT, &[], &env()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(default.effective_toml(), parse("").effective_toml());
    assert_eq!(default.node.name, "box-7");
}

#[test]
fn every_key_in_the_shipped_file_is_known_also_those_commented_out() {
    // A commented line with ` = ` or a table header is an example; anything else is prose.
    let example = |line: &&str| {
        let body = line.trim_start_matches("# ");
        let key = body.split_once(" = ").map_or("", |(key, _)| key.trim());
        let bare = !key.is_empty() && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        bare || (body.starts_with("[[") && body.ends_with("]]"))
    };
    let lines = |line: &str| match example(&line) {
        true => line.trim_start_matches("# ").to_owned(),
        false => String::new(),
    };
    let all: Vec<_> = DEFAULT
        .lines()
        .map(|l| if l.starts_with('#') { lines(l) } else { l.to_owned() })
        .collect();
    let config = parse(&all.join("\n"));
    assert_eq!(
        (
            config.topics.len(),
            config.routes.len(),
            config.upstreams.len(),
            config.listeners.len()
        ),
        (1, 1, 1, 5)
    );
    let keys = [
        "name",
        "data_dir",
        "mqtt",
        "kafka",
        "compact",
        "http",
        "kafka_advertised",
        "protocol",
        "address",
        "allow_anonymous",
        "quota",
        "profile",
        "linger",
        "wear_budget",
        "linger_max",
        "write_cycles",
        "auto_create",
        "partitions",
        "retention_time",
        "retention_size",
        "priority",
        "shed",
        "match",
        "topic",
        "key",
        "headers",
        "bootstrap",
        "topics",
        "topic_name",
    ];
    for key in keys {
        let shown = config
            .effective_toml()
            .lines()
            .any(|line| line.split_once(" = ").is_some_and(|(k, _)| k == key));
        assert!(shown, "{key}");
    }
}

#[test]
fn a_missing_file_says_how_to_begin() {
    let said = Config::load(Some(Path::new("/nonexistent/headwater.toml")), &[], &env())
        .expect_err("no file")
        .to_string();
    assert!(
        said.starts_with("/nonexistent/headwater.toml: ") && said.contains("headwater config default"),
        "{said}"
    );
}
