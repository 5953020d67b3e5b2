//! What the kernel is and how it is set: read from /proc and /sys, as linux-tuning/check does.

use std::fs;

use super::Finding;

/// What the io_uring runtime asks for.
const NEEDED: (u32, u32) = (5, 8);
/// From here on rings are not charged against the limit on locked memory.
const BETTER: (u32, u32) = (5, 12);

pub(super) fn version() -> Finding {
    match read("/proc/sys/kernel/osrelease") {
        Some(release) => judge_version(&release),
        None => Finding::unknown("kernel", "its version cannot be read"),
    }
}

fn judge_version(release: &str) -> Finding {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        return Finding::unknown("kernel", release);
    };
    let found = format!("Linux {release}");
    if (major, minor) < NEEDED {
        return Finding::fault(
            "kernel",
            found,
            "install Linux 5.8 or newer: io_uring as it is needed begins there",
        );
    }
    if (major, minor) < BETTER {
        return Finding::advice("kernel", found, "from Linux 5.12 on io_uring needs less locked memory");
    }
    Finding::good("kernel", found)
}

/// Clock, memory and disk settings.
pub(super) fn settings() -> Vec<Finding> {
    let setting = |path, judge: fn(&str) -> Finding| read(path).map(|value| judge(&value));
    let all = [
        setting("/proc/sys/kernel/io_uring_disabled", io_uring_disabled),
        setting("/sys/devices/system/clocksource/clocksource0/current_clocksource", clock_source),
        Some(clock_synchronised(clock_state())),
        setting("/sys/kernel/mm/transparent_hugepage/enabled", huge_pages),
        setting("/proc/sys/vm/swappiness", swappiness),
        setting("/proc/swaps", swap),
    ];
    all.into_iter().flatten().collect()
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn io_uring_disabled(value: &str) -> Finding {
    let found = format!("kernel.io_uring_disabled = {value}");
    match value {
        "0" => Finding::good("io_uring setting", found),
        _ => Finding::advice(
            "io_uring setting",
            found,
            "sysctl kernel.io_uring_disabled=0 lets every process use it",
        ),
    }
}

fn clock_source(value: &str) -> Finding {
    match value {
        "tsc" | "kvm-clock" | "hyperv_clocksource_tsc_page" | "arch_sys_counter" => {
            Finding::good("clock source", value)
        }
        slow => Finding::advice(
            "clock source",
            format!("{slow}: every reading is a system call or worse"),
            "echo tsc > /sys/devices/system/clocksource/clocksource0/current_clocksource, where the CPU's is stable",
        ),
    }
}

/// What adjtimex(2) says of the clock: negative where it cannot be asked.
fn clock_state() -> libc::c_int {
    // SAFETY: all-zero is a valid value of the structure, and asks for nothing to be changed.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: adjtimex writes only the structure it is given.
    unsafe { libc::adjtimex(&mut state) }
}

fn clock_synchronised(state: libc::c_int) -> Finding {
    match state {
        libc::TIME_ERROR => Finding::advice(
            "clock",
            "not synchronised: expiry times are as wrong as the leader's clock",
            "run chrony or systemd-timesyncd",
        ),
        0.. => Finding::good("clock", "synchronised"),
        _ => Finding::unknown("clock", "the system does not tell whether it is synchronised"),
    }
}

fn huge_pages(value: &str) -> Finding {
    if value.contains("[always]") {
        let remedy = "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled";
        return Finding::advice(
            "huge pages",
            "transparent: always; a fault may compact memory first",
            remedy,
        );
    }
    Finding::good("huge pages", format!("transparent: {value}"))
}

fn swappiness(value: &str) -> Finding {
    let found = format!("vm.swappiness = {value}");
    match value.parse::<u32>() {
        Ok(0..=10) => Finding::good("swappiness", found),
        _ => {
            Finding::advice("swappiness", found, "sysctl vm.swappiness=1: a page in swap stops a whole core")
        }
    }
}

fn swap(table: &str) -> Finding {
    match table.lines().count().saturating_sub(1) {
        0 => Finding::good("swap", "none"),
        count => Finding::advice(
            "swap",
            format!("{count} in use"),
            "swapoff -a: a page in swap stops a whole core",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict::{Advice, Fault, Good, Unknown};
    use super::*;

    #[test]
    fn kernels_are_judged_by_their_numbers() {
        for (release, verdict) in [
            ("6.18.5-generic", Good),
            ("5.12.0", Good),
            ("5.10.0-28-amd64", Advice),
            ("5.7.19", Fault),
            ("4.19.0", Fault),
            ("10.0.1", Good),
            ("unheard of", Unknown),
        ] {
            assert_eq!(judge_version(release).verdict, verdict, "{release}");
        }
    }

    #[test]
    fn settings_that_slow_a_node_down_come_with_a_remedy() {
        let swaps = "Filename Type Size Used Priority\n/dev/sda2 partition 1 0 -2";
        let bad = [
            io_uring_disabled("1"),
            clock_source("hpet"),
            clock_synchronised(libc::TIME_ERROR),
            huge_pages("[always] madvise never"),
            swappiness("60"),
            swap(swaps),
        ];
        for finding in bad {
            assert_eq!(finding.verdict, Advice, "{finding:?}");
            assert!(finding.remedy.is_some(), "{finding:?}");
        }
        let good = [
            io_uring_disabled("0"),
            clock_source("tsc"),
            clock_synchronised(libc::TIME_OK),
            huge_pages("always [madvise] never"),
            swappiness("1"),
            swap("Filename Type Size Used Priority"),
        ];
        assert!(good.iter().all(|finding| finding.verdict == Good), "{good:?}");
        assert_eq!(clock_synchronised(-1).verdict, Unknown);
    }
}
