//! The log refuses for now: the device is told to come back, and what it sends again is stored once.

use super::*;
use crate::log::fault::Faulty;
use crate::model::Code as Refusal;

fn on_faulty_disk() -> (Faulty, Bench) {
    let disk = Faulty::default();
    let bench = Bench::over(disk.inline(START), &default_config());
    (disk, bench)
}

#[test]
fn a_full_disk_is_code_4_until_there_is_room() {
    let (disk, bench) = on_faulty_disk();
    let mut line = bench.session();
    line.hello(5, 1);
    assert_eq!(line.publish(1), [Said::Ack(1)]);
    disk.set_full(true);
    for _ in 0..2 {
        assert_eq!(line.publish(2), [Said::Nack(2, Code::STORAGE, 2000)]);
    }
    disk.set_full(false);
    bench.log.set_now(later(2000));
    assert_eq!(line.publish(2), [Said::Ack(2)]);
    assert_eq!(bench.values(), numbers([1, 2]));
    assert_eq!(bench.row("pump-7").last, 2);
}

#[test]
fn a_disk_that_is_gone_is_code_4_at_once_and_the_session_lives() {
    let (disk, bench) = on_faulty_disk();
    let mut line = bench.session();
    line.hello(5, 1);
    assert_eq!(line.publish(1), [Said::Ack(1)]);
    disk.set_full(true);
    disk.set_gone(true);
    // Not even the device's row can be read.
    assert_eq!(line.publish(2), [Said::Nack(2, Code::STORAGE, 2000)]);
    assert!(line.session.wants_input(), "it would not hear the device");
    assert_eq!(line.publish(2), []);
    line.send(&Message::Ping(3), later(1500));
    assert_eq!(line.said(), [Said::Other(Message::Pong(3).number())]);
    disk.set_full(false);
    disk.set_gone(false);
    bench.log.set_now(later(2000));
    line.session.poll(later(2600));
    assert_eq!(line.said(), [Said::Nack(2, Code::STORAGE, 2000)]);
    assert_eq!(line.publish(2), [Said::Ack(2)]);
    assert_eq!(bench.values(), numbers([1, 2]));
}

#[test]
fn a_quota_that_is_reached_is_code_3() {
    let bench = Bench::new();
    let mut line = bench.session();
    line.hello(5, 1);
    bench.log.refuse_with(Some(Refusal::Quota));
    assert_eq!(line.publish(1), [Said::Nack(1, Code::QUOTA, 10_000)]);
    bench.log.refuse_with(None);
    assert_eq!(line.publish(1), [Said::Ack(1)]);
    assert_eq!(bench.values(), numbers([1]));
}
