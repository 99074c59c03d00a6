//! DeleteRecords, AlterConfigs, IncrementalAlterConfigs.

use super::*;
use crate::kafka::broker::NODE_ID;
use crate::kafka_wire::messages::alter_configs_request::{
    AlterConfigsResource as Replace, AlterableConfig as ReplacedConfig,
};
use crate::kafka_wire::messages::create_partitions_request::{CreatePartitionsAssignment, CreatePartitionsTopic};
use crate::kafka_wire::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use crate::kafka_wire::messages::describe_configs_request::DescribeConfigsResource;
use crate::kafka_wire::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use crate::kafka_wire::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use crate::log::Append;
use crate::model::Partition;
use crate::model::batch::Batch;

fn fill(house: &House, topic: &str, records: usize) {
    let record = Record {
        key: None,
        value: Some(Bytes::from_static(b"x")),
        headers: Vec::new(),
        timestamp_ms: 1,
    };
    let append = Append::Batch {
        topic: Topic::parse(topic).unwrap(),
        partition: Partition(0),
        batch: Batch::parse(pack(&vec![record; records]).into()).unwrap(),
    };
    let submission = crate::log::Submission {
        appends: vec![append],
        state: Vec::new(),
    };
    house.log.submit(submission, Waker::noop()).wait().unwrap();
}

fn delete(topic: &str, cuts: &[(i32, i64)]) -> DeleteRecordsRequest {
    let partitions = cuts.iter().map(|(partition, offset)| {
        DeleteRecordsPartition::default()
            .with_partition_index(*partition)
            .with_offset(*offset)
    });
    let topic = DeleteRecordsTopic::default()
        .with_name(name(topic))
        .with_partitions(partitions.collect());
    DeleteRecordsRequest::default().with_topics(vec![topic])
}

/// Low watermark and error code of each partition.
fn deleted(wire: &mut Wire, version: i16, topic: &str, cuts: &[(i32, i64)]) -> Vec<(i64, i16)> {
    let response = wire.ask(version, &delete(topic, cuts));
    let partitions = response.topics.into_iter().flat_map(|topic| topic.partitions);
    partitions.map(|p| (p.low_watermark, p.error_code)).collect()
}

#[test]
fn records_are_deleted_in_every_version() {
    let house = House::with_topic("t");
    fill(&house, "t", 10);
    let mut wire = house.dial();
    for version in 0..=2 {
        let to = i64::from(version) + 3;
        assert_eq!(deleted(&mut wire, version, "t", &[(0, to)]), [(to, 0)]);
    }
    let one = ListOffsetsPartition::default()
        .with_current_leader_epoch(-1)
        .with_timestamp(-2);
    let topic = ListOffsetsTopic::default()
        .with_name(name("t"))
        .with_partitions(vec![one]);
    let earliest = wire.ask(5, &ListOffsetsRequest::default().with_topics(vec![topic]));
    assert_eq!(earliest.topics[0].partitions[0].offset, 5);
    assert_eq!(deleted(&mut wire, 2, "t", &[(0, -1)]), [(10, 0)]);
}

#[test]
fn what_cannot_be_deleted_is_answered_as_kafka_does() {
    let house = House::with_topic("t");
    house.make("compacted", 1, &[("cleanup.policy", "compact")]);
    fill(&house, "t", 10);
    let mut wire = house.dial();
    let asked = [(0, 4), (0, 2), (0, 11), (0, -2), (1, 0), (-1, 0)];
    assert_eq!(
        deleted(&mut wire, 2, "t", &asked),
        [(4, 0), (4, 0), (-1, 1), (-1, 1), (-1, 3), (-1, 3)]
    );
    assert_eq!(deleted(&mut wire, 2, "gone", &[(0, 0)]), [(-1, 3)]);
    assert_eq!(deleted(&mut wire, 2, "a b", &[(0, 0)]), [(-1, 3)]);
    assert_eq!(deleted(&mut wire, 2, "__own", &[(0, 0)]), [(-1, 17)]);
    assert_eq!(deleted(&mut wire, 2, "compacted", &[(0, -1)]), [(-1, 44)]);
    assert_eq!(deleted(&mut wire, 2, "t", &[]), []);
    house.log.refuse_with(Some(crate::model::Code::Storage));
    assert_eq!(deleted(&mut wire, 2, "t", &[(0, 5)]), [(-1, 56)]);
}

/// Name, operation, value.
type Asked = (&'static str, i8, Option<&'static str>);

fn alter(kind: i8, resource: &'static str, asked: &[Asked]) -> IncrementalAlterConfigsRequest {
    let configs = asked.iter().map(|(name, operation, value)| {
        AlterableConfig::default()
            .with_name((*name).into())
            .with_config_operation(*operation)
            .with_value(value.map(StrBytes::from))
    });
    let resource = AlterConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(resource.into())
        .with_configs(configs.collect());
    IncrementalAlterConfigsRequest::default().with_resources(vec![resource])
}

/// Value and source as they are described.
fn described(wire: &mut Wire, setting: &'static str) -> (String, i8) {
    let resource = DescribeConfigsResource::default()
        .with_resource_type(2)
        .with_resource_name("t".into())
        .with_configuration_keys(Some(vec![setting.into()]));
    let response = wire.ask(4, &DescribeConfigsRequest::default().with_resources(vec![resource]));
    let config = &response.results[0].configs[0];
    (config.value.as_ref().unwrap().to_string(), config.config_source)
}

#[test]
fn settings_are_changed_one_by_one() {
    let house = House::with_topic("t");
    let mut wire = house.dial();
    for version in 0..=1 {
        let value = ["5000", "6000"][version as usize];
        let changed = wire.ask(version, &alter(2, "t", &[("retention.ms", 0, Some(value))]));
        let response = &changed.responses[0];
        assert_eq!(
            (response.error_code, response.error_message.as_ref()),
            (0, None),
            "version {version}"
        );
        assert_eq!((response.resource_type, response.resource_name.as_str()), (2, "t"));
        assert_eq!(described(&mut wire, "retention.ms"), (value.to_owned(), 1));
    }
    let valid = alter(2, "t", &[("retention.ms", 0, Some("7000"))]).with_validate_only(true);
    assert_eq!(wire.ask(1, &valid).responses[0].error_code, 0);
    assert_eq!(described(&mut wire, "retention.ms"), ("6000".to_owned(), 1));
    let both = alter(
        2,
        "t",
        &[("retention.ms", 1, None), ("cleanup.policy", 2, Some("compact"))],
    );
    assert_eq!(wire.ask(1, &both).responses[0].error_code, 0);
    assert_eq!(described(&mut wire, "retention.ms"), ("-1".to_owned(), 5));
    assert_eq!(described(&mut wire, "cleanup.policy"), ("compact,delete".to_owned(), 1));
}

#[test]
fn the_older_request_gives_a_topic_what_it_names_and_no_more() {
    let house = House::with_topic("t");
    let mut wire = house.dial();
    for version in 0..=2 {
        wire.ask(1, &alter(2, "t", &[("retention.ms", 0, Some("5000"))]));
        let config = ReplacedConfig::default()
            .with_name("priority".into())
            .with_value(Some("2".into()));
        let resource = Replace::default()
            .with_resource_type(2)
            .with_resource_name("t".into())
            .with_configs(vec![config]);
        let request = AlterConfigsRequest::default().with_resources(vec![resource]);
        let valid = request.clone().with_validate_only(true);
        assert_eq!(wire.ask(version, &valid).responses[0].error_code, 0);
        assert_eq!(described(&mut wire, "retention.ms"), ("5000".to_owned(), 1));
        assert_eq!(wire.ask(version, &request).responses[0].error_code, 0);
        assert_eq!(described(&mut wire, "retention.ms"), ("-1".to_owned(), 5));
        assert_eq!(described(&mut wire, "priority"), ("2".to_owned(), 1));
    }
}

#[test]
fn settings_that_cannot_be_changed_are_refused() {
    let house = House::with_topic("t");
    let mut wire = house.dial();
    let cases: [(i8, &'static str, &[Asked], i16); 10] = [
        (2, "t", &[("retention.mss", 0, Some("1"))], 40),
        (2, "t", &[("retention.ms", 0, Some("soon"))], 40),
        (2, "t", &[("retention.ms", 2, Some("1"))], 40),
        (2, "t", &[("retention.ms", 0, None)], 42),
        (2, "t", &[("retention.ms", 9, Some("1"))], 42),
        (2, "t", &[("priority", 0, Some("1")), ("priority", 1, None)], 42),
        (2, "gone", &[("retention.ms", 0, Some("1"))], 3),
        (2, "a b", &[], 3),
        (4, "0", &[("log.retention.ms", 0, Some("1"))], 42),
        (8, "0", &[], 42),
    ];
    for (kind, resource, asked, code) in cases {
        for validate in [true, false] {
            let request = alter(kind, resource, asked).with_validate_only(validate);
            let response = &wire.ask(1, &request).responses[0];
            assert_eq!(response.error_code, code, "{resource} {asked:?}");
            assert!(response.error_message.is_some());
        }
    }
    let mut twice = alter(2, "t", &[("priority", 0, Some("1"))]);
    twice.resources.extend(twice.resources.clone());
    let response = wire.ask(1, &twice);
    assert!(response.responses.iter().all(|response| response.error_code == 42));
    assert_eq!(described(&mut wire, "priority"), ("5".to_owned(), 5));
}

fn grow(topic: &str, count: i32, assigned: Option<&[i32]>) -> CreatePartitionsTopic {
    let on = |node: &i32| CreatePartitionsAssignment::default().with_broker_ids(vec![(*node).into()]);
    CreatePartitionsTopic::default()
        .with_name(name(topic))
        .with_count(count)
        .with_assignments(assigned.map(|nodes| nodes.iter().map(on).collect()))
}

/// The error code of each topic.
fn grown(wire: &mut Wire, version: i16, topics: Vec<CreatePartitionsTopic>, validate_only: bool) -> Vec<i16> {
    let request = CreatePartitionsRequest::default()
        .with_topics(topics)
        .with_validate_only(validate_only);
    let results = wire.ask(version, &request).results.into_iter();
    results.map(|result| result.error_code).collect()
}

#[test]
fn partitions_are_added_in_every_version() {
    let house = House::with_topic("t");
    let before = house.log.topic("t").unwrap().partitions;
    let mut wire = house.dial();
    for (version, count) in (0..=3).zip(before + 1..) {
        let asked = || vec![grow("t", count as i32, None)];
        assert_eq!(grown(&mut wire, version, asked(), true), [0]);
        assert_eq!(house.log.topic("t").unwrap().partitions, count - 1, "it was only asked");
        assert_eq!(grown(&mut wire, version, asked(), false), [0]);
        assert_eq!(house.log.topic("t").unwrap().partitions, count);
        assert_eq!(grown(&mut wire, version, asked(), false), [37], "as many as there are");
    }
}

#[test]
fn partitions_that_cannot_be_added_are_refused_one_by_one_with_kafkas_codes() {
    let house = House::with_topic("t");
    let before = house.log.topic("t").unwrap().partitions as i32;
    let mut wire = house.dial();
    for (topic, expected) in [
        (grow("none", 9, None), 3),
        (grow("a/b", 9, None), 3),
        (grow("t", before - 1, None), 37),
        (grow("t", 0, None), 37),
        (grow("t", -1, None), 37),
        (grow("t", 1_000_000, None), 37),
        (grow("t", before + 2, Some(&[NODE_ID])), 39),
        (grow("t", before + 2, Some(&[NODE_ID, NODE_ID + 1])), 39),
        (grow("t", before + 2, Some(&[NODE_ID, NODE_ID])), 0),
    ] {
        assert_eq!(grown(&mut wire, 1, vec![topic.clone()], true), [expected], "{topic:?}");
    }
    let both = vec![
        grow("t", before + 1, None),
        grow("t", before + 2, None),
        grow("none", 3, None),
    ];
    assert_eq!(grown(&mut wire, 3, both, false), [42, 42, 3]);
    assert_eq!(house.log.topic("t").unwrap().partitions as i32, before);
}
