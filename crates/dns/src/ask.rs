//! One question, as a client's resolver asks it.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Message, MessageType, Query, ResponseCode},
    rr::{Name, RData, RecordType},
};
use tokio::time::timeout;

use crate::wire::DATAGRAM;

/// What a server said to a question for addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// The addresses, in the server's order.
    pub addresses: Vec<IpAddr>,
    /// How it answered.
    pub code: Code,
    /// The server knows it by itself.
    pub authoritative: bool,
    /// How long it took.
    pub took: Duration,
}

/// A response code (RFC 1035 §4.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// `NOERROR`, also of a name that has no such record.
    NoError,
    /// `NXDOMAIN`: there is no such name.
    NoSuchName,
    /// `SERVFAIL`
    Failed,
    /// `REFUSED`
    Refused,
    /// Any other, by its number.
    Other(u16),
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No DNS name.
    #[error("{0:?} is no DNS name")]
    Name(String),
    /// Nothing came.
    #[error("no answer within {} ms", .0.as_millis())]
    Silent(Duration),
    /// The socket, or what the network said of it: `ConnectionRefused` where nobody has
    /// the port.
    #[error(transparent)]
    Socket(#[from] io::Error),
}

/// Asks a server for a name's addresses of one family, by UDP: out of the network
/// namespace that the socket is in. Must be called in a tokio runtime with I/O and time.
///
/// # Errors
/// [`AskError`]
pub async fn ask(
    socket: UdpSocket,
    server: SocketAddr,
    name: &str,
    ipv6: bool,
    patience: Duration,
) -> Result<Said, AskError> {
    let begun = Instant::now();
    let kind = if ipv6 {
        RecordType::AAAA
    } else {
        RecordType::A
    };
    // as it is: no search domain is tried
    let asked = Name::from_ascii(format!("{}.", name.trim_end_matches('.')));
    let asked = asked.map_err(|_| AskError::Name(name.to_owned()))?;
    let query = Query::query(asked, kind);
    let mut question = Message::query();
    question.metadata.recursion_desired = true;
    question.add_query(query.clone());
    let packet = question
        .to_vec()
        .map_err(|_| AskError::Name(name.to_owned()))?;

    socket.set_nonblocking(true)?;
    let socket = tokio::net::UdpSocket::from_std(socket)?;
    socket.connect(server).await?;
    socket.send(&packet).await?;
    let answer = async {
        let mut reply = vec![0; DATAGRAM.into()];
        loop {
            let length = socket.recv(&mut reply).await?;
            let message = Message::from_vec(reply.get(..length).unwrap_or_default());
            if let Ok(message) = message
                && message.metadata.id == question.metadata.id
                && message.metadata.message_type == MessageType::Response
                && message.queries.first() == Some(&query)
            {
                return io::Result::Ok(message);
            }
        }
    };
    let answered = timeout(patience, answer).await;
    let message = answered.map_err(|_| AskError::Silent(patience))??;
    let addresses = message
        .answers
        .iter()
        .filter_map(|record| match &record.data {
            RData::A(a) if !ipv6 => Some(IpAddr::V4(a.0)),
            RData::AAAA(aaaa) if ipv6 => Some(IpAddr::V6(aaaa.0)),
            _ => None,
        });
    Ok(Said {
        addresses: addresses.collect(),
        code: match message.metadata.response_code {
            ResponseCode::NoError => Code::NoError,
            ResponseCode::NXDomain => Code::NoSuchName,
            ResponseCode::ServFail => Code::Failed,
            ResponseCode::Refused => Code::Refused,
            other => Code::Other(other.into()),
        },
        authoritative: message.metadata.authoritative,
        took: begun.elapsed(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers one question with this code, and 192.0.2.7 to a name that is known.
    async fn server(code: ResponseCode) -> SocketAddr {
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let at = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut packet = vec![0; 512];
            let (length, client) = socket.recv_from(&mut packet).await.unwrap();
            let mut message = Message::from_vec(&packet[..length]).unwrap();
            // of somebody who guesses, and nonsense
            let mut other = message.clone();
            other.metadata.id ^= 1;
            other.metadata.message_type = MessageType::Response;
            socket
                .send_to(&other.to_vec().unwrap(), client)
                .await
                .unwrap();
            socket.send_to(&[1, 2, 3], client).await.unwrap();
            message.metadata.message_type = MessageType::Response;
            message.metadata.response_code = code;
            if code == ResponseCode::NoError {
                let name = message.queries[0].name().clone();
                let data = RData::from(IpAddr::from([192, 0, 2, 7]));
                let record = hickory_proto::rr::Record::from_rdata(name, 2, data);
                message.answers.push(record);
            }
            socket
                .send_to(&message.to_vec().unwrap(), client)
                .await
                .unwrap();
        });
        at
    }

    fn socket() -> UdpSocket {
        UdpSocket::bind("127.0.0.1:0").unwrap()
    }

    #[tokio::test]
    async fn the_answer_to_this_very_question_is_taken() {
        let at = server(ResponseCode::NoError).await;
        let patience = Duration::from_secs(5);
        let said = ask(socket(), at, "vote", false, patience).await.unwrap();
        assert_eq!(said.addresses, [IpAddr::from([192, 0, 2, 7])]);
        assert_eq!(said.code, Code::NoError);

        let at = server(ResponseCode::NXDomain).await;
        let said = ask(socket(), at, "vote.", false, patience).await.unwrap();
        assert_eq!((said.addresses.len(), said.code), (0, Code::NoSuchName));
    }

    #[tokio::test]
    async fn silence_and_a_closed_port_are_told_apart() {
        let nobody = socket();
        let at = nobody.local_addr().unwrap();
        let patience = Duration::from_millis(50);
        let error = ask(socket(), at, "vote", false, patience)
            .await
            .unwrap_err();
        assert!(matches!(error, AskError::Silent(_)), "{error}");
        drop(nobody);
        let error = ask(socket(), at, "vote", false, patience)
            .await
            .unwrap_err();
        assert!(
            matches!(&error, AskError::Socket(error) if error.kind() == io::ErrorKind::ConnectionRefused),
            "{error}"
        );
        let long = "a".repeat(70);
        let error = ask(socket(), at, &long, false, patience).await.unwrap_err();
        assert!(matches!(error, AskError::Name(_)), "{error}");
    }
}
