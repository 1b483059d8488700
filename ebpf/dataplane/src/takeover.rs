//! Changing places with another service proxy while connections live: at the first start those that it has made are taken
//! over from the kernel's connection tracker, and before everything is removed ours are written there.
//!
//! In what order a connection changes hands follows from what netfilter sees of it (`conntrack::import`). No packet is ever
//! translated by both sides; where neither could be right for some microseconds, TCP packets are dropped, and sent again.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap, HashSet},
    io,
};

use keelson_abi::{
    Addr, FlowKey, FrontendKey, MAP_BACKEND, MAP_ENDPOINT, MAP_FLOW, MAP_FRONTEND, MAP_MEMBER, MEMBER_GONE,
};

use crate::{
    batch::BatchMap,
    conntrack::{
        entry::Entry,
        export::{self, Kept},
        import::{self, Left, Passage, Place, Serving, Taken, UDP},
        socket::Conntrack,
    },
    dataplane::Dataplane,
    error::{Error, Result},
    flows::{FlowWriter, now},
    maps::{Table, Written},
    netlink::Netlink,
    node::NodeSettings,
    paths::Generation,
};

/// What came of taking over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TakenOver {
    /// Whether the kernel has a connection tracker that can be asked.
    pub tracker: bool,
    /// Connections that go on here.
    pub taken: usize,
    /// Translated connections that were left to the kernel, by reason.
    pub left: BTreeMap<&'static str, usize>,
    /// What went wrong, for people; the programs run nevertheless.
    pub failures: Vec<String>,
}

/// What came of handing back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HandedBack {
    /// Connections that the kernel can carry on.
    pub given: usize,
    /// Flows that were not handed back, by reason.
    pub kept: BTreeMap<&'static str, usize>,
    /// What went wrong, for people.
    pub failures: Vec<String>,
}

/// Take over what can be, and attach the programs in the midst of it. Only a failure to attach is one: connections are lost
/// without a takeover, but new ones need the programs.
pub fn run(
    dataplane: &Dataplane,
    settings: &NodeSettings,
    attach: impl FnOnce() -> Result<()>,
) -> Result<TakenOver> {
    let mut report = TakenOver::default();
    let mut change = match Change::begin(dataplane, settings) {
        Ok(change) => change,
        Err(failure) => {
            report.failures.push(failure.to_string());
            None
        }
    };
    report.tracker = change.is_some();
    let mut note = |done: Result<()>| {
        report
            .failures
            .extend(done.err().map(|failure| failure.to_string()))
    };
    if let Some(change) = &mut change {
        note(change.prepare());
    }
    attach()?;
    if let Some(mut change) = change {
        note(change.complete());
        report.taken = change.written.len();
        report.left = count(&change.left, |left| left.word());
        report.failures.extend(change.refused);
    }
    Ok(report)
}

/// A takeover under way.
struct Change {
    tracker: Conntrack,
    place: Place,
    writer: FlowWriter,
    /// Connections whose flows are written, by what their clients send.
    written: HashSet<FlowKey>,
    left: HashMap<FlowKey, Left>,
    /// The first thing that the tracker refused.
    refused: Option<String>,
}

impl Change {
    /// `None`: there is no tracker.
    fn begin(dataplane: &Dataplane, settings: &NodeSettings) -> Result<Option<Self>> {
        let opened = Conntrack::open().map_err(on_tracker("asking"))?;
        let Some(tracker) = opened else { return Ok(None) };
        Ok(Some(Self {
            tracker,
            place: place(dataplane, settings)?,
            writer: FlowWriter::open(dataplane.generation())?,
            written: HashSet::new(),
            left: HashMap::new(),
            refused: None,
        }))
    }

    /// Before the programs run: what netfilter will not see any more. And datagrams, which must not find a flow of their
    /// own meanwhile; that netfilter gives some of them another port for a moment does less harm than another endpoint would.
    fn prepare(&mut self) -> Result<()> {
        for entry in self.list()? {
            let Ok(taken) = import::decide(&entry, &self.place) else {
                continue;
            };
            // Until both edges are ours the tracker sees one direction of some connections: it would call the other's packets
            // invalid, and hand them to a host that knows nothing of them.
            if let Some(tcp) = entry.tcp {
                self.tracker
                    .relax(&entry.original, tcp.state)
                    .map_err(on_tracker("asking for patience with a connection of"))?;
            }
            let early = match taken.passage {
                Passage::Redirected => true,
                Passage::Stack(_) => entry.original.proto == UDP,
                Passage::Host(_) => false,
            };
            if early {
                self.write(&taken)?;
            }
        }
        Ok(())
    }

    /// As soon as they run: the rest, and what has begun in between. Each entry of the tracker goes as its flow comes.
    fn complete(&mut self) -> Result<()> {
        for entry in self.list()? {
            match import::decide(&entry, &self.place) {
                Ok(taken) => self.change(&entry, &taken)?,
                Err(left) => {
                    self.left.insert(entry.original, left);
                }
            }
        }
        Ok(())
    }

    /// One connection. A TCP connection that netfilter goes on seeing is held meanwhile.
    fn change(&mut self, entry: &Entry, taken: &Taken) -> Result<()> {
        let (key, flow) = taken.flow;
        if self.written.contains(&key) {
            self.release(entry, taken.passage);
            return Ok(());
        }
        let holds = key.proto != UDP && taken.passage != Passage::Redirected;
        let first = Taken {
            flow: (
                key,
                if holds {
                    import::held(&flow, taken.passage)
                } else {
                    flow
                },
            ),
            ..taken.clone()
        };
        if self.write(&first)? {
            self.release(entry, taken.passage);
            if holds {
                self.writer.rewrite(&key, &flow)?;
            }
        }
        Ok(())
    }

    fn list(&mut self) -> Result<Vec<Entry>> {
        self.tracker
            .list(Entry::is_translated)
            .map_err(on_tracker("listing the connections of"))
    }

    fn write(&mut self, taken: &Taken) -> Result<bool> {
        let (key, flow) = &taken.flow;
        match self.writer.put(key, flow)? {
            Written::Yes => {
                self.written.insert(*key);
                self.left.remove(key);
                return Ok(true);
            }
            Written::Taken => self.left.insert(*key, Left::Taken),
            Written::Full => self.left.insert(*key, Left::Full),
        };
        Ok(false)
    }

    /// Netfilter translates the connection no more.
    fn release(&mut self, entry: &Entry, passage: Passage) {
        let done = match passage {
            Passage::Redirected => self.tracker.delete(&entry.original).map(drop),
            Passage::Stack(tuple) | Passage::Host(tuple) => self
                .tracker
                .replace(&entry.original, &export::transparent(&tuple, entry)),
        };
        if let Err(error) = done {
            self.refused
                .get_or_insert_with(|| on_tracker("releasing a connection of")(error).to_string());
        }
    }
}

fn on_tracker(operation: &'static str) -> impl FnOnce(io::Error) -> Error {
    Error::on(operation, "the kernel's connection tracker")
}

fn count<R: Copy>(
    reasons: &HashMap<FlowKey, R>,
    word: impl Fn(R) -> &'static str,
) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for reason in reasons.values() {
        *counts.entry(word(*reason)).or_default() += 1;
    }
    counts
}

/// What the decisions need to know, as the maps and the kernel have it now.
fn place(dataplane: &Dataplane, settings: &NodeSettings) -> Result<Place> {
    let generation = dataplane.generation();
    let mut netlink = Netlink::open()?;
    let own = netlink
        .devices()?
        .iter()
        .flat_map(|device| &device.addresses)
        .map(|net| net.addr().into())
        .collect();
    let frontends: HashMap<FrontendKey, _> = BatchMap::open(generation, MAP_FRONTEND)?
        .list()?
        .into_iter()
        .collect();
    let devices: RefCell<(Netlink, HashMap<Addr, Option<u32>>)> = RefCell::new((netlink, HashMap::new()));
    let node = dataplane.node()?;
    let uplinks = Dataplane::uplinks(settings)?;
    let watched = uplinks
        .iter()
        .filter(|uplink| uplink.ethernet)
        .map(|uplink| uplink.ifindex);
    Ok(Place {
        watched: watched.chain([node.tunnel_ifindex]).collect(),
        node,
        own,
        endpoints: Table::open(generation, MAP_ENDPOINT)?
            .list()?
            .into_iter()
            .collect(),
        serving: serving(generation, &frontends)?,
        frontends,
        route: Box::new(move |address| {
            let (netlink, known) = &mut *devices.borrow_mut();
            *known
                .entry(address)
                .or_insert_with(|| netlink.device_to(address.into()))
        }),
        now: now()?,
    })
}

/// Endpoints in the live sets, and those that serve without being in one.
fn serving(
    generation: &Generation,
    frontends: &HashMap<FrontendKey, keelson_abi::Frontend>,
) -> Result<HashSet<Serving>> {
    let live: HashSet<(u32, u32)> = frontends
        .values()
        .map(|one| (one.service, one.revision))
        .collect();
    let blocks: Vec<(keelson_abi::BackendKey, keelson_abi::BackendBlock)> =
        BatchMap::open(generation, MAP_BACKEND)?.list()?;
    let members: Vec<(keelson_abi::MemberKey, keelson_abi::Member)> =
        BatchMap::open(generation, MAP_MEMBER)?.list()?;
    let slots = blocks
        .iter()
        .filter(|(key, _)| live.contains(&(key.service, key.revision)))
        .flat_map(|(key, block)| {
            block
                .slots
                .iter()
                .map(|slot| (key.service, slot.addr, slot.port_be))
        });
    let members = members
        .iter()
        .filter(|(_, member)| member.flags & MEMBER_GONE == 0)
        .map(|(key, _)| (key.service, key.addr, key.port_be));
    Ok(slots.chain(members).collect())
}

/// Write every live connection to the kernel's connection tracker. What goes wrong is told, and ends nothing.
pub fn hand_back(generation: &Generation) -> HandedBack {
    let mut report = HandedBack::default();
    match Conntrack::open() {
        Ok(None) => {}
        Ok(Some(mut tracker)) => {
            if let Err(failure) = give(generation, &mut tracker, &mut report) {
                report.failures.push(failure.to_string());
            }
        }
        Err(error) => report.failures.push(on_tracker("asking")(error).to_string()),
    }
    report
}

fn give(generation: &Generation, tracker: &mut Conntrack, report: &mut HandedBack) -> Result<()> {
    let flows: HashMap<FlowKey, _> = BatchMap::open(generation, MAP_FLOW)?
        .list()?
        .into_iter()
        .collect();
    let mut writer = FlowWriter::open(generation)?;
    let now = now()?;
    let mut given = Vec::new();
    for (key, flow) in &flows {
        match export::decide(key, flow, &flows, now) {
            Some(Ok(one)) => given.push((key, flow, one)),
            Some(Err(kept)) => *report.kept.entry(kept.word()).or_default() += 1,
            None => {}
        }
    }
    // Those that netfilter sees last: the less time until the programs go, the fewer of their packets are lost.
    given.sort_by_key(|(_, _, one)| one.passage != Passage::Redirected);
    for (key, flow, one) in given {
        let datagrams = key.proto == UDP;
        if !datagrams {
            writer.rewrite(key, &import::held(flow, one.passage))?;
        }
        let done = tracker.replace(key, &one.entry);
        // Answers to the host pass by the programs from now on. All else waits, or goes on, until they are gone.
        if matches!(one.passage, Passage::Host(_)) {
            writer.remove(key, flow)?;
        }
        match done {
            Ok(()) => report.given += 1,
            Err(error) => {
                *report.kept.entry(Kept::Refused.word()).or_default() += 1;
                if report.failures.is_empty() {
                    report
                        .failures
                        .push(on_tracker("handing a connection to")(error).to_string());
                }
            }
        }
    }
    Ok(())
}
