//! The congestion controller of a link that leaves congestion to the flows inside it.
//!
//! A tunnel for IP traffic needs no congestion window of its own: the traffic inside is congestion
//! controlled end to end (RFC 8085 §3.1.11), and a second control loop around the first only halves
//! its throughput on a lossy path. Memory must be limited, though: quinn-proto remembers every
//! packet in flight, and a path that loses everything would fill it. So bytes in flight are counted
//! here, and at a limit no more inner packets are handed over ([`TotalInFlight::has_room`]).
//! quinn-proto's own window stays open: a closed one would hold back acknowledgements and probes
//! too.

use std::{any::Any, sync::Arc, time::Instant};

use quinn_proto::congestion::{Controller, ControllerFactory, ControllerMetrics};

/// Bytes in flight of one link: 1 Gbit/s at 130 ms.
const LINK_LIMIT: u64 = 16 * 1024 * 1024;
/// Bytes in flight of all links together.
const TOTAL_LIMIT: u64 = 128 * 1024 * 1024;
/// Bytes that each link may have in flight even if all together are over the limit.
const LINK_GUARANTEE: u64 = 1024 * 1024;
/// Bytes that a packet counts at least: quinn-proto needs as much memory for a small one.
const MIN_PACKET_WEIGHT: u64 = 512;
/// Unacknowledged packets after which an acknowledgement is requested. Packets that contain only
/// acknowledgements are never acknowledged themselves (RFC 9000 §13.2.4), and would count for ever.
const REQUEST_ACK_AFTER: u64 = 1024;

/// What was sent on a link and is neither acknowledged nor lost.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct InFlight {
    pub(crate) bytes: u64,
    /// The difference of packet numbers, including gaps and packets that need no acknowledgement.
    pub(crate) packets: u64,
    /// The largest packet number that was acknowledged, modulo 2³²; `None` for other controllers.
    pub(crate) acked: Option<u32>,
}

/// The weight in flight on all links.
#[derive(Debug, Default)]
pub(crate) struct TotalInFlight(u64);

impl InFlight {
    /// The count of a link's controller; zero for controllers with a window of their own.
    pub(crate) fn of(controller: &dyn Controller) -> Self {
        let metrics = controller.metrics();
        match metrics.ssthresh {
            Some(TRANSPARENT) => {
                let (acked, packets) = unpack(metrics.pacing_rate.unwrap_or(0));
                Self { bytes: metrics.congestion_window, packets, acked: Some(acked) }
            }
            Some(_) | None => Self::default(),
        }
    }

    /// Whether the peer should be asked for an acknowledgement.
    pub(crate) fn needs_ack(&self) -> bool {
        self.packets >= REQUEST_ACK_AFTER
    }

    /// Bytes, or more if there are many small packets: a measure of memory.
    fn weight(&self) -> u64 {
        self.bytes.max(self.packets * MIN_PACKET_WEIGHT)
    }
}

impl TotalInFlight {
    /// Replaces a link's part of the total, which was `counted` before.
    pub(crate) fn update(&mut self, counted: &mut u64, in_flight: InFlight) {
        let weight = in_flight.weight();
        self.0 = self.0 - *counted + weight;
        *counted = weight;
    }

    /// Removes a link's part of the total.
    pub(crate) fn remove(&mut self, counted: u64) {
        self.0 -= counted;
    }

    /// Whether a link with this part of the total may take more inner packets.
    pub(crate) fn has_room(&self, counted: u64) -> bool {
        counted < LINK_LIMIT && (counted < LINK_GUARANTEE || self.0 < TOTAL_LIMIT)
    }
}

/// The value of [`ControllerMetrics::ssthresh`] that marks our controller. quinn-proto has no other
/// way to read a controller's state: its "window" is the bytes in flight, its "pacing rate" the
/// packets (see [`pack`]).
const TRANSPARENT: u64 = u64::MAX;

/// The largest packet number that was acknowledged, modulo 2³², and the packets in flight.
fn pack(acked: u64, packets: u64) -> u64 {
    acked << 32 | packets.min(u32::MAX.into())
}

fn unpack(packed: u64) -> (u32, u64) {
    (u32::try_from(packed >> 32).unwrap_or(0), packed & u64::from(u32::MAX))
}

#[derive(Clone, Debug, Default)]
pub(crate) struct TransparentConfig;

impl ControllerFactory for TransparentConfig {
    fn build(self: Arc<Self>, _now: Instant, _current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Transparent::default())
    }
}

#[derive(Clone, Debug, Default)]
struct Transparent {
    /// Our own count. quinn-proto's count, which includes packets dropped with their keys, replaces
    /// it when acknowledgements arrive.
    in_flight: u64,
    last_sent: u64,
    /// The largest packet number that was acknowledged, or sent before this controller was created.
    done: Option<u64>,
}

impl Controller for Transparent {
    fn on_sent(&mut self, _now: Instant, bytes: u64, last_packet_number: u64) {
        self.in_flight += bytes;
        self.last_sent = last_packet_number;
        // Packet numbers continue when a link moves to another path, which has a new controller.
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

    /// Above `u32::MAX`, where quinn-proto switches pacing off. Constant, because every change
    /// makes it compute a pacing rate.
    fn window(&self) -> u64 {
        u64::MAX
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = ControllerMetrics::default();
        metrics.congestion_window = self.in_flight;
        let done = self.done.unwrap_or(0);
        metrics.pacing_rate = Some(pack(done, self.last_sent.saturating_sub(done)));
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
        TotalInFlight::default().has_room(InFlight::of(controller).weight())
    }

    #[test]
    fn there_is_room_up_to_the_limit_and_again_when_packets_are_acknowledged_or_lost() {
        let now = Instant::now();
        let mut controller = controller();
        controller.on_sent(now, LINK_LIMIT - 1, 7);
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
    fn small_packets_count_as_the_memory_they_need() {
        let now = Instant::now();
        let mut controller = controller();
        controller.on_sent(now, 40, 1);
        controller.on_sent(now, 40 * 40_000, 40_000);
        assert!(!has_room(&*controller));
        assert!(InFlight::of(&*controller).needs_ack());
        controller.on_end_acks(now, 100, false, Some(39_990));
        assert!(has_room(&*controller));
        assert!(!InFlight::of(&*controller).needs_ack());
    }

    #[test]
    fn a_new_path_starts_empty_whatever_was_sent_before() {
        let now = Instant::now();
        let mut controller = controller();
        controller.on_sent(now, 1200, 1_000_000);
        assert_eq!(
            InFlight::of(&*controller),
            InFlight { bytes: 1200, packets: 1, acked: Some(999_999) }
        );
    }

    #[test]
    fn links_with_few_bytes_in_flight_may_send_when_all_together_have_too_many() {
        let full = TotalInFlight(TOTAL_LIMIT);
        assert!(full.has_room(LINK_GUARANTEE - 1));
        assert!(!full.has_room(LINK_GUARANTEE));
        assert!(TotalInFlight(TOTAL_LIMIT - 1).has_room(LINK_GUARANTEE));
        assert!(!TotalInFlight(0).has_room(LINK_LIMIT));
    }

    #[test]
    fn a_controller_with_its_own_window_counts_as_nothing_in_flight() {
        let mut controller = Arc::new(BbrConfig::default()).build(Instant::now(), 1200);
        controller.on_sent(Instant::now(), 10 * LINK_LIMIT, 7);
        assert_eq!(InFlight::of(&*controller), InFlight::default());
    }
}
