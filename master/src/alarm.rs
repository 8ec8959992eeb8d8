//! An alarm at a moment of the boot-time clock, precise to some ten microseconds: tokio's own timers turn by the
//! millisecond.

#[cfg(target_os = "linux")]
pub(crate) use linux::Alarm;
#[cfg(not(target_os = "linux"))]
pub(crate) use portable::Alarm;

#[cfg(target_os = "linux")]
mod linux {
    use std::io;
    use std::os::fd::OwnedFd;

    use roundsman_shared::clock::Mono;
    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    };
    use tokio::io::unix::AsyncFd;

    const NANOS_PER_S: u64 = 1_000_000_000;

    #[derive(Debug)]
    pub(crate) struct Alarm {
        timer: AsyncFd<OwnedFd>,
        set: Option<Mono>,
    }

    impl Alarm {
        /// An alarm that is not set.
        ///
        /// # Errors
        /// When the system has no timer left.
        pub(crate) fn new() -> io::Result<Self> {
            let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
            let timer = timerfd_create(TimerfdClockId::Boottime, flags)?;
            Ok(Self { timer: crate::watch::for_reading(timer)?, set: None })
        }

        /// Sets or clears it.
        pub(crate) fn set(&mut self, at: Option<Mono>) {
            if self.set == at {
                return;
            }
            self.set = at;
            // A moment in the past rings at once; zero would disarm.
            let nanos = at.map_or(0, |at| at.as_nanos().max(1));
            let value = Timespec {
                tv_sec: i64::try_from(nanos / NANOS_PER_S).unwrap_or(i64::MAX),
                tv_nsec: i64::try_from(nanos % NANOS_PER_S).unwrap_or(0),
            };
            let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
            let new = Itimerspec { it_interval: zero, it_value: value };
            let _ = timerfd_settime(self.timer.get_ref(), TimerfdTimerFlags::ABSTIME, &new);
        }

        /// Waits until it rings, and clears it.
        pub(crate) async fn rings(&mut self) {
            loop {
                let Ok(mut guard) = self.timer.readable().await else { return std::future::pending().await };
                let mut count = [0; 8];
                let read = guard.try_io(|timer| Ok(rustix::io::read(timer.get_ref(), &mut count)?));
                // Otherwise it was set anew while it was about to ring.
                if matches!(read, Ok(Ok(_))) {
                    self.set = None;
                    return;
                }
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod portable {
    use std::io;

    use roundsman_shared::clock::Mono;

    /// Rings up to a millisecond late.
    #[derive(Debug)]
    pub(crate) struct Alarm {
        set: Option<Mono>,
    }

    impl Alarm {
        /// An alarm that is not set.
        ///
        /// # Errors
        /// Never.
        pub(crate) fn new() -> io::Result<Self> {
            Ok(Self { set: None })
        }

        /// Sets or clears it.
        pub(crate) fn set(&mut self, at: Option<Mono>) {
            self.set = at;
        }

        /// Waits until it rings, and clears it.
        pub(crate) async fn rings(&mut self) {
            let Some(at) = self.set else { return std::future::pending().await };
            tokio::time::sleep(at.since(Mono::now())).await;
            self.set = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use roundsman_shared::clock::Mono;

    use super::Alarm;

    #[tokio::test]
    async fn it_is_never_early_and_hardly_late() {
        let mut alarm = Alarm::new().unwrap();
        let mut late = Vec::new();
        for _ in 0..50 {
            let at = Mono::now() + Duration::from_micros(2300);
            alarm.set(Some(at));
            alarm.rings().await;
            let now = Mono::now();
            assert!(now >= at);
            late.push(now.since(at));
        }
        late.sort_unstable();
        assert!(late[25] < Duration::from_millis(5), "{late:?}");
        alarm.set(Some(Mono::from_nanos(0)));
        alarm.rings().await;
        alarm.set(None);
        assert!(tokio::time::timeout(Duration::from_millis(5), alarm.rings()).await.is_err());
    }
}
