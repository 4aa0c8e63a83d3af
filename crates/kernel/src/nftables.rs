//! The generation of a namespace's nftables rules: a number that each committed
//! change of them raises, whoever makes it (`include/uapi/linux/netfilter/nf_tables.h`).

use std::io;

use nix::libc;

use crate::{
    Error, attribute,
    netlink::{Conversation, Request, code},
    program,
};

const NETLINK_NETFILTER: isize = 12;
/// `NFNL_SUBSYS_NFTABLES`
pub(crate) const SUBSYSTEM: u16 = 10 << 8;
/// `NFT_MSG_GETGEN`
const GET_GENERATION: u16 = 16;
/// `NFTA_GEN_ID`
const ID: u16 = 1;

/// nftables of the network namespace in which this was opened.
pub(crate) struct Nftables {
    pub(crate) conversation: Conversation,
}

impl Nftables {
    pub(crate) fn open() -> Result<Self, Error> {
        let conversation = Conversation::open(NETLINK_NETFILTER).map_err(failed)?;
        Ok(Self { conversation })
    }

    /// The generation; `None` where the kernel has no nftables.
    pub(crate) fn generation(&mut self) -> Result<Option<u32>, Error> {
        let ask = Request {
            kind: SUBSYSTEM | GET_GENERATION,
            flags: 0,
            body: vec![0; 4],
        };
        match self.conversation.get(&ask) {
            Ok(answer) => Ok(answer.and_then(|(_, body)| read(&body))),
            Err(error) if [Some(libc::EOPNOTSUPP), Some(libc::EINVAL)].contains(&code(&error)) => {
                Ok(None)
            }
            Err(error) => Err(failed(error)),
        }
    }
}

fn failed(source: io::Error) -> Error {
    Error::Netlink {
        what: "read the generation of the rules".to_owned(),
        source,
    }
}

fn read(message: &[u8]) -> Option<u32> {
    // behind `struct nfgenmsg`
    let id = attribute::find(message.get(4..)?, ID)?;
    Some(u32::from_be_bytes(id.try_into().ok()?))
}

/// Whether `iptables` is the one whose rules are nftables': `iptables v1.8.9
/// (nf_tables)`. One process.
pub(crate) fn is_iptables_back_end() -> bool {
    let said = program::command("iptables").arg("--version").output();
    said.is_ok_and(|said| String::from_utf8_lossy(&said.stdout).contains("nf_tables"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_is_read_from_its_attribute() {
        let mut message = vec![0, 0, 0, 1];
        message.extend(8_u16.to_ne_bytes());
        message.extend(ID.to_ne_bytes());
        message.extend([0, 0, 1, 2]);
        assert_eq!(read(&message), Some(258));
        for length in 0..message.len() {
            assert_eq!(read(&message[..length]), None);
        }
    }
}
