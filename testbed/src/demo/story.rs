//! What happens, in order. A figure that isn't as it should be goes into the table, and the story goes on; where it
//! can't go on, that is in the table too.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::print;
use super::stage::{MESH, Stage};
use super::summary::Summary;
use crate::deployment::{Deployment, Edge, Transcript};
use crate::iperf::Iperf;
use crate::{Host, Pinger, http, wait_until};

const PATIENCE: Duration = Duration::from_secs(10);
/// What is promised for a change of routes and for a revocation.
const ROUTE: Duration = Duration::from_millis(100);
const REVOCATION: Duration = Duration::from_secs(1);
/// How many echo requests have to be answered without any controller.
const UNGOVERNED: usize = 300;
const PAGE: &str = "Hello from aws-hk, over the mesh.";

/// Tells it, from the moment at which the lab's building began.
pub(super) fn tell(stage: Stage, start: Instant) -> Summary {
    let mut summary = Summary::default();
    summary.saw(
        "the internet",
        format!("4 sites and a controller in {}", ms(start.elapsed())),
        true,
    );
    if let Err(error) =
        Story::begin(stage, &mut summary).and_then(|mut story| story.go_on(&mut summary))
    {
        summary.saw("the end of the story", format!("{error:#}"), false);
    }
    summary.took = start.elapsed();
    summary
}

struct Story {
    stage: Stage,
    mesh: Deployment,
    sz: Edge,
    hk: Edge,
    idc: Edge,
    office: Edge,
}

impl Story {
    fn begin(stage: Stage, summary: &mut Summary) -> Result<Self> {
        let start = Instant::now();
        heading("A controller on the embedded store, and a namespace");
        let transcript = Transcript::new(print);
        let mesh = Deployment::start_mesh(MESH, &stage.dir, &stage.controller, transcript)?;
        mesh.ctl_ok(&["namespace", "add", "prod"])?;
        heading("Edges, each enrolled by a token; office is behind a NAT and has no endpoint");
        let sz = mesh.edge(&stage.sz).endpoints(&["192.0.2.7:58423"]).enrol()?;
        let hk = mesh.edge(&stage.hk).endpoints(&["203.0.113.7:58423"]).enrol()?;
        let idc = mesh.edge(&stage.idc).endpoints(&["198.18.0.7:58423"]).enrol()?;
        let office = mesh.edge(&stage.office).enrol()?;
        let mut story = Self { stage, mesh, sz, hk, idc, office };
        for edge in story.edges() {
            edge.wait_links(3)?;
            edge.wait_synced()?;
        }
        summary.saw(
            "enrolment",
            format!("4 edges by tokens, 6 links up in {}", s(start.elapsed())),
            true,
        );
        Ok(story)
    }

    fn go_on(&mut self, summary: &mut Summary) -> Result<()> {
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
        heading("Pings from workload to workload, which know nothing of the mesh");
        let Stage { sz, hk, idc, office, .. } = &self.stage;
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
            let output = Transcript::new(print).run(from, ping, PATIENCE)?;
            answered += usize::from(output.code == 0 && output.stdout.contains(" 0% packet loss"));
        }
        let seen =
            format!("{answered} of {} without loss, IPv6 and the NAT among them", pairs.len());
        summary.saw("pings", seen, answered == pairs.len());
        Ok(())
    }

    fn page(&self, summary: &mut Summary) -> Result<()> {
        heading("A page from a web server at aws-hk");
        let server = http::Server::start(self.stage.hk.workload(), 80, format!("{PAGE}\n"))?;
        let from = self.stage.sz.workload();
        let mut curl = from.command("curl");
        curl.env_remove("http_proxy").args(["-s", "-m", "5"]);
        curl.arg(format!("http://{}/", server.address().ip()));
        let output = Transcript::new(print).run(from, curl, PATIENCE)?;
        let whole = output.code == 0 && output.stdout.trim_end() == PAGE;
        summary.saw(
            "HTTP",
            format!("{} bytes from aws-hk to aliyun-sz", output.stdout.len()),
            whole,
        );
        Ok(())
    }

    fn pod_network(&self, summary: &mut Summary) -> Result<()> {
        heading("A pod network behind aws-hk, added while the other two ping into it");
        let pod = self.stage.pods.address();
        let sites = [&self.stage.sz, &self.stage.idc];
        let pingers = sites.map(|site| pinging(site.workload(), pod, 2));
        let pingers = pingers.into_iter().collect::<Result<Vec<_>>>()?;
        for pinger in &pingers {
            wait_until(PATIENCE, || pinger.stats().sent > 20)?;
            ensure!(pinger.stats().received == 0, "{pod} is reached before its route is added");
        }
        let start = Instant::now();
        let add = ["route", "add", "pods-hk", "--namespace", "prod"];
        self.mesh.ctl_ok(&[&add[..], &["--cidr", "10.244.0.0/16", "--edge", "aws-hk"]].concat())?;
        for (site, pinger) in sites.iter().zip(pingers) {
            let took = pinger.reply_after(start, PATIENCE)?;
            print(&format!("  {} got its first reply from {pod} after {}", site.name(), ms(took)));
            let what =
                if site.name() == "idc" { "route add → idc" } else { "route add → aliyun-sz" };
            summary.saw(
                what,
                format!("first reply {} after the command began", ms(took)),
                took <= ROUTE,
            );
        }
        Ok(())
    }

    fn throughput(&self, summary: &mut Summary) -> Result<()> {
        heading(
            "TCP throughput, between the edges' hosts: on the bare network, and through the mesh",
        );
        let (from, to) = (self.stage.hk.edge(), self.stage.idc.edge());
        let public = self.stage.idc.uplink().v4().context("idc has a public IPv4 address")?;
        let [bare, tunnel] = [IpAddr::from(public), to.address()].map(|target| {
            Transcript::new(print).typed(from, &format!("iperf3 --client {target} --time 2"));
            let measured = Iperf::tcp(2).run(from, to, target)?;
            print(&format!("  {:.0} Mbit/s, {} retransmits", measured.mbit, measured.retransmits));
            anyhow::Ok(measured)
        });
        let (bare, tunnel) = (bare?, tunnel?);
        let share = 100.0 * tunnel.mbit / bare.mbit;
        let seen = format!(
            "{:.0} Mbit/s through the mesh, {:.0} bare: {share:.0} %",
            tunnel.mbit, bare.mbit
        );
        summary.saw("TCP throughput", seen, tunnel.mbit > 0.0);
        Ok(())
    }

    fn controller_killed(&mut self, summary: &mut Summary) -> Result<()> {
        heading("The controller killed, while aliyun-sz pings aws-hk 100 times a second");
        let pinger = pinging(self.stage.sz.workload(), self.stage.hk.workload().address(), 10)?;
        pinger.steady(20, PATIENCE)?;
        let start = Instant::now();
        self.mesh.controller_mut().kill9()?;
        let sent = pinger.stats().sent;
        wait_until(PATIENCE, || pinger.stats().sent >= sent + UNGOVERNED)?;
        let gone = start.elapsed();
        self.mesh.controller_mut().start()?;
        self.mesh.wait_in_sync("prod", 4)?;
        let back = start.elapsed() - gone;
        let stats = pinger.stop();
        print(&format!("  {stats}, {} lost", stats.lost.len()));
        let seen = format!("away for {}; {} pings, {} lost", s(gone), stats.sent, stats.lost.len());
        summary.saw("controller killed", seen, stats.lost.is_empty());
        let seen = format!("all edges in sync again {} after its start", s(back));
        summary.saw("controller back", seen, true);
        Ok(())
    }

    fn revocation(&mut self, summary: &mut Summary) -> Result<()> {
        heading("An edge revoked while it pings");
        let pinger = pinging(self.stage.office.workload(), self.stage.hk.workload().address(), 5)?;
        pinger.steady(20, PATIENCE)?;
        let start = Instant::now();
        self.mesh.ctl_ok(&[
            "cert",
            "revoke",
            "--edge",
            "office",
            "--namespace",
            "prod",
            "--yes",
        ])?;
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
        let seen =
            format!("last reply after {}, link gone on all others after {}", ms(last), ms(cut));
        summary.saw("edge revoked", seen, last.max(cut) <= REVOCATION);
        Ok(())
    }

    fn memory(&mut self, summary: &mut Summary) -> Result<()> {
        let mut edges = Vec::new();
        for edge in [&self.sz, &self.hk, &self.idc] {
            edges.push(mib(edge.process().rss_kib()?));
        }
        let controller = mib(self.mesh.controller().process().rss_kib()?);
        let seen = format!("controller {controller} MiB, edges {} MiB", edges.join(", "));
        summary.saw("resident memory", seen, true);
        Ok(())
    }
}

fn pinging(from: &Host, to: IpAddr, every_ms: u64) -> Result<Pinger> {
    from.ping(to).interval(Duration::from_millis(every_ms)).start()
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
