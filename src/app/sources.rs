//! From a source's settings to a running watch.

use crate::discovery::consul::Consul;
use crate::discovery::dns::Dns;
use crate::discovery::etcd::Etcd;
use crate::discovery::file::File;
use crate::discovery::fixed::Fixed;
use crate::discovery::{self, Feed, SourceSettings, WatchSettings};
use crate::model::ServiceName;
use crate::rt::Tasks;
use rand::SeedableRng;
use rand::rngs::SmallRng;

/// Starts to watch a source; `url` is what people are shown.
///
/// # Errors
/// What keeps the source from being built, such as a certificate that cannot be read.
pub fn watch(
    tasks: &Tasks,
    service: ServiceName,
    url: String,
    source: SourceSettings,
    settings: WatchSettings,
    rng: &mut SmallRng,
) -> Result<Feed, String> {
    let dice = SmallRng::from_rng(rng);
    Ok(match source {
        SourceSettings::Fixed(set) => discovery::watch(tasks, service, url, Fixed::new(set), settings, dice),
        SourceSettings::File(query) => {
            discovery::watch(tasks, service, url, File::new(query), settings, dice)
        }
        SourceSettings::Consul(consul, query) => {
            let source =
                Consul::new(consul, query, SmallRng::from_rng(rng)).map_err(|error| error.to_string())?;
            discovery::watch(tasks, service, url, source, settings, dice)
        }
        SourceSettings::Etcd(etcd, query) => {
            discovery::watch(tasks, service, url, Etcd::new(etcd, query), settings, dice)
        }
        SourceSettings::Dns(dns, query) => {
            discovery::watch(tasks, service, url, Dns::new(dns, query), settings, dice)
        }
    })
}
