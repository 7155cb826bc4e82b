use anyhow::Result;
use clap::Subcommand;

use crate::lab::{self, FoundLab, Lab, Nat, ThreeSites};
use crate::signals::Signals;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Create a lab with a controller host and three sites
    Up {
        /// Name of the lab, shown by `list`
        #[arg(default_value = "lab")]
        name: String,
        /// Stay in the foreground, and remove the lab on SIGINT, SIGTERM or SIGHUP
        #[arg(long)]
        hold: bool,
        /// Put a NAT in front of aliyun-sz
        #[arg(long)]
        nat: bool,
    },
    /// Remove a lab that was created without --hold
    Down {
        /// ID of the lab, as printed by `up` and `list`
        id: String,
    },
    /// List all labs of this user
    List,
}

pub(super) fn run(command: Command) -> Result<()> {
    match command {
        Command::Up { name, hold: true, nat } => hold(&name, nat),
        Command::Up { name, hold: false, nat } => create_kept(&name, nat),
        Command::Down { id } => lab::remove(&id),
        Command::List => {
            print_labs(&lab::list()?);
            Ok(())
        }
    }
}

fn create_kept(name: &str, nat: bool) -> Result<()> {
    let mut lab = Lab::kept(name)?;
    let built = build_sites(&mut lab, nat);
    if built.is_err() {
        lab::remove(&lab.id())?;
    }
    built?;
    println!("Remove it with: testbed lab down {}", lab.id());
    Ok(())
}

fn hold(name: &str, nat: bool) -> Result<()> {
    Signals::block_on(async |mut signals| {
        let mut lab = Lab::new(name)?;
        build_sites(&mut lab, nat)?;
        println!("Remove it with ^C, or: kill {}", std::process::id());
        signals.any().await;
        lab.remove()
    })
}

fn build_sites(lab: &mut Lab, nat: bool) -> Result<()> {
    let nat = nat.then(Nat::masquerade);
    let three = ThreeSites::build(lab, nat)?;
    println!("Lab {}", lab.id());
    println!("  {:<16} {}", "controller", lab.shell_command(&three.controller));
    for host in three.sites().into_iter().flat_map(|site| [site.edge(), site.workload()]) {
        println!("  {:<16} {}", host.name(), lab.shell_command(host));
    }
    Ok(())
}

fn print_labs(labs: &[FoundLab]) {
    println!("{:<24} {:<12} {:<8} {:<10} NAMESPACES", "ID", "NAME", "OWNER", "STATE");
    for lab in labs {
        let state = match (lab.kept, lab.owned) {
            (true, _) => "kept",
            (false, true) => "running",
            (false, false) => "stale",
        };
        let count = lab.namespaces.len();
        println!("{:<24} {:<12} {:<8} {state:<10} {count}", lab.id, lab.name, lab.owner);
    }
}
