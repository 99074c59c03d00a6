//! A request at work: what each API family is to the session, and the table from request to family.

use std::sync::Arc;
use std::task::Waker;

use super::broker::{Broker, Lease};
use super::{
    alter_configs, cluster, configs, coordinator, create_partitions, create_topics, delete_records, delete_topics,
    fetch, leader_epoch, list_offsets, metadata, produce, producer_id, versions,
};
use crate::kafka_wire::{Api, Request, RequestType, StrBytes, put_response};
use crate::model::{Now, Output, Peer};

/// What a call may look at.
pub(super) struct Context<'a> {
    pub(super) broker: &'a Arc<Broker>,
    pub(super) peer: &'a Peer,
    pub(super) waker: &'a Waker,
    pub(super) now: Now,
    /// The broker is stopping: answer with what there is.
    pub(super) stopping: bool,
    pub(super) version: i16,
    pub(super) correlation: i32,
}

/// How far a call is.
pub(super) enum Step {
    /// Its waker or its deadline will tell.
    Waiting,
    /// The answer is in the output, or there is none to give. The lease, if any, is held until the output is sent.
    Done(Option<Lease>),
    /// The connection cannot go on; the text says why.
    Close(String),
}

/// A request at work. Dropping it gives up what it waits for.
pub(super) trait Call: Send {
    /// Goes on as far as it can.
    fn poll(&mut self, cx: &Context<'_>, out: &mut Output) -> Step;

    /// Monotonic microseconds at which it must be polled.
    fn deadline_us(&self) -> Option<u64> {
        None
    }
}

/// Begins a request. What it asks of the log is asked now.
pub(super) fn begin(request: Request, cx: &Context<'_>) -> Box<dyn Call> {
    match request {
        Request::ApiVersions(_) => versions::begin(),
        Request::Metadata(request) => metadata::begin(request, cx),
        Request::Produce(request) => produce::begin(request, cx),
        Request::Fetch(request) => fetch::begin(request, cx),
        Request::ListOffsets(request) => list_offsets::begin(request, cx),
        Request::InitProducerId(request) => producer_id::begin(request),
        Request::FindCoordinator(request) => coordinator::begin(request, cx),
        Request::CreateTopics(request) => create_topics::begin(request, cx),
        Request::CreatePartitions(request) => create_partitions::begin(request, cx),
        Request::DeleteTopics(request) => delete_topics::begin(request, cx),
        Request::DeleteRecords(request) => delete_records::begin(request, cx),
        Request::AlterConfigs(request) => alter_configs::begin_replacing(request, cx),
        Request::IncrementalAlterConfigs(request) => alter_configs::begin_incremental(request, cx),
        Request::DescribeConfigs(request) => configs::begin(request, cx),
        Request::DescribeCluster(request) => cluster::begin(request, cx),
        Request::OffsetForLeaderEpoch(request) => leader_epoch::begin(request, cx),
    }
}

/// The versions of an API that are advertised. Produce begins at 0 although only 3 and later are decoded: librdkafka takes a
/// broker with a higher minimum for one without compression. No client of today sends what it was told of below 3.
pub(super) fn advertised(api: Api) -> (i16, i16) {
    match (api, api.versions()) {
        (Api::Produce, (_, max)) => (0, max),
        (_, versions) => versions,
    }
}

/// A call whose answer is known.
pub(super) struct Ready<R: RequestType>(pub(super) R::Response);

impl<R: RequestType> Ready<R>
where
    R::Response: Send + 'static,
    R: 'static,
{
    /// For `begin`.
    pub(super) fn call(response: R::Response) -> Box<dyn Call> {
        Box::new(Self(response))
    }
}

impl<R: RequestType> Call for Ready<R>
where
    R::Response: Send,
{
    fn poll(&mut self, cx: &Context<'_>, out: &mut Output) -> Step {
        answer::<R>(&self.0, cx, out)
    }
}

/// Puts an answer into the output.
pub(super) fn answer<R: RequestType>(response: &R::Response, cx: &Context<'_>, out: &mut Output) -> Step {
    match out.put_with(|buf| put_response::<R>(buf, cx.version, cx.correlation, response)) {
        Ok(()) => Step::Done(None),
        Err(e) => Step::Close(format!("an answer could not be encoded: {e}")),
    }
}

/// Counts an error code of an answer and gives it back. Names are Kafka's; what is not in the table counts as other.
pub(super) fn error(cx: &Context<'_>, code: i16) -> i16 {
    cx.broker.metrics().error(code);
    code
}

/// A text for an answer.
pub(super) fn text(text: impl Into<String>) -> Option<StrBytes> {
    Some(StrBytes::from_string(text.into()))
}
