//! What a verb starts from: settings, screen, and the store when it wants it. A verb speaks to the store directly, so
//! that it works when the fleet is down.

use std::io;
use std::time::Duration;

use roundsman_shared::names::{Namespace, QueueName};
use roundsman_shared::settings::{
    Durability, LoadInput, Loaded, Override, QueueSettings, Settings, StoreSettings, StoreUrl,
};
use roundsman_shared::store::{Store, StoreConfig, StoreError, StorePlace};

use crate::cli::Globals;
use crate::errors::Failure;
use crate::print::Screen;

/// A store that is not reached within this time is not reachable: people wait for the answer.
const REACH: Duration = Duration::from_millis(4500);

/// Settings and screen of one verb.
#[derive(Debug)]
pub struct Context {
    pub input: LoadInput,
    pub loaded: Loaded,
    pub screen: Screen,
}

/// The environment and directory of this process, with what the flags say.
///
/// # Errors
/// The current directory is gone.
pub fn load_input(globals: &Globals) -> io::Result<LoadInput> {
    let mut input = LoadInput::capture()?;
    input.config.clone_from(&globals.config);
    let flags =
        [("--store", "store.url", &globals.store), ("--namespace", "store.namespace", &globals.namespace)];
    for (flag, key, value) in flags {
        if let Some(value) = value {
            input.overrides.push(Override::text(flag, key, value));
        }
    }
    Ok(input)
}

/// How the settings' store is opened.
///
/// # Errors
/// A namespace that is none, which settings do not let through.
pub fn store_config(store: &StoreSettings) -> Result<StoreConfig, Failure> {
    let place = match &store.url {
        StoreUrl::Sqlite { path } => StorePlace::Sqlite(path.clone()),
        StoreUrl::Redis { url } => StorePlace::Redis(url.expose().to_owned()),
    };
    Ok(StoreConfig { place, namespace: Namespace::new(&store.namespace)?, lease: store.lease })
}

impl Context {
    pub fn load(input: LoadInput, globals: &Globals) -> Result<Self, Failure> {
        let screen = Screen::new(globals, &input.environment);
        let loaded = Settings::load(&input)?;
        for warning in &loaded.warnings {
            screen.warn(warning);
        }
        Ok(Self { input, loaded, screen })
    }

    pub const fn settings(&self) -> &Settings {
        &self.loaded.settings
    }

    /// Opens the store.
    pub async fn store(&self) -> Result<Store, Failure> {
        self.try_store().await.map_err(|error| self.explain(error))
    }

    pub async fn try_store(&self) -> Result<Store, StoreError> {
        let config = store_config(&self.settings().store)
            .map_err(|failure| StoreError::Unfit(failure.lines().collect()))?;
        match tokio::time::timeout(REACH, Store::open(&config)).await {
            Ok(opened) => opened,
            Err(_late) => Err(StoreError::Unavailable("it does not answer".to_owned())),
        }
    }

    /// Names the store that could not be opened, and what to do.
    fn explain(&self, error: StoreError) -> Failure {
        let url = &self.settings().store.url;
        match error {
            StoreError::Unavailable(why) => {
                Failure::unavailable(format!("the store {url} is not reachable: {why}"))
                    .advise("start it, or name another one: --store, ROUNDSMAN_STORE__URL or url in [store]")
            }
            StoreError::Unfit(why) => {
                Failure::configuration(format!("the store {url} cannot be used: {why}"))
            }
            other @ (StoreError::NearLimit(_) | StoreError::Corrupt(_)) => other.into(),
        }
    }

    /// Refuses a store whose acknowledgements are worth less than what the settings demand.
    pub async fn demand_durability(&self, store: &Store) -> Result<(), Failure> {
        let Some(wanted) = self.settings().store.durability else { return Ok(()) };
        let given = store.durability().await?;
        if given.level.parse::<Durability>().is_ok_and(|level| level >= wanted) {
            return Ok(());
        }
        Err(Failure::configuration(format!(
            "store.durability demands {wanted}, and {} gives {} ({})",
            self.settings().store.url,
            given.level,
            given.why
        )))
    }

    /// The policy of a queue: the settings', with the live settings of the whole fleet over them.
    pub async fn policy(&self, store: &Store, queue: &QueueName) -> Result<QueueSettings, Failure> {
        let mut policy = self.settings().queue(queue.as_str()).clone();
        for problem in policy.apply_live(&store.live(queue).await?) {
            self.screen.warn(&format!("{problem} (kept in the store for {queue})"));
        }
        Ok(policy)
    }

    /// The queues that exist: named in the store or in the settings. Sorted.
    pub async fn queues(&self, store: &Store) -> Result<Vec<QueueName>, Failure> {
        let mut queues = store.queues().await?;
        queues.extend(self.settings().queues.keys().filter_map(|name| QueueName::new(name).ok()));
        queues.sort_unstable();
        queues.dedup();
        Ok(queues)
    }

    /// The queue, if it exists.
    pub async fn known_queue(&self, store: &Store, name: &str) -> Result<QueueName, Failure> {
        let queue = QueueName::new(name)?;
        let queues = self.queues(store).await?;
        if queues.binary_search(&queue).is_ok() {
            return Ok(queue);
        }
        let names: Vec<&str> = queues.iter().map(QueueName::as_str).collect();
        Err(Failure::not_found(format!("there is no queue {queue}"))
            .advise(format!("the queues are: {}", names.join(", "))))
    }
}
