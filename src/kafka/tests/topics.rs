//! Metadata, CreateTopics, DeleteTopics, DescribeConfigs, DescribeCluster, FindCoordinator.

use super::*;
use crate::kafka_wire::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use crate::kafka_wire::messages::delete_topics_request::DeleteTopicState;
use crate::kafka_wire::messages::describe_configs_request::DescribeConfigsResource;
use crate::kafka_wire::messages::metadata_request::MetadataRequestTopic;

fn about(topics: &[&str], create: bool) -> MetadataRequest {
    let topics = topics
        .iter()
        .map(|t| MetadataRequestTopic::default().with_name(Some(name(t))));
    MetadataRequest::default()
        .with_topics(Some(topics.collect()))
        .with_allow_auto_topic_creation(create)
}

#[test]
fn metadata_names_the_node_by_the_address_the_client_reached() {
    let house = House::with_topic("t");
    let mut wire = house.dial();
    for version in 0..=12 {
        let response = wire.ask(version, &about(&["t"], false).with_allow_auto_topic_creation(true));
        let node = &response.brokers[0];
        assert_eq!(
            (node.host.as_str(), node.port),
            ("192.0.2.7", 9092),
            "version {version}"
        );
        let topic = &response.topics[0];
        assert_eq!((topic.error_code, topic.partitions.len()), (0, 1));
        assert_eq!(topic.partitions[0].leader_id, node.node_id);
        assert_eq!(version >= 10, topic.topic_id.as_bytes() != &[0; 16]);
        assert_eq!(version >= 2, response.cluster_id.is_some());
    }
}

#[test]
fn an_advertised_address_wins() {
    let house = House::new("listen.kafka_advertised = \"gw.example:19092\"");
    let response = house.dial().ask(9, &about(&[], false));
    let node = &response.brokers[0];
    assert_eq!((node.host.as_str(), node.port), ("gw.example", 19092));
}

#[test]
fn the_cluster_id_stays_over_a_restart() {
    let log = Log::inline(START);
    let id = |seed| {
        let house = House::over(log.clone(), "", seed);
        house.dial().ask(9, &about(&[], false)).cluster_id.unwrap()
    };
    let first = id(1);
    assert_eq!(first.len(), 22);
    assert_eq!(first, id(2));
}

#[test]
fn all_topics_are_asked_for_by_null_and_in_version_0_by_nothing() {
    let house = House::new("");
    house.make("a", 1, &[]);
    house.make("b", 2, &[]);
    let mut wire = house.dial();
    assert_eq!(wire.ask(0, &about(&[], true)).topics.len(), 2);
    assert_eq!(wire.ask(5, &about(&[], true)).topics.len(), 0);
    let all = MetadataRequest::default().with_topics(None);
    assert_eq!(wire.ask(12, &all).topics.len(), 2);
}

#[test]
fn a_topic_is_made_on_first_use_where_client_and_configuration_allow_it() {
    let house = House::new("");
    let mut wire = house.dial();
    assert_eq!(wire.ask(9, &about(&["new"], false)).topics[0].error_code, 3);
    let made = wire.ask(9, &about(&["new"], true));
    assert_eq!((made.topics[0].error_code, made.topics[0].partitions.len()), (0, 4));
    assert_eq!(wire.ask(9, &about(&["bad/name"], true)).topics[0].error_code, 17);
    assert_eq!(wire.ask(9, &about(&["__own"], true)).topics[0].error_code, 3);
    let strict = House::new("topic_defaults.auto_create = false");
    assert_eq!(strict.dial().ask(9, &about(&["new"], true)).topics[0].error_code, 3);
}

#[test]
fn a_topic_is_found_by_its_id() {
    let house = House::with_topic("t");
    let mut wire = house.dial();
    let id = wire.ask(12, &about(&["t"], false)).topics[0].topic_id;
    let by_id = |id| {
        let topic = MetadataRequestTopic::default().with_name(None).with_topic_id(id);
        MetadataRequest::default().with_topics(Some(vec![topic]))
    };
    let found = wire.ask(12, &by_id(id));
    assert_eq!(found.topics[0].name.as_ref().unwrap().0.as_str(), "t");
    let other = vec![9u8; 16].try_into().unwrap();
    assert_eq!(wire.ask(12, &by_id(other)).topics[0].error_code, 100);
}

fn topic_to_make(text: &str, partitions: i32, settings: &[(&'static str, &'static str)]) -> CreatableTopic {
    let configs = settings.iter().map(|(key, value)| {
        CreatableTopicConfig::default()
            .with_name((*key).into())
            .with_value(Some((*value).into()))
    });
    CreatableTopic::default()
        .with_name(name(text))
        .with_num_partitions(partitions)
        .with_replication_factor(-1)
        .with_configs(configs.collect())
}

fn make(topics: Vec<CreatableTopic>) -> CreateTopicsRequest {
    CreateTopicsRequest::default().with_topics(topics)
}

#[test]
fn topics_are_made_in_every_version_and_described_with_sources_java_knows() {
    let house = House::new("");
    let mut wire = house.dial();
    for version in 2..=7 {
        let topic = topic_to_make(&format!("t{version}"), 3, &[("retention.ms", "5000")]);
        let made = wire.ask(version, &make(vec![topic]));
        let made = &made.topics[0];
        assert_eq!(made.error_code, 0, "version {version}: {:?}", made.error_message);
        if version >= 5 {
            assert_eq!((made.num_partitions, made.replication_factor), (3, 1));
            let configs = made.configs.as_ref().unwrap();
            assert!(configs.iter().all(|c| c.config_source > 0));
            let source = |key: &str| configs.iter().find(|c| c.name.as_str() == key).unwrap().config_source;
            assert_eq!((source("retention.ms"), source("cleanup.policy")), (1, 5));
        }
    }
    assert_eq!(house.log.topics().len(), 6);
}

#[test]
fn topics_that_cannot_be_are_refused_by_name() {
    let house = House::with_topic("there");
    let mut wire = house.dial();
    let assigned = |node| {
        let assignment = CreatableReplicaAssignment::default().with_broker_ids(vec![BrokerId(node)]);
        topic_to_make(if node == 0 { "here" } else { "far" }, -1, &[]).with_assignments(vec![assignment])
    };
    let cases = [
        (topic_to_make("there", 1, &[]), 36),
        (topic_to_make("a b", 1, &[]), 17),
        (topic_to_make("__own", 1, &[]), 17),
        (topic_to_make("none", 0, &[]), 37),
        (topic_to_make("wrong", 1, &[("retention.mss", "1")]), 40),
        (topic_to_make("three", 1, &[]).with_replication_factor(3), 38),
        (assigned(0), 0),
        (assigned(1), 39),
    ];
    for (topic, code) in cases {
        let made = wire.ask(7, &make(vec![topic.clone()]));
        assert_eq!(made.topics[0].error_code, code, "{topic:?}");
        assert_eq!(made.topics[0].error_message.is_some(), code != 0);
    }
    let twice = make(vec![topic_to_make("x", 1, &[]), topic_to_make("x", 1, &[])]);
    assert!(wire.ask(5, &twice).topics.iter().all(|t| t.error_code == 42));
    let validate = make(vec![topic_to_make("v", 1, &[])]).with_validate_only(true);
    assert_eq!(wire.ask(7, &validate).topics[0].error_code, 0);
    assert!(house.log.topic("v").is_none());
}

#[test]
fn topics_are_deleted_by_name_and_by_id() {
    let house = House::new("");
    let mut wire = house.dial();
    for version in 1..=6 {
        house.make("t", 1, &[]);
        let request = match version {
            6 => {
                DeleteTopicsRequest::default().with_topics(vec![DeleteTopicState::default().with_name(Some(name("t")))])
            }
            _ => DeleteTopicsRequest::default().with_topic_names(vec![name("t")]),
        };
        assert_eq!(
            wire.ask(version, &request).responses[0].error_code,
            0,
            "version {version}"
        );
        assert_eq!(
            wire.ask(version, &request).responses[0].error_code,
            3,
            "version {version}"
        );
    }
    house.make("t", 1, &[]);
    let id = house.log.topic("t").unwrap().id.to_vec().try_into().unwrap();
    let by_id =
        DeleteTopicsRequest::default().with_topics(vec![DeleteTopicState::default().with_name(None).with_topic_id(id)]);
    assert_eq!(wire.ask(6, &by_id).responses[0].error_code, 0);
    assert_eq!(wire.ask(6, &by_id).responses[0].error_code, 100);
    assert!(house.log.topics().is_empty());
}

fn describe(kind: i8, resource: &'static str, keys: Option<Vec<StrBytes>>) -> DescribeConfigsRequest {
    let resource = DescribeConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(resource.into())
        .with_configuration_keys(keys);
    DescribeConfigsRequest::default().with_resources(vec![resource])
}

#[test]
fn settings_are_described_as_they_are_in_force() {
    let house = House::new("");
    house.make("t", 1, &[("retention.ms", "5000")]);
    let mut wire = house.dial();
    for version in 1..=4 {
        let response = wire.ask(version, &describe(2, "t", None).with_include_synonyms(true));
        let configs = &response.results[0].configs;
        let retention = configs.iter().find(|c| c.name.as_str() == "retention.ms").unwrap();
        assert_eq!(retention.value.as_ref().unwrap().as_str(), "5000");
        assert_eq!((retention.config_source, retention.synonyms.len()), (1, 1));
        let node = wire.ask(version, &describe(4, "0", None));
        let node = &node.results[0].configs;
        let advertised = node.iter().find(|c| c.name.as_str() == "advertised.listeners").unwrap();
        assert_eq!(
            advertised.value.as_ref().unwrap().as_str(),
            "PLAINTEXT://192.0.2.7:9092"
        );
        assert!(advertised.read_only);
    }
    let one = describe(2, "t", Some(vec!["cleanup.policy".into()]));
    assert_eq!(wire.ask(4, &one).results[0].configs.len(), 1);
    for (kind, resource, code) in [(2, "gone", 3), (4, "9", 42), (8, "0", 42), (4, "", 0)] {
        assert_eq!(
            wire.ask(4, &describe(kind, resource, None)).results[0].error_code,
            code,
            "{kind} {resource}"
        );
    }
}

#[test]
fn the_cluster_is_this_node() {
    let house = House::new("");
    let mut wire = house.dial();
    for version in 0..=2 {
        let response = wire.ask(version, &DescribeClusterRequest::default());
        assert_eq!((response.error_code, response.brokers.len()), (0, 1));
        assert_eq!(response.brokers[0].host.as_str(), "192.0.2.7");
    }
    let controllers = DescribeClusterRequest::default().with_endpoint_type(2);
    assert_eq!(wire.ask(1, &controllers).error_code, 115);
    for version in 0..=3 {
        let request = FindCoordinatorRequest::default().with_key("g".into());
        let response = wire.ask(version, &request);
        assert_eq!((response.error_code, response.port), (0, 9092));
    }
    let request = FindCoordinatorRequest::default().with_coordinator_keys(vec!["g".into()]);
    assert_eq!(wire.ask(4, &request).coordinators[0].host.as_str(), "192.0.2.7");
}
