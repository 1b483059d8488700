//! Stores an archive's images in containerd, so that CRI sees them as if they had been pulled.
//!
//! All blobs are written under a lease, children first, each parent with labels that name its children: at no moment
//! may containerd's garbage collector drop one. Unpacking is left to the first container.

use std::{collections::HashMap, path::Path};

use containerd_client::services::v1::{
    CreateImageRequest, CreateRequest, DeleteRequest, GetImageRequest, Image as Record, Info,
    UpdateImageRequest, UpdateRequest, WriteAction, WriteContentRequest, content_client::ContentClient,
    images_client::ImagesClient, leases_client::LeasesClient,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, metadata::MetadataValue, transport::Channel};

use super::{
    NAMESPACE,
    archive::{Content, Image, Stored, closure},
};

/// containerd refuses messages above 4 MiB; this leaves room, and only two of them are in memory at a time.
const CHUNK: usize = 1 << 20;
/// A lease that was left behind ends by itself.
const LEASE_SECONDS: i64 = 3600;

/// Why an image could not be stored.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The archive is broken.
    #[error(transparent)]
    Archive(#[from] super::archive::Error),
    /// containerd is not there.
    #[error("connect to containerd at {socket}: {source}")]
    Connect {
        /// Its socket.
        socket: std::path::PathBuf,
        /// Why.
        source: tonic::transport::Error,
    },
    /// containerd refused.
    #[error("{operation} {object} in containerd: {} ({:?})", status.message(), status.code())]
    Refused {
        /// What was asked.
        operation: &'static str,
        /// Of what.
        object: String,
        /// Its answer.
        status: Box<Status>,
    },
}

/// Writes into containerd's stores.
pub struct Importer {
    content: ContentClient<Channel>,
    images: ImagesClient<Channel>,
    leases: LeasesClient<Channel>,
}

impl Importer {
    /// Connect to containerd.
    pub async fn connect(socket: &Path) -> Result<Self, Error> {
        let channel = super::connect(socket).await.map_err(|source| Error::Connect {
            socket: socket.to_owned(),
            source,
        })?;
        Ok(Self {
            content: ContentClient::new(channel.clone()),
            images: ImagesClient::new(channel.clone()),
            leases: LeasesClient::new(channel),
        })
    }

    /// Store an image; `pinned` keeps it from the collection of unused images. Returns whether anything changed.
    pub async fn store(&mut self, content: &Content, image: &Image, pinned: bool) -> Result<bool, Error> {
        let existing = self.existing(&image.name).await?;
        if existing.as_deref() == Some(&image.digest) {
            return Ok(false);
        }
        let blobs = closure(content, image)?;
        let lease = self.lease(&image.name).await?;
        let mut result = Ok(());
        for blob in &blobs {
            result = self.write(content, blob, &lease).await;
            if result.is_err() {
                break;
            }
        }
        if result.is_ok() {
            result = self.name(image, pinned, existing.is_some(), &lease).await;
        }
        // The image holds its blobs now, or they are of no use: either way the lease has done its work. It expires
        // by itself, should this fail.
        let delete = request(
            DeleteRequest {
                id: lease,
                sync: false,
            },
            None,
        );
        if let Err(error) = self.leases.delete(delete).await {
            tracing::debug!(%error, "a lease in containerd was left to expire");
        }
        result.map(|()| true)
    }

    /// Whether there is an image of this name, whatever it is.
    pub async fn exists(&mut self, name: &str) -> Result<bool, Error> {
        Ok(self.existing(name).await?.is_some())
    }

    async fn existing(&mut self, name: &str) -> Result<Option<String>, Error> {
        match self
            .images
            .get(request(
                GetImageRequest {
                    name: name.to_owned(),
                },
                None,
            ))
            .await
        {
            Ok(response) => Ok(response
                .into_inner()
                .image
                .and_then(|image| image.target)
                .map(|target| target.digest)),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(refused("look up image", name, status)),
        }
    }

    async fn lease(&mut self, name: &str) -> Result<String, Error> {
        let expires = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(LEASE_SECONDS);
        let create = CreateRequest {
            id: format!("keelson-import-{}", uuid::Uuid::new_v4()),
            labels: HashMap::from([("containerd.io/gc.expire".to_owned(), expires.to_string())]),
        };
        let response = self
            .leases
            .create(request(create, None))
            .await
            .map_err(|status| refused("create a lease for image", name, status))?;
        Ok(response
            .into_inner()
            .lease
            .map(|lease| lease.id)
            .unwrap_or_default())
    }

    async fn write(&mut self, content: &Content, blob: &Stored, lease: &str) -> Result<(), Error> {
        let (sender, receiver) = mpsc::channel(1);
        let (source, wanted) = (content.clone(), blob.clone());
        // Reading blocks, and the call is only answered once something was sent: hence a thread beside it.
        let reader = tokio::task::spawn_blocking(move || feed(&source, &wanted, &sender));
        let outcome = async {
            let mut answers = self
                .content
                .write(request(ReceiverStream::new(receiver), Some(lease)))
                .await?
                .into_inner();
            while let Some(answer) = answers.message().await? {
                if answer.action == WriteAction::Commit as i32 {
                    return Ok(());
                }
            }
            Err(Status::aborted("the write ended without a commit"))
        }
        .await;
        match outcome {
            Ok(()) => {}
            // Stored before, perhaps by another owner: its labels may name nothing yet.
            Err(status) if status.code() == Code::AlreadyExists => self.label(blob, lease).await?,
            Err(status) => {
                if let Ok(Err(error)) = reader.await {
                    return Err(error.into());
                }
                return Err(refused("write blob", &blob.digest, status));
            }
        }
        Ok(())
    }

    async fn label(&mut self, blob: &Stored, lease: &str) -> Result<(), Error> {
        if blob.labels.is_empty() {
            return Ok(());
        }
        let paths = blob.labels.keys().map(|key| format!("labels.{key}")).collect();
        let update = UpdateRequest {
            info: Some(Info {
                digest: blob.digest.clone(),
                labels: blob.labels.clone().into_iter().collect(),
                ..Info::default()
            }),
            update_mask: Some(prost_types::FieldMask { paths }),
        };
        self.content
            .update(request(update, Some(lease)))
            .await
            .map_err(|status| refused("label blob", &blob.digest, status))?;
        Ok(())
    }

    async fn name(&mut self, image: &Image, pinned: bool, exists: bool, lease: &str) -> Result<(), Error> {
        // CRI shows images that carry its own label; unused ones that are not pinned may be collected.
        let mut labels = HashMap::from([("io.cri-containerd.image".to_owned(), "managed".to_owned())]);
        if pinned {
            labels.insert("io.cri-containerd.pinned".to_owned(), "pinned".to_owned());
        }
        let record = Record {
            name: image.name.clone(),
            labels,
            target: Some(containerd_client::types::Descriptor {
                media_type: image.media_type.clone(),
                digest: image.digest.clone(),
                size: i64::try_from(image.size).unwrap_or(i64::MAX),
                ..Default::default()
            }),
            ..Record::default()
        };
        let outcome = if exists {
            let update = UpdateImageRequest {
                image: Some(record),
                ..UpdateImageRequest::default()
            };
            self.images.update(request(update, Some(lease))).await.map(drop)
        } else {
            let create = CreateImageRequest {
                image: Some(record),
                ..CreateImageRequest::default()
            };
            self.images.create(request(create, Some(lease))).await.map(drop)
        };
        outcome.map_err(|status| refused("name image", &image.name, status))
    }
}

/// Send a blob in chunks; the last message commits. Runs on a thread that may block.
fn feed(
    content: &Content,
    blob: &Stored,
    sender: &mpsc::Sender<WriteContentRequest>,
) -> Result<(), super::archive::Error> {
    let mut at = 0;
    loop {
        let mut data = vec![0; CHUNK.min(usize::try_from(blob.size - at).unwrap_or(CHUNK))];
        let read = content.read_at(&blob.digest, &mut data, at)?;
        data.truncate(read);
        let last = at + read as u64 >= blob.size;
        let message = WriteContentRequest {
            action: if last {
                WriteAction::Commit
            } else {
                WriteAction::Write
            } as i32,
            r#ref: format!("keelson-{}", blob.digest),
            total: i64::try_from(blob.size).unwrap_or(i64::MAX),
            expected: blob.digest.clone(),
            offset: i64::try_from(at).unwrap_or(i64::MAX),
            data,
            labels: blob.labels.clone().into_iter().collect(),
        };
        // A receiver that is gone has its answer already (the blob exists, or an error).
        if sender.blocking_send(message).is_err() || last {
            return Ok(());
        }
        at += read as u64;
    }
}

/// A request with the headers containerd looks for.
fn request<T>(message: T, lease: Option<&str>) -> Request<T> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert("containerd-namespace", MetadataValue::from_static(NAMESPACE));
    if let Some(Ok(lease)) = lease.map(MetadataValue::try_from) {
        metadata.insert("containerd-lease", lease);
    }
    request
}

fn refused(operation: &'static str, object: &str, status: Status) -> Error {
    Error::Refused {
        operation,
        object: object.to_owned(),
        status: Box::new(status),
    }
}
