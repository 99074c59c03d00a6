//! Downlink: which commands come, when again, and when no more.

use super::*;
use crate::log::{Append, Submission};
use crate::model::Topic;
use crate::model::batch::{Batch, pack};

fn command(bench: &Bench, key: &str, value: &str) {
    let record = Record {
        key: Some(key.to_owned().into()),
        value: Some(value.to_owned().into()),
        ..Record::default()
    };
    let topic = Topic::parse("commands").unwrap();
    let submission = Submission {
        appends: vec![Append::Record { topic, record }],
        state: Vec::new(),
    };
    bench.log.submit(submission, Waker::noop()).take().unwrap().unwrap();
}

#[test]
fn commands_wait_for_their_device_and_come_one_by_one_until_they_are_done() {
    let bench = Bench::new();
    let command = |key: &str, value: &str| command(&bench, key, value);
    let bytes = |value: &str| value.as_bytes().to_vec();
    command("pump-7", "open");
    command("another", "x");
    command("pump-7", &"large".repeat(100));
    command("pump-7", "close");
    let mut line = bench.session();
    let said = line.hello(5, 1);
    let [Said::Hello { last: 0 }, Said::Command(first, _, payload)] = &said[..] else {
        panic!("{said:?}")
    };
    assert_eq!(*payload, bytes("open"));
    // Without an answer it comes again, also to the next session.
    line.session.poll(later(5001));
    assert_eq!(line.said(), [Said::Command(*first, String::new(), bytes("open"))]);
    line.session.gone(later(5001));
    let mut line = bench.session();
    assert_eq!(line.hello(5, 1)[1], Said::Command(*first, String::new(), bytes("open")));
    line.send(&Message::CommandAck(*first), START);
    let said = line.said();
    let [Said::Command(second, _, payload)] = &said[..] else {
        panic!("{said:?}")
    };
    assert_eq!(*payload, bytes("close"));
    assert_eq!(bench.metrics.compact.commands_too_large.get(), 1);
    line.send(&Message::CommandAck(*second), START);
    line.session.gone(START);
    let mut line = bench.session();
    assert_eq!(line.hello(5, 1), [Said::Hello { last: 0 }]);
    command("pump-7", "stop");
    line.session.poll(START);
    assert!(matches!(&line.said()[..], [Said::Command(_, _, payload)] if *payload == bytes("stop")));
}

#[test]
fn the_first_command_of_a_topic_that_was_made_anew_has_another_id() {
    let bench = Bench::new();
    let first = |value: &str| {
        command(&bench, "pump-7", value);
        let mut line = bench.session();
        let said = line.hello(5, 1);
        let [Said::Hello { .. }, Said::Command(id, _, payload)] = &said[..] else {
            panic!("{said:?}")
        };
        assert_eq!(payload, value.as_bytes());
        line.send(&Message::CommandAck(*id), START);
        line.session.gone(START);
        *id
    };
    let before = first("open");
    let topic = Topic::parse("commands").unwrap();
    bench.log.delete_topic(&topic, Waker::noop()).take().unwrap().unwrap();
    assert_ne!(first("close"), before);
}

#[test]
fn a_command_comes_whichever_partition_its_producer_chose() {
    let bench = Bench::new();
    // Makes the topic, in the partition that the key has by Kafka's own rule.
    command(&bench, "pump-7", "0");
    let topic = bench.log.topic("commands").unwrap();
    let elsewhere = |partition: u32, value: &str| {
        let records = [Record {
            key: Some("pump-7".into()),
            value: Some(value.to_owned().into()),
            timestamp_ms: START.wall_ms,
            ..Record::default()
        }];
        let append = Append::Batch {
            topic: topic.name.clone(),
            partition: Partition(partition),
            batch: Batch::parse(pack(&records).into()).unwrap(),
        };
        let submission = Submission {
            appends: vec![append],
            state: Vec::new(),
        };
        bench.log.submit(submission, Waker::noop()).take().unwrap().unwrap();
    };
    for partition in 0..topic.partitions {
        elsewhere(partition, &format!("a{partition}"));
    }
    let (mut found, mut ids) = (Vec::new(), std::collections::HashSet::new());
    let mut line = bench.session();
    let mut said = line.hello(5, 1).split_off(1);
    while let Some(Said::Command(id, _, payload)) = said.pop() {
        assert!(ids.insert(id), "an id came twice");
        found.push(String::from_utf8(payload).unwrap());
        if found.len() == 3 {
            // Another session goes on where this one was.
            line.session.gone(START);
            line = bench.session();
            line.hello(5, 1);
        }
        line.send(&Message::CommandAck(id), START);
        said = line.said();
        if found.len() == 5 {
            elsewhere(3, "b3");
            line.session.poll(START);
            said = line.said();
        }
    }
    found.sort();
    assert_eq!(found, ["0", "a0", "a1", "a2", "a3", "b3"]);
}
