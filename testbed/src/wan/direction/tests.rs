use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);

/// An IPv4 packet whose payload starts with `number`.
fn packet(number: u32, len: usize, ecn: u8) -> Bytes {
    let mut bytes = vec![0; len];
    bytes[..2].copy_from_slice(&[0x45, ecn]);
    bytes[20..24].copy_from_slice(&number.to_be_bytes());
    bytes.into()
}

fn number(packet: &Bytes) -> u32 {
    u32::from_be_bytes([packet[20], packet[21], packet[22], packet[23]])
}

/// The outcome of packets that were offered `gap` apart: verdicts, and arrivals as (time, number).
struct Run {
    verdicts: Vec<Verdict>,
    arrived: Vec<(Duration, u32)>,
    counters: WanCounters,
}

impl Run {
    fn new(path: &WanPath, count: u32, gap: Duration, len: usize) -> Self {
        let mut direction = Direction::new("a b", path.clone(), Duration::ZERO);
        let (mut verdicts, mut arrived) = (Vec::new(), Vec::new());
        for index in 0..count {
            let now = gap * index;
            drain(&mut direction, now, &mut arrived);
            verdicts.push(direction.offer(now, packet(index, len, 0b10)));
        }
        drain(&mut direction, Duration::from_secs(3600), &mut arrived);
        assert_eq!(direction.queue.bytes, 0);
        Self { verdicts, arrived, counters: direction.counters }
    }

    fn order(&self) -> Vec<u32> {
        self.arrived.iter().map(|(_, number)| *number).collect()
    }
}

/// Pops each packet exactly at its due time.
fn drain(direction: &mut Direction, until: Duration, arrived: &mut Vec<(Duration, u32)>) {
    while let Some(due) = direction.next_due().filter(|due| *due <= until) {
        arrived.push((due, number(&direction.pop_due(due).unwrap())));
    }
}

fn share(count: u64, of: u32) -> f64 {
    100.0 * count as f64 / f64::from(of)
}

#[test]
fn the_same_seed_gives_the_same_outcome_and_another_seed_or_direction_a_different_one() {
    let path = WanPath { loss: 5.0, burst: Some(3.0), reorder: 2.0, duplicate: 1.0, ..jittery() };
    let run = |path: &WanPath| Run::new(path, 5000, MS / 10, 100);
    let (first, again) = (run(&path), run(&path));
    assert_eq!((&first.verdicts, &first.arrived), (&again.verdicts, &again.arrived));
    assert_ne!(first.verdicts, run(&WanPath { seed: 2, ..path.clone() }).verdicts);
    let mut back = Direction::new("b a", path, Duration::ZERO);
    let verdicts: Vec<_> =
        (0..5000).map(|index| back.offer(MS / 10 * index, packet(index, 100, 0))).collect();
    assert_ne!(first.verdicts, verdicts);
}

#[test]
fn adding_a_condition_does_not_change_which_packets_are_lost() {
    let lossy = WanPath { loss: 5.0, ..WanPath::default() };
    let more = WanPath { loss: 5.0, duplicate: 10.0, reorder: 10.0, ..jittery() };
    let run = |path: &WanPath| Run::new(path, 2000, MS, 100).verdicts;
    assert_eq!(run(&lossy), run(&more));
}

#[test]
fn loss_and_duplication_have_the_configured_rates() {
    let path = WanPath { loss: 1.0, duplicate: 0.5, ..WanPath::default() };
    let count = 100_000;
    let run = Run::new(&path, count, MS / 100, 100);
    // Five standard deviations of 100,000 draws.
    assert!((share(run.counters.lost, count) - 1.0).abs() < 0.16, "{:?}", run.counters);
    assert!((share(run.counters.duplicated, count) - 0.5).abs() < 0.12, "{:?}", run.counters);
    assert_eq!(
        run.counters.delivered,
        u64::from(count) - run.counters.lost + run.counters.duplicated
    );
    assert_eq!(run.arrived.len() as u64, run.counters.delivered);
}

#[test]
fn jitter_is_added_to_the_delay_without_reordering() {
    let path = jittery();
    for gap in [MS / 100, 20 * MS] {
        let run = Run::new(&path, 3000, gap, 100);
        let delays: Vec<_> = run.arrived.iter().map(|(at, number)| *at - gap * *number).collect();
        let (least, most) = (delays.iter().min().unwrap(), delays.iter().max().unwrap());
        assert!(*least >= 20 * MS && *most <= 25 * MS, "{least:?} to {most:?}");
        assert!(*most - *least > 2 * MS, "{least:?} to {most:?}");
        assert!(run.order().is_sorted());
    }
}

fn jittery() -> WanPath {
    WanPath { delay: 20 * MS, jitter: 5 * MS, ..WanPath::default() }
}

#[test]
fn reordered_packets_are_overtaken_and_only_they() {
    let path = WanPath { reorder: 5.0, delay: 20 * MS, ..WanPath::default() };
    let run = Run::new(&path, 10_000, MS / 10, 100);
    let order = run.order();
    assert_eq!(order.len(), 10_000);
    let mut highest = 0;
    let overtaken = order.iter().filter(|number| {
        highest = highest.max(**number);
        **number < highest
    });
    assert_eq!(overtaken.count() as u64, run.counters.reordered);
    assert!((share(run.counters.reordered, 10_000) - 5.0).abs() < 1.1, "{:?}", run.counters);
}

#[test]
fn a_bottleneck_has_its_rate_and_its_queue_bounds_the_delay() {
    let path =
        WanPath { rate: Some(100_000_000), queue: 10 * MS, delay: 5 * MS, ..WanPath::default() };
    // 240 Mbit/s are offered for half a second.
    let gap = Duration::from_micros(50);
    let run = Run::new(&path, 10_000, gap, 1500);
    let (first, last) = (run.arrived[0].0, run.arrived.last().unwrap().0);
    let bits = (run.arrived.len() - 1) as f64 * 12_000.0;
    let mbit = bits / (last - first).as_secs_f64() / 1e6;
    assert!((mbit - 100.0).abs() < 0.01, "{mbit} Mbit/s");
    let slowest = run.arrived.iter().map(|(at, number)| *at - gap * *number).max().unwrap();
    assert!(slowest > 14 * MS && slowest < Duration::from_micros(15_250), "{slowest:?}");
    assert_eq!(run.counters.queue_full + run.counters.delivered, 10_000);
    assert_eq!(run.counters.marked, 0);
}

#[test]
fn a_queue_more_than_half_full_marks_ecn_capable_packets() {
    let path = WanPath { rate: Some(12_000_000), queue: 10 * MS, ecn: true, ..WanPath::default() };
    let mut direction = Direction::new("a b", path, Duration::ZERO);
    // 1 ms each; the seventh finds 6 ms of queue.
    for index in 0..8 {
        let ecn = if index == 7 { 0b00 } else { 0b10 };
        assert_eq!(direction.offer(Duration::ZERO, packet(index, 1500, ecn)), Verdict::Held);
    }
    let packets: Vec<_> = std::iter::from_fn(|| direction.pop_due(100 * MS)).collect();
    let marked: Vec<_> =
        packets.iter().filter(|packet| Ecn::of(packet) == Ecn::Ce).map(number).collect();
    assert_eq!((marked, direction.counters.marked), (vec![6], 1));
    assert_eq!(Ecn::of(&packets[7]), Ecn::NotEct);
}

#[test]
fn packets_larger_than_the_mtu_are_dropped_as_soon_as_it_is_set() {
    let mut direction = Direction::new("a b", WanPath::default(), Duration::ZERO);
    assert_eq!(direction.offer(Duration::ZERO, packet(0, 1500, 0)), Verdict::Held);
    direction.set("a b", WanPath { mtu: Some(1300), ..WanPath::default() }, MS);
    assert_eq!(direction.offer(MS, packet(1, 1301, 0)), Verdict::TooLarge);
    assert_eq!(direction.offer(MS, packet(2, 1300, 0)), Verdict::Held);
    assert_eq!(direction.counters.too_large, 1);
}

#[test]
fn packets_do_not_overtake_earlier_ones_when_the_delay_is_reduced() {
    let slow = WanPath { delay: 100 * MS, ..WanPath::default() };
    let mut direction = Direction::new("a b", slow, Duration::ZERO);
    direction.offer(Duration::ZERO, packet(0, 100, 0));
    direction.set("a b", WanPath::default(), MS);
    direction.offer(MS, packet(1, 100, 0));
    let mut arrived = Vec::new();
    drain(&mut direction, 200 * MS, &mut arrived);
    assert_eq!(arrived, [(100 * MS, 0), (100 * MS, 1)]);
}

#[test]
fn held_packets_are_limited_and_the_excess_is_counted() {
    let path = WanPath { delay: 10 * MS, ..WanPath::default() };
    let mut direction = Direction::new("a b", path, Duration::ZERO);
    let packet = packet(0, 1500, 0);
    while direction.offer(Duration::ZERO, packet.clone()) == Verdict::Held {}
    assert_eq!(direction.counters.overflowed, 1);
    assert!(direction.queue.bytes <= 16 << 20 && direction.queue.bytes > 15 << 20);
    assert!(direction.pop_due(10 * MS).is_some());
    assert_eq!(direction.offer(10 * MS, packet), Verdict::Held);
}

proptest! {
    #[test]
    fn every_packet_is_accounted_for_and_none_is_early(
        loss in 0.0..30.0_f64,
        duplicate in 0.0..30.0_f64,
        reorder in 0.0..30.0_f64,
        delay in 0..50_u32,
        jitter in 0..20_u32,
        rate in proptest::option::of(1_000_000..100_000_000_u64),
        mtu in proptest::option::of(68..1500_u16),
        seed: u64,
        packets in proptest::collection::vec((0..3000_u64, 24..1500_usize), 1..200),
    ) {
        let path = WanPath {
            loss, duplicate, reorder, rate, mtu, seed,
            delay: MS * delay,
            jitter: MS * jitter,
            ..WanPath::default()
        };
        let mut direction = Direction::new("a b", path.clone(), Duration::ZERO);
        let (mut now, mut sent, mut arrived) = (Duration::ZERO, Vec::new(), Vec::new());
        for (index, (gap, len)) in packets.iter().enumerate() {
            now += Duration::from_micros(*gap);
            drain(&mut direction, now, &mut arrived);
            sent.push(now);
            direction.offer(now, packet(index as u32, *len, 0));
        }
        drain(&mut direction, Duration::from_secs(3600), &mut arrived);
        let WanCounters { offered, lost, queue_full, too_large, overflowed, duplicated, delivered, .. }
            = direction.counters;
        prop_assert_eq!(offered, packets.len() as u64);
        prop_assert_eq!(offered + duplicated, lost + queue_full + too_large + overflowed + delivered);
        prop_assert_eq!(delivered, arrived.len() as u64);
        for (at, number) in &arrived {
            prop_assert!(*at >= sent[*number as usize] + path.delay);
        }
        if reorder == 0.0 {
            prop_assert!(arrived.is_sorted_by_key(|(_, number)| number));
        }
        prop_assert!(arrived.is_sorted_by_key(|(at, _)| at));
    }
}
