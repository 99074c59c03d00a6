//! HTTP/1.1 on hyper over smol: reads requests, asks `http::App`, writes answers.

use std::convert::Infallible;
use std::net::TcpStream;
use std::rc::Rc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use smol::Async;
use smol::future::FutureExt;
use smol_hyper::rt::{FuturesIo, SmolTimer};

use super::connection::Env;
use crate::http::App;

/// Longest wait for a request's header.
const HEADER_SECONDS: u64 = 10;
/// Largest header; requests have no body that we read.
const HEADER_BYTES: usize = 16 * 1024;

/// Serves one connection to its end, or until the broker stops.
pub async fn serve(stream: Async<TcpStream>, app: Rc<App>, env: Rc<Env>) {
    let service = service_fn(|request: hyper::Request<hyper::body::Incoming>| {
        let response = app.handle(&request.into_parts().0);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(SmolTimer::new())
        .header_read_timeout(Duration::from_secs(HEADER_SECONDS))
        .max_buf_size(HEADER_BYTES)
        .serve_connection(FuturesIo::new(stream), service);
    let served = async { connection.await.map_err(|error| error.to_string()) };
    let stopped = async {
        env.stopping.stopped().await;
        Ok(())
    };
    if let Err(error) = served.or(stopped).await {
        tracing::debug!(%error, "an HTTP connection ended");
    }
}
