"""Reports as tables: ruled on a terminal, aligned columns in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from gesso.terminal.screen import console_for, is_terminal, printable

_UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K"))


def print_info(about: Mapping[str, Any]) -> None:
    """What `gesso info` knows of a checkpoint."""
    table = Table.grid(padding=(0, 3))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _info_rows(about):
        table.add_row(name, printable(value))
    _show(table)


def print_evaluation(report: Mapping[str, Any]) -> None:
    """Accuracy beside its cost, a row a run; then the share of exact answers by kind."""
    runs = report["runs"]
    names = [name for name in runs[0]["verdicts"] if name != "exact"] if runs else []
    heads = ["split", "mode", "n", "exact", *names, "steps", "tok/forward", "tok/s", "ex/s", "cap"]
    rows = [
        [
            run["split"],
            run["mode"],
            f"{run['n']:,}",
            _share(run["exact"]),
            *(_share(run["verdicts"][name]) for name in names),
            f"{run['steps_per_canvas']:.1f}",
            f"{run['tokens_per_forward']:.2f}",
            f"{run['tokens_per_second']:,.0f}",
            f"{run['examples_per_second']:.1f}",
            _share(run["hit_step_cap"]),
        ]
        for run in runs
    ]
    _print(heads, rows, text=2)
    kinds = sorted({kind for run in runs for kind in run["by"]})
    if kinds:
        print()
        by = [[run["by"].get(kind) for kind in kinds] for run in runs]
        cells = [[_share(c["exact"]) if c else "" for c in row] for row in by]
        starts = [[run["split"], run["mode"]] for run in runs]
        rows = [start + row for start, row in zip(starts, cells, strict=True)]
        _print(["exact by kind", "", *kinds], rows, text=2)


def print_bench(report: Mapping[str, Any]) -> None:
    """What was measured, by its kind."""
    kinds = dict(
        generate=_print_generate,
        serve=_print_serve,
        step=_print_step,
        sweep=_print_sweep,
        prefill=_print_prefill,
    )
    kinds[report["bench"]](report)


def _print_prefill(report: Mapping[str, Any]) -> None:
    rows = [
        [
            f"{prompt['tokens']:,}",
            f"{prompt['seconds']:,.2f}",
            f"{prompt['tokens_per_second']:,.0f}",
            f"{prompt['cache_bytes'] / 1e9:,.3f}",
            "" if prompt["peak_bytes"] is None else f"{prompt['peak_bytes'] / 1e9:,.2f}",
            {True: "the same", False: "differs", None: ""}[prompt["same_draft"]],
        ]
        for prompt in report["prompts"]
    ]
    heads = ["seconds", "tok/s", "cache, GB", "peak, GB", "draft as from the whole"]
    _print(["tokens", *heads], rows, text=1)


def _print_step(report: Mapping[str, Any]) -> None:
    """The step beside the floor, then what it is made of."""
    times = report["ms_per_step_all"]
    print(f"{report['device']}, rows {report['rows']}, context {report['context']}")
    print(f"a step      {report['ms_per_step']:,.2f} ms ({min(times):,.2f} to {max(times):,.2f})")
    print(
        f"floor       {report['floor_ms']:,.2f} ms: {report['bytes'] / 1e9:,.2f} GB at "
        f"{report['bytes_per_second'] / 1e9:,.0f} GB/s; {report['over_floor']:.2f} times"
    )
    apart = report["ms_per_commit_apart"]
    if report["commits_joined"]:
        joined = report["ms_per_commit"]
        print(f"a commit    {joined:,.2f} ms with the next first step; {apart:,.2f} ms by itself")
    else:
        print(f"a commit    {apart:,.2f} ms")
    print(
        f"tokens/s    {report['tokens_per_second']:,.0f}, {report['canvases']} canvases of "
        f"{report['steps']} steps; {report['tokens_per_second_apart']:,.0f} with commits apart"
    )
    print(f"engine      {report['tokens_per_second_engine']:,.0f} tokens/s, its own work included")
    for peer in report.get("peers", ()):
        name = f"{peer['name']} {peer['version']}, {peer['dtype']}"
        speed = f"{peer['tokens_per_second']:,.0f} tokens/s"
        print(f"{name}: {peer['ms_per_step']:,.2f} ms a step, {speed}")
    for note in report.get("notes", ()):
        print(f"note: {note}")
    print(f"experts     {report['experts_touched']:,.1f} of a layer's are asked\n")
    rows = [[name[:60], f"{ms:,.3f}"] for name, ms in report["breakdown"].items()]
    _print(["", "ms/step"], rows, text=1)


def _print_sweep(report: Mapping[str, Any]) -> None:
    names = ("tokens_per_second", "ms_per_step", "floor_ms", "over_floor", "experts_touched")
    rows = [
        [f"{point[report['vary']]:,}", *(f"{point[name]:,.2f}" for name in names)]
        for point in report["points"]
    ]
    heads = ["tok/s", "ms a step", "floor, ms", "times the floor", "experts a layer"]
    _print([report["vary"], *heads], rows, text=1)


def _print_serve(report: Mapping[str, Any]) -> None:
    """Throughput as the median and the range of the rounds; latencies in milliseconds."""
    rows = [
        [
            str(level["users"]),
            *_median_and_range(level),
            *(
                f"{level[name] * 1e3:,.0f}"
                for name in ("latency_p50", "latency_p99", "first_draft_p50", "first_draft_p99")
            ),
            f"{level['slowdown']:.2f}",
        ]
        for level in report["levels"]
    ]
    heads = ("ms p50", "ms p99", "first draft p50", "p99", "slowdown")
    _print(["users", "tok/s, median", "range", *heads], rows, text=1)
    print(f"memory: {report['memory']}")


def _median_and_range(entry: Mapping[str, Any]) -> tuple[str, str]:
    speeds = entry["tokens_per_second_all"]
    return (
        f"{entry['tokens_per_second_median']:,.1f}",
        f"{min(speeds):,.1f} to {max(speeds):,.1f}",
    )


def _print_generate(report: Mapping[str, Any]) -> None:
    """Medians and the range of the rounds; then the ratios."""
    rows = [
        [
            entry["name"],
            entry["dtype"],
            *_median_and_range(entry),
            f"{entry['ms_per_forward_median']:,.2f}",
        ]
        for entry in report["contenders"]
    ]
    _print(["", "dtype", "tok/s, median", "range", "ms/forward"], rows, text=2)
    for name, ratio in report["ratios"].items():
        print(f"{name}: {ratio:.2f}")


def print_plan(report: Mapping[str, Any]) -> None:
    """What a training run would take."""
    rows, trained, length = report["rows"], report["trained"], report["canvas_length"]
    print(f"parameters  {report['parameters']:,}, of which {trained:,} are trained")
    print(
        f"a step      {rows['count']} rows of {rows['prompt']} prompt tokens and "
        f"{rows['canvases']} x {length} of the answer, {report['flops_per_step'] / 1e12:,.3g} TFLOP"
    )
    if report["rows_assumed"]:
        print(f"            the prompt's length is assumed: {report['rows_assumed']}")
    least = report["least_seconds_per_step"]
    print(
        f"time        at least {least:,.3g} s a step, {least * report['steps'] / 60:,.3g} min in "
        f"all, at the {report['product_flops_per_second'] / 1e12:,.3g} TFLOP/s of a large product "
        f"on {report['device']} here"
    )
    print("\nmemory on each device, GiB")
    counts = list(report["memory"])
    table = [
        [name, *(f"{report['memory'][n][name] / 2**30:,.2f}" for n in counts)]
        for name in report["memory"][counts[0]]
    ]
    heads = [f"{n} process{'es' * (n > 1)}" for n in counts]
    _print(["", *heads], table, text=1)


def _print(heads: Sequence[str], rows: Sequence[Sequence[str]], *, text: int) -> None:
    """The first `text` columns are words, the others numbers."""
    watched = is_terminal(sys.stdout)
    table = Table(box=box.SIMPLE_HEAD if watched else None, pad_edge=False, padding=(0, 2, 0, 0))
    for place, head in enumerate(heads):
        table.add_column(head, justify="left" if place < text else "right", no_wrap=not watched)
    for row in rows:
        table.add_row(*row)
    _show(table)


def _show(table: Table) -> None:
    console = console_for(sys.stdout)
    if console.is_terminal:
        console.print(table)
        return
    with console.capture() as capture:
        console.print(table)
    # rich fills every cell to its width; a pipe has no use for blanks at a line's end.
    print("\n".join(line.rstrip() for line in capture.get().splitlines()))


def _info_rows(about: Mapping[str, Any]) -> list[tuple[str, str]]:
    layers, attention = about["layers"], about["attention"]
    experts, parameters = about["experts"], about["parameters"]
    disk = about["bytes"]
    return [
        ("model", about["model"]),
        ("folder", about["folder"]),
        ("canvas", f"{about['canvas_length']:,} tokens"),
        ("context", f"{about['context']:,} tokens"),
        ("vocabulary", f"{about['vocabulary']:,} tokens"),
        (
            "layers",
            f"{layers['total']}: {layers['sliding']} sliding (window {layers['window']:,}), "
            f"{layers['full']} full",
        ),
        ("hidden", f"{about['hidden']:,}, feed-forward {about['feed_forward']:,}"),
        (
            "attention",
            f"{attention['heads']} heads; keys and values: {attention['sliding_kv_heads']} of "
            f"{attention['sliding_head_dim']} sliding, {attention['full_kv_heads']} of "
            f"{attention['full_head_dim']} full",
        ),
        (
            "experts",
            f"{experts['total']} of {experts['feed_forward']:,}, {experts['active']} active "
            "per token",
        ),
        (
            "parameters",
            f"{_short(parameters['total'])}: {_short(parameters['experts'])} in experts; "
            f"{_short(parameters['active'])} active per token",
        ),
        ("weights", f"{_short(disk)}B on disk, {_kinds(about)}" if disk else "none here"),
        ("generation", _generation(about["generation"])),
        ("chat template", "yes" if about["chat_template"] else "no"),
        ("vision", "yes" if about["vision"] else "no"),
    ]


def _kinds(about: Mapping[str, Any]) -> str:
    """What weights are stored in: "nvfp4 and fp8 (compressed-tensors), the rest bfloat16"."""
    if about["quantization"] is None:
        return str(about["dtype"])
    formats, method = about["quantization"]["formats"], about["quantization"]["method"]
    return f"{' and '.join(formats)} ({method}), the rest {about['dtype']}"


def _share(value: float) -> str:
    return f"{100 * value:.1f}%"


def _short(number: int) -> str:
    """Three digits or so: 5.61M, 25.3B."""
    for size, unit in _UNITS:
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)


def _generation(defaults: Mapping[str, Any]) -> str:
    return (
        "at most {max_new_tokens:,} tokens and {max_denoising_steps} steps a canvas, entropy bound "
        "{entropy_bound}, temperature {temperature_start} to {temperature_end}, stability "
        "{stability_threshold}, confidence {confidence_threshold}"
    ).format(**defaults)
