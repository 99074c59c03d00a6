//! FindCoordinator: this node is it for every group. Transactions have none.

use super::broker::NODE_ID;
use super::call::{Call, Context, Ready, error, text};
use super::produce::{TRANSACTIONS_REFUSED, TRANSACTIONS_REFUSED_WHY};
use crate::kafka_wire::messages::find_coordinator_response::Coordinator;
use crate::kafka_wire::messages::{BrokerId, FindCoordinatorRequest, FindCoordinatorResponse};
use crate::model::Code;

const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;

pub(super) fn begin(request: FindCoordinatorRequest, cx: &Context<'_>) -> Box<dyn Call> {
    let refused = match request.key_type {
        GROUP => None,
        TRANSACTION => Some((TRANSACTIONS_REFUSED, TRANSACTIONS_REFUSED_WHY)),
        _ => Some((Code::InvalidRequest.kafka(), "only groups have a coordinator here")),
    };
    let (host, port) = cx.broker.address(cx.peer);
    let mut response = FindCoordinatorResponse::default().with_error_message(None);
    if cx.version >= 4 {
        let coordinators = request.coordinator_keys.into_iter().map(|key| match refused {
            None => Coordinator::default()
                .with_key(key)
                .with_node_id(BrokerId(NODE_ID))
                .with_host(host.clone())
                .with_port(port)
                .with_error_message(None),
            Some((code, why)) => Coordinator::default()
                .with_key(key)
                .with_node_id(BrokerId(-1))
                .with_port(-1)
                .with_error_code(error(cx, code))
                .with_error_message(text(why)),
        });
        response.coordinators = coordinators.collect();
    } else if let Some((code, why)) = refused {
        response.error_code = error(cx, code);
        response.error_message = text(why).filter(|_| cx.version >= 1);
        response.node_id = BrokerId(-1);
        response.port = -1;
    } else {
        response.node_id = BrokerId(NODE_ID);
        response.host = host;
        response.port = port;
    }
    Ready::<FindCoordinatorRequest>::call(response)
}
