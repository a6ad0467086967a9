//! What the demo stands in front of, on one port: the CRM, which tells the dispatcher of its contacts, and a projection,
//! which the dispatcher tells.

use super::Secrets;
use crm::Crm;
use model::Clock;
use projection::Projection;
use std::net::SocketAddr;
use std::path::Path;
use tokio::net::TcpListener;

/// The CRM, with the projection beside it.
pub(crate) struct Backend(Crm);

impl Backend {
    /// Opens both in a data folder. `addresses`: where they will be served, and where the dispatcher is.
    pub(crate) async fn open(
        data: &Path,
        secrets: &Secrets,
        addresses: [SocketAddr; 2],
        clock: &Clock,
    ) -> anyhow::Result<Self> {
        let [own, dispatcher] = addresses;
        let projection = Projection::open(projection::Settings {
            folder: data.to_owned(),
            secret: secrets.projection.clone(),
            mailing_list: format!("http://{own}"),
            now: now(clock),
        });
        let projection = projection.await?;
        let settings = crm_settings(data, secrets, dispatcher);
        let time = now(clock);
        let crm = Crm::open_with_clock(settings, crm::Clock::from_fn(move || time())).await?;
        Ok(Self(crm.beside(projection.router())))
    }

    /// Serves until `shutdown` completes and the requests in flight have ended.
    pub(crate) async fn serve(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), crm::Error> {
        self.0.serve(listener, shutdown).await
    }
}

fn now(clock: &Clock) -> projection::Now {
    let clock = clock.clone();
    std::sync::Arc::new(move || clock.now())
}

/// The demo's CRM, with a client for each consumer of the demo, and a subscriber for the tenant that writes.
fn crm_settings(data: &Path, secrets: &Secrets, dispatcher: SocketAddr) -> crm::Settings {
    let clients = demo::CONSUMERS.iter().map(|consumer| crm::Client {
        id: consumer.id.to_owned(),
        secret: consumer.client_secret.to_owned(),
        tenant: consumer.tenant.to_owned(),
        scopes: consumer.scopes.iter().map(|scope| (*scope).to_owned()).collect(),
    });
    let subscriber = crm::Subscriber {
        tenant: demo::SOURCE_TENANT.to_owned(),
        url: format!("http://{dispatcher}/v1/inbound/{}", demo::SOURCE),
        secret: secrets.crm.clone(),
    };
    crm::Settings {
        database: data.join("crm.db"),
        issuer: demo::ISSUER.to_owned(),
        audience: demo::AUDIENCE.to_owned(),
        clients: clients.collect(),
        subscribers: vec![subscriber],
    }
}

/// The demo's document, or another one that is written like it, for a CRM at this address and these secrets.
pub(crate) fn written_for(document: &str, crm: SocketAddr, secrets: &Secrets) -> String {
    document
        .replace(demo::CRM_ADDRESS, &crm.to_string())
        .replace(demo::SECRETS_FOLDER, &secrets.folder.to_string_lossy())
}
