//! The congestion controller of a link that leaves congestion to the flows inside it.
//!
//! A tunnel of IP traffic need not have a window of its own: what it carries is congestion
//! controlled end to end (RFC 8085 §3.1.11), and a second loop around the first only halves it on
//! a lossy path. What remains is memory: quinn-proto remembers every packet in flight, and a path
//! that swallows everything would fill it. So bytes in flight are counted, and at a cap the link
//! stops until something is acknowledged or given up.

use std::{any::Any, sync::Arc, time::Instant};

use quinn_proto::congestion::{Controller, ControllerFactory};

/// Bytes in flight of one link: 1 Gbit/s at 130 ms.
const IN_FLIGHT_CAP: u64 = 16 * 1024 * 1024;

/// Builds [`Transparent`] controllers.
#[derive(Clone, Debug)]
pub(crate) struct TransparentConfig {
    cap: u64,
}

impl Default for TransparentConfig {
    fn default() -> Self {
        Self { cap: IN_FLIGHT_CAP }
    }
}

impl ControllerFactory for TransparentConfig {
    fn build(self: Arc<Self>, _now: Instant, _current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Transparent { cap: self.cap, in_flight: 0 })
    }
}

#[derive(Clone, Debug)]
struct Transparent {
    cap: u64,
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

    /// Open or shut. Open is beyond `u32::MAX`, where quinn-proto switches pacing off.
    fn window(&self) -> u64 {
        if self.in_flight < self.cap { u64::MAX } else { 1 }
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
    use super::*;

    #[test]
    fn the_window_shuts_at_the_cap_and_opens_when_packets_are_acknowledged_or_lost() {
        let now = Instant::now();
        let mut controller = Arc::new(TransparentConfig { cap: 10_000 }).build(now, 1200);
        assert!(controller.window() > u64::from(u32::MAX), "no pacing");
        controller.on_sent(now, 10_000, 7);
        assert_eq!(controller.window(), 1);
        controller.on_congestion_event(now, now, false, 1200);
        assert!(controller.window() > u64::from(u32::MAX));
        controller.on_sent(now, 1200, 8);
        assert_eq!(controller.window(), 1);
        controller.on_end_acks(now, 2400, false, Some(8));
        assert!(controller.window() > u64::from(u32::MAX));
    }
}
