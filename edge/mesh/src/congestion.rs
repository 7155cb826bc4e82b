//! The congestion controller of a link that leaves congestion to the flows inside it.
//!
//! A tunnel of IP traffic need not have a window of its own: what it carries is congestion
//! controlled end to end (RFC 8085 §3.1.11), and a second loop around the first only halves it on
//! a lossy path. What remains is memory: quinn-proto remembers every packet in flight, and a path
//! that swallows everything would fill it. So bytes in flight are counted here, and at a cap no more
//! inner packets are handed over ([`has_room`]). quinn-proto's own window stays open: a shut one
//! would hold back acknowledgements and probes with the rest.

use std::{
    any::Any,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use quinn_proto::congestion::{Controller, ControllerFactory, ControllerMetrics};

/// Bytes in flight of one link: 1 Gbit/s at 130 ms.
const IN_FLIGHT_CAP: u64 = 16 * 1024 * 1024;
/// Packets in flight of one link, each of which quinn-proto remembers in about 150 bytes: small
/// ones would be many before they are 16 MiB.
const PACKETS_CAP: u64 = 32 * 1024;
/// Bytes in flight of all links together.
const TOTAL_CAP: u64 = 128 * 1024 * 1024;

/// Whether a link with this controller may take more inner packets. Controllers with a window of
/// their own always may.
pub(crate) fn has_room(controller: &dyn Controller) -> bool {
    controller.metrics().ssthresh != Some(FULL)
}

/// Bytes in flight of a link with this controller; zero for controllers with a window of their own.
pub(crate) fn in_flight(controller: &dyn Controller) -> u64 {
    let metrics = controller.metrics();
    if matches!(metrics.ssthresh, Some(ROOM | FULL)) { metrics.congestion_window } else { 0 }
}

/// In [`ControllerMetrics::ssthresh`], as quinn-proto has no other way for a controller to tell
/// something; the "window" beside it is the bytes in flight.
const ROOM: u64 = u64::MAX;
const FULL: u64 = u64::MAX - 1;

/// Builds [`Transparent`] controllers, which share the cap on all bytes in flight.
#[derive(Clone, Debug, Default)]
pub(crate) struct TransparentConfig {
    total: Arc<AtomicU64>,
}

impl ControllerFactory for TransparentConfig {
    fn build(self: Arc<Self>, _now: Instant, _current_mtu: u16) -> Box<dyn Controller> {
        let total = self.total.clone();
        Box::new(Transparent { in_flight: 0, last_sent: 0, largest_acked: 0, total })
    }
}

#[derive(Debug)]
struct Transparent {
    /// Our own count; quinn-proto's, which also knows of packets dropped with their keys, corrects
    /// it whenever acknowledgements arrive.
    in_flight: u64,
    /// Packet numbers.
    last_sent: u64,
    largest_acked: u64,
    /// In flight on all links.
    total: Arc<AtomicU64>,
}

impl Transparent {
    fn set_in_flight(&mut self, bytes: u64) {
        // Wrapping, so that a difference may be negative.
        self.total.fetch_add(bytes.wrapping_sub(self.in_flight), Ordering::Relaxed);
        self.in_flight = bytes;
    }

    fn is_full(&self) -> bool {
        self.in_flight >= IN_FLIGHT_CAP
            || self.last_sent.saturating_sub(self.largest_acked) >= PACKETS_CAP
            || self.total.load(Ordering::Relaxed) >= TOTAL_CAP
    }
}

impl Drop for Transparent {
    fn drop(&mut self) {
        self.set_in_flight(0);
    }
}

impl Controller for Transparent {
    fn on_sent(&mut self, _now: Instant, bytes: u64, last_packet_number: u64) {
        self.set_in_flight(self.in_flight + bytes);
        self.last_sent = last_packet_number;
    }

    fn on_end_acks(
        &mut self,
        _now: Instant,
        in_flight: u64,
        _app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        self.set_in_flight(in_flight);
        self.largest_acked = self.largest_acked.max(largest_packet_num_acked.unwrap_or(0));
    }

    fn on_congestion_event(
        &mut self,
        _now: Instant,
        _sent: Instant,
        _is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.set_in_flight(self.in_flight.saturating_sub(lost_bytes));
    }

    fn on_mtu_update(&mut self, _new_mtu: u16) {}

    /// Open: beyond `u32::MAX`, where quinn-proto switches pacing off. Constant, because every
    /// change makes it compute a pacing rate.
    fn window(&self) -> u64 {
        u64::MAX
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = ControllerMetrics::default();
        metrics.congestion_window = self.in_flight;
        metrics.ssthresh = Some(if self.is_full() { FULL } else { ROOM });
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        // A path that is tried beside this one (RFC 9000 §9.4) counts for itself.
        Box::new(Self { in_flight: 0, total: self.total.clone(), ..*self })
    }

    fn initial_window(&self) -> u64 {
        u64::MAX
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use quinn_proto::congestion::BbrConfig;

    use super::*;

    const FULL_SIZE: u64 = 1452;

    fn controller(config: &TransparentConfig) -> Box<dyn Controller> {
        Arc::new(config.clone()).build(Instant::now(), 1200)
    }

    #[test]
    fn there_is_room_up_to_the_cap_and_again_when_packets_are_acknowledged_or_lost() {
        let now = Instant::now();
        let mut controller = controller(&TransparentConfig::default());
        controller.on_sent(now, IN_FLIGHT_CAP - 1, 7);
        assert!(has_room(&*controller));
        controller.on_sent(now, 1, 8);
        assert!(!has_room(&*controller));
        assert!(controller.window() > u64::from(u32::MAX), "acknowledgements pass, unpaced");
        controller.on_congestion_event(now, now, false, 1200);
        assert!(has_room(&*controller));
        controller.on_sent(now, 1200, 9);
        assert!(!has_room(&*controller));
        controller.on_end_acks(now, 2400, false, Some(9));
        assert!(has_room(&*controller));
    }

    #[test]
    fn many_small_packets_fill_it_before_their_bytes_do() {
        let now = Instant::now();
        let mut controller = controller(&TransparentConfig::default());
        controller.on_sent(now, 100 * PACKETS_CAP, PACKETS_CAP);
        assert!(!has_room(&*controller));
        controller.on_end_acks(now, 100, false, Some(PACKETS_CAP - 1));
        assert!(has_room(&*controller));
    }

    #[test]
    fn all_links_together_have_a_cap_and_a_link_that_ends_gives_its_part_back() {
        let now = Instant::now();
        let config = TransparentConfig::default();
        let share = IN_FLIGHT_CAP - FULL_SIZE;
        let mut others: Vec<_> = (0..TOTAL_CAP / share).map(|_| controller(&config)).collect();
        others.iter_mut().for_each(|other| other.on_sent(now, share, 1));
        let mut last = controller(&config);
        let twin = last.clone_box();
        assert!(has_room(&*last));
        last.on_sent(now, TOTAL_CAP - config.total.load(Ordering::Relaxed), 1);
        assert!(!has_room(&*last) && others.iter().all(|other| !has_room(&**other)));
        drop(twin);
        assert!(!has_room(&*last), "a copy has nothing in flight");
        others.pop();
        assert!(has_room(&*last));
        drop((others, last));
        assert_eq!(config.total.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_controller_with_a_window_is_left_to_it() {
        let now = Instant::now();
        let mut controller = Arc::new(BbrConfig::default()).build(now, 1200);
        controller.on_sent(now, 10 * IN_FLIGHT_CAP, 7);
        assert!(has_room(&*controller));
    }
}
