//! Taking everything away again.

use keelson_abi::{
    BackendBlock, BackendKey, Endpoint, Frontend, FrontendKey, MAP_BACKEND, MAP_ENDPOINT, MAP_FRONTEND,
    MAP_MAGLEV, MAP_MEMBER, MaglevBlock, MaglevKey, Member, MemberKey,
};

use crate::{
    between,
    dataplane::Dataplane,
    error::Result,
    host,
    lock::Lock,
    maps::Table,
    netlink::Netlink,
    paths::{self, Generation, Paths},
    settings,
    takeover::{self, HandedBack},
};

/// What a clean-up did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Whether anything was loaded.
    pub loaded: bool,
    /// Pods whose links use the programs: for their sake only the Services were taken out.
    pub kept_pods: usize,
    /// What happened to the kernel's settings, for people.
    pub settings: Vec<String>,
    /// Connections that the kernel carries on, for the proxy that comes next.
    pub handed_back: HandedBack,
}

impl Dataplane {
    /// Write every live connection to the kernel's connection tracker, for the proxy that comes next; the first thing that a
    /// clean-up does. What is to follow at once is that the programs go.
    pub fn hand_back(paths: &Paths) -> Result<HandedBack> {
        Ok(match Generation::current(paths)? {
            Some(generation) => takeover::hand_back(&generation),
            None => HandedBack::default(),
        })
    }

    /// Take away what carries Services, and all the rest unless pods of our own plugin live on it: programs, maps, links,
    /// devices with their routes; the kernel's settings become what they were. New connections to Services find nobody but the
    /// proxy that comes next; those that live are handed to the kernel's connection tracker first, so that with such a proxy's rules
    /// they go on.
    pub fn clean_up(paths: &Paths) -> Result<Removed> {
        let _lock = Lock::take(&paths.lock())?;
        let generation = Generation::current(paths)?;
        if let Some(generation) = &generation {
            let pods = Table::<keelson_abi::Addr, Endpoint>::open(generation, MAP_ENDPOINT)?
                .list()?
                .len();
            if pods > 0 {
                forget_services(generation)?;
                return Ok(Removed {
                    loaded: true,
                    kept_pods: pods,
                    ..Removed::default()
                });
            }
        }
        let handed_back = Self::hand_back(paths)?;
        paths::remove_tree(&paths.root())?;
        let mut netlink = Netlink::open()?;
        between::remove(&mut netlink)?;
        host::remove_pair(&mut netlink)?;
        Ok(Removed {
            loaded: generation.is_some(),
            kept_pods: 0,
            settings: settings::restore(paths)?,
            handed_back,
        })
    }
}

/// Frontends first: without them nobody looks for the rest.
fn forget_services(generation: &Generation) -> Result<()> {
    clear::<FrontendKey, Frontend>(generation, MAP_FRONTEND)?;
    clear::<BackendKey, BackendBlock>(generation, MAP_BACKEND)?;
    clear::<MemberKey, Member>(generation, MAP_MEMBER)?;
    clear::<MaglevKey, MaglevBlock>(generation, MAP_MAGLEV)
}

fn clear<K: aya::Pod, V: aya::Pod>(generation: &Generation, name: &'static str) -> Result<()> {
    let mut table = Table::<K, V>::open(generation, name)?;
    for (key, _) in table.list()? {
        table.remove(&key)?;
    }
    Ok(())
}
