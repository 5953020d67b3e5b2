"""Reads the stacks `perf script` prints, and says which stage of the work each sample belongs to.

usage: perf script -F comm,pid,tid,ip,sym,dso | stacks.py report --seconds S --hertz F [--requests N] NAME=PID...
       perf script -F comm,pid,tid,ip,sym,dso | stacks.py fold NAME=PID...

`report` prints tables by stage, by owner and by symbol; `fold` prints one `process;frame;frame count` line per stack.
A sample's stage is that of its innermost telling frame (a copy is a copy, whoever asked for it); its owner is the
innermost module of ours, or of RocksDB or the runtime, that the sample runs for.
"""

import argparse
import collections
import re
import sys

KERNEL = [
    ("kernel: copying", r"copy_(from|to)_(iter|user)|_copy_|copy_(page|folio)|rep_movs|skb_copy|csum_and_copy"),
    ("kernel: scheduler and wake-ups", r"sched|try_to_wake|ttwu|finish_task|futex|eventfd|pick_next|wake_up|hrtimer"
                                       r"|(en|de)queue_(task|entity)|update_(load|curr)|ep_|epoll|poll_idle|switch_"),
    ("kernel: tcp", r"tcp_|inet_|ip_|__ip|sock_|sk_|skb|net_rx|napi|loopback|dev_(queue|hard)|nf_|__sys_(send|recv)"),
    ("kernel: block and file system", r"blk_|bio_|submit_bio|ext4_|jbd2|xfs_|iomap|dio_|virtblk|nvme|scsi|fsync|vfs_write"
                                      r"|filemap|folio|writeback|file_(read|write)_iter|elv_|dd_"),
    ("kernel: io_uring", r"io_|__do_sys_io_uring"),
    ("kernel: memory", r"fault|clear_page|alloc_pages|get_page|mmap|munmap|madvise|rmqueue|free_(unref|pages)|zap_"),
    ("kernel: other", r""),
]

# Leaves that say what is done, not for whom.
DEEDS = [
    ("allocation", r"^_?_?(libc_)?(malloc|free|cfree|calloc|realloc|memalign|posix_memalign)|^_int_|__rust_|__rdl_|_rjem_"
                   r"|^je_|^mi_|operator (new|delete)|^tcache|unlink_chunk|sysmalloc|malloc_consolidate"),
    ("copying", r"mem(cpy|move|set|cmp|chr)"),
    ("checksum", r"crc32|crc64|xxh|XXH"),
]

OWNERS = [
    ("RocksDB", r"rocksdb|LZ4_|ZSTD_"),
    ("wal", r"\b(ringkv_)?wal::"),
    ("raft", r"\b(ringkv_)?raft::"),
    ("framing and encoding", r"flatbuffers|\b(ringkv_)?net::(frame|peer|protocol|generated|types|resp)"),
    ("client library", r"\b(ringkv_)?net::client"),
    ("network", r"\b(ringkv_)?net::|engine::driver::(peers|clients)"),
    ("apply and reads (store)", r"engine::(store|driver::store|command|codec)"),
    ("replica", r"engine::replica"),
    ("core", r"engine::core"),
    ("driver, server", r"engine::"),
    ("load generator", r"ringkv_bench|\bbench::|hdrhistogram"),
    ("runtime (glommio)", r"glommio|uring_sys|iou::|futures|async_|flume|concurrent_queue"),
]


def compiled(rules):
    return [(name, re.compile(pattern)) for name, pattern in rules]


KERNEL, DEEDS, OWNERS = compiled(KERNEL), compiled(DEEDS), compiled(OWNERS)
WIDTH = 48
HEAD = re.compile(r"^\s*(\S.*?)\s+(\d+)/(\d+)\s*:?\s*$")
FRAME = re.compile(r"^\s+[0-9a-f]+\s+(.*?)\s+\((.*)\)\s*$")
KERNEL_FILE = re.compile(r"\[(?!unknown|vdso|vsyscall|heap|stack|anon)")
RUST_HASH = re.compile(r"::h[0-9a-f]{16}$|\+0x[0-9a-f]+$")


def read_samples(lines):
    """Yields (pid, comm, frames), innermost first; a frame is (symbol, is_kernel)."""
    head, frames = None, []
    for line in lines:
        frame = FRAME.match(line)
        if frame:
            symbol = RUST_HASH.sub("", RUST_HASH.sub("", frame.group(1)))
            # The kernel's part is innermost and without a gap; modules are named like [ext4].
            kernel = KERNEL_FILE.match(frame.group(2)) is not None and all(above for _, above in frames)
            frames.append((symbol, kernel))
            continue
        start = HEAD.match(line)
        if start or not line.strip():
            if head and frames:
                yield head[0], head[1], frames
            head, frames = ((int(start.group(2)), start.group(1)) if start else None), []
    if head and frames:
        yield head[0], head[1], frames


def first_match(rules, symbols, default):
    for symbol in symbols:
        for name, pattern in rules:
            if pattern.search(symbol):
                return name
    return default


def owner_of(frames):
    return first_match(OWNERS, (symbol for symbol, kernel in frames if not kernel), "unattributed")


def kernel_stage(symbols):
    """The innermost frame often is a generic primitive, so the rules are tried in order over the whole kernel part."""
    for name, pattern in KERNEL:
        if any(pattern.search(symbol) for symbol in symbols):
            return name
    return KERNEL[-1][0]


def stage_of(frames):
    in_kernel = [symbol for symbol, kernel in frames if kernel]
    if in_kernel:
        # What the CPU does at the leaf decides first: a copy inside TCP is a copy.
        leaf = first_match(KERNEL[:2], in_kernel[:3], None)
        return leaf or kernel_stage(in_kernel[:12])
    return first_match(DEEDS, [frames[0][0]], None) or owner_of(frames)


def print_table(title, counts, totals, options):
    """counts: row -> process -> samples."""
    processes = sorted(totals, key=lambda name: (name == "bench", name))
    everything = sum(totals.values())
    unit = "µs of CPU per request" if options.requests else "% of the CPU time of all"
    print(f"\n{title}: {unit}")
    print(f"{'':{WIDTH}}" + "".join(f"{name[:11]:>12}" for name in processes) + f"{'all':>12}{'share':>8}")

    def cell(samples):
        if options.requests:
            return f"{samples / options.hertz * 1e6 / options.requests:12.2f}"
        return f"{100 * samples / everything:12.1f}"

    rows = sorted(counts.items(), key=lambda row: -sum(row[1].values()))
    for name, by_process in rows[: options.rows]:
        total = sum(by_process.values())
        print(f"{name[: WIDTH - 1]:{WIDTH}}" + "".join(cell(by_process[process]) for process in processes)
              + cell(total) + f"{100 * total / everything:7.1f}%")
    print(f"{'all':{WIDTH}}" + "".join(cell(totals[process]) for process in processes) + cell(everything) + f"{100:7.1f}%")


def report(options, names):
    by_stage, by_owner, by_symbol, deeds = (collections.defaultdict(collections.Counter) for _ in range(4))
    totals = collections.Counter()
    for pid, comm, frames in read_samples(sys.stdin):
        process = names.get(pid, comm)
        stage = stage_of(frames)
        totals[process] += 1
        by_stage[stage][process] += 1
        by_owner[owner_of(frames)][process] += 1
        by_symbol[("[k] " if frames[0][1] else "") + frames[0][0]][process] += 1
        if stage in ("copying", "allocation", "checksum"):
            deeds[f"{stage} for {owner_of(frames)}"][process] += 1
    if not totals:
        sys.exit("stacks: perf has no sample of these processes")
    busy = sum(totals.values()) / options.hertz
    print(f"{sum(totals.values()):,} samples at {options.hertz} Hz over {options.seconds} s: {busy:.1f} s of CPU time")
    print_table("By stage (what is done)", by_stage, totals, options)
    print_table("By owner (for whom)", by_owner, totals, options)
    if deeds:
        print_table("Copies, allocations and checksums, by owner", deeds, totals, options)
    print_table("By symbol", by_symbol, totals, options)


def fold(names):
    stacks = collections.Counter()
    for pid, comm, frames in read_samples(sys.stdin):
        frames = [symbol.replace(";", ",") + ("_[k]" if kernel else "") for symbol, kernel in reversed(frames)]
        stacks[";".join([names.get(pid, comm), *frames])] += 1
    for stack, count in sorted(stacks.items()):
        print(stack, count)


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("command", choices=("report", "fold"))
    parser.add_argument("--seconds", type=float, default=1)
    parser.add_argument("--hertz", type=float, default=1)
    parser.add_argument("--requests", type=float, default=0)
    parser.add_argument("--rows", type=int, default=30)
    parser.add_argument("processes", nargs="*")
    options = parser.parse_intermixed_args()
    names = {int(pid): name for name, _, pid in (word.partition("=") for word in options.processes)}
    if options.command == "report":
        report(options, names)
    else:
        fold(names)


if __name__ == "__main__":
    main()
