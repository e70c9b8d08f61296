//! The numbered SQL files of a folder, for tests that do without the relay's binary.

use anyhow::{Context, Result};
use std::path::Path;
use tokio_postgres::Client;

/// Runs the files `V1__…sql`, `V2__…sql`, … of a folder of the workspace, in order.
///
/// # Errors
/// When a file cannot be read, or the database refuses it.
pub async fn apply(client: &Client, folder: &str) -> Result<()> {
    let folder = crate::workspace().join(folder);
    let number = |path: &Path| -> Option<u32> {
        path.file_name()?.to_str()?.strip_prefix('V')?.split_once("__")?.0.parse().ok()
    };
    let entries =
        std::fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))?;
    let mut files: Vec<_> =
        entries.flatten().filter_map(|e| Some((number(&e.path())?, e.path()))).collect();
    files.sort();
    for (_, path) in files {
        let sql =
            std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        client.batch_execute(&sql).await.with_context(|| format!("apply {}", path.display()))?;
    }
    Ok(())
}
