//! Every route, and who may ask.

use http_body_util::BodyExt;
use hyper::Request;

use super::*;
use crate::model::Now;
use crate::upstream::UpstreamStatus;

const HERE: std::net::Ipv4Addr = std::net::Ipv4Addr::LOCALHOST;

fn app(config: &Config) -> App {
    let now = Now {
        mono_us: 0,
        wall_ms: 1_700_000_000_000,
    };
    let statuses = Statuses::default();
    statuses.set(UpstreamStatus {
        name: "central".to_owned(),
        ..UpstreamStatus::default()
    });
    let process = || ProcessFacts {
        resident_bytes: 4096,
        cpu_seconds: 1.5,
        ..ProcessFacts::default()
    };
    App::new(
        config,
        Log::inline(now),
        Arc::new(Metrics::default()),
        statuses,
        process,
    )
}

fn ask(app: &App, method: &str, path: &str, host: Option<&str>) -> (u16, hyper::HeaderMap, String) {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(host) = host {
        request = request.header(HOST, host);
    }
    let (parts, ()) = request.body(()).expect("a request").into_parts();
    let (head, body) = app.handle(&parts, HERE.into()).unwrap().into_parts();
    let body = smol::block_on(body.collect()).expect("a body").to_bytes();
    (
        head.status.as_u16(),
        head.headers,
        String::from_utf8(body.to_vec()).expect("text"),
    )
}

#[test]
fn readiness_follows_health_and_health_names_what_is_degraded() {
    let app = app(&Config::default());
    assert_eq!(ask(&app, "GET", "/readyz", None).0, 503);
    app.metrics.health.set_ready(true);
    assert_eq!(ask(&app, "GET", "/readyz", None).0, 200);
    assert_eq!(ask(&app, "GET", "/healthz", None).2, "ok\n");
    app.metrics.health.degrade("storage", "the disk is full".to_owned());
    let (status, _, body) = ask(&app, "GET", "/healthz", None);
    assert_eq!((status, body.as_str()), (200, "degraded\nstorage: the disk is full\n"));
}

#[test]
fn metrics_are_prefixed_and_tell_of_the_process() {
    let (status, headers, body) = ask(&app(&Config::default()), "GET", "/metrics", None);
    assert_eq!(status, 200);
    assert!(
        headers[CONTENT_TYPE]
            .to_str()
            .expect("ascii")
            .starts_with("application/openmetrics-text")
    );
    assert!(
        body.contains("headwater_process_resident_memory_bytes 4096\n"),
        "{body}"
    );
    assert!(body.contains("headwater_process_cpu_seconds_total 1.5\n"), "{body}");
    assert!(
        body.contains(&format!(
            "headwater_build_info{{version=\"{}\"}} 1\n",
            env!("CARGO_PKG_VERSION")
        )),
        "{body}"
    );
    assert!(
        body.lines()
            .all(|line| line.starts_with('#') || line.starts_with("headwater_")),
        "{body}"
    );
    assert!(body.ends_with("# EOF\n"));
}

#[test]
fn the_api_answers_json() {
    let app = app(&Config::default());
    for path in ["/api/v1/node", "/api/v1/topics", "/api/v1/losses", "/api/v1/upstreams"] {
        let (status, headers, body) = ask(&app, "GET", path, None);
        assert_eq!(
            (status, headers[CONTENT_TYPE].to_str().expect("ascii")),
            (200, JSON),
            "{path}"
        );
        serde_json::from_str::<Value>(&body).expect(path);
    }
    let upstreams = ask(&app, "GET", "/api/v1/upstreams", None).2;
    let upstreams: Value = serde_json::from_str(&upstreams).expect("JSON");
    assert_eq!(upstreams[0]["name"], "central");
}

#[test]
fn other_paths_and_methods_are_refused_and_head_has_no_body() {
    let app = app(&Config::default());
    assert_eq!(ask(&app, "GET", "/nothing", None).0, 404);
    assert_eq!(ask(&app, "GET", "/healthz/", None).0, 404);
    let (status, headers, _) = ask(&app, "POST", "/healthz", None);
    assert_eq!((status, headers[ALLOW].to_str().expect("ascii")), (405, "GET, HEAD"));
    let (status, headers, body) = ask(&app, "HEAD", "/healthz", None);
    assert_eq!(
        (status, headers[CONTENT_LENGTH].to_str().expect("ascii"), body.as_str()),
        (200, "3", "")
    );
}

#[test]
fn on_loopback_a_foreign_host_name_is_refused() {
    let local = app(&Config::default());
    for host in [
        "127.0.0.1:7480",
        "localhost",
        "LOCALHOST:80",
        "[::1]:7480",
        "[::1]",
        "10.0.0.1",
    ] {
        assert_eq!(ask(&local, "GET", "/", Some(host)).0, 200, "{host}");
    }
    for host in [
        "evil.example",
        "evil.example:7480",
        "localhost.evil.example",
        "",
        "127.0.0.1.evil.example:1",
    ] {
        assert_eq!(ask(&local, "GET", "/metrics", Some(host)).0, 403, "{host}");
    }
    let sets = [
        "listen.http=0.0.0.0:7480".to_owned(),
        "listen.allow_anonymous=true".to_owned(),
    ];
    let open = Config::parse("t", "", &sets, &crate::config::Env::fixed()).expect("a good configuration");
    assert_eq!(ask(&app(&open), "GET", "/", Some("gateway.example")).0, 200);
}

#[test]
fn a_backup_goes_to_this_machine_only_and_only_by_get() {
    let app = app(&Config::default());
    let asked = |method: &str, host: &str, peer: IpAddr| {
        let request = hyper::Request::builder()
            .method(method)
            .uri("/api/v1/backup")
            .header(HOST, host);
        let answer = app.handle(&request.body(()).unwrap().into_parts().0, peer);
        answer.map(|answer| answer.status().as_u16())
    };
    let mapped = HERE.to_ipv6_mapped().into();
    assert_eq!(asked("GET", "127.0.0.1:7480", HERE.into()), None);
    assert_eq!(asked("GET", "127.0.0.1:7480", mapped), None);
    assert_eq!(asked("GET", "127.0.0.1:7480", IpAddr::from([10, 0, 0, 7])), Some(403));
    assert_eq!(asked("GET", "evil.example", HERE.into()), Some(403));
    assert_eq!(asked("POST", "127.0.0.1:7480", HERE.into()), Some(405));
}
