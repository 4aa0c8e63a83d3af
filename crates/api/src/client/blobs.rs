//! Configs and secrets.

use model::BlobKind;
use serde_json::Value;

use super::{Answer, Client, Filters, escape, id};

impl Client {
    /// `GET /configs` or `/secrets`
    ///
    /// # Errors
    /// [`ClientError`](super::ClientError)
    pub async fn blobs(&self, kind: BlobKind, filters: &Filters) -> Answer<Vec<Value>> {
        self.get(&format!("/{kind}s?{}", filters.query())).await
    }

    /// `GET /configs/NAME` or `/secrets/NAME`
    ///
    /// # Errors
    /// [`ClientError`](super::ClientError)
    pub async fn blob(&self, kind: BlobKind, name: &str) -> Answer<Value> {
        self.get(&format!("/{kind}s/{}", escape(name))).await
    }

    /// `POST /configs/create` or `/secrets/create`; gives the id.
    ///
    /// # Errors
    /// [`ClientError`](super::ClientError)
    pub async fn create_blob(&self, kind: BlobKind, spec: &Value) -> Answer<String> {
        let path = format!("/{kind}s/create");
        let made = self.post(&path, spec).await?;
        id(&made, "ID", &format!("POST {path}"))
    }

    /// `POST /configs/ID/update` or `/secrets/ID/update` of the version that was looked
    /// at: only labels may change.
    ///
    /// # Errors
    /// [`ClientError`](super::ClientError)
    pub async fn label_blob(
        &self,
        kind: BlobKind,
        id: &str,
        version: u64,
        spec: &Value,
    ) -> Answer<()> {
        let path = format!("/{kind}s/{}/update?version={version}", escape(id));
        self.post_in_silence(&path, spec).await
    }

    /// `DELETE /configs/NAME` or `/secrets/NAME`
    ///
    /// # Errors
    /// [`ClientError`](super::ClientError)
    pub async fn remove_blob(&self, kind: BlobKind, name: &str) -> Answer<()> {
        self.delete(&format!("/{kind}s/{}", escape(name))).await
    }
}
