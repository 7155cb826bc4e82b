//! The congestion controller of a link that leaves congestion to the flows inside it.
//!
//! A tunnel of IP traffic need not have a window of its own: what it carries is congestion
//! controlled end to end (RFC 8085 §3.1.11), and a second loop around the first only halves it on
//! a lossy path. What remains is memory: quinn-proto remembers every packet in flight, and a path
//! that swallows everything would fill it. So bytes in flight are counted here, and at a cap no more
//! inner packets are handed over ([`has_room`]). quinn-proto's own window stays open: a shut one
//! would hold back acknowledgements and probes with the rest.

use std::{any::Any, sync::Arc, time::Instant};

use quinn_proto::congestion::{Controller, ControllerFactory, ControllerMetrics};

/// Bytes in flight of one link: 1 Gbit/s at 130 ms.
const IN_FLIGHT_CAP: u64 = 16 * 1024 * 1024;

/// Whether a link with this controller may take more inner packets. Controllers with a window of
/// their own always may.
pub(crate) fn has_room(controller: &dyn Controller) -> bool {
    in_flight(controller) < IN_FLIGHT_CAP
}

/// Bytes in flight of a link with this controller; zero for controllers with a window of their own.
pub(crate) fn in_flight(controller: &dyn Controller) -> u64 {
    let metrics = controller.metrics();
    if metrics.ssthresh == Some(TRANSPARENT) { metrics.congestion_window } else { 0 }
}

/// In [`ControllerMetrics::ssthresh`]: the "window" beside it is the bytes in flight.
const TRANSPARENT: u64 = u64::MAX;

/// Builds [`Transparent`] controllers.
#[derive(Clone, Debug, Default)]
pub(crate) struct TransparentConfig;

impl ControllerFactory for TransparentConfig {
    fn build(self: Arc<Self>, _now: Instant, _current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Transparent { in_flight: 0 })
    }
}

#[derive(Clone, Debug)]
struct Transparent {
    /// Our own count; quinn-proto's, which also knows of packets dropped with their keys, corrects
    /// it whenever acknowledgements arrive.
    in_flight: u64,
}

impl Controller for Transparent {
    fn on_sent(&mut self, _now: Instant, bytes: u64, _last_packet_number: u64) {
        self.in_flight += bytes;
    }

    fn on_end_acks(
        &mut self,
        _now: Instant,
        in_flight: u64,
        _app_limited: bool,
        _largest_packet_num_acked: Option<u64>,
    ) {
        self.in_flight = in_flight;
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

    #[test]
    fn there_is_room_up_to_the_cap_and_again_when_packets_are_acknowledged_or_lost() {
        let now = Instant::now();
        let mut controller = Arc::new(TransparentConfig).build(now, 1200);
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
    fn a_controller_with_a_window_is_left_to_it() {
        let now = Instant::now();
        let mut controller = Arc::new(BbrConfig::default()).build(now, 1200);
        controller.on_sent(now, 10 * IN_FLIGHT_CAP, 7);
        assert!(has_room(&*controller));
    }
}
