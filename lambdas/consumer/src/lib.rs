//! Handlers of events, each event having its effect once.
//!
//! An author writes one function. Around it stand the inbox (a redelivery is a
//! no-op), the version guard (a stale event is a duplicate, a gap is noticed and
//! tried again), the batch (one transaction when all is well, one by one when
//! not) and the host (a Lambda function, or a worker that polls).
//!
//! ```
//! use consumer::{Event, Handler, HandlerError, Tx};
//!
//! struct Visits;
//!
//! impl Handler for Visits {
//!     fn name(&self) -> &str {
//!         "visits"
//!     }
//!
//!     async fn handle(&self, event: &Event, tx: &mut Tx<'_>) -> Result<(), HandlerError> {
//!         if event.event_type == "page.visited" {
//!             let sql = "insert into visits (page, count) values ($1, 1)
//!                 on conflict (page) do update set count = visits.count + 1";
//!             tx.execute(sql, &[&event.aggregate_id]).await?;
//!         }
//!         Ok(())
//!     }
//! }
//! ```
//!
//! The whole of a function's `main` is then
//!
//! ```no_run
//! # use consumer::{Event, Handler, HandlerError, Tx};
//! # struct Visits;
//! # impl Handler for Visits {
//! #     fn name(&self) -> &str { "visits" }
//! #     async fn handle(&self, _: &Event, _: &mut Tx<'_>) -> Result<(), HandlerError> { Ok(()) }
//! # }
//! # #[cfg(feature = "lambda")]
//! #[tokio::main]
//! async fn main() -> Result<(), consumer::host::lambda::Error> {
//!     let url = std::env::var("READ_MODEL_URL")?;
//!     consumer::host::lambda::run(Visits, &url.parse()?).await
//! }
//! # #[cfg(not(feature = "lambda"))]
//! # fn main() {}
//! ```

mod apply;
pub mod batch;
mod database;
mod error;
mod handler;
pub mod host;
mod inbox;
pub mod record;
pub mod version;

pub use apply::Consumer;
pub use database::{Parameters, Tx};
pub use envelope::Event;
pub use error::ConsumerError;
pub use handler::{Handler, HandlerError, Mode};
