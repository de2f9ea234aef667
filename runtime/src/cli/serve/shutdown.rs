//! The end of a server: what is asked for no more, and how long it is waited for.

use std::time::Duration;

use super::{metrics::Metrics, unsent::Unsent};

/// How long requests that are being answered, and answers that are being sent, may take after a signal to end.
const GRACE: Duration = Duration::from_secs(30);
/// Once there has been neither for so long, it ends: a client that has sent half of a request is not waited for.
pub(super) const QUIET: Duration = Duration::from_secs(1);

/// Serves; after the signal to end, requests that are being answered, and answers that are being sent, have [`GRACE`], and others
/// [`QUIET`]. It is an error if a request has no answer then; an answer that its client does not take is the client's loss.
pub(super) async fn within_grace(
    serving: impl Future<Output = ()>,
    signalled: impl Future<Output = ()>,
    metrics: &Metrics,
    unsent: &Unsent,
) -> anyhow::Result<()> {
    let idle = async {
        signalled.await;
        let (step, mut quiet) = (Duration::from_millis(50), Duration::ZERO);
        let late = tokio::time::Instant::now() + GRACE;
        while quiet < QUIET && tokio::time::Instant::now() < late {
            tokio::time::sleep(step).await;
            let is_quiet = metrics.in_flight() == 0 && unsent.is_none();
            quiet = if is_quiet { quiet + step } else { Duration::ZERO };
        }
        metrics.in_flight() == 0
    };
    tokio::select! {
        () = serving => Ok(()),
        is_answered = idle => match is_answered {
            true => Ok(()),
            false => {
                Err(anyhow::Error::new(nimbert::Error::DeadlinePassed).context("requests were still being answered"))
            }
        }
    }
}

/// Ends with Ctrl-C or SIGTERM; from this call on, they do not end the process. SIGHUP stays what it is: nohup has it ignored.
#[cfg(unix)]
pub(super) fn signalled() -> std::io::Result<impl Future<Output = ()> + Send + 'static> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! { _ = interrupt.recv() => (), _ = terminate.recv() => () }
    })
}

/// Ends with Ctrl-C; from this call on, it does not end the process.
#[cfg(windows)]
pub(super) fn signalled() -> std::io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut interrupt = tokio::signal::windows::ctrl_c()?;
    Ok(async move {
        interrupt.recv().await;
    })
}
