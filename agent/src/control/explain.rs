//! Explain: what the loaded programs would do with a packet.
//!
//! The question says where the packet comes from; that decides which program sees it first. A process of the host that asks one of
//! the node's own addresses is seen by two: at lo, which sends it on, and at `keelson1`.

use std::net::{IpAddr, SocketAddr};

use keelson_core::{
    explain::{self, Explanation, Names, Question, Seen, packet},
    object::Key,
};
use keelson_dataplane::{
    abi::{
        FrontendKey, MASQUERADE_POD, PROG_HOST_INGRESS, PROG_LO_EGRESS, PROG_POD_INGRESS, PROG_UPLINK_EGRESS,
        PROG_UPLINK_INGRESS, TRACE_INJECT, TRACE_NEIGH, Trace,
    },
    netlink::link::Device,
};
use keelson_proto::keelson::{ExplainRequest, explain_request::From as FromWhere};
use tonic::Status;

use crate::{context::Context, doors::programs::Programs};

/// The port of a packet whose source names none: neither reserved nor one that is translated to.
const SOME_PORT: u16 = 54_321;
/// Whoever sends from outside has some address of its own.
const STRANGER: [u8; 6] = [0x02, 0x6b, 0x65, 0x6c, 0xff, 0xff];
const LO: u32 = 1;

/// Where the packet is let in.
enum Place {
    Pod { name: String, address: IpAddr },
    Host,
    Interface(String),
}

/// Answer a question. Blocks for as long as some system calls take.
pub fn explain(ctx: &Context, request: &ExplainRequest) -> Result<Explanation, Status> {
    let Some(programs) = ctx.network.programs() else {
        return Err(Status::unavailable(
            "the programs are not loaded yet; `keelson check` says what stands in the way",
        ));
    };
    let look = Look {
        ctx,
        programs: &*programs,
        devices: programs.devices().map_err(failed)?,
    };
    look.explain(request)
}

struct Look<'a> {
    ctx: &'a Context,
    programs: &'a dyn Programs,
    devices: Vec<Device>,
}

fn failed(error: anyhow::Error) -> Status {
    Status::internal(format!("{error:#}"))
}

impl Look<'_> {
    fn explain(&self, request: &ExplainRequest) -> Result<Explanation, Status> {
        let protocol = match request.protocol.to_ascii_lowercase().as_str() {
            "" | "tcp" => packet::TCP,
            "udp" => packet::UDP,
            "sctp" => packet::SCTP,
            other => {
                return Err(Status::invalid_argument(format!(
                    "protocol {other:?}: tcp, udp and sctp have ports"
                )));
            }
        };
        let destination: SocketAddr = request.destination.parse().map_err(|_| {
            Status::invalid_argument(format!(
                "destination {:?} is no address and port such as 10.96.0.1:443 or [fd00::1]:443",
                request.destination
            ))
        })?;
        let given = source(&request.source)?;
        let place = self.place(request.from.as_ref(), given)?;
        let source = self.source(&place, given, destination.ip())?;
        if source.is_ipv4() != destination.is_ipv4() {
            return Err(Status::invalid_argument(format!(
                "{source} and {destination} are of different families"
            )));
        }
        let question = Question {
            source,
            destination,
            protocol,
        };
        let (trace, at) = self.run(&place, &question)?;
        let seen = self.seen(trace, at)?;
        Ok(self.ctx.world.read(|objects| {
            let names = Names {
                services: &objects.services,
                slices: &objects.endpoint_slices,
                pods: &objects.pods,
            };
            explain::explain(&question, &seen, names)
        }))
    }

    /// Where the caller says, or where a packet with this source comes from.
    fn place(&self, from: Option<&FromWhere>, source: Option<(IpAddr, u16)>) -> Result<Place, Status> {
        match from {
            Some(FromWhere::Pod(name)) => self.pod(name),
            Some(FromWhere::Host(_)) => Ok(Place::Host),
            Some(FromWhere::Interface(name)) => Ok(Place::Interface(name.clone())),
            None => {
                let Some((address, _)) = source else {
                    return Ok(Place::Host);
                };
                if self.programs.endpoint(address).map_err(failed)?.is_some() {
                    let name = self.pod_of(address);
                    return Ok(Place::Pod { name, address });
                }
                if self.is_own(address) {
                    return Ok(Place::Host);
                }
                let uplinks = self.devices.iter().filter(|device| is_uplink(device));
                let near = uplinks
                    .clone()
                    .find(|device| device.addresses.iter().any(|net| net.contains(&address)));
                let device = near.or_else(|| uplinks.clone().next());
                device
                    .map(|device| Place::Interface(device.name.clone()))
                    .ok_or_else(|| {
                        Status::failed_precondition(format!(
                            "{address} is neither a pod's nor the node's, and no device leads outside; say where with --from"
                        ))
                    })
            }
        }
    }

    fn pod(&self, name: &str) -> Result<Place, Status> {
        let (namespace, pod) = name.split_once('/').unwrap_or(("default", name));
        let key = Key::new(namespace, pod);
        let address = self.ctx.world.read(|objects| {
            let status = objects.pods.get(&key)?.status.as_ref()?;
            status.pod_ip.as_deref()?.parse().ok()
        });
        let address = address.ok_or_else(|| {
            Status::not_found(format!(
                "pod {key} has no address on this node; `keelson get pods -A -o wide` shows those that have"
            ))
        })?;
        if self.programs.endpoint(address).map_err(failed)?.is_none() {
            // It shares the host's network.
            return Ok(Place::Host);
        }
        Ok(Place::Pod {
            name: key.to_string(),
            address,
        })
    }

    fn pod_of(&self, address: IpAddr) -> String {
        let text = address.to_string();
        let found = self.ctx.world.read(|objects| {
            let mut pods = objects.pods.iter();
            let of = pods.find(|(_, pod)| {
                let status = pod.status.as_ref();
                status.is_some_and(|status| status.pod_ip.as_ref() == Some(&text))
            });
            of.map(|(key, _)| key.to_string())
        });
        found.unwrap_or(text)
    }

    fn is_own(&self, address: IpAddr) -> bool {
        let mut all = self.devices.iter().flat_map(|device| &device.addresses);
        address.is_loopback() || all.any(|net| net.addr() == address)
    }

    fn source(
        &self,
        place: &Place,
        given: Option<(IpAddr, u16)>,
        towards: IpAddr,
    ) -> Result<SocketAddr, Status> {
        let port = given.map_or(SOME_PORT, |(_, port)| port);
        let address = match (given, place) {
            (Some((address, _)), _) => address,
            (None, Place::Pod { address, .. }) => *address,
            (None, Place::Host) if towards.is_loopback() => towards,
            (None, Place::Host) => {
                let node = self.programs.node().map_err(failed)?;
                let own = if towards.is_ipv4() { node.ipv4 } else { node.ipv6 };
                IpAddr::from(own)
            }
            (None, Place::Interface(name)) => {
                return Err(Status::invalid_argument(format!(
                    "whoever sends by {name} has some address: name it before the destination"
                )));
            }
        };
        Ok(SocketAddr::new(address, port))
    }

    /// The trace, and where the packet was let in.
    fn run(&self, place: &Place, question: &Question) -> Result<(Trace, String), Status> {
        match place {
            Place::Pod { name, address } => {
                let endpoint = self.programs.endpoint(*address).map_err(failed)?;
                let endpoint = endpoint.ok_or_else(|| {
                    Status::not_found(format!("pod {name}: {address} is no pod's on this node any more"))
                })?;
                let macs = (endpoint.host_mac, endpoint.pod_mac);
                let mut trace = self.let_in(PROG_POD_INGRESS, endpoint.ifindex, macs, question)?;
                if trace.verdict == TRACE_NEIGH && trace.drop_reason == 0 {
                    self.leave(&mut trace)?;
                }
                let device = self.name(endpoint.ifindex);
                Ok((trace, format!("pod {name}, by device {device}")))
            }
            Place::Interface(name) => {
                let device = self.devices.iter().find(|device| device.name == *name);
                let device =
                    device.ok_or_else(|| Status::not_found(format!("no device is called {name}")))?;
                let mac = <[u8; 6]>::try_from(device.mac.as_slice()).map_err(|_| {
                    Status::failed_precondition(format!(
                        "{name} has no Ethernet header: no program looks at it"
                    ))
                })?;
                let trace = self.let_in(PROG_UPLINK_INGRESS, device.index, (mac, STRANGER), question)?;
                Ok((trace, format!("outside, by device {name}")))
            }
            Place::Host => self.run_on_host(question),
        }
    }

    /// A pod's packet that goes out passes the uplink's own program, which may translate its source.
    fn leave(&self, trace: &mut Trace) -> Result<(), Status> {
        let key = trace.translated;
        if self.programs.endpoint(key.src.into()).map_err(failed)?.is_none() {
            return Ok(());
        }
        let end = |addr, port_be| SocketAddr::new(IpAddr::from(addr), u16::from_be(port_be));
        let question = Question {
            source: end(key.src, key.sport_be),
            destination: end(key.dst, key.dport_be),
            protocol: key.proto,
        };
        let second = self.let_in(PROG_UPLINK_EGRESS, trace.ifindex, (STRANGER, STRANGER), &question)?;
        if second.drop_reason != 0 {
            trace.verdict = second.verdict;
            trace.drop_reason = second.drop_reason;
        } else if second.translated.src != key.src {
            trace.translated = second.translated;
            trace.masquerade = MASQUERADE_POD;
        }
        Ok(())
    }

    fn run_on_host(&self, question: &Question) -> Result<(Trace, String), Status> {
        let node = self.programs.node().map_err(failed)?;
        let from = "a process of this node";
        let keelson1 = |from_lo: bool| {
            // lo's program makes itself known by the sender's address.
            let sender = if from_lo {
                node.keelson1_mac
            } else {
                node.keelson0_mac
            };
            let macs = (node.keelson1_mac, sender);
            self.let_in(PROG_HOST_INGRESS, node.keelson1_ifindex, macs, question)
        };
        if self.is_own(question.destination.ip()) {
            let trace = self.let_in(PROG_LO_EGRESS, LO, ([0; 6], [0; 6]), question)?;
            return if trace.verdict == TRACE_INJECT {
                Ok((keelson1(true)?, format!("{from}, by lo and keelson1")))
            } else {
                Ok((trace, format!("{from}, by lo")))
            };
        }
        if self.is_service(question)? {
            return Ok((keelson1(false)?, format!("{from}, by keelson0")));
        }
        let uplink = self.devices.iter().find(|device| is_uplink(device));
        let uplink = uplink.ok_or_else(|| Status::failed_precondition("no device leads outside"))?;
        let mac = <[u8; 6]>::try_from(uplink.mac.as_slice()).unwrap_or_default();
        let trace = self.let_in(PROG_UPLINK_EGRESS, uplink.index, (STRANGER, mac), question)?;
        Ok((trace, format!("{from}, by {}", uplink.name)))
    }

    /// Run a program on the question's packet, which comes to the first of `macs` from the second.
    fn let_in(
        &self,
        program: &str,
        ifindex: u32,
        (to, from): ([u8; 6], [u8; 6]),
        question: &Question,
    ) -> Result<Trace, Status> {
        let Question {
            source,
            destination,
            protocol,
        } = *question;
        let frame = packet::opening(to, from, protocol, source, destination)
            .ok_or_else(|| Status::invalid_argument("no packet can be made of this"))?;
        let trace = self.programs.dry_run(program, &frame, ifindex).map_err(failed)?;
        if trace.verdict == 0 {
            return Err(Status::internal(format!(
                "program {program} told nothing of the packet"
            )));
        }
        Ok(trace)
    }

    /// Whether a route to `keelson0` takes the packet: its destination is a Service's address.
    fn is_service(&self, question: &Question) -> Result<bool, Status> {
        let address = question.destination.ip();
        if self
            .ctx
            .config
            .all_service_cidrs()
            .iter()
            .any(|net| net.contains(&address))
        {
            return Ok(true);
        }
        let exact = FrontendKey {
            addr: address.into(),
            port_be: question.destination.port().to_be(),
            proto: question.protocol,
            reserved: 0,
        };
        let any = FrontendKey {
            port_be: 0,
            proto: 0,
            ..exact
        };
        for key in [exact, any] {
            if self.programs.frontend(&key).map_err(failed)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn seen(&self, trace: Trace, place: String) -> Result<Seen, Status> {
        let frontend = if trace.frontend.port_be == 0 {
            None
        } else {
            self.programs.frontend(&trace.frontend).map_err(failed)?
        };
        // Of another revision the slots are not those chosen from.
        let slots = match &frontend {
            Some(frontend) if frontend.revision == trace.revision => self
                .programs
                .slots(trace.service, trace.revision, trace.first, trace.candidates)
                .map_err(failed)?,
            _ => Vec::new(),
        };
        Ok(Seen {
            place,
            device: if trace.ifindex == 0 {
                String::new()
            } else {
                self.name(trace.ifindex)
            },
            trace,
            frontend,
            slots,
        })
    }

    fn name(&self, ifindex: u32) -> String {
        let device = self.devices.iter().find(|device| device.index == ifindex);
        device.map_or_else(|| format!("{ifindex}"), |device| device.name.clone())
    }
}

/// As the dataplane has it: up, with an address and an Ethernet header, and not ours.
fn is_uplink(device: &Device) -> bool {
    device.up && !device.addresses.is_empty() && device.ethernet && !device.name.starts_with("keelson")
}

/// `address`, or `address:port`.
fn source(text: &str) -> Result<Option<(IpAddr, u16)>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(Some((address.ip(), address.port())));
    }
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    bare.parse()
        .map(|address| Some((address, SOME_PORT)))
        .map_err(|_| {
            Status::invalid_argument(format!(
                "source {text:?} is no address such as 10.244.0.5, 10.244.0.5:40000 or [fd00::5]:40000"
            ))
        })
}
