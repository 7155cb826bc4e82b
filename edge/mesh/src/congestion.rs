//! The congestion controller of a link that leaves congestion to the flows inside it.
//!
//! A tunnel of IP traffic need not have a window of its own: what it carries is congestion
//! controlled end to end (RFC 8085 §3.1.11), and a second loop around the first only halves it on
//! a lossy path. What remains is memory: quinn-proto remembers every packet in flight, and a path
//! that swallows everything would fill it. So bytes in flight are counted here, and at a cap no more
//! inner packets are handed over ([`Total::has_room`]). quinn-proto's own window stays open: a shut one
//! would hold back acknowledgements and probes with the rest.

use std::{any::Any, sync::Arc, time::Instant};

use quinn_proto::congestion::{Controller, ControllerFactory, ControllerMetrics};

use crate::link::Link;

/// Bytes in flight of one link: 1 Gbit/s at 130 ms.
const LINK_CAP: u64 = 16 * 1024 * 1024;
/// Bytes in flight of all links together.
const TOTAL_CAP: u64 = 128 * 1024 * 1024;
/// What a link may have when all together have too much: others' trouble is not its own.
const FLOOR: u64 = 1024 * 1024;
/// What quinn-proto remembers of a packet, at least: small ones count as so many bytes.
const PACKET: u64 = 512;
/// Packets that nobody has acknowledged, after which an acknowledgement is asked for. Those that only
/// acknowledge are never acknowledged themselves (RFC 9000 §13.2.4), and would count for ever.
const ASK_AFTER: u64 = 1024;

/// What was sent on a link and not yet acknowledged or given up.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct InFlight {
    pub(crate) bytes: u64,
    /// By packet numbers, with gaps and packets that need no acknowledgement.
    pub(crate) packets: u64,
}

/// In flight on all links.
#[derive(Debug, Default)]
pub(crate) struct Total(u64);

impl InFlight {
    /// Of a link with this controller; nothing for controllers with a window of their own.
    pub(crate) fn of(controller: &dyn Controller) -> Self {
        let metrics = controller.metrics();
        match metrics.ssthresh {
            Some(TRANSPARENT) => {
                Self { bytes: metrics.congestion_window, packets: metrics.pacing_rate.unwrap_or(0) }
            }
            Some(_) | None => Self::default(),
        }
    }

    /// Whether the peer is to be asked for an acknowledgement.
    pub(crate) fn wants_answer(&self) -> bool {
        self.packets >= ASK_AFTER
    }

    /// What it costs in memory, in terms of large packets.
    fn weight(&self) -> u64 {
        self.bytes.max(self.packets * PACKET)
    }
}

impl Total {
    /// Counts the link as it is now.
    pub(crate) fn count(&mut self, link: &mut Link) {
        let weight = link.in_flight().weight();
        self.0 = self.0 - link.counted + weight;
        link.counted = weight;
    }

    /// Counts it no more.
    pub(crate) fn forget(&mut self, link: &Link) {
        self.0 -= link.counted;
    }

    /// Whether the link, counted just now, may take more inner packets.
    pub(crate) fn has_room(&self, link: &Link) -> bool {
        self.admits(link.counted)
    }

    fn admits(&self, weight: u64) -> bool {
        weight < LINK_CAP && (weight < FLOOR || self.0 < TOTAL_CAP)
    }
}

/// In [`ControllerMetrics::ssthresh`], as quinn-proto has no other way for a controller to tell
/// something: the "window" beside it is the bytes in flight, the "pacing rate" the packets.
const TRANSPARENT: u64 = u64::MAX;

/// Builds [`Transparent`] controllers.
#[derive(Clone, Debug, Default)]
pub(crate) struct TransparentConfig;

impl ControllerFactory for TransparentConfig {
    fn build(self: Arc<Self>, _now: Instant, _current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Transparent::default())
    }
}

#[derive(Clone, Debug, Default)]
struct Transparent {
    /// Our own count; quinn-proto's, which also knows of packets dropped with their keys, corrects
    /// it whenever acknowledgements arrive.
    in_flight: u64,
    last_sent: u64,
    /// The largest packet number that is acknowledged, or that was sent before this began.
    done: Option<u64>,
}

impl Controller for Transparent {
    fn on_sent(&mut self, _now: Instant, bytes: u64, last_packet_number: u64) {
        self.in_flight += bytes;
        self.last_sent = last_packet_number;
        // A path that the link moved to goes on with the numbers of the one before.
        self.done.get_or_insert(last_packet_number.saturating_sub(1));
    }

    fn on_end_acks(
        &mut self,
        _now: Instant,
        in_flight: u64,
        _app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        self.in_flight = in_flight;
        self.done = self.done.max(largest_packet_num_acked);
    }

    fn on_congestion_event(
        &mut self,
        _now: Instant,
        _sent: Instant,
        _is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.in_flight = self.in_flight.saturating_sub(lost_bytes);
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
        metrics.pacing_rate = Some(self.last_sent.saturating_sub(self.done.unwrap_or(0)));
        metrics.ssthresh = Some(TRANSPARENT);
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
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

    fn controller() -> Box<dyn Controller> {
        Arc::new(TransparentConfig).build(Instant::now(), 1200)
    }

    fn has_room(controller: &dyn Controller) -> bool {
        Total::default().admits(InFlight::of(controller).weight())
    }

    #[test]
    fn there_is_room_up_to_the_cap_and_again_when_packets_are_acknowledged_or_lost() {
        let now = Instant::now();
        let mut controller = controller();
        controller.on_sent(now, LINK_CAP - 1, 7);
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
    fn small_packets_count_for_what_they_cost() {
        let now = Instant::now();
        let mut controller = controller();
        controller.on_sent(now, 40, 1);
        controller.on_sent(now, 40 * 40_000, 40_000);
        assert!(!has_room(&*controller));
        assert!(InFlight::of(&*controller).wants_answer());
        controller.on_end_acks(now, 100, false, Some(39_990));
        assert!(has_room(&*controller));
        assert!(!InFlight::of(&*controller).wants_answer());
    }

    #[test]
    fn a_path_that_a_link_moves_to_begins_empty_whatever_was_sent_before() {
        let now = Instant::now();
        let mut controller = controller();
        controller.on_sent(now, 1200, 1_000_000);
        assert_eq!(InFlight::of(&*controller), InFlight { bytes: 1200, packets: 1 });
    }

    #[test]
    fn links_that_have_little_go_on_when_all_together_have_too_much() {
        let full = Total(TOTAL_CAP);
        assert!(full.admits(FLOOR - 1));
        assert!(!full.admits(FLOOR));
        assert!(Total(TOTAL_CAP - 1).admits(FLOOR));
        assert!(!Total(0).admits(LINK_CAP));
    }

    #[test]
    fn a_controller_with_a_window_is_left_to_it() {
        let mut controller = Arc::new(BbrConfig::default()).build(Instant::now(), 1200);
        controller.on_sent(Instant::now(), 10 * LINK_CAP, 7);
        assert_eq!(InFlight::of(&*controller), InFlight::default());
    }
}
