//! The flowtable of the host's namespace: what takes established TCP connections of
//! published ports from link to link, past the host's rules, connection tracking and
//! routing (`Documentation/networking/nf_flowtable.rst`). It is in an nftables table of
//! our own, of family inet, made and taken away by one transaction each
//! (`include/uapi/linux/netfilter/nf_tables.h`). Integers are in network order, but those
//! that rules compare.

use std::io;

use imbl::OrdSet;
use model::Instance;
use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE};
use nix::libc;

use crate::{
    Error,
    attribute::{each, find, put, put_nested, put_text, text},
    netlink::{Request, code},
    nftables::{Nftables, SUBSYSTEM},
};

/// `NFPROTO_INET`
const INET: u8 = 1;
/// `NF_INET_FORWARD`
const FORWARD: u32 = 2;
/// Behind all that filters at its usual priority: who is refused never gets here.
const PRIORITY: u32 = 10;
/// `NFT_NETDEVICE_MAX`
const MOST_LINKS: usize = 256;
/// `IFNAMSIZ`
const NAME: usize = 16;

const FLOWTABLE: &str = "published";
const CHAIN: &str = "forward";
/// By it the rule is known.
const COMMENT: &[u8] = b"ipvsmesh: established connections of published ports\0";

/// `NFT_MSG_*`
#[derive(Clone, Copy)]
#[repr(u16)]
enum Message {
    NewTable = 0,
    GetTable = 1,
    DelTable = 2,
    NewChain = 3,
    GetChain = 4,
    NewRule = 6,
    GetRule = 7,
    NewFlowtable = 22,
    GetFlowtable = 23,
}

/// `NFTA_*` of tables, chains, rules and flowtables: each is known by its table's name, and
/// all but rules by a name of their own.
mod attr {
    pub(super) const TABLE: u16 = 1;
    pub(super) const CHAIN_NAME: u16 = 3;
    pub(super) const CHAIN_HOOK: u16 = 4;
    pub(super) const CHAIN_TYPE: u16 = 7;
    pub(super) const HOOK_NUMBER: u16 = 1;
    pub(super) const HOOK_PRIORITY: u16 = 2;
    pub(super) const RULE_CHAIN: u16 = 2;
    pub(super) const RULE_EXPRESSIONS: u16 = 4;
    pub(super) const RULE_USER_DATA: u16 = 7;
    pub(super) const FLOWTABLE_NAME: u16 = 2;
    pub(super) const FLOWTABLE_HOOK: u16 = 3;
    pub(super) const FLOWTABLE_DEVICES: u16 = 3;
    /// Of a list, and of a device in one.
    pub(super) const ELEMENT: u16 = 1;
    pub(super) const EXPRESSION_NAME: u16 = 1;
    pub(super) const EXPRESSION_DATA: u16 = 2;
}

/// The flowtable of a mesh, in nftables of the host's namespace.
pub(crate) struct Flowtable {
    /// The name of its table.
    pub(crate) table: String,
    /// By which link connections leave the host.
    pub(crate) link: String,
}

impl Flowtable {
    /// An instance's.
    pub(crate) fn of(instance: &Instance) -> Self {
        Self {
            table: instance.prefix(),
            link: instance.host_link(),
        }
    }

    /// The links whose packets go by it; `None` where there is no such table, and nothing
    /// where it is not as it was made.
    pub(crate) fn observe(&self, nftables: &mut Nftables) -> Result<Option<OrdSet<String>>, Error> {
        let failed = |source| Error::Netlink {
            what: format!("read nftables' table {}", self.table),
            source,
        };
        if self
            .get(nftables, Message::GetTable)
            .map_err(failed)?
            .is_none()
        {
            return Ok(None);
        }
        let flowtable = self.get(nftables, Message::GetFlowtable).map_err(failed)?;
        let chain = self.get(nftables, Message::GetChain).map_err(failed)?;
        let mut rules = Vec::new();
        let ask = self.ask(Message::GetRule);
        let seen = nftables.conversation.dump(&ask, |_, body| {
            // old kernels do not look at what they are asked for
            let body = body.get(4..).unwrap_or_default();
            if find(body, attr::TABLE).map(text).as_deref() == Some(&*self.table) {
                rules.push(find(body, attr::RULE_USER_DATA) == Some(&user_data()[..]));
            }
        });
        match seen {
            // it went meanwhile
            Err(error) if code(&error) == Some(libc::ENOENT) => rules.clear(),
            seen => seen.map_err(failed)?,
        }
        let whole = rules == [true] && chain.is_some_and(|chain| is_hooked(&chain));
        let links = flowtable.filter(|_| whole).map(|body| links(&body));
        Ok(Some(links.unwrap_or_default()))
    }

    /// Makes it anew for these links, of which the kernel takes 256.
    pub(crate) fn set(&self, nftables: &mut Nftables, links: &OrdSet<String>) -> io::Result<()> {
        let table = || self.request(Message::NewTable, NLM_F_CREATE, |_| {});
        nftables.conversation.transaction(&[
            // one that is there goes, and none is no error
            table(),
            self.request(Message::DelTable, 0, |_| {}),
            table(),
            self.request(Message::NewFlowtable, NLM_F_CREATE, |body| {
                put_text(body, attr::FLOWTABLE_NAME, FLOWTABLE);
                put_nested(body, attr::FLOWTABLE_HOOK, |hook| {
                    put_u32(hook, attr::HOOK_NUMBER, 0);
                    put_u32(hook, attr::HOOK_PRIORITY, 0);
                    put_nested(hook, attr::FLOWTABLE_DEVICES, |devices| {
                        let others = links.iter().filter(|name| **name != self.link);
                        put_text(devices, attr::ELEMENT, &self.link);
                        for name in others.take(MOST_LINKS - 1) {
                            put_text(devices, attr::ELEMENT, name);
                        }
                    });
                });
            }),
            self.request(Message::NewChain, NLM_F_CREATE, |body| {
                put_text(body, attr::CHAIN_NAME, CHAIN);
                put_nested(body, attr::CHAIN_HOOK, |hook| {
                    put_u32(hook, attr::HOOK_NUMBER, FORWARD);
                    put_u32(hook, attr::HOOK_PRIORITY, PRIORITY);
                });
                put_text(body, attr::CHAIN_TYPE, "filter");
            }),
            self.request(Message::NewRule, NLM_F_CREATE | NLM_F_APPEND, |body| {
                put_text(body, attr::RULE_CHAIN, CHAIN);
                put_nested(body, attr::RULE_EXPRESSIONS, |list| rule(list, &self.link));
                put(body, attr::RULE_USER_DATA, &user_data());
            }),
        ])
    }

    /// Takes it away.
    pub(crate) fn delete(&self, nftables: &mut Nftables) -> io::Result<()> {
        let delete = self.request(Message::DelTable, 0, |_| {});
        nftables.conversation.transaction(&[delete])
    }

    fn get(&self, nftables: &mut Nftables, message: Message) -> io::Result<Option<Vec<u8>>> {
        match nftables.conversation.get(&self.ask(message)) {
            Ok(answer) => Ok(answer.map(|(_, body)| body.get(4..).unwrap_or_default().to_vec())),
            // the last two: a kernel without nftables
            Err(error) => match code(&error) {
                Some(libc::ENOENT | libc::EOPNOTSUPP | libc::EINVAL) => Ok(None),
                _ => Err(error),
            },
        }
    }

    fn ask(&self, message: Message) -> Request {
        self.request(message, 0, |body| match message {
            Message::GetChain => put_text(body, attr::CHAIN_NAME, CHAIN),
            Message::GetRule => put_text(body, attr::RULE_CHAIN, CHAIN),
            Message::GetFlowtable => put_text(body, attr::FLOWTABLE_NAME, FLOWTABLE),
            _ => {}
        })
    }

    fn request(&self, message: Message, flags: u16, more: impl FnOnce(&mut Vec<u8>)) -> Request {
        // `struct nfgenmsg`
        let mut body = vec![INET, 0, 0, 0];
        put_text(&mut body, attr::TABLE, &self.table);
        more(&mut body);
        Request {
            kind: SUBSYSTEM | message as u16,
            flags,
            body,
        }
    }
}

fn put_u32(body: &mut Vec<u8>, number: u16, value: u32) {
    put(body, number, &value.to_be_bytes());
}

/// libnftnl's `NFTNL_UDATA_RULE_COMMENT`: `nft list ruleset` shows it.
fn user_data() -> Vec<u8> {
    [&[0, COMMENT.len() as u8], COMMENT].concat()
}

/// `oifname LINK iifname != LINK meta l4proto tcp ct status dnat flow add @published`: the
/// kernel takes established connections only, and their answers with them.
fn rule(list: &mut Vec<u8>, link: &str) {
    /// `NFT_META_IIFNAME`, `NFT_META_OIFNAME`, `NFT_META_L4PROTO`
    const IN: u32 = 6;
    const OUT: u32 = 7;
    const PROTOCOL: u32 = 16;
    /// `NFT_CT_STATUS`, of which this bit is `IPS_DST_NAT`
    const STATUS: u32 = 2;
    const TRANSLATED: u32 = 1 << 5;
    /// `NFT_CMP_*`
    const EQUAL: u32 = 0;
    const OTHER: u32 = 1;
    /// `NFT_REG_1`, where all of them leave what they found
    const REGISTER: u32 = 1;
    let mut expression = |name: &str, data: &dyn Fn(&mut Vec<u8>)| {
        put_nested(list, attr::ELEMENT, |element| {
            put_text(element, attr::EXPRESSION_NAME, name);
            put_nested(element, attr::EXPRESSION_DATA, data);
        });
    };
    /// `NFTA_DATA_VALUE`
    fn value(body: &mut Vec<u8>, number: u16, value: &[u8]) {
        put_nested(body, number, |data| put(data, 1, value));
    }
    let load = |key| {
        move |data: &mut Vec<u8>| {
            put_u32(data, 1, REGISTER);
            put_u32(data, 2, key);
        }
    };
    let compare = |how, to: Vec<u8>| {
        move |data: &mut Vec<u8>| {
            put_u32(data, 1, REGISTER);
            put_u32(data, 2, how);
            value(data, 3, &to);
        }
    };
    let mut name = link.as_bytes().to_vec();
    name.resize(NAME, 0);
    expression("meta", &load(OUT));
    expression("cmp", &compare(EQUAL, name.clone()));
    expression("meta", &load(IN));
    expression("cmp", &compare(OTHER, name));
    expression("meta", &load(PROTOCOL));
    expression("cmp", &compare(EQUAL, vec![libc::IPPROTO_TCP as u8]));
    expression("ct", &load(STATUS));
    expression("bitwise", &|data| {
        put_u32(data, 1, REGISTER);
        put_u32(data, 2, REGISTER);
        put_u32(data, 3, 4);
        value(data, 4, &TRANSLATED.to_ne_bytes());
        value(data, 5, &[0; 4]);
    });
    expression("cmp", &compare(OTHER, vec![0; 4]));
    expression("flow_offload", &|data| put_text(data, 1, FLOWTABLE));
}

fn is_hooked(chain: &[u8]) -> bool {
    let hook = find(chain, attr::CHAIN_HOOK).unwrap_or_default();
    let at = |number| find(hook, number)?.try_into().ok().map(u32::from_be_bytes);
    (at(attr::HOOK_NUMBER), at(attr::HOOK_PRIORITY)) == (Some(FORWARD), Some(PRIORITY))
}

fn links(flowtable: &[u8]) -> OrdSet<String> {
    let hook = find(flowtable, attr::FLOWTABLE_HOOK).unwrap_or_default();
    let devices = find(hook, attr::FLOWTABLE_DEVICES).unwrap_or_default();
    let named = each(devices).filter(|(number, _)| *number == attr::ELEMENT);
    named.map(|(_, name)| text(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_read_as_they_are_written() {
        let mut body = Vec::new();
        put_nested(&mut body, attr::FLOWTABLE_HOOK, |hook| {
            put_u32(hook, attr::HOOK_NUMBER, 0);
            put_nested(hook, attr::FLOWTABLE_DEVICES, |devices| {
                put_text(devices, attr::ELEMENT, "eth0");
                put_text(devices, attr::ELEMENT, "ivm0");
            });
        });
        let both: OrdSet<String> = ["eth0".to_owned(), "ivm0".to_owned()].into_iter().collect();
        assert_eq!(links(&body), both);
        for length in 0..body.len() {
            let _ = links(&body[..length]);
            let _ = is_hooked(&body[..length]);
        }
    }
}
