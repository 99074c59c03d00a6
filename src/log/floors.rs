//! How far those are who carry records away. Retention of a topic that says so (`hold_until_forwarded`) waits for all of them that
//! want it. Who has not told yet, after a start, has carried nothing away.

use std::collections::HashMap;
use std::sync::Arc;

use crate::model::{Offset, Topic};

use super::TopicInfo;

/// Somebody who carries records of some topics away, and tells how far it is (`Log::set_floor`).
#[derive(Clone)]
pub struct Carrier {
    /// Name, unique.
    pub name: String,
    /// Which topics it carries.
    pub wants: Arc<dyn Fn(&Topic) -> bool + Send + Sync>,
}

impl std::fmt::Debug for Carrier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Carrier({})", self.name)
    }
}

/// A topic's id and the number of a partition.
type Place = ([u8; 16], u32);

/// All carriers and where they are.
#[derive(Debug)]
pub(super) struct Floors {
    carriers: Vec<(Carrier, HashMap<Place, u64>)>,
}

impl Floors {
    pub(super) fn new(carriers: Vec<Carrier>) -> Self {
        let carriers = carriers.into_iter().map(|carrier| (carrier, HashMap::new()));
        Self {
            carriers: carriers.collect(),
        }
    }

    pub(super) fn set(&mut self, carrier: &str, place: Place, floor: Option<Offset>) {
        let found = self.carriers.iter_mut().find(|(known, _)| known.name == carrier);
        let Some((_, floors)) = found else { return };
        match floor {
            Some(floor) => floors.insert(place, floor.0),
            None => floors.remove(&place),
        };
    }

    /// By partition of a topic, the first offset that retention has to wait for; `u64::MAX` where it waits for nobody.
    pub(super) fn of_topic<'a>(&'a self, info: &'a TopicInfo) -> impl Fn(u32) -> u64 + 'a {
        let holds = info.settings.hold_until_forwarded;
        let carriers = self.carriers.iter();
        let wanting = carriers.filter(|(carrier, _)| holds && (carrier.wants)(&info.name));
        let floors: Vec<&HashMap<Place, u64>> = wanting.map(|(_, floors)| floors).collect();
        move |partition| {
            let floors = floors.iter().map(|floors| floors.get(&(info.id, partition)));
            floors
                .map(|floor| floor.copied().unwrap_or(0))
                .min()
                .unwrap_or(u64::MAX)
        }
    }
}
