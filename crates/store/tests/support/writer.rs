//! What the tests kill: writes to a store for ever, and says what it has written.
#![forbid(unsafe_code)]

use std::{
    error::Error,
    io::{Write as _, stdout},
    path::PathBuf,
};

use ipvsmesh_store::{Embedded, Store as _};
use model::{Claim, Object, Resource, Revision, Transaction};

fn claim(name: String) -> Object {
    Object::Claim(Claim {
        resource: Resource::ServiceName(name),
        owner: "x".repeat(2000),
        released: None,
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::args_os().nth(1).map(PathBuf::from);
    let dir = dir.ok_or("usage: store-test-writer DIR")?;
    let store = Embedded::open(&dir)?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(write(&store))
}

/// Two objects a revision, each revision said once it is written.
async fn write(store: &Embedded) -> Result<(), Box<dyn Error>> {
    let mut revision = store.load().await?.revision.0;
    loop {
        revision += 1;
        let mut tx = Transaction::default();
        tx.create(claim(format!("a{revision}")));
        tx.create(claim(format!("b{revision}")));
        let written = store.commit(tx).await?;
        if written != Revision(revision) {
            return Err(format!("revision {written:?}, not {revision}").into());
        }
        writeln!(stdout(), "{revision}")?;
    }
}
