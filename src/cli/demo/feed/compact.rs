//! Readings over the compact protocol: a device as `headwater send` is one, with its queue in memory.

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use headwater_device::{Client, Event};

use super::super::super::send::link::{Link, LinkError};
use super::super::super::send::queue::HostQueue;
use super::{RETRY, Source};

/// Room for frames of 4 KiB.
const FRAME: usize = 4200;
const EPOCH: u32 = 1;
/// Longest wait for an ack before the next look at the sensors.
const WAIT: Duration = Duration::from_millis(20);

/// Feeds until there is nothing more to do; an error says why it cannot go on.
pub(super) fn feed(mut source: Source, address: &str) -> Result<(), String> {
    let mut device = Box::new(Client::<_, FRAME>::new("demo", EPOCH, HostQueue::volatile(EPOCH)));
    let mut link: Option<Link> = None;
    let mut backlog = VecDeque::new();
    let mut acked = 0;
    let (began, wall) = (Instant::now(), SystemTime::now().duration_since(UNIX_EPOCH));
    let now_ms = || i64::try_from((wall.clone().unwrap_or_default() + began.elapsed()).as_millis()).unwrap_or(i64::MAX);
    while !source.is_done(&backlog) && !source.is_abandoned() {
        source.take(&mut backlog);
        for outgoing in backlog.drain(..) {
            let pushed = device.push(Some(now_ms()), &outgoing.name, outgoing.value.as_bytes());
            let sequence = pushed.map_err(|_| "the device's queue is full".to_owned())?;
            // Acks are told in sequences, which begin at 1 and have no hole.
            debug_assert_eq!(sequence, outgoing.number as u64 + 1);
        }
        let Some(open) = &mut link else {
            match Link::connect(address) {
                Ok(fresh) => {
                    link = Some(fresh);
                    device.connected(now_ms());
                }
                Err(_) => std::thread::sleep(RETRY),
            }
            continue;
        };
        let polled = open.wait(WAIT).map_err(LinkError);
        match polled.and_then(|()| device.poll(open, now_ms())) {
            Ok(Some(Event::Open(last) | Event::Acked(last))) => {
                (acked..last).for_each(|number| source.ack(number as usize));
                acked = acked.max(last);
            }
            Ok(Some(Event::Refused(sequence, code))) => {
                return Err(format!("reading {sequence} was refused: {}", code.name()));
            }
            Ok(Some(Event::EpochUsed)) => return Err("the broker knows readings that were never sent".to_owned()),
            Ok(Some(Event::Ended(_) | Event::HungUp | Event::Silent)) | Err(_) => link = None,
            Ok(Some(Event::GoBack(..) | Event::Command(_) | Event::Time) | None) => {}
        }
    }
    Ok(())
}
