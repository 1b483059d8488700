//! The Service maps together, as the agent writes them.

use keelson_abi::{
    Affinity, AffinityKey, BackendBlock, BackendKey, Frontend, FrontendKey, MAP_AFFINITY, MAP_BACKEND,
    MAP_FRONTEND, MAP_MAGLEV, MAP_MEMBER, MAP_SOURCE_RANGE, MaglevBlock, MaglevKey, Member, MemberKey,
    SourceRangeKey,
};

use crate::{batch::BatchMap, error::Result, paths::Generation};

/// Handles of the maps of one generation. After a map has grown they must be opened again.
pub struct ServiceTables {
    /// What clients ask for.
    pub frontends: BatchMap<FrontendKey, Frontend>,
    /// Slots of endpoints.
    pub backends: BatchMap<BackendKey, BackendBlock>,
    /// Endpoints that serve, one by one.
    pub members: BatchMap<MemberKey, Member>,
    /// Maglev tables.
    pub maglev: BatchMap<MaglevKey, MaglevBlock>,
    /// Sources that are let in.
    pub ranges: BatchMap<SourceRangeKey, u32>,
    /// Which client was given which endpoint.
    pub affinity: BatchMap<AffinityKey, Affinity>,
}

impl ServiceTables {
    /// Open all.
    pub fn open(generation: &Generation) -> Result<Self> {
        Ok(Self {
            frontends: BatchMap::open(generation, MAP_FRONTEND)?,
            backends: BatchMap::open(generation, MAP_BACKEND)?,
            members: BatchMap::open(generation, MAP_MEMBER)?,
            maglev: BatchMap::open(generation, MAP_MAGLEV)?,
            ranges: BatchMap::open(generation, MAP_SOURCE_RANGE)?,
            affinity: BatchMap::open(generation, MAP_AFFINITY)?,
        })
    }
}
