//! The door to the kernel's connection tracker of the calling thread's network namespace.

use std::io;

use keelson_abi::FlowKey;
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use super::{codec, entry::Entry};

const SUBSYSTEM: u16 = 1 << 8;
const NEW: u16 = 0;
const GET: u16 = 1;
const DELETE: u16 = 2;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// A listing was disturbed by changes: what it told may be incomplete.
const NLM_F_DUMP_INTR: u16 = 0x10;
/// Such a listing is asked for anew so many times.
const LISTINGS: usize = 3;
/// An entry is put in the place of others so many times.
const REPLACEMENTS: usize = 5;
/// What the kernel may keep for us while we decode; a listing goes by as fast as it is read.
const BUFFER: usize = 1 << 20;

/// A socket of ctnetlink.
pub struct Conntrack {
    socket: Socket,
    sequence: u32,
}

impl Conntrack {
    /// Open it. `None`: the kernel has no connection tracker, or none that can be asked.
    pub fn open() -> io::Result<Option<Self>> {
        let open = || -> io::Result<Self> {
            let mut socket = Socket::new(NETLINK_NETFILTER)?;
            socket.bind(&SocketAddr::new(0, 0))?;
            socket.set_cap_ack(true)?;
            socket.set_rx_buf_sz(BUFFER)?;
            Ok(Self { socket, sequence: 0 })
        };
        let asked = open().and_then(|mut opened| {
            // Whether somebody answers is told by asking for an entry that nobody has.
            match opened.delete(&FlowKey {
                proto: libc::IPPROTO_UDP as u8,
                src: keelson_abi::Addr::v4(0),
                dst: keelson_abi::Addr::v4(0),
                ..FlowKey::default()
            }) {
                Ok(_) => Ok(opened),
                Err(error) => Err(error),
            }
        });
        match asked {
            Ok(opened) => Ok(Some(opened)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The entries of both families that `keep` wants.
    pub fn list(&mut self, keep: impl Fn(&Entry) -> bool) -> io::Result<Vec<Entry>> {
        let mut tries = 0;
        loop {
            tries += 1;
            let mut found = Vec::new();
            let mut whole = true;
            for v6 in [false, true] {
                whole &= self.list_family(v6, &keep, &mut found)?;
            }
            if whole || tries == LISTINGS {
                return Ok(found);
            }
        }
    }

    fn list_family(
        &mut self,
        v6: bool,
        keep: &impl Fn(&Entry) -> bool,
        found: &mut Vec<Entry>,
    ) -> io::Result<bool> {
        self.send(GET, NLM_F_DUMP, &codec::listing(v6))?;
        let mut whole = true;
        loop {
            let (bytes, _) = self.socket.recv_from_full()?;
            for message in messages(&bytes) {
                if message.sequence != self.sequence {
                    continue;
                }
                whole &= message.flags & NLM_F_DUMP_INTR == 0;
                match message.kind {
                    NLMSG_DONE => return Ok(whole),
                    NLMSG_ERROR => message.outcome()?,
                    _ => found.extend(codec::entry(message.body).filter(|entry| keep(entry))),
                }
            }
        }
    }

    /// Have packets of a TCP connection taken wherever they lie in the window; returns whether there was one.
    pub fn relax(&mut self, tuple: &FlowKey, state: u8) -> io::Result<bool> {
        self.send(NEW, NLM_F_ACK, &codec::relaxation(tuple, state))?;
        self.found()
    }

    /// Make an entry in the place of whatever has one of its tuples, or this one.
    ///
    /// All of it is one call, which the kernel works off without a pause: rules that would take the next packet for the first
    /// of a connection get microseconds to see one.
    pub fn replace(&mut self, tuple: &FlowKey, entry: &Entry) -> io::Result<()> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.replace_once(tuple, entry) {
                // A packet has come in between, and has an entry of its own now.
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) && tries < REPLACEMENTS => {}
                outcome => return outcome,
            }
        }
    }

    fn replace_once(&mut self, tuple: &FlowKey, entry: &Entry) -> io::Result<()> {
        let mut bytes = Vec::new();
        for tuple in [*tuple, entry.original, entry.reply] {
            self.add(&mut bytes, DELETE, NLM_F_ACK, &codec::deletion(&tuple));
        }
        self.add(
            &mut bytes,
            NEW,
            NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL,
            &codec::creation(entry),
        );
        self.socket.send(&bytes, 0)?;
        // What became of the last one; that there was nothing to delete is fine.
        self.outcome()
    }

    /// Delete the entry that has this tuple in either direction; returns whether there was one.
    pub fn delete(&mut self, tuple: &FlowKey) -> io::Result<bool> {
        self.send(DELETE, NLM_F_ACK, &codec::deletion(tuple))?;
        self.found()
    }

    fn found(&mut self) -> io::Result<bool> {
        match self.outcome() {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn send(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        let mut bytes = Vec::new();
        self.add(&mut bytes, kind, flags, body);
        self.socket.send(&bytes, 0).map(drop)
    }

    /// One more message of a call.
    fn add(&mut self, bytes: &mut Vec<u8>, kind: u16, flags: u16, body: &[u8]) {
        self.sequence += 1;
        bytes.extend_from_slice(&((HEADER + body.len()) as u32).to_ne_bytes());
        bytes.extend_from_slice(&(SUBSYSTEM | kind).to_ne_bytes());
        bytes.extend_from_slice(&(NLM_F_REQUEST | flags).to_ne_bytes());
        bytes.extend_from_slice(&self.sequence.to_ne_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }

    fn outcome(&mut self) -> io::Result<()> {
        loop {
            let (bytes, _) = self.socket.recv_from_full()?;
            for message in messages(&bytes) {
                if message.sequence == self.sequence && message.kind == NLMSG_ERROR {
                    return message.outcome();
                }
            }
        }
    }
}

/// Whether an error says that there is nobody to ask.
fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT | libc::EINVAL | libc::EOPNOTSUPP)
    )
}

struct Message<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    body: &'a [u8],
}

impl Message<'_> {
    /// Of an error message: the errno that it carries, 0 = it went well.
    fn outcome(&self) -> io::Result<()> {
        let code = self
            .body
            .first_chunk()
            .map_or(-libc::EBADMSG, |code| i32::from_ne_bytes(*code));
        match code {
            0 => Ok(()),
            code => Err(io::Error::from_raw_os_error(-code)),
        }
    }
}

/// The messages of a datagram, up to the first that is malformed.
fn messages(bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let [l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, ..] = *rest.first_chunk::<HEADER>()?;
        let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        let body = rest.get(HEADER..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message {
            kind: u16::from_ne_bytes([k0, k1]),
            flags: u16::from_ne_bytes([f0, f1]),
            sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
            body,
        })
    })
}
