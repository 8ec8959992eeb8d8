//! `status`: store, fleet and queues at a glance.

use super::{DONE, queue};
use crate::connect::Context;
use crate::errors::Failure;
use crate::overview::Overview;

pub async fn run(context: &Context) -> Result<u8, Failure> {
    let store = context.store().await?;
    let overview = Overview::read(&store, &context.queues(&store).await?).await?;
    let screen = context.screen;
    let url = context.settings().store.url.to_string();
    if screen.json {
        screen.document(&overview.document(&store, &url))?;
        return DONE;
    }
    let Overview { durability, fleet, queues } = overview;
    screen.line(&format!("store  {url}"))?;
    screen
        .line(&format!("       an acknowledged job survives: {} ({})", durability.level, durability.why))?;
    screen.line("")?;
    if fleet.hosts.is_empty() {
        screen.line("no fleet runs on this store; `roundsman up` starts one")?;
    } else {
        let pid = |process: &Option<crate::fleet::ProcessRecord>| {
            process.as_ref().and_then(|it| it.pid).map_or_else(|| "-".to_owned(), |pid| pid.to_string())
        };
        for host in &fleet.hosts {
            let (supervisor, master) = (pid(&host.supervisor), pid(&host.master));
            let quiet = if host.quiet { "  quiet: it takes no jobs" } else { "" };
            screen.line(&format!("host   {}  supervisor {supervisor}, master {master}{quiet}", host.host))?;
        }
        screen.line("")?;
        let rows: Vec<Vec<String>> = fleet
            .hosts
            .iter()
            .flat_map(|host| host.pools.iter().map(move |pool| (host, pool)))
            .map(|(host, pool)| {
                let workers = format!("{}/{}", pool.workers.len(), pool.desired);
                vec![host.host.clone(), pool.pool.clone(), workers, pool.running().to_string(), pool.why()]
            })
            .collect();
        screen.table(&["HOST", "POOL", "WORKERS", "RUNNING", "WHY"], &rows)?;
    }
    screen.line("")?;
    queue::table(context, &queues)?;
    DONE
}
