//! Calls of any method, with messages as bytes: for tests that know methods by their
//! descriptions only.

use super::{Server, with};
use bytes::{Buf, BufMut, Bytes};
use tonic::Status;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// Messages as bytes.
#[derive(Clone, Copy)]
pub struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;
    fn encoder(&mut self) -> Raw {
        Raw
    }
    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;
    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;
    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// Calls `method` (`package.Service/Method`) with one message, and returns the first
/// answer; empty if there is none.
pub async fn first_answer(
    server: &Server,
    method: &str,
    metadata: &[(&'static str, &str)],
    message: Bytes,
) -> Result<Bytes, Status> {
    let mut client = Grpc::new(server.channel().await);
    client.ready().await.unwrap();
    let request = with(tokio_stream::once(message), metadata);
    let path = format!("/{method}").parse().unwrap();
    let mut answers = client.streaming(request, path, Raw).await?.into_inner();
    Ok(answers.message().await?.unwrap_or_default())
}
