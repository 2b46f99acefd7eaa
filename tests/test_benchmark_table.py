import io

import pytest
from rich.console import Console

from iris_gym.benchmark_table import (
    check_table,
    ratios,
    read_result,
    remarks,
    scaling_markdown,
    table,
    write_result,
)
from iris_gym.errors import UsageError


def entry(median_s: float, **changes) -> dict:
    entry = {"median_s": median_s, "min_s": 0.9 * median_s, "max_s": 1.2 * median_s, "batch": 8, "per_s": 1 / median_s}
    return entry | {"unit": "updates", "own_memory_bytes": 2_000_000_000} | changes


def result(**phases: dict) -> dict:
    return {
        "preset": "tiny",
        "device": "cpu",
        "machine": "a CPU",
        "phases": phases,
        "operations_per_imagined_step": 1234,
        "operations_per_transformer_pass": 56,
        "perceptual_distance": None,
        "full_run_hours": 1.5,
        "full_run_hours_by_phase": {"collect": 1.5},
        "full_run_work": {"collect": 100_000},
        "full_run_formula": "env steps × collect",
        "matrix_product_flops": {"float32": 2e9, "bf16": 4e9},
        "precision": "float32",
        "threads": 1,
        "spins": "1000",
        "allocator": "tuned",
        "config": {},
    }


def shown(*arguments: dict) -> str:
    console = Console(file=io.StringIO(), width=80)
    console.print(table(*arguments))
    return console.file.getvalue()


def test_ratios_say_how_many_times_as_fast_this_is():
    this = result(autoencoder=entry(0.5), world_model=entry(1.0), act=entry(1.0), dream=entry(1.0))
    other = result(autoencoder=entry(2.0), world_model=entry(0.5), act=entry(1.0, batch=1))
    assert ratios(this, other) == {"autoencoder": 4.0, "world_model": 0.5}


def test_the_table_fits_a_terminal():
    longest = entry(211.82, batch=256, per_s=12_345.6, unit="updates", share_of_peak=0.34)
    text = shown(result(actor_critic=longest), result(actor_critic=entry(423.64, batch=256)))
    row = next(line for line in text.splitlines() if "actor_critic" in line).split()
    expected = "actor_critic 256 211.82 s -10% +20% 12,345.6 updates 34% 2.00 GB 2.00"
    assert row == expected.split()


def test_without_a_comparison_there_is_no_column_for_it():
    text = shown(result(act=entry(0.012, own_memory_bytes=None)))
    assert "other" not in text
    assert "12.00 ms" in text


def test_a_profile_is_a_line_with_shares_of_all_operations():
    operations = [{"name": "aten::bmm", "calls": 6100, "self_s": 6.0}, {"name": "aten::add", "calls": 9, "self_s": 3.0}]
    profile = {"runs": 1, "calls": 7000, "busy_s": 12.0, "operations": operations}
    line = "actor_critic: 7,000 operations in 12.00 s: aten::bmm 50% (6,100), aten::add 25% (9)"
    assert line in remarks(result(actor_critic=entry(1.0, profile=profile)))
    acting = result(act=entry(1.0, profile=profile | {"runs": 20}))
    assert line.replace("actor_critic:", "act 20 times:") in remarks(acting)
    nothing = profile | {"calls": 1, "busy_s": 0.0, "operations": [{"name": "Memset", "calls": 1, "self_s": 0.0}]}
    unseen = remarks(result(act=entry(1.0, profile=nothing)))
    assert "act: 1 operations in 0 µs: Memset 0% (1)" in unseen


def test_remarks_name_the_formula_and_what_differs():
    cached = entry(3.0, warm_median_s=2.0, cold_median_s=5.0, cold_frames=90, amortised_frames={"encode": 7.25})
    this = result(dream=entry(1.0, ratio_to_bare=1.0512), world_model=cached)
    lines = "\n".join(remarks(this, this | {"threads": 2, "spins": "9", "device": "cuda"}))
    assert "dream environment / bare dynamics loop: 1.051" in lines
    assert "imagined step: 1,234, per transformer pass: 56" in lines
    assert "GFLOP/s: 2 in float32, 4 in bf16" in lines
    assert "world_model: 2.00 s with all frames cached, 5.00 s with none of 90; the median has 7.2 to encode" in lines
    assert "a full run takes 1.50 hours: env steps × collect" in lines
    assert "collect × 100,000 1.50 h" in lines
    assert "LPIPS" not in lines
    assert lines.endswith("the other result differs from this one in device, threads, spins")


def test_a_stand_in_for_lpips_is_named_where_it_was_timed():
    this = result(autoencoder=entry(1.0)) | {"perceptual_distance": "LPIPS of random weights"}
    assert "perceptual distance: LPIPS of random weights" in "\n".join(remarks(this))


def test_a_check_is_a_table_by_phase():
    check = {"epochs": 3, "stored_frames": 100_000, "ratio": 1.1}
    check |= {"projected_s": {"collect": 4.0, "actor_critic": 18.0}, "real_s": {"collect": 5.0, "actor_critic": 15.0}}
    console = Console(file=io.StringIO(), width=80)
    console.print(check_table(check | {"ratios": {"collect": 0.8, "actor_critic": 1.2}}))
    rows = [line.split() for line in console.file.getvalue().splitlines()]
    assert ["collect", "4.00", "5.00", "0.800"] in rows
    assert ["in", "all", "22.00", "20.00", "1.100"] in rows


def test_scaling_is_markdown_with_exponents():
    grown = {"median_s": [2e-5, 0.5], "exponent": 0.987, "memory_bytes": [5e6, 7e8], "memory_exponent": None}
    flat = {"median_s": [1.0, 1.0], "exponent": 0.0, "memory_bytes": [None, None], "memory_exponent": None}
    text = scaling_markdown({"scales": {"batch": {"sizes": [1, 1024], "measured": {"act": grown, "open": flat}}}})
    assert text.splitlines() == [
        "| batch | 1 | 1,024 | exponent |",
        "| --- | --: | --: | --: |",
        "| act | 20 µs | 500.00 ms | 0.99 |",
        "| act, memory | 5 MB | 700 MB |  |",
        "| open | 1.00 s | 1.00 s | 0.00 |",
    ]


def test_a_result_comes_back_from_its_file(tmp_path):
    write_result(tmp_path / "new" / "bench.json", result(act=entry(1.0)))
    assert read_result(tmp_path / "new" / "bench.json") == result(act=entry(1.0))


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "3",
        "{}",
        '{"phases": []}',
        '{"phases": {"act": {}}}',
        '{"phases": {"act": {"median_s": 0}}}',
    ],
)
def test_other_files_are_refused(text, tmp_path):
    (tmp_path / "bench.json").write_text(text)
    with pytest.raises(UsageError, match="bench.json' is not what iris-gym bench --json writes"):
        read_result(tmp_path / "bench.json")


def test_what_cannot_be_read_or_written_is_named(tmp_path):
    with pytest.raises(UsageError, match="compare='.*none.json' cannot be read"):
        read_result(tmp_path / "none.json")
    with pytest.raises(UsageError, match="json='.*' cannot be written"):
        write_result(tmp_path, result())
