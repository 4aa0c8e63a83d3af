//! What the tests run besides themselves: a shim, as `ipvsmeshd shim` is one; and
//! a daemon that starts a task and can be killed.
#![forbid(unsafe_code)]

use std::{error::Error, path::Path, time::Duration};

use ipvsmesh_runtime::{Process, Runtime as _, TaskFiles, shim_main};
use model::{Instance, Task};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["shim", dir] => Ok(shim_main(Path::new(dir))?),
        ["daemon", instance, task] => {
            let (instance, task): (Instance, Task) =
                (instance.parse()?, serde_json::from_str(task)?);
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?
                .block_on(daemon(&instance, &task))
        }
        _ => Err("usage: runtime-test-shim shim DIR | daemon INSTANCE TASK".into()),
    }
}

/// Starts a task, says so, asks it to stop, says so, and waits to be killed.
async fn daemon(instance: &Instance, task: &Task) -> Result<(), Box<dyn Error>> {
    let runtime = Process::new(instance, std::env::current_exe()?)?;
    let files = TaskFiles {
        hostname: task.name(),
        ..TaskFiles::default()
    };
    runtime.prepare(task, &files).await?;
    runtime.start(&task.id).await?;
    println!("started");
    // long enough for the command to set its traps
    tokio::time::sleep(Duration::from_millis(500)).await;
    let grace = Duration::from_secs(3);
    runtime.stop(&task.id, Some("SIGTERM"), grace).await?;
    println!("stopping");
    std::future::pending().await
}
