//! `keelson apply`

use anyhow::bail;
use keelson_proto::keelson::{ApplyRequest, applied::Action};

use super::{
    args::Apply,
    client::{Client, refused},
    files, print,
};
use crate::control::resource::Resource;

/// Apply, and say what became of each object; false = something needs a look.
pub async fn run(client: &mut Client, args: &Apply) -> anyhow::Result<bool> {
    if args.files.filename.is_empty() {
        bail!("error: say where the objects are: -f FILE, -f DIR or -f -");
    }
    let dry_run = args.dry_run.as_deref().is_some_and(|value| value != "none");
    let request = ApplyRequest {
        sources: files::read(&args.files)?,
        namespace: args.namespace.namespace.clone().unwrap_or_default(),
        dry_run,
    };
    let response = client
        .apply(request)
        .await
        .map_err(|status| refused(&status))?
        .into_inner();
    let mut fine = true;
    for applied in response.results {
        let action = match applied.action() {
            Action::Created => "created",
            Action::Configured => "configured",
            Action::Unchanged => "unchanged",
            Action::Unknown => "applied",
        };
        let object = applied.object.unwrap_or_default();
        let kind = Resource::named(&object.resource).map_or(object.resource.clone(), Resource::qualified);
        let name = format!("{kind}/{}", object.name);
        if args.output.is_some() {
            print::text(&format!("{name}\n"))?;
        } else {
            let how = if dry_run { " (server dry run)" } else { "" };
            print::text(&format!("{name} {action}{how}\n"))?;
        }
        if !applied.warning.is_empty() {
            fine = false;
            eprintln!("Warning: {name}: {}", applied.warning);
        }
    }
    Ok(fine)
}
