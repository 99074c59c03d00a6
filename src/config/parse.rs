//! The schema: every key with its type, range and default, read from the tree into `Config`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use super::error::{Mistake, Place, wrong};
use super::section::Section;
use super::tree::{Item, Table, quote};
use super::{
    Clock, Config, Env, Limits, Listener, Node, Profile, Protocol, QUOTA_BYTES_MIN, Quota, RouteEntry, Shed, Storage,
    TopicDefaults, TopicEntry, Upstream, units,
};
use crate::model::Topic;
use crate::model::clock::Trust;

/// Reads a whole tree.
pub(super) fn config(root: &Table, env: &Env<'_>) -> Result<Config, Mistake> {
    let top = Place::Line(1);
    let mut root = Section::new("", top, root);
    let mut shown = String::new();
    let node = in_table(&mut root, &mut shown, "node", |s| node(s, env))?;
    let (mut listeners, kafka_advertised) = in_table(&mut root, &mut shown, "listen", listen)?;
    listeners.extend(each(&mut root, &mut shown, "listener", listener)?);
    no_address_twice(&listeners)?;
    let storage = in_table(&mut root, &mut shown, "storage", storage)?;
    let topic_defaults = in_table(&mut root, &mut shown, "topic_defaults", topic_defaults)?;
    let topics = each(&mut root, &mut shown, "topic", topic)?;
    no_name_twice("topic", topics.iter().map(|(place, t)| (place, t.name.as_str())))?;
    let routes = each(&mut root, &mut shown, "route", route)?;
    let upstreams = each(&mut root, &mut shown, "upstream", upstream)?;
    no_name_twice("upstream", upstreams.iter().map(|(place, u)| (place, u.name.as_str())))?;
    let limits = in_table(&mut root, &mut shown, "limits", limits)?;
    let clock = in_table(&mut root, &mut shown, "clock", clock)?;
    root.finish()?;
    Ok(Config {
        node,
        listeners: values(listeners),
        kafka_advertised,
        storage,
        topic_defaults,
        topics: values(topics),
        routes: values(routes),
        upstreams: values(upstreams),
        limits,
        clock,
        shown,
    })
}

type Placed<T> = (Place, T);

fn values<T>(placed: Vec<Placed<T>>) -> Vec<T> {
    placed.into_iter().map(|(_, value)| value).collect()
}

/// Reads `[name]` and refuses what is left over in it.
fn in_table<T>(
    root: &mut Section<'_>,
    shown: &mut String,
    name: &'static str,
    read: impl FnOnce(&mut Section<'_>) -> Result<T, Mistake>,
) -> Result<T, Mistake> {
    let (place, table) = root.table(name)?;
    let mut section = Section::new(name, place, table);
    let value = read(&mut section)?;
    shown.push_str(&format!("[{name}]\n{}\n", section.finish()?));
    Ok(value)
}

/// Reads every `[[name]]`.
fn each<T>(
    root: &mut Section<'_>,
    shown: &mut String,
    name: &'static str,
    read: impl Fn(&mut Section<'_>) -> Result<T, Mistake>,
) -> Result<Vec<Placed<T>>, Mistake> {
    let one = |(place, table): (Place, &Vec<(String, Item)>)| {
        let mut section = Section::new(name, place.clone(), table);
        let value = read(&mut section)?;
        shown.push_str(&format!("[[{name}]]\n{}\n", section.finish()?));
        Ok((place, value))
    };
    root.tables(name)?.into_iter().map(one).collect()
}

fn node(s: &mut Section<'_>, env: &Env<'_>) -> Result<Node, Mistake> {
    let name = s.text("name", &node_name_of_host(&env.host_name))?;
    if let Err(cause) = check_node_name(&name) {
        return wrong(
            &s.place_of("name"),
            format!("node.name = {name:?} {cause}"),
            "name = \"gw-1\"",
        );
    }
    let data_dir = s.text("data_dir", "headwater-data")?;
    if data_dir.is_empty() || data_dir.contains('\0') {
        return wrong(
            &s.place_of("data_dir"),
            "node.data_dir is not a path",
            "data_dir = \"headwater-data\"",
        );
    }
    Ok(Node {
        name,
        data_dir: PathBuf::from(data_dir),
    })
}

/// A node's name goes into topic names upstream, so it keeps to their characters.
fn check_node_name(name: &str) -> Result<(), &'static str> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    match name.len() {
        0 => Err("is empty"),
        65.. => Err("is longer than 64 characters"),
        _ if !name.bytes().all(legal) => Err("has characters other than letters, digits, '.', '_' and '-'"),
        _ => Ok(()),
    }
}

fn node_name_of_host(host: &str) -> String {
    let legal = |c: char| {
        if c.is_ascii_alphanumeric() || matches!(c, '.' | '-') {
            c
        } else {
            '-'
        }
    };
    let name: String = host.chars().take(64).map(legal).collect();
    if name.is_empty() { "headwater".to_owned() } else { name }
}

type Listen = (Vec<Placed<Listener>>, Option<(String, u16)>);

fn listen(s: &mut Section<'_>) -> Result<Listen, Mistake> {
    let mut listeners = Vec::new();
    let kinds = [
        ("mqtt", Protocol::Mqtt, "127.0.0.1:1883"),
        ("kafka", Protocol::Kafka, "127.0.0.1:9092"),
        ("compact", Protocol::Compact, "127.0.0.1:7420"),
        ("http", Protocol::Http, "127.0.0.1:7480"),
    ];
    let mut addresses = Vec::new();
    for (key, protocol, default) in kinds {
        for (place, text) in s.list(key, &[default])? {
            if !text.is_empty() {
                addresses.push((protocol, address(&place, key, &text, default)?, place));
            }
        }
    }
    let advertised = s.text("kafka_advertised", "")?;
    let kafka_advertised = match advertised.as_str() {
        "" => None,
        text => Some(host_and_port(
            &s.place_of("kafka_advertised"),
            "listen.kafka_advertised",
            text,
        )?),
    };
    let allow_anonymous = s.flag("allow_anonymous", false)?;
    for (protocol, address, place) in addresses {
        let listener = Listener {
            protocol,
            address,
            allow_anonymous: allow_anonymous || is_loopback(address.ip()),
            psk_file: None,
        };
        must_be_open_on_purpose(
            &place,
            &listener,
            "allow_anonymous = true in [listen], if everybody in reach may connect; else a loopback address",
        )?;
        listeners.push((place, listener));
    }
    Ok((listeners, kafka_advertised))
}

fn listener(s: &mut Section<'_>) -> Result<Listener, Mistake> {
    let protocol = match s.text_required("protocol", "\"mqtt\"")?.as_str() {
        "mqtt" => Protocol::Mqtt,
        "kafka" => Protocol::Kafka,
        "compact" => Protocol::Compact,
        "http" => Protocol::Http,
        other => {
            return wrong(
                &s.place_of("protocol"),
                format!("listener.protocol = {other:?} is not spoken here"),
                "protocol = \"mqtt\", \"kafka\", \"compact\" or \"http\"",
            );
        }
    };
    let example = "127.0.0.1:1884";
    let text = s.text_required("address", &quote(example))?;
    let address = address(&s.place_of("address"), "address", &text, example)?;
    let psk_file = s
        .text_if("psk_file")?
        .filter(|file| !file.is_empty())
        .map(PathBuf::from);
    if psk_file.is_some() && protocol != Protocol::Compact {
        return wrong(
            &s.place_of("psk_file"),
            "only the compact protocol knows a psk_file",
            "protocol = \"compact\", or no psk_file",
        );
    }
    let written = s.flag_if("allow_anonymous")?;
    if psk_file.is_some() && written == Some(true) {
        return wrong(
            &s.place_of("allow_anonymous"),
            "allow_anonymous = true contradicts psk_file, which asks every device for its key",
            "one of the two",
        );
    }
    let listener = Listener {
        protocol,
        address,
        allow_anonymous: written.unwrap_or(psk_file.is_none() && is_loopback(address.ip())),
        psk_file,
    };
    let hint = match protocol {
        Protocol::Compact => "psk_file = \"devices.psk\", or allow_anonymous = true if everybody in reach may connect",
        _ => "allow_anonymous = true here, if everybody in reach may connect; else a loopback address",
    };
    must_be_open_on_purpose(&s.place_of("address"), &listener, hint)?;
    Ok(listener)
}

/// Without a way to tell who connects, a listener must say that anybody may.
fn must_be_open_on_purpose(place: &Place, listener: &Listener, hint: &str) -> Result<(), Mistake> {
    if listener.allow_anonymous || listener.psk_file.is_some() {
        return Ok(());
    }
    wrong(
        place,
        format!(
            "{} would be open to everybody in reach, and nothing says that this is meant",
            listener.address
        ),
        hint,
    )
}

fn is_loopback(ip: IpAddr) -> bool {
    // An IPv4 address in IPv6 clothes counts as what it is.
    ip.to_canonical().is_loopback()
}

fn address(place: &Place, key: &str, text: &str, example: &str) -> Result<SocketAddr, Mistake> {
    let text = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.to_owned(),
    };
    match text.parse() {
        Ok(address) => Ok(address),
        Err(_) => wrong(
            place,
            format!("{text:?} is not an address to listen on"),
            format!("{key} = \"{example}\": an IP address (IPv6 in brackets), a colon and a port"),
        ),
    }
}

fn host_and_port(place: &Place, key: &str, text: &str) -> Result<(String, u16), Mistake> {
    let parts = text
        .rsplit_once(':')
        .and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
    let plain = |host: &str| !host.is_empty() && !host.contains([' ', '/', '"', ':', '[', ']', '\0']);
    match parts {
        Some((host, port)) if port > 0 => {
            let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
            let ipv6 = bare.is_some_and(|h| h.parse::<std::net::Ipv6Addr>().is_ok());
            if ipv6 || plain(host) {
                return Ok((bare.unwrap_or(host).to_owned(), port));
            }
        }
        _ => {}
    }
    wrong(
        place,
        format!("{key}: {text:?} is not a host and a port"),
        "\"kafka-1.example:9092\"",
    )
}

fn no_address_twice(listeners: &[Placed<Listener>]) -> Result<(), Mistake> {
    for (i, (place, listener)) in listeners.iter().enumerate() {
        let same = |(_, other): &&Placed<Listener>| other.address == listener.address && listener.address.port() != 0;
        if let Some((first, _)) = listeners.iter().take(i).find(same) {
            let whose = match first {
                Place::Line(line) => format!("line {line}"),
                Place::Set(key) => format!("--set {key}"),
            };
            return wrong(
                place,
                format!("{} is taken already by {whose}", listener.address),
                "another port",
            );
        }
    }
    Ok(())
}

fn no_name_twice<'a>(table: &str, names: impl Iterator<Item = (&'a Place, &'a str)>) -> Result<(), Mistake> {
    let mut seen: Vec<(&Place, &str)> = Vec::new();
    for (place, name) in names {
        if let Some((first, _)) = seen.iter().find(|(_, n)| *n == name) {
            return wrong(
                place,
                format!(
                    "a second [[{table}]] named {name:?}; the first is at line {}",
                    first.line()
                ),
                "one table for it, or another name",
            );
        }
        seen.push((place, name));
    }
    Ok(())
}

fn clock(s: &mut Section<'_>) -> Result<Clock, Mistake> {
    let name = s.text("trust", "auto")?;
    let Some(trust) = Trust::parse(&name) else {
        return wrong(
            &s.place_of("trust"),
            format!("clock.trust = {name:?} is not known"),
            "trust = \"auto\", \"always\" or \"never\"",
        );
    };
    Ok(Clock { trust })
}

fn storage(s: &mut Section<'_>) -> Result<Storage, Mistake> {
    let quota = s.text("quota", "80%")?;
    let percent = quota.strip_suffix('%').and_then(|p| p.parse::<u8>().ok());
    let quota = match (percent.filter(|p| (1..=100).contains(p)), units::size_bytes(&quota)) {
        (Some(percent), _) => Quota::Share(percent),
        (None, Some(bytes)) if bytes >= QUOTA_BYTES_MIN => Quota::Bytes(bytes),
        (None, found) => {
            let what = match found.filter(|bytes| *bytes > 0) {
                Some(_) => "is too small for the store's own files",
                None => "is neither a share nor a size",
            };
            return wrong(
                &s.place_of("quota"),
                format!("storage.quota = {quota:?} {what}"),
                "quota = \"80%\", or a size of at least \"64MiB\"",
            );
        }
    };
    let profile = s.text("profile", "auto")?;
    let profile = match profile.as_str() {
        "auto" => Profile::Auto,
        "ssd" => Profile::Ssd,
        "sd" => Profile::Sd,
        _ => {
            return wrong(
                &s.place_of("profile"),
                format!("storage.profile = {profile:?} is not known"),
                "profile = \"auto\", \"ssd\" or \"sd\"",
            );
        }
    };
    let linger = s.text("linger", "auto")?;
    let linger_us = match linger.as_str() {
        "auto" => None,
        text => match units::duration_us(text) {
            Some(us) if us <= 10_000_000 => Some(us),
            _ => {
                return wrong(
                    &s.place_of("linger"),
                    format!("storage.linger = {text:?} is not a duration of at most 10s"),
                    "linger = \"auto\", or \"5ms\"",
                );
            }
        },
    };
    let wear_budget = s.text("wear_budget", "unlimited")?;
    Ok(Storage {
        linger_us,
        quota,
        profile,
        wear_budget: s.bound("wear_budget", &wear_budget, units::size_bytes, "20GB")?,
        linger_us_max: s.duration_ms("linger_max", "1ms", "10s", "100ms")? * 1000,
        write_cycles: s.number("write_cycles", 1..=1_000_000, 500)?,
        cache_bytes: s.size("cache", "256KiB", "16GiB", "16MiB")?,
        tail_bytes: s.size("tail", "64KiB", "16GiB", "8MiB")?,
        queue_bytes: s.size("queue", "64KiB", "1GiB", "4MiB")?,
        commit_bytes_max: s.size("commit_max", "64KiB", "256MiB", "4MiB")?,
    })
}

/// Of one topic.
const PARTITIONS_MAX: u64 = 10_000;

/// How long, and how much of a partition, `hold_until_forwarded` keeps at most.
const HOLD_TIME: &str = "30d";
const HOLD_SIZE: &str = "1GiB";

fn topic_defaults(s: &mut Section<'_>) -> Result<TopicDefaults, Mistake> {
    let auto_create = s.flag("auto_create", true)?;
    let partitions = s.number("partitions", 1..=PARTITIONS_MAX, 4)? as u32;
    let time = s.text("retention_time", "7d")?;
    let size = s.text("retention_size", "256MiB")?;
    let (hold_time, hold_size) = (s.text("hold_time_max", HOLD_TIME)?, s.text("hold_size_max", HOLD_SIZE)?);
    Ok(TopicDefaults {
        auto_create,
        partitions,
        retention_ms: s.bound("retention_time", &time, units::duration_ms, "7d")?,
        retention_bytes: s.bound("retention_size", &size, units::size_bytes, "256MiB")?,
        priority: s.number("priority", 0..=9, 5)? as u8,
        hold_until_forwarded: s.flag("hold_until_forwarded", false)?,
        hold_ms_max: s.bound("hold_time_max", &hold_time, units::duration_ms, HOLD_TIME)?,
        hold_bytes_max: s.bound("hold_size_max", &hold_size, units::size_bytes, HOLD_SIZE)?,
        batch_bytes_max: s.size("batch_max", "1KiB", "64MiB", "1MiB")?,
    })
}

fn topic(s: &mut Section<'_>) -> Result<TopicEntry, Mistake> {
    let name = s.text_required("name", "\"sensors\"")?;
    let name = match Topic::parse(&name) {
        Ok(name) if name.is_internal() => {
            return wrong(
                &s.place_of("name"),
                format!(
                    "topic.name = {:?}: names beginning with __ are headwater's own",
                    name.as_str()
                ),
                "another name",
            );
        }
        Ok(name) => name,
        Err(e) => {
            let text = e.to_string();
            let (cause, hint) = text.split_once(". Try: ").unwrap_or((&text, "another name"));
            return wrong(&s.place_of("name"), format!("topic.name = {name:?}: {cause}"), hint);
        }
    };
    let mut bound = |key, parse, example| {
        let text = s.text_if(key)?;
        text.map(|text| s.bound(key, &text, parse, example)).transpose()
    };
    let retention_ms = bound("retention_time", units::duration_ms, "7d")?;
    let retention_bytes = bound("retention_size", units::size_bytes, "256MiB")?;
    let hold_ms_max = bound("hold_time_max", units::duration_ms, HOLD_TIME)?;
    let hold_bytes_max = bound("hold_size_max", units::size_bytes, HOLD_SIZE)?;
    Ok(TopicEntry {
        name,
        line: s.place().line(),
        partitions: s.number_if("partitions", 1..=PARTITIONS_MAX)?.map(|n| n as u32),
        retention_ms,
        retention_bytes,
        priority: s.number_if("priority", 0..=9)?.map(|n| n as u8),
        shed: shed(s)?,
        hold_until_forwarded: s.flag_if("hold_until_forwarded")?,
        hold_ms_max,
        hold_bytes_max,
    })
}

fn shed(s: &mut Section<'_>) -> Result<Option<Shed>, Mistake> {
    let Some(name) = s.text_if("shed")? else {
        return Ok(None);
    };
    match Shed::parse(&name) {
        Some(shed) => Ok(Some(shed)),
        None => wrong(
            &s.place_of("shed"),
            format!("topic.shed = {name:?} is not known"),
            "shed = \"oldest\" (when the quota is reached its oldest records go), or \"refuse\" (new ones are refused)",
        ),
    }
}

fn route(s: &mut Section<'_>) -> Result<RouteEntry, Mistake> {
    Ok(RouteEntry {
        line: s.place().line(),
        filter: s.text_required("match", "\"plant/+line/#\"")?,
        topic: s.text_required("topic", "\"plant-{line}\"")?,
        key: s.text_if("key")?,
        headers: s.pairs("headers")?,
    })
}

fn upstream(s: &mut Section<'_>) -> Result<Upstream, Mistake> {
    let name = s.text_required("name", "\"central\"")?;
    if let Err(cause) = check_node_name(&name) {
        return wrong(
            &s.place_of("name"),
            format!("upstream.name = {name:?} {cause}"),
            "name = \"central\"",
        );
    }
    let mut bootstrap = Vec::new();
    for (place, text) in s.list("bootstrap", &[])? {
        host_and_port(&place, "upstream.bootstrap", &text)?;
        bootstrap.push(text);
    }
    if bootstrap.is_empty() {
        return wrong(
            &s.place_of("bootstrap"),
            format!("upstream.bootstrap of {name:?} names no broker"),
            "bootstrap = [\"kafka-1.example:9092\"]",
        );
    }
    let mut topics = Vec::new();
    for (place, pattern) in s.list("topics", &["*"])? {
        let bare = pattern.strip_prefix('!').unwrap_or(&pattern);
        let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'*');
        if bare.is_empty() || !bare.bytes().all(legal) {
            return wrong(
                &place,
                format!("upstream.topics: {pattern:?} can match no topic"),
                "topics = [\"*\", \"!debug-*\"]: topic names in which * stands for any characters, with ! to leave out",
            );
        }
        topics.push(pattern);
    }
    let topic_name = s.text("topic_name", "{topic}")?;
    check_topic_name(&s.place_of("topic_name"), &topic_name)?;
    Ok(Upstream {
        name,
        bootstrap,
        topics,
        topic_name,
        request_timeout_ms: s.duration_ms("request_timeout", "1s", "10m", "30s")?,
        backoff_ms_max: s.duration_ms("backoff_max", "100ms", "1h", "30s")?,
        clock_wait_ms: s.duration_ms("clock_wait", "1s", "1h", "2m")?,
        inflight_bytes_max: s.size("inflight_max", "64KiB", "256MiB", "4MiB")?,
    })
}

/// The template may use {node} and {topic}, and must use {topic}: two topics must not end in one.
fn check_topic_name(place: &Place, template: &str) -> Result<(), Mistake> {
    let filled = template.replace("{node}", "n").replace("{topic}", "t");
    if Topic::parse(&filled).is_err() {
        return wrong(
            place,
            format!("upstream.topic_name = {template:?} gives no valid topic name"),
            "topic_name = \"{node}.{topic}\": {node}, {topic}, letters, digits, '.', '_' and '-'",
        );
    }
    if !template.contains("{topic}") {
        return wrong(
            place,
            format!("upstream.topic_name = {template:?} has no {{topic}}, so all topics would become one"),
            "topic_name = \"{node}.{topic}\"",
        );
    }
    Ok(())
}

fn limits(s: &mut Section<'_>) -> Result<Limits, Mistake> {
    Ok(Limits {
        connections: s.number("connections", 1..=1_000_000, 1024)? as usize,
        topics: s.number("topics", 1..=100_000, 1000)? as usize,
        partitions: s.number("partitions", 1..=100_000, 10_000)? as usize,
        mqtt_packet_bytes: s.size("mqtt_packet", "1KiB", "64MiB", "1MiB")?,
        mqtt_inflight: s.number("mqtt_inflight", 1..=65_535, 1024)? as u16,
        mqtt_outbound_bytes: s.size("mqtt_outbound", "16KiB", "256MiB", "1MiB")?,
        mqtt_subscriptions: s.number("mqtt_subscriptions", 1..=100_000, 100)? as usize,
        mqtt_session_expiry_s_max: (s.duration_ms("mqtt_session_expiry_max", "1s", "3650d", "7d")? / 1000) as u32,
        mqtt_sessions: s.number("mqtt_sessions", 1..=1_000_000, 10_000)? as usize,
        handshake_ms: s.duration_ms("handshake", "100ms", "10m", "10s")?,
        kafka_request_bytes: s.size("kafka_request", "64KiB", "256MiB", "8MiB")?,
        kafka_fetch_bytes: s.size("kafka_fetch", "64KiB", "256MiB", "4MiB")?,
        compact_frame_bytes: s.size("compact_frame", "256B", "1MiB", "16KiB")?,
        compact_devices: s.number("compact_devices", 1..=1_000_000, 10_000)? as usize,
    })
}
