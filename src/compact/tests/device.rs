//! Against the device crate, over lines good and bad.

use headwater_device::{Client, Event, RamQueue, Timing};

use super::*;

/// A line that loses, changes and doubles bytes.
fn spoil(bytes: &[u8], rng: &mut fastrand::Rng) -> Vec<u8> {
    let mut out = Vec::new();
    for byte in bytes {
        match rng.u32(..400) {
            0 => {}
            1 => out.push(byte ^ (1 << rng.u8(..8))),
            2 => out.extend([*byte, rng.u8(..)]),
            _ => out.push(*byte),
        }
    }
    out
}

#[test]
fn over_a_bad_line_every_record_is_stored_once_and_in_order() {
    for seed in 1..=20 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let bench = Bench::new();
        let mut line = bench.session();
        let timing = Timing {
            hello_ms: 200,
            ack_ms: 300,
            ping_ms: 1000,
            silence_ms: 5000,
        };
        let mut client = Client::<_, 256>::new("pump-7", 9, RamQueue::<600>::new()).with_timing(timing);
        client.connected(0);
        let (mut pushed, mut ms) = (0u64, 0u64);
        while client.acked() < 300 {
            ms += 10;
            assert!(ms < 2_000_000, "seed {seed}: stuck at {}", client.acked());
            while pushed < 300
                && client
                    .push(Some(ms as i64), "t", (pushed + 1).to_string().as_bytes())
                    .is_ok()
            {
                pushed += 1;
            }
            let mut out = Vec::new();
            loop {
                let bytes = client.transmit(ms as i64).to_vec();
                if bytes.is_empty() {
                    break;
                }
                client.sent(bytes.len());
                out.extend(bytes);
            }
            line.bytes(&spoil(&out, &mut rng), later(ms));
            let broken = line.session.end().is_some() || rng.u32(..500) == 0;
            let back = spoil(&line.session.output().take(), &mut rng);
            let mut at = 0;
            while at < back.len() {
                at += client.receive(&back[at..], ms as i64).0;
            }
            let closed = client.phase() == headwater_device::Phase::Closed;
            if broken || closed || rng.u32(..700) == 0 {
                line.session.gone(later(ms));
                line = bench.session();
                client.connected(ms as i64);
            }
        }
        assert_eq!(bench.values(), numbers(1..=300), "seed {seed}");
        assert_eq!(bench.row("pump-7").lost, 0);
    }
}

#[test]
fn a_device_whose_epoch_was_used_takes_a_new_one() {
    let bench = Bench::new();
    let mut line = bench.session();
    line.hello(9, 1);
    line.publish(1);
    let mut line = bench.session();
    let mut client = Client::<_, 256>::new("pump-7", 9, RamQueue::<600>::new());
    client.connected(0);
    let exchange = |client: &mut Client<'_, RamQueue<600>, 256>, line: &mut Line| {
        let bytes = client.transmit(0).to_vec();
        client.sent(bytes.len());
        line.bytes(&bytes, START);
        let back = line.session.output().take();
        client.receive(&back, 0).1
    };
    assert_eq!(exchange(&mut client, &mut line), Some(Event::EpochUsed));
    client.push(None, "t", b"2").unwrap();
    client.renew(10, 0);
    assert_eq!(exchange(&mut client, &mut line), Some(Event::Open(0)));
    assert_eq!(exchange(&mut client, &mut line), Some(Event::Acked(1)));
    assert_eq!(bench.values(), numbers(1..=2));
}

#[test]
fn a_device_without_a_key_gives_up_where_one_is_asked_for() {
    let bench = Bench::new();
    let rules = Listener {
        allow_anonymous: false,
        ..listener()
    };
    let mut line = bench.session();
    let peer = Peer {
        address: rules.address,
        local: rules.address,
    };
    line.session = bench.broker.session(peer, &rules, Waker::noop().clone(), 1, START);
    let mut client = Client::<_, 256>::new("pump-7", 9, RamQueue::<600>::new());
    client.connected(0);
    let bytes = client.transmit(0).to_vec();
    client.sent(bytes.len());
    line.bytes(&bytes, START);
    let back = line.session.output().take();
    assert_eq!(client.receive(&back, 0).1, Some(Event::Ended(Code::NOT_AUTHORIZED)));
    assert!(client.transmit(60_000).is_empty(), "it does not ask again and again");
}
