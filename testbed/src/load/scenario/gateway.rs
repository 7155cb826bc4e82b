//! A real gateway with links to real edges and with many routes, when nothing happens: what it costs to be ready and to
//! judge that all is well.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cframe_protocol::v1::Call;

use super::TIMEOUT;
use crate::deployment::Edge;
use crate::lab::Site;
use crate::load::lab::LoadLab;
use crate::load::report::Report;
use crate::privilege;

const NAMESPACE: &str = "gateway";
/// Routes to each peer, besides the network of its own.
const ROUTES: usize = 99;
/// The thread of an edge that handles packets.
const PACKET_THREAD: &str = "mesh";
const PING_INTERVAL: Duration = Duration::from_millis(10);
const STATUS_INTERVAL: Duration = Duration::from_millis(500);

pub(super) async fn run(lab: &mut LoadLab, report: &mut Report) -> Result<()> {
    privilege::ensure_tun()?;
    lab.deployment.ctl(&["namespace", "add", NAMESPACE])?;
    let peers = usize::from(lab.size.links);
    // All edges and routes exist before the first edge starts: on one machine, changes for a hundred edges are slow.
    let sites: Vec<Site> = (0..=peers).map(|index| add_edge(lab, index)).collect::<Result<_>>()?;
    lab.operator().await?.call_all(routes(peers)?).await?;
    let mut edges = sites.iter().map(|site| join(lab, site)).collect::<Result<Vec<_>>>()?;
    let (gateway, others) = edges.split_first_mut().context("no edge")?;
    let timeout = TIMEOUT.max(Duration::from_secs(2) * u32::from(lab.size.links));
    gateway.wait_status("links to all, and all routes", timeout, |status| {
        let up = status["links"]
            .as_array()
            .map_or(0, |links| links.iter().filter(|link| link["up"] == true).count());
        let routes = &status["routes"];
        up == peers && routes["intended"] == routes["installed"]
    })?;
    let last = others.last().context("no peer")?;
    let ping = gateway.site().workload().ping(inner_address(last.site())?);
    let pinger = ping.interval(PING_INTERVAL).start()?;
    pinger.steady(100, TIMEOUT)?;
    // What the start has caused is over when nothing is wrong at this gateway any more.
    let settled = Instant::now();
    while gateway.status()?["problems"].as_array().is_some_and(|problems| !problems.is_empty()) {
        ensure!(settled.elapsed() < TIMEOUT, "the gateway has problems: {:#}", gateway.status()?);
        tokio::time::sleep(STATUS_INTERVAL).await;
    }
    let cpu = || -> Result<[f64; 2]> {
        let packets = gateway.process().thread_cpu_seconds(PACKET_THREAD)?;
        Ok([packets, gateway.process().cpu_seconds()? - packets])
    };
    let (before, started) = (cpu()?, Instant::now());
    tokio::time::sleep(Duration::from_secs(lab.size.seconds)).await;
    let (after, lasted) = (cpu()?, started.elapsed().as_secs_f64());
    let [packets, rest] = [0, 1].map(|part| 100.0 * (after[part] - before[part]) / lasted);
    let pings = pinger.stop();
    report.record("links", peers as f64, "");
    report.record("routes", (peers * (ROUTES + 1)) as f64, "");
    report.record("CPU for packets: 100 pings/s, links that are kept", packets, "%");
    report.record_bounded("CPU for all else, such as the judgement", rest, "%", 0.5);
    report.record("pings", pings.sent as f64, "");
    report.record_bounded("pings without a reply", pings.lost.len() as f64, "", 0.0);
    report.record("longest time between two replies", pings.longest_gap.as_secs_f64() * 1e3, "ms");
    Ok(())
}

fn add_edge(lab: &mut LoadLab, index: usize) -> Result<Site> {
    let site = lab.net.site(&format!("site-{index}")).public(&format!("203.0.{index}.7/24"));
    let site = site.inner(&format!("172.20.{index}.0/24")).build()?;
    lab.deployment.edge(&site).namespace(NAMESPACE).add()?;
    Ok(site)
}

fn join(lab: &LoadLab, site: &Site) -> Result<Edge> {
    let token = lab.deployment.token(NAMESPACE, site.name())?;
    let edge = lab.deployment.edge(site).namespace(NAMESPACE).without_old_files()?;
    edge.join(&token).with_context(|| format!("starting {}", site.name()))
}

fn routes(peers: usize) -> Result<Vec<Call>> {
    let routes = (1..=peers).flat_map(|peer| (0..ROUTES).map(move |route| (peer, route)));
    let add = |(peer, route)| {
        Ok(Call::RouteAdd {
            namespace: NAMESPACE.parse()?,
            name: format!("route-{peer}-{route}").parse()?,
            prefix: format!("10.{peer}.{route}.0/24").parse()?,
            edge: format!("site-{peer}").parse()?,
        })
    };
    routes.map(add).collect()
}

fn inner_address(site: &Site) -> Result<std::net::IpAddr> {
    let address = site.workload().addresses().first().copied();
    Ok(address.context("the workload has no address")?.addr())
}
