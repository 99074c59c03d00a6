//! InitProducerId: ids come in blocks that are taken from the store before any of them is given out, so a killed broker never
//! gives one out twice; it only skips what was left of its block.

use std::ops::Range;

use super::call::{Call, Context, Step, answer, error};
use super::produce::TRANSACTIONS_REFUSED;
use crate::kafka_wire::messages::{InitProducerIdRequest, InitProducerIdResponse, ProducerId};
use crate::log::{Committed, Expect, StateChange, Submission, Table, Ticket};
use crate::model::{Code, Output};

/// Where the first id that nobody has is kept in `Table::Kafka`, eight bytes, big endian.
const KEY: &[u8] = b"producer_id_next";
/// Ids in a block.
const BLOCK: u64 = 1000;

/// Ids that may be given out.
pub(super) type Block = Range<u64>;

struct InitProducerId {
    transactional: bool,
    taking: Option<(Block, Ticket<Committed>)>,
}

pub(super) fn begin(request: InitProducerIdRequest) -> Box<dyn Call> {
    Box::new(InitProducerId {
        transactional: request.transactional_id.is_some(),
        taking: None,
    })
}

/// Asks the store for the next block; somebody else may be quicker.
fn take_block(cx: &Context<'_>) -> Result<(Block, Ticket<Committed>), Code> {
    let stored = cx.broker.log.state(Table::Kafka, KEY).map_err(|refused| refused.code)?;
    let first = match stored.as_deref().map(<[u8; 8]>::try_from) {
        Some(Ok(bytes)) => u64::from_be_bytes(bytes),
        Some(Err(_)) => return Err(Code::Storage),
        None => cx.broker.producer_id_first,
    };
    let next = first.saturating_add(BLOCK);
    let change = StateChange {
        table: Table::Kafka,
        key: KEY.to_vec(),
        expect: stored.map_or(Expect::Absent, Expect::Value),
        value: Some(next.to_be_bytes().to_vec()),
    };
    let submission = Submission {
        appends: Vec::new(),
        state: vec![change],
    };
    Ok((first..next, cx.broker.log.submit(submission, cx.waker)))
}

impl InitProducerId {
    fn id(&mut self, cx: &Context<'_>) -> Result<Option<i64>, i16> {
        if self.transactional {
            return Err(TRANSACTIONS_REFUSED);
        }
        loop {
            if let Some((block, ticket)) = &mut self.taking {
                let block = block.clone();
                let Some(result) = ticket.take() else {
                    return Ok(None);
                };
                self.taking = None;
                match result {
                    Ok(_) => *cx.broker.producer_ids() = block,
                    Err(refused) if refused.code == Code::Conflict => {}
                    Err(refused) => return Err(refused.code.kafka()),
                }
            }
            let id = cx.broker.producer_ids().next();
            if let Some(id) = id.and_then(|id| i64::try_from(id).ok()) {
                return Ok(Some(id));
            }
            self.taking = Some(take_block(cx).map_err(Code::kafka)?);
        }
    }
}

impl Call for InitProducerId {
    fn poll(&mut self, cx: &Context<'_>, out: &mut Output) -> Step {
        let response = InitProducerIdResponse::default();
        let response = match self.id(cx) {
            Ok(None) => return Step::Waiting,
            Ok(Some(id)) => response.with_producer_id(ProducerId(id)).with_producer_epoch(0),
            Err(code) => response
                .with_error_code(error(cx, code))
                .with_producer_id(ProducerId(-1))
                .with_producer_epoch(-1),
        };
        answer::<InitProducerIdRequest>(&response, cx, out)
    }
}
