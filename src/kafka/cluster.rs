//! DescribeCluster: one node.

use super::broker::NODE_ID;
use super::call::{Call, Context, Ready, error, text};
use crate::kafka_wire::messages::describe_cluster_response::DescribeClusterBroker;
use crate::kafka_wire::messages::{BrokerId, DescribeClusterRequest, DescribeClusterResponse};

/// UNSUPPORTED_ENDPOINT_TYPE
const UNSUPPORTED_ENDPOINT: i16 = 115;
const BROKERS: i8 = 1;

pub(super) fn begin(request: DescribeClusterRequest, cx: &Context<'_>) -> Box<dyn Call> {
    let mut response = DescribeClusterResponse::default().with_cluster_id(cx.broker.cluster_id.clone());
    if cx.version >= 1 && request.endpoint_type != BROKERS {
        response.error_code = error(cx, UNSUPPORTED_ENDPOINT);
        response.error_message = text("there are no controllers apart from the node");
        response.endpoint_type = BROKERS;
        return Ready::<DescribeClusterRequest>::call(response);
    }
    let (host, port) = cx.broker.address(cx.peer);
    let node = DescribeClusterBroker::default()
        .with_broker_id(BrokerId(NODE_ID))
        .with_host(host)
        .with_port(port);
    let response = response.with_controller_id(BrokerId(NODE_ID)).with_brokers(vec![node]);
    Ready::<DescribeClusterRequest>::call(response)
}
