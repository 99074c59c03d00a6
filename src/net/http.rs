//! HTTP/1.1 on hyper over smol: reads requests, asks `http::App`, writes answers. A backup is written by a thread of its own, as fast
//! as its reader takes it.

use std::convert::Infallible;
use std::io::{Error, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{Either, Full, StreamBody};
use hyper::body::Frame;
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Response, header};
use smol::Async;
use smol::channel::{Receiver, bounded};
use smol::future::FutureExt;
use smol::stream::{Stream, StreamExt};
use smol_hyper::rt::{FuturesIo, SmolTimer};

use super::connection::Env;
use crate::http::App;
use crate::log::{Backup, Log};

/// Longest wait for a request's header.
const HEADER_SECONDS: u64 = 10;
/// Largest header; requests have no body that we read.
const HEADER_BYTES: usize = 16 * 1024;
/// Pieces of a backup that wait for its reader, of about a megabyte each.
const PIECES: usize = 2;
/// How much lower the priority of a backup is, as that of a flush.
const BACKUP_NICE: i32 = 10;

/// Serves one connection to its end, or until the broker stops.
pub async fn serve(stream: Async<TcpStream>, peer: SocketAddr, app: Rc<App>, env: Rc<Env>) {
    let service = service_fn(|request: hyper::Request<hyper::body::Incoming>| {
        let app = Rc::clone(&app);
        async move {
            let request = request.into_parts().0;
            let response = match app.handle(&request, peer.ip()) {
                Some(page) => page.map(Either::Left),
                None => backup(&request, app.log()).await,
            };
            Ok::<_, Infallible>(response)
        }
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

type Piece = Result<Bytes, Error>;
type Pieces = StreamBody<std::pin::Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, Error>>>>>;

/// Begins a backup.
async fn backup(request: &Parts, log: &Log) -> Response<Either<Full<Bytes>, Pieces>> {
    let log = log.clone();
    let taken = smol::unblock(move || log.backup(Waker::noop()).wait()).await;
    let begun = taken.map_err(|refused| refused.to_string()).and_then(|backup| {
        let (send, pieces) = bounded::<Piece>(PIECES);
        let thread = std::thread::Builder::new().name("log-backup".into());
        let spawned = thread.spawn(move || write(backup, &send));
        spawned.map(|_| pieces).map_err(|error| error.to_string())
    });
    match begun {
        Ok(pieces) => {
            let mut response = Response::new(Either::Right(body(pieces)));
            let kind = header::HeaderValue::from_static("application/octet-stream");
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            response
        }
        Err(why) => App::no_backup(request, &why).map(Either::Left),
    }
}

fn body(pieces: Receiver<Piece>) -> Pieces {
    StreamBody::new(Box::pin(pieces.map(|piece| piece.map(Frame::data))))
}

/// Runs on a thread of its own until all is sent, or nobody reads any more.
fn write(backup: Backup, send: &smol::channel::Sender<Piece>) {
    // Of this thread alone. Where it is not allowed, nothing but the priority is lost.
    if let Err(error) = rustix::process::nice(BACKUP_NICE) {
        tracing::debug!(%error, "a backup keeps its priority");
    }
    let written = backup.write(&mut |piece| {
        let sent = send.send_blocking(Ok(piece.into()));
        sent.map_err(|_| ErrorKind::BrokenPipe.into())
    });
    match written {
        Ok(report) if report.sound() => tracing::info!("a backup was made"),
        Ok(report) => tracing::error!(
            damaged = report.damaged.len(),
            "a backup was made without what cannot be read"
        ),
        Err(error) => {
            tracing::warn!(%error, "a backup ended early");
            // So that its reader does not take it for whole. There may be none any more.
            let _ = send.send_blocking(Err(Error::other("the backup ended early")));
        }
    }
}
