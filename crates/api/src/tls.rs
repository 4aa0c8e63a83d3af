//! The API over TCP, for those alone who have a certificate of one authority: who may
//! use it is root here, as with Docker's own.

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use axum::serve::Listener;
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// How long a client may take to show its certificate.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// So many clients may be doing that at once; others wait.
const HANDSHAKES: usize = 64;
/// How long it is waited where no connection can be taken, for want of files.
const AGAIN: Duration = Duration::from_millis(100);

/// Where and with which certificates (PEM files) it is listened.
#[derive(Clone, Debug)]
pub struct TlsSettings {
    /// Where.
    pub address: SocketAddr,
    /// The authority that clients' certificates are of.
    pub ca: PathBuf,
    /// Our own certificate, with those between it and its authority.
    pub cert: PathBuf,
    /// Our own certificate's key.
    pub key: PathBuf,
}

/// Why it cannot be listened so.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds nothing of the kind.
    #[error("cannot read {what} from {}: it must be a PEM file", path.display())]
    File {
        /// What should be in it.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: pem::Error,
    },
    /// The certificates do not fit together.
    #[error("the certificates of --tlscacert, --tlscert and --tlskey cannot be used: {0}")]
    Certificates(String),
    /// The address is taken, or none of this machine's.
    #[error("cannot listen on {at} for --tls-address; choose another address")]
    Bind {
        /// Which.
        at: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn certificates(
    what: &'static str,
    path: &PathBuf,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let fail = |source| TlsError::File {
        what,
        path: path.clone(),
        source,
    };
    let read = CertificateDer::pem_file_iter(path).map_err(fail)?;
    let all: Vec<_> = read.collect::<Result<_, _>>().map_err(fail)?;
    match all.is_empty() {
        true => Err(fail(pem::Error::NoItemsFound)),
        false => Ok(all),
    }
}

fn config(settings: &TlsSettings) -> Result<ServerConfig, TlsError> {
    let wrong = |error: &dyn std::fmt::Display| TlsError::Certificates(error.to_string());
    let mut roots = RootCertStore::empty();
    for authority in certificates("certificates of an authority", &settings.ca)? {
        roots.add(authority).map_err(|error| wrong(&error))?;
    }
    let chain = certificates("a certificate", &settings.cert)?;
    let key = PrivateKeyDer::from_pem_file(&settings.key).map_err(|source| TlsError::File {
        what: "a key",
        path: settings.key.clone(),
        source,
    })?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(&error))?
        .with_client_cert_verifier(clients.map_err(|error| wrong(&error))?)
        .with_single_cert(chain, key)
        .map_err(|error| wrong(&error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Connections of clients that have shown a certificate.
pub struct TlsListener {
    shown: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    at: SocketAddr,
}

impl TlsListener {
    /// Listens. Must be called within an asynchronous runtime.
    ///
    /// # Errors
    /// [`TlsError`]
    pub async fn bind(settings: &TlsSettings) -> Result<Self, TlsError> {
        let acceptor = TlsAcceptor::from(Arc::new(config(settings)?));
        let fail = |source| TlsError::Bind {
            at: settings.address,
            source,
        };
        let listener = TcpListener::bind(settings.address).await.map_err(fail)?;
        let at = listener.local_addr().map_err(fail)?;
        let (shows, shown) = mpsc::channel(HANDSHAKES);
        tokio::spawn(accept(listener, acceptor, shows));
        Ok(Self { shown, at })
    }
}

/// One that is slow to show its certificate holds up nobody else.
async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    shows: mpsc::Sender<(TlsStream<TcpStream>, SocketAddr)>,
) {
    let turns = Arc::new(Semaphore::new(HANDSHAKES));
    while !shows.is_closed() {
        // never closed
        let turn = turns.clone().acquire_owned().await.ok();
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot take a connection");
                sleep(AGAIN).await;
                continue;
            }
        };
        let (acceptor, shows) = (acceptor.clone(), shows.clone());
        tokio::spawn(async move {
            match timeout(HANDSHAKE, acceptor.accept(stream)).await {
                // the listener may be gone
                Ok(Ok(stream)) => drop(shows.send((stream, peer)).await),
                Ok(Err(error)) => tracing::info!(%peer, %error, "refused a client of the API"),
                Err(_) => tracing::info!(%peer, "a client of the API showed no certificate"),
            }
            drop(turn);
        });
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.shown.recv().await {
            Some(shown) => shown,
            // the task that takes them never ends before this
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Ok(self.at)
    }
}
