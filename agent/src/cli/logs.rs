//! `keelson logs`

use anyhow::bail;
use futures::future::try_join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use keelson_proto::keelson::LogsRequest;

use super::{
    args::Logs,
    client::{Client, refused},
    get, pods, print,
};
use crate::control::containers;

/// So many lines of each pod, where pods are chosen by labels.
const SELECTED_TAIL: i64 = 10;
/// More would be unreadable, and is a mistake.
const FOLLOWED: usize = 20;

/// Show what containers wrote.
pub async fn run(client: &mut Client, args: &Logs) -> anyhow::Result<()> {
    let namespace = get::namespace(&args.namespace);
    let pods = match (&args.target, &args.selector) {
        (Some(target), _) => vec![pods::one(client, &namespace, target).await?],
        (None, Some(selector)) => pods::selected(client, &namespace, selector).await?,
        (None, None) => bail!("error: name a pod, or choose pods with -l"),
    };
    if pods.is_empty() {
        eprintln!("No resources found in {namespace} namespace.");
        return Ok(());
    }
    let mut requests = Vec::new();
    for pod in &pods {
        let names: Vec<String> = if args.all_containers {
            containers::names(pod).map(str::to_owned).collect()
        } else {
            let wanted = args.container.as_deref().or(args.container_name.as_deref());
            vec![pods::container(pod, wanted)?]
        };
        for name in names {
            requests.push(request(args, pod, &namespace, name)?);
        }
    }
    if args.follow && requests.len() > FOLLOWED {
        bail!(
            "error: {} containers are too many to follow at a time; at most {FOLLOWED} are",
            requests.len()
        );
    }
    if args.follow {
        // All at once: each goes on for as long as its container does.
        let streams = requests.into_iter().map(|request| {
            let mut client = client.clone();
            async move { copy(&mut client, request, args.prefix).await }
        });
        try_join_all(streams).await?;
    } else {
        for request in requests {
            copy(client, request, args.prefix).await?;
        }
    }
    Ok(())
}

fn request(args: &Logs, pod: &Pod, namespace: &str, container: String) -> anyhow::Result<LogsRequest> {
    let since = match (args.since, args.since_time) {
        (Some(span), _) => Some(Timestamp::now().checked_sub(span)?),
        (None, time) => time,
    };
    let default_tail = args.selector.as_ref().map(|_| SELECTED_TAIL);
    Ok(LogsRequest {
        namespace: namespace.to_owned(),
        pod: pods::name_of(pod).to_owned(),
        container,
        follow: args.follow,
        previous: args.previous,
        tail_lines: args.tail.or(default_tail).filter(|lines| *lines >= 0),
        since_unix_nanos: since.and_then(|time| i64::try_from(time.as_nanosecond()).ok()),
        timestamps: args.timestamps,
    })
}

async fn copy(client: &mut Client, request: LogsRequest, prefixed: bool) -> anyhow::Result<()> {
    let prefix = format!("[pod/{}/{}] ", request.pod, request.container);
    let mut stream = client
        .logs(request)
        .await
        .map_err(|status| refused(&status))?
        .into_inner();
    while let Some(part) = stream.message().await.map_err(|status| refused(&status))? {
        if prefixed {
            print::bytes(&with_prefix(&part.data, prefix.as_bytes()))?;
        } else {
            print::bytes(&part.data)?;
        }
    }
    Ok(())
}

/// The prefix before each line.
fn with_prefix(data: &[u8], prefix: &[u8]) -> Vec<u8> {
    let lines = data.split_inclusive(|byte| *byte == b'\n');
    lines.flat_map(|line| [prefix, line]).flatten().copied().collect()
}
