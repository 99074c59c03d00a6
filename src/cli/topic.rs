//! `headwater topic`: topics and their settings, over the Kafka protocol.

use clap::{Args, Subcommand};
use serde_json::json;

use super::Failure;
use super::broker::{BrokerArgs, refused};
use super::client::kafka::{KafkaClient, KafkaError};
use super::output::Out;
use crate::model::{Offset, Partition};

/// `headwater topic`
#[derive(Subcommand)]
pub(super) enum TopicCommand {
    /// Every topic with its partitions and records
    List(List),
    /// Make a topic
    Create(Create),
    /// Change settings of a topic that is there, or give it more partitions
    Alter(Alter),
    /// One topic: bounds of its partitions, settings in force
    Describe(Named),
    /// Remove a topic and its records
    Delete(Named),
}

#[derive(Args)]
pub(super) struct List {
    #[command(flatten)]
    broker: BrokerArgs,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct Named {
    /// Name of the topic
    topic: String,
    #[command(flatten)]
    broker: BrokerArgs,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct Create {
    #[command(flatten)]
    named: Named,
    /// Partitions; without it, the broker's default
    #[arg(long)]
    partitions: Option<u32>,
    /// A setting by its Kafka name, such as retention.ms=86400000
    #[arg(long, value_name = "NAME=VALUE")]
    setting: Vec<String>,
}

#[derive(Args)]
pub(super) struct Alter {
    #[command(flatten)]
    named: Named,
    /// A setting by its Kafka name, such as retention.ms=86400000
    #[arg(
        long,
        visible_alias = "setting",
        value_name = "NAME=VALUE",
        required_unless_present_any = ["unset", "partitions"]
    )]
    set: Vec<String>,
    /// Partitions from now on: more than before, never fewer. Keys may go to another partition then
    #[arg(long, value_name = "N")]
    partitions: Option<u32>,
    /// A setting that goes back to its default
    #[arg(long, value_name = "NAME")]
    unset: Vec<String>,
}

impl TopicCommand {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::List(command) => command.run(),
            Self::Create(command) => command.run(),
            Self::Alter(command) => command.run(),
            Self::Describe(command) => command.describe(),
            Self::Delete(command) => command.delete(),
        }
    }
}

/// First offset still there and the one after the last.
type Span = (Partition, Offset, Offset);

fn spans(client: &mut KafkaClient, topic: &str, partitions: &[Partition]) -> Result<Vec<Span>, KafkaError> {
    const EARLIEST: i64 = -2;
    const LATEST: i64 = -1;
    let starts = client.offsets_at(topic, partitions, EARLIEST)?;
    let ends = client.offsets_at(topic, partitions, LATEST)?;
    let spans = partitions.iter().zip(starts.into_iter().zip(ends));
    let span = |(partition, (start, next)): (&Partition, (Option<Offset>, Option<Offset>))| {
        (*partition, start.unwrap_or_default(), next.unwrap_or_default())
    };
    Ok(spans.map(span).collect())
}

fn records(spans: &[Span]) -> u64 {
    spans
        .iter()
        .map(|(_, start, next)| next.0.saturating_sub(start.0))
        .sum()
}

impl List {
    fn run(self) -> Result<(), Failure> {
        let mut client = self.broker.connect()?;
        let failed = |e: KafkaError| refused("listing topics", &e);
        let mut out = Out::new();
        for topic in client.metadata(None, false).map_err(failed)? {
            let spans = spans(&mut client, &topic.name, &topic.partitions).map_err(failed)?;
            let (partitions, records) = (topic.partitions.len(), records(&spans));
            match self.json {
                true => out.json(&json!({ "topic": topic.name, "partitions": partitions, "records": records }))?,
                false => out.line(&format!("{}\t{partitions} partitions\t{records} records", topic.name))?,
            }
        }
        out.flush()
    }
}

impl Create {
    fn run(self) -> Result<(), Failure> {
        let Named { topic, broker, json } = self.named;
        let settings: Result<Vec<_>, _> = self.setting.iter().map(|text| setting(text, "--setting")).collect();
        let settings = settings?;
        let mut client = broker.connect()?;
        let made = client.create_topic(&topic, self.partitions, &settings);
        made.map_err(|e| refused(&format!("making topic {topic:?}"), &e))?;
        said(json, "created", &topic)
    }
}

/// Name and value of a setting that was given with an option.
fn setting(text: &str, option: &str) -> Result<(String, String), Failure> {
    match text.split_once('=') {
        Some((name, value)) => Ok((name.trim().to_owned(), value.trim().to_owned())),
        None => {
            let text = format!("{text:?} is not a setting. Try: {option} retention.ms=86400000");
            Err(Failure::usage(text))
        }
    }
}

impl Alter {
    fn run(self) -> Result<(), Failure> {
        let Named { topic, broker, json } = self.named;
        let mut settings = Vec::new();
        for text in &self.set {
            let (name, value) = setting(text, "--set")?;
            settings.push((name, Some(value)));
        }
        settings.extend(self.unset.into_iter().map(|name| (name, None)));
        let mut client = broker.connect()?;
        let grown = self.partitions.map_or(Ok(()), |n| client.add_partitions(&topic, n));
        let altered = grown.and_then(|()| match settings.is_empty() {
            true => Ok(()),
            false => client.alter_topic(&topic, &settings),
        });
        altered.map_err(|e| refused(&format!("altering topic {topic:?}"), &e))?;
        said(json, "altered", &topic)
    }
}

impl Named {
    fn describe(self) -> Result<(), Failure> {
        let mut client = self.broker.connect()?;
        let failed = |e: KafkaError| refused(&format!("topic {:?}", self.topic), &e);
        let topic = client.topic(&self.topic, false).map_err(failed)?;
        let spans = spans(&mut client, &self.topic, &topic.partitions).map_err(failed)?;
        let settings = client.topic_settings(&self.topic).map_err(failed)?;
        let mut out = Out::new();
        if self.json {
            let partition = |(partition, start, next): &Span| json!({ "partition": partition.0, "log_start": start.0, "high_watermark": next.0 });
            let settings: serde_json::Map<_, _> = settings.into_iter().map(|(k, v)| (k, v.into())).collect();
            let partitions: Vec<_> = spans.iter().map(partition).collect();
            out.json(&json!({ "topic": self.topic, "partitions": partitions, "settings": settings }))?;
        } else {
            out.line(&format!(
                "{}: {} partitions, {} records",
                self.topic,
                spans.len(),
                records(&spans)
            ))?;
            for (partition, start, next) in &spans {
                out.line(&format!(
                    "  partition {partition}: offsets {start} to {next} (exclusive)"
                ))?;
            }
            for (name, value) in settings {
                out.line(&format!("  {name} = {value}"))?;
            }
        }
        out.flush()
    }

    fn delete(self) -> Result<(), Failure> {
        let mut client = self.broker.connect()?;
        let gone = client.delete_topic(&self.topic);
        gone.map_err(|e| refused(&format!("deleting topic {:?}", self.topic), &e))?;
        said(self.json, "deleted", &self.topic)
    }
}

fn said(json: bool, done: &str, topic: &str) -> Result<(), Failure> {
    let mut out = Out::new();
    match json {
        true => out.json(&json!({ "topic": topic, done: true }))?,
        false => out.line(&format!("{done} {topic}"))?,
    }
    out.flush()
}
