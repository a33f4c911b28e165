from __future__ import annotations

import os

import pytest

from sparsevlm_trt.runtime.threads import allowed_cpus

CORES = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("max 100000", CORES),
        ("100000 100000", 1),
        ("50000 100000", 1),
        ("150000 100000", min(2, CORES)),
        ("99900000 100000", CORES),
        ("nonsense", CORES),
    ],
)
def test_a_quota_cuts_the_affinity(tmp_path, line, expected):
    (tmp_path / "cpu.max").write_text(line)
    assert allowed_cpus(tmp_path) == expected


@pytest.mark.parametrize(("quota", "expected"), [("-1", CORES), ("100000", 1)])
def test_the_older_form_of_a_quota(tmp_path, quota, expected):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text(f"{quota}\n")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert allowed_cpus(tmp_path) == expected


def test_no_quota_at_all(tmp_path):
    assert allowed_cpus(tmp_path) == CORES
