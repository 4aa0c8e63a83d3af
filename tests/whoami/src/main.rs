//! A small server that says who asked and who answered: over HTTP with
//! keep-alive, and over UDP on the same port. What tests and the demo run.
#![forbid(unsafe_code)]

mod load;

use std::{
    net::{Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use axum::{
    Router,
    extract::{ConnectInfo, Query, State},
    http::{HeaderMap, Method, Uri},
    serve::IncomingStream,
};
use clap::Parser;
use tokio::{
    net::{TcpListener, UdpSocket},
    signal::unix::{SignalKind, signal},
};

/// Says who asked and who answered, over HTTP and UDP
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Port of both servers
    #[arg(long, default_value_t = 80)]
    port: u16,
    /// Go on answering for so many seconds after SIGTERM
    #[arg(long, default_value_t = 0)]
    linger: u64,
    /// Begin to listen after so many seconds
    #[arg(long, default_value_t = 0)]
    delay: u64,
    /// A version, which is a line of each answer
    #[arg(long, default_value = "")]
    text: String,
    #[command(subcommand)]
    command: Option<Command>,
}

/// What else it can do.
#[derive(clap::Subcommand)]
enum Command {
    Load(load::Load),
}

/// What is answered from.
struct Own {
    hostname: String,
    /// A line, or nothing.
    text: String,
}

/// Both ends of a connection.
#[derive(Clone, Copy)]
struct Ends {
    client: SocketAddr,
    own: SocketAddr,
}

impl axum::extract::connect_info::Connected<IncomingStream<'_, TcpListener>> for Ends {
    fn connect_info(stream: IncomingStream<'_, TcpListener>) -> Self {
        let unknown = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        Self {
            client: canonical(*stream.remote_addr()),
            own: canonical(stream.io().local_addr().unwrap_or(unknown)),
        }
    }
}

/// An IPv4 client of a socket for both families is an IPv4 client.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot set up the event loop")?
        .block_on(async {
            match arguments.command {
                Some(Command::Load(load)) => load.run().await,
                None => serve(&arguments).await,
            }
        })
}

async fn serve(arguments: &Arguments) -> anyhow::Result<()> {
    tokio::time::sleep(Duration::from_secs(arguments.delay)).await;
    // answers both families, where the kernel has IPv6
    let wildcard = [
        SocketAddr::from((Ipv6Addr::UNSPECIFIED, arguments.port)),
        SocketAddr::from(([0, 0, 0, 0], arguments.port)),
    ];
    let cannot = || format!("cannot listen on port {}", arguments.port);
    let tcp = TcpListener::bind(&wildcard[..])
        .await
        .with_context(cannot)?;
    let udp = UdpSocket::bind(&wildcard[..]).await.with_context(cannot)?;
    let hostname = nix::unistd::gethostname()
        .context("cannot read the host name")?
        .to_string_lossy()
        .into_owned();
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let name: Arc<str> = hostname.clone().into();
    let own = Arc::new(Own {
        hostname,
        text: match arguments.text.as_str() {
            "" => String::new(),
            text => format!("Version: {text}\n"),
        },
    });
    let app = Router::new()
        .fallback(answer)
        .with_state(own)
        .into_make_service_with_connect_info::<Ends>();
    tokio::select! {
        served = async { axum::serve(tcp, app).await } => served.context("cannot accept"),
        echoed = echo(udp, name) => echoed.context("cannot receive"),
        _ = terminate.recv() => {
            tokio::time::sleep(Duration::from_secs(arguments.linger)).await;
            Ok(())
        }
    }
}

/// How long `?wait=SECONDS` makes an answer take.
fn wait(query: &[(String, String)]) -> Duration {
    let wait = query.iter().find(|(key, _)| key == "wait");
    let seconds = wait.and_then(|(_, value)| value.parse().ok());
    Duration::from_secs(seconds.unwrap_or_default())
}

async fn answer(
    State(own): State<Arc<Own>>,
    ConnectInfo(ends): ConnectInfo<Ends>,
    Query(query): Query<Vec<(String, String)>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> String {
    tokio::time::sleep(wait(&query)).await;
    println!("{method} {uri} from {}", ends.client);
    let host = headers.get("host").and_then(|host| host.to_str().ok());
    format!(
        "Hostname: {}\n{}IP: {}\nRemoteAddr: {}\n{method} {uri} HTTP/1.1\nHost: {}\n",
        own.hostname,
        own.text,
        ends.own.ip(),
        ends.client,
        host.unwrap_or_default(),
    )
}

/// Sends each datagram back behind the host's name and the client's address.
async fn echo(socket: UdpSocket, hostname: Arc<str>) -> std::io::Result<()> {
    let mut buffer = vec![0; 65_535];
    loop {
        let (len, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // an ICMP error of an answer before; the socket goes on
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => continue,
            Err(error) => return Err(error),
        };
        let mut answer = format!("{hostname} {} ", canonical(client)).into_bytes();
        answer.extend_from_slice(&buffer[..len]);
        // one that cannot be answered must not keep the others from it
        let _ = socket.send_to(&answer, client).await;
    }
}
