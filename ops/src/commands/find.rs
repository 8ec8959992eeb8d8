//! From what people call a job to the job: `QUEUE/ID`, or an id that is looked up in every queue.

use roundsman_shared::job::view::Found;
use roundsman_shared::names::{JobId, QueueName};
use roundsman_shared::store::Store;

use crate::errors::Failure;

/// Finds the job that `name` means.
pub async fn find(store: &Store, name: &str) -> Result<Found, Failure> {
    match name.split_once('/') {
        Some((queue, id)) => {
            let (queue, id) = (QueueName::new(queue)?, JobId::new(id)?);
            look(store, &queue, &id).await?.ok_or_else(|| absent(name))
        }
        None => everywhere(store, &JobId::new(name)?).await,
    }
}

pub async fn look(store: &Store, queue: &QueueName, id: &JobId) -> Result<Option<Found>, Failure> {
    Ok(store.look(queue, std::slice::from_ref(id)).await?.into_iter().next().flatten())
}

async fn everywhere(store: &Store, id: &JobId) -> Result<Found, Failure> {
    let mut all = Vec::new();
    for queue in store.queues().await? {
        all.extend(look(store, &queue, id).await?);
    }
    if all.len() > 1 {
        let names: Vec<String> = all.iter().map(|found| format!("{}/{id}", found.queue)).collect();
        return Err(Failure::refused(format!("{id} is the id of several jobs: {}", names.join(", ")))
            .advise("name the one that is meant"));
    }
    all.pop().ok_or_else(|| absent(id.as_str()))
}

fn absent(name: &str) -> Failure {
    Failure::not_found(format!("there is no job {name}"))
        .advise("an ended job is kept for keep_done or keep_dead of its queue")
}
