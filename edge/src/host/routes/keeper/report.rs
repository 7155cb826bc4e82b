//! What the keeper reports.

use cframe_protocol::reserved::SERVICE_ADDRESSES;
use ipnet::IpNet;
use tokio::time::Instant;

use super::{Keeper, chain};
use crate::{
    host::{
        reconcile::{RouteKey, Target, inside, metric},
        routes::facts::{Overlap, Reserved, RoutingFacts},
    },
    status::RouteStatus,
};

/// Routes that the status lists, and overlaps that are reported.
const MAX_LISTED: usize = 20;

impl Keeper {
    pub(super) async fn status(&self) -> RouteStatus {
        let wanted = self.intent.wanted();
        let overlaps = self.overlaps().into_iter();
        let mut status = RouteStatus {
            table: self.instance.table(),
            mark: self.mark.value,
            intended: wanted.len(),
            error: self.error.clone(),
            sources: [false, true].iter().filter_map(|v6| self.intent.source(*v6)).collect(),
            overlaps: overlaps
                .map(|overlap| format!("{} (here) and {} (mesh)", overlap.local, overlap.prefix))
                .collect(),
            ..RouteStatus::default()
        };
        match self.kernel.table(self.instance.table()).await {
            Ok(found) => {
                let plan = self.plan(&found);
                status.installed = wanted.len() - plan.missing.len();
                let missing = plan.missing.iter().map(|route| describe(&route.key));
                status.missing = missing.take(MAX_LISTED).collect();
                let stale = plan.stale.iter().map(|index| describe(&found[*index].route.key));
                status.stale = stale.take(MAX_LISTED).collect();
            }
            Err(error) => status.error = Some(chain(&error)),
        }
        status
    }

    pub(super) fn facts(&mut self) -> RoutingFacts {
        let now = Instant::now();
        let repairs = &mut self.repairs;
        let undone = [
            &mut repairs.rules,
            &mut repairs.routes,
            &mut repairs.device,
            &mut self.forwarding.backoff,
        ];
        RoutingFacts {
            undone: undone.into_iter().filter_map(|backoff| backoff.undone(now)).collect(),
            error: self.error.clone(),
            bypassed: self.bypass.found().cloned().collect(),
            bypassed_if_marked: self.bypass.marked().to_vec(),
            overlaps: self.overlaps(),
            reserved: self.reserved(),
            forwarding_off: self.forwarding.off.clone(),
            advertisements_ignored: self.forwarding.ignored.clone(),
            mtu: self.wrong_mtu(),
            marked: self.underlay.marked.clone(),
        }
    }

    /// Networks of the host that overlap prefixes of other sites and take precedence.
    fn overlaps(&self) -> Vec<Overlap> {
        let (foreign, local) = (self.intent.foreign(), self.intent.local());
        let mut overlaps = Vec::new();
        let mut push = |net: IpNet, prefix: IpNet, whole: bool, route: bool| {
            if overlaps.len() < MAX_LISTED {
                let device = self.networks.device_of(net).map(str::to_owned);
                overlaps.push(Overlap { local: net, device, prefix, whole, route });
            }
        };
        // Prefixes that are hidden come first, so that none of them is left out.
        for net in &local.subnets {
            inside(foreign, *net).for_each(|prefix| push(*net, *prefix, true, false));
        }
        for net in local.connected.difference(&local.subnets).filter(|net| foreign.contains(net)) {
            push(*net, *net, true, false);
        }
        let around = |net: &IpNet| {
            let wider = std::iter::successors(net.supernet(), IpNet::supernet);
            wider.map(|wider| wider.trunc()).find(|wider| foreign.contains(wider))
        };
        for net in &local.connected {
            around(net).into_iter().for_each(|prefix| push(*net, prefix, false, false));
        }
        for net in &local.routes {
            around(net).into_iter().for_each(|prefix| push(*net, prefix, false, true));
        }
        overlaps
    }

    fn reserved(&self) -> Vec<Reserved> {
        let foreign = self.intent.foreign();
        let services = SERVICE_ADDRESSES.iter().filter(|service| {
            let key = RouteKey { net: service.net, metric: metric::THROW };
            self.intent.at(&key) == Some(Target::Throw)
        });
        let with_prefix = services.filter_map(|service| {
            let wider = std::iter::successors(Some(service.net), IpNet::supernet);
            let prefix = wider.map(|wider| wider.trunc()).find(|wider| foreign.contains(wider))?;
            Some(Reserved { net: service.net, what: service.what, prefix })
        });
        with_prefix.collect()
    }
}

fn describe(key: &RouteKey) -> String {
    format!("{} metric {}", key.net, key.metric)
}
