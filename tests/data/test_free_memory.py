"""Free memory, from a tree of files as Linux shows them: the machine's, and the limits of control groups."""

from pathlib import Path

import pytest

from dfm.data.memory_map import free_memory

GIB = 2**30


def write(root: Path, files: dict[str, object]) -> None:
    for name, content in {"proc/meminfo": f"MemTotal: 1 kB\nMemAvailable: {64 * 2**20} kB\n", **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{content}\n")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 64),
        # version 2: own group without a limit, and the limit of the group above it
        (
            {
                "proc/self/cgroup": "0::/job/step",
                "sys/fs/cgroup/job/step/memory.max": "max",
                "sys/fs/cgroup/job/step/memory.current": 1 * GIB,
                "sys/fs/cgroup/job/memory.max": 8 * GIB,
                "sys/fs/cgroup/job/memory.current": 3 * GIB,
            },
            5,
        ),
        # the least of own and above
        (
            {
                "proc/self/cgroup": "0::/job/step",
                "sys/fs/cgroup/job/step/memory.max": 4 * GIB,
                "sys/fs/cgroup/job/step/memory.current": 1 * GIB,
                "sys/fs/cgroup/job/memory.max": 8 * GIB,
                "sys/fs/cgroup/job/memory.current": 6 * GIB,
            },
            2,
        ),
        # pages of files that lie idle are given back; the soft limit counts too
        (
            {
                "proc/self/cgroup": "0::/job",
                "sys/fs/cgroup/job/memory.max": 16 * GIB,
                "sys/fs/cgroup/job/memory.high": 8 * GIB,
                "sys/fs/cgroup/job/memory.current": 7 * GIB,
                "sys/fs/cgroup/job/memory.stat": f"anon 1\ninactive_file {3 * GIB}\nactive_file {GIB}",
            },
            4,
        ),
        # a container sees its own group as the top
        (
            {
                "proc/self/cgroup": "0::/docker/12ab",
                "sys/fs/cgroup/memory.max": 2 * GIB,
                "sys/fs/cgroup/memory.current": 1 * GIB,
            },
            1,
        ),
        ({"proc/self/cgroup": "0::/../x", "sys/fs/cgroup/memory.max": GIB, "sys/fs/cgroup/memory.current": 0}, 1),
        # version 1, with a limit two groups above, and one that means 'none'
        (
            {
                "proc/self/cgroup": "9:name=systemd:/\n4:cpu,memory:/a/b/c\n0::/",
                "sys/fs/cgroup/memory/a/b/c/memory.limit_in_bytes": 2**63 - 4096,
                "sys/fs/cgroup/memory/a/b/c/memory.usage_in_bytes": GIB,
                "sys/fs/cgroup/memory/a/memory.limit_in_bytes": 6 * GIB,
                "sys/fs/cgroup/memory/a/memory.usage_in_bytes": 4 * GIB,
                "sys/fs/cgroup/memory/a/memory.stat": f"inactive_file 5\ntotal_inactive_file {GIB}",
            },
            3,
        ),
        # full, and over its limit
        (
            {
                "proc/self/cgroup": "0::/job",
                "sys/fs/cgroup/job/memory.max": GIB,
                "sys/fs/cgroup/job/memory.current": 2 * GIB,
            },
            0,
        ),
    ],
)
def test_the_least_limit_counts(tmp_path, files, expected):
    write(tmp_path, files)
    assert free_memory(tmp_path) == expected * GIB


def test_a_machine_without_these_files_has_half_of_its_memory(tmp_path):
    import os

    assert free_memory(tmp_path) == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def test_this_machine_has_some():
    assert 2**20 < free_memory() < 2**50
