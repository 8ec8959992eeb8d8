//! A broker's other user: declares queues, publishes with confirms, looks and takes, one step after the other.

use std::time::Duration;

use lapin::message::BasicGetMessage;
use lapin::options::{
    BasicAckOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
    QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use tokio::runtime::Runtime;

/// For any answer of the broker.
const SOON: Duration = Duration::from_secs(20);

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error(transparent)]
    Broker(#[from] lapin::Error),
    #[error("no answer within {SOON:?}")]
    Late(#[from] tokio::time::error::Elapsed),
    #[error("the broker did not confirm the message")]
    Unconfirmed,
    #[error("no runtime")]
    Runtime(#[from] std::io::Error),
}

/// A connection and a channel.
#[derive(Debug)]
pub struct Client {
    runtime: Runtime,
    connection: Connection,
    channel: Channel,
}

impl Client {
    /// # Errors
    /// When the broker is not reached.
    pub fn connect(url: &str) -> Result<Self, ClientError> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (connection, channel) = runtime.block_on(async {
            tokio::time::timeout(SOON, async {
                let connection = Connection::connect(url, ConnectionProperties::default()).await?;
                let channel = open(&connection).await?;
                Ok::<_, lapin::Error>((connection, channel))
            })
            .await
        })??;
        Ok(Self { runtime, connection, channel })
    }

    fn wait<T>(&self, step: impl Future<Output = lapin::Result<T>>) -> Result<T, ClientError> {
        Ok(self.runtime.block_on(async { tokio::time::timeout(SOON, step).await })??)
    }

    /// A new channel, after the broker has closed the one before.
    ///
    /// # Errors
    /// When the connection is lost.
    pub fn reopen(&mut self) -> Result<(), ClientError> {
        self.channel = self.wait(open(&self.connection))?;
        Ok(())
    }

    /// A durable queue with these arguments.
    ///
    /// # Errors
    /// When the broker refuses.
    pub fn declare(&self, queue: &str, arguments: &[(&str, AMQPValue)]) -> Result<(), ClientError> {
        let mut table = FieldTable::default();
        for (name, value) in arguments {
            table.insert((*name).into(), value.clone());
        }
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        self.wait(self.channel.queue_declare(queue.into(), options, table))?;
        Ok(())
    }

    /// # Errors
    /// When the broker refuses.
    pub fn delete(&self, queue: &str) -> Result<(), ClientError> {
        self.wait(self.channel.queue_delete(queue.into(), QueueDeleteOptions::default()))?;
        Ok(())
    }

    /// Messages that wait in a queue, and its consumers.
    ///
    /// # Errors
    /// When there is no such queue.
    pub fn look(&self, queue: &str) -> Result<(u32, u32), ClientError> {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let found = self.wait(self.channel.queue_declare(queue.into(), options, FieldTable::default()))?;
        Ok((found.message_count(), found.consumer_count()))
    }

    /// Publishes to a queue, persistent, and waits for the confirm.
    ///
    /// # Errors
    /// When it is not confirmed, or comes back.
    pub fn publish(&self, queue: &str, body: &[u8], properties: BasicProperties) -> Result<(), ClientError> {
        self.publish_all(queue, vec![(body.to_vec(), properties)])
    }

    /// The same for many, all under way at once.
    ///
    /// # Errors
    /// When one of them is not confirmed, or comes back; the others may have been.
    pub fn publish_all(
        &self,
        queue: &str,
        messages: Vec<(Vec<u8>, BasicProperties)>,
    ) -> Result<(), ClientError> {
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let confirmations = self.wait(async {
            let mut sent = Vec::with_capacity(messages.len());
            for (body, properties) in messages {
                let properties = properties.with_delivery_mode(2);
                let (exchange, key) = (ShortString::default(), ShortString::from(queue));
                sent.push(self.channel.basic_publish(exchange, key, options, &body, properties).await?);
            }
            let mut confirmations = Vec::with_capacity(sent.len());
            for confirm in sent {
                confirmations.push(confirm.await?);
            }
            Ok(confirmations)
        })?;
        let taken = |it: &lapin::Confirmation| matches!(it, lapin::Confirmation::Ack(None));
        if confirmations.iter().all(taken) { Ok(()) } else { Err(ClientError::Unconfirmed) }
    }

    /// Takes one message, if one is there.
    ///
    /// # Errors
    /// When the broker refuses.
    pub fn take(&self, queue: &str) -> Result<Option<BasicGetMessage>, ClientError> {
        self.wait(async {
            let got = self.channel.basic_get(queue.into(), BasicGetOptions::default()).await?;
            if let Some(message) = &got {
                message.delivery.acker.ack(BasicAckOptions::default()).await?;
            }
            Ok(got)
        })
    }
}

async fn open(connection: &Connection) -> lapin::Result<Channel> {
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok(channel)
}
