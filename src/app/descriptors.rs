//! Open files: as many as the system grants, and no more client connections than they suffice for.

use crate::policy::ClientLimits;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files that are no client's: listeners, registries, checks, the admin address, idle connections to instances.
const OURS: u64 = 256;

/// A client's connection, and the one to an instance that its request needs.
const PER_CLIENT: u64 = 2;

/// Client connections that are allowed however few files there are.
const FEWEST: usize = 16;

/// Raises the limit of open files as far as the system permits, and lowers that of client connections to fit it.
pub(super) fn fit(mut client: ClientLimits) -> ClientLimits {
    let Some(files) = raise() else { return client };
    let most = suffices_for(files);
    if most < client.connections {
        let configured = client.connections;
        tracing::warn!(
            open_files = files,
            configured,
            connections = most,
            "the limit of open files (ulimit -n) permits fewer client connections than configured",
        );
        client.connections = most;
    }
    client
}

/// How many files may be open after all; nothing if there is no limit.
fn raise() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return current;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum,
        // Some systems have a hard limit that nobody may reach.
        Err(error) => {
            tracing::info!(%error, "the limit of open files cannot be raised");
            current
        }
    }
}

fn suffices_for(files: u64) -> usize {
    let clients = files.saturating_sub(OURS) / PER_CLIENT;
    usize::try_from(clients).unwrap_or(usize::MAX).max(FEWEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_files_bound_client_connections() {
        assert_eq!(suffices_for(1024), 384);
        assert_eq!(suffices_for(20_256), 10_000);
        assert_eq!([0, 128, 288].map(suffices_for), [16; 3]);
    }
}
