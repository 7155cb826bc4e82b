//! The steps of the demonstration, in order. A failed check is recorded in the summary and the next
//! step follows; an error ends the steps and is recorded too.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::print;
use super::sites::{DemoSites, MESH};
use super::summary::Summary;
use crate::deployment::{Deployment, Edge, Transcript};
use crate::host::Host;
use crate::http;
use crate::iperf::Iperf;
use crate::ping::Pinger;
use crate::wait::wait_until;

const TIMEOUT: Duration = Duration::from_secs(10);
/// Promised limit from a `route add` to the first packet.
const MAX_ROUTE_CHANGE: Duration = Duration::from_millis(100);
/// Promised limit from a revocation to the end of all links of the edge.
const MAX_REVOCATION: Duration = Duration::from_secs(1);
/// Number of pings while no controller runs.
const PINGS_WITHOUT_CONTROLLER: usize = 300;
const PAGE: &str = "Hello from aws-hk, over the mesh.";

/// Runs all steps. `start` is when the lab was started.
pub(super) fn run_all(sites: DemoSites, start: Instant) -> Summary {
    let mut summary = Summary::default();
    let lab = format!("4 sites and a controller in {}", ms(start.elapsed()));
    summary.add("lab", lab, true);
    let result = Demo::start(sites, &mut summary).and_then(|mut demo| demo.run(&mut summary));
    if let Err(error) = result {
        summary.add("stopped by an error", format!("{error:#}"), false);
    }
    summary.duration = start.elapsed();
    summary
}

struct Demo {
    sites: DemoSites,
    mesh: Deployment,
    sz: Edge,
    hk: Edge,
    idc: Edge,
    office: Edge,
}

impl Demo {
    fn start(sites: DemoSites, summary: &mut Summary) -> Result<Self> {
        let start = Instant::now();
        heading("A controller with the embedded store, and a namespace");
        let transcript = Transcript::new(print);
        let mesh = Deployment::start_mesh(MESH, &sites.dir, &sites.controller, transcript)?;
        mesh.ctl_ok(&["namespace", "add", "prod"])?;
        heading("Edges, each enrolled with a token; office is behind a NAT and has no endpoint");
        let sz = mesh.edge(&sites.sz).endpoints(&["192.0.2.7:58423"]).enrol()?;
        let hk = mesh.edge(&sites.hk).endpoints(&["203.0.113.7:58423"]).enrol()?;
        let idc = mesh.edge(&sites.idc).endpoints(&["198.18.0.7:58423"]).enrol()?;
        let office = mesh.edge(&sites.office).enrol()?;
        let mut demo = Self { sites, mesh, sz, hk, idc, office };
        for edge in demo.edges() {
            edge.wait_links(3)?;
            edge.wait_synced()?;
        }
        let result = format!("4 edges with tokens, 6 links up in {}", s(start.elapsed()));
        summary.add("enrolment", result, true);
        Ok(demo)
    }

    fn run(&mut self, summary: &mut Summary) -> Result<()> {
        self.mesh.wait_in_sync("prod", 4)?;
        self.mesh.ctl_ok(&["edge", "list", "--namespace", "prod"])?;
        self.pings(summary)?;
        self.page(summary)?;
        self.pod_network(summary)?;
        self.throughput(summary)?;
        self.controller_killed(summary)?;
        self.revocation(summary)?;
        self.memory(summary)
    }

    fn edges(&mut self) -> [&mut Edge; 4] {
        [&mut self.sz, &mut self.hk, &mut self.idc, &mut self.office]
    }

    fn pings(&self, summary: &mut Summary) -> Result<()> {
        heading("Pings between workload hosts, which run no cframe program");
        let DemoSites { sz, hk, idc, office, .. } = &self.sites;
        let v6 = idc.workload().v6().context("idc has IPv6 inside")?;
        let pairs: [(&Host, IpAddr); 6] = [
            (sz.workload(), hk.workload().address()),
            (hk.workload(), idc.workload().address()),
            (idc.workload(), sz.workload().address()),
            (office.workload(), hk.workload().address()),
            (sz.workload(), office.workload().address()),
            (office.workload(), v6.into()),
        ];
        let mut answered = 0;
        for (from, to) in pairs {
            let mut ping = from.command("ping");
            ping.args(["-q", "-c", "3", "-i", "0.2", "-W", "2", &to.to_string()]);
            let output = Transcript::new(print).run(from, ping, TIMEOUT)?;
            answered += usize::from(output.code == 0 && output.stdout.contains(" 0% packet loss"));
        }
        let result =
            format!("{answered} of {} without loss, including IPv6 and the NAT", pairs.len());
        summary.add("pings", result, answered == pairs.len());
        Ok(())
    }

    fn page(&self, summary: &mut Summary) -> Result<()> {
        heading("A page from a web server at aws-hk");
        let server = http::Server::start(self.sites.hk.workload(), 80, format!("{PAGE}\n"))?;
        let from = self.sites.sz.workload();
        let mut curl = from.command("curl");
        curl.env_remove("http_proxy").args(["-s", "-m", "5"]);
        curl.arg(format!("http://{}/", server.address().ip()));
        let output = Transcript::new(print).run(from, curl, TIMEOUT)?;
        let complete = output.code == 0 && output.stdout.trim_end() == PAGE;
        let result = format!("{} bytes from aws-hk to aliyun-sz", output.stdout.len());
        summary.add("HTTP", result, complete);
        Ok(())
    }

    fn pod_network(&self, summary: &mut Summary) -> Result<()> {
        heading("A pod network behind aws-hk, added while two other sites ping a host in it");
        let pod = self.sites.pods.address();
        let sites = [&self.sites.sz, &self.sites.idc];
        let pingers = sites.map(|site| start_pings(site.workload(), pod, 2));
        let pingers = pingers.into_iter().collect::<Result<Vec<_>>>()?;
        for pinger in &pingers {
            wait_until(TIMEOUT, || pinger.stats().sent > 20)?;
            ensure!(pinger.stats().received == 0, "{pod} answers before its route is added");
        }
        let start = Instant::now();
        let add = ["route", "add", "pods-hk", "--namespace", "prod"];
        self.mesh.ctl_ok(&[&add[..], &["--cidr", "10.244.0.0/16", "--edge", "aws-hk"]].concat())?;
        for (site, pinger) in sites.iter().zip(pingers) {
            let took = pinger.reply_after(start, TIMEOUT)?;
            print(&format!("  {} got its first reply from {pod} after {}", site.name(), ms(took)));
            let check =
                if site.name() == "idc" { "route add → idc" } else { "route add → aliyun-sz" };
            let result = format!("first reply {} after the command was started", ms(took));
            summary.add(check, result, took <= MAX_ROUTE_CHANGE);
        }
        Ok(())
    }

    fn throughput(&self, summary: &mut Summary) -> Result<()> {
        heading("TCP throughput between two edge hosts, without and with the mesh");
        let (from, to) = (self.sites.hk.edge(), self.sites.idc.edge());
        let public = self.sites.idc.uplink().v4().context("idc has a public IPv4 address")?;
        let [bare, tunnel] = [IpAddr::from(public), to.address()].map(|target| {
            Transcript::new(print).typed(from, &format!("iperf3 --client {target} --time 2"));
            let measured = Iperf::tcp(2).run(from, to, target)?;
            print(&format!("  {:.0} Mbit/s, {} retransmits", measured.mbit, measured.retransmits));
            anyhow::Ok(measured)
        });
        let (bare, tunnel) = (bare?, tunnel?);
        let share = 100.0 * tunnel.mbit / bare.mbit;
        let result = format!(
            "{:.0} Mbit/s through the mesh, {:.0} Mbit/s without: {share:.0} %",
            tunnel.mbit, bare.mbit
        );
        summary.add("TCP throughput", result, tunnel.mbit > 0.0);
        Ok(())
    }

    fn controller_killed(&mut self, summary: &mut Summary) -> Result<()> {
        heading("The controller is killed while aliyun-sz pings aws-hk 100 times a second");
        let pinger = start_pings(self.sites.sz.workload(), self.sites.hk.workload().address(), 10)?;
        pinger.steady(20, TIMEOUT)?;
        let start = Instant::now();
        self.mesh.controller_mut().kill9()?;
        let sent = pinger.stats().sent;
        wait_until(TIMEOUT, || pinger.stats().sent >= sent + PINGS_WITHOUT_CONTROLLER)?;
        let gone = start.elapsed();
        self.mesh.controller_mut().start()?;
        self.mesh.wait_in_sync("prod", 4)?;
        let back = start.elapsed() - gone;
        let stats = pinger.stop();
        print(&format!("  {stats}, {} lost", stats.lost.len()));
        let result =
            format!("down for {}; {} pings, {} lost", s(gone), stats.sent, stats.lost.len());
        summary.add("controller killed", result, stats.lost.is_empty());
        let result = format!("all edges in sync {} after its start", s(back));
        summary.add("controller restarted", result, true);
        Ok(())
    }

    fn revocation(&mut self, summary: &mut Summary) -> Result<()> {
        heading("An edge's certificate is revoked while its site pings aws-hk");
        let pinger =
            start_pings(self.sites.office.workload(), self.sites.hk.workload().address(), 5)?;
        pinger.steady(20, TIMEOUT)?;
        let start = Instant::now();
        let revoke = ["cert", "revoke", "--edge", "office", "--namespace", "prod", "--yes"];
        self.mesh.ctl_ok(&revoke)?;
        for edge in [&mut self.sz, &mut self.hk, &mut self.idc] {
            edge.wait_links(2)?;
        }
        let cut = start.elapsed();
        let stats = pinger.stop();
        let replies = stats.probes.iter().filter_map(|probe| Some(probe.sent + probe.rtt?));
        let last =
            replies.max().map_or(Duration::ZERO, |last| last.saturating_duration_since(start));
        print(&format!("  the last reply to office came after {}", ms(last)));
        self.mesh.ctl_ok(&["edge", "list", "--namespace", "prod"])?;
        let result =
            format!("last reply after {}, links to all others down after {}", ms(last), ms(cut));
        summary.add("edge revoked", result, last.max(cut) <= MAX_REVOCATION);
        Ok(())
    }

    fn memory(&mut self, summary: &mut Summary) -> Result<()> {
        let mut edges = Vec::new();
        for edge in [&self.sz, &self.hk, &self.idc] {
            edges.push(mib(edge.process().rss_kib()?));
        }
        let controller = mib(self.mesh.controller().process().rss_kib()?);
        let result = format!("controller {controller} MiB, edges {} MiB", edges.join(", "));
        summary.add("resident memory", result, true);
        Ok(())
    }
}

fn start_pings(from: &Host, to: IpAddr, interval_ms: u64) -> Result<Pinger> {
    from.ping(to).interval(Duration::from_millis(interval_ms)).start()
}

fn heading(text: &str) {
    print(&format!("\n== {text}"));
}

fn ms(time: Duration) -> String {
    format!("{:.0} ms", time.as_secs_f64() * 1e3)
}

fn s(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

fn mib(kib: u64) -> String {
    format!("{:.1}", kib as f64 / 1024.0)
}
