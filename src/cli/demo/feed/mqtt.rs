//! Readings over MQTT 5 with a session that outlives the broker: what is not acknowledged goes again in order, under its packet id.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::super::super::client::mqtt::{Event, Level, MqttClient, MqttError, MqttOptions};
use super::{RETRY, Source};

/// Unacknowledged at most; below what the broker allows.
const WINDOW: usize = 40;
/// Longest wait for an ack before the next look at the sensors.
const WAIT: Duration = Duration::from_millis(20);

/// Feeds until there is nothing more to do; an error says why it cannot go on.
pub(super) fn feed(mut source: Source, address: &str, name: &str, qos: u8) -> Result<(), String> {
    let mut client: Option<MqttClient> = None;
    let mut connected = false;
    let mut backlog = VecDeque::new();
    let mut on_their_way = HashMap::new();
    while !source.is_done(&backlog) && !source.is_abandoned() {
        source.take(&mut backlog);
        let step = match client.as_mut() {
            None => {
                let options = MqttOptions::new(address, format!("demo-{name}"), Level::V5);
                MqttClient::connect(options).map(|fresh| client = Some(fresh))
            }
            Some(client) if !connected => client.reconnect().and_then(|()| match client.session_present() {
                true => Ok(()),
                false => Err(MqttError::Protocol("the broker forgot the session".to_owned())),
            }),
            Some(client) => {
                let next = if client.unacked() < WINDOW {
                    backlog.pop_front()
                } else {
                    None
                };
                match next {
                    Some(outgoing) => {
                        let topic = format!("demo/{name}/{}", outgoing.name);
                        let result = client.publish(&topic, outgoing.value.as_bytes(), qos);
                        // One that failed on the wire is kept for the next connection.
                        on_their_way.insert(client.last_token(), outgoing.number);
                        result.map(|_| ())
                    }
                    None => client.poll(WAIT).and_then(|event| match event {
                        Event::Acked { code, .. } if code >= 0x80 => Err(MqttError::Refused("a reading", code)),
                        Event::Acked { token, .. } => {
                            let number = on_their_way.remove(&token);
                            number.into_iter().for_each(|number| source.ack(number));
                            Ok(())
                        }
                        Event::Idle => Ok(()),
                    }),
                }
            }
        };
        connected = match step {
            Ok(()) => true,
            // The broker is gone: that is what the demo is about.
            Err(MqttError::Io(_)) => {
                std::thread::sleep(RETRY);
                false
            }
            Err(error) => return Err(error.to_string()),
        };
    }
    // Everything is acknowledged: a goodbye that fails changes nothing.
    let _ = client.map(MqttClient::disconnect);
    Ok(())
}
