"""The pieces that a report's page is made of: tables, pictures, and numbers in words."""

import base64
from collections.abc import Iterable, Sequence
from html import escape
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image


def figure(image: bytes, alt: str, kind: str, media_type: str) -> str:
    data = base64.b64encode(image).decode()
    return (
        f'<figure class="{kind}" tabindex="0"><img alt="{escape(alt)}" src="data:{media_type};base64,{data}"></figure>'
    )


def png(image: np.ndarray, scale: int) -> bytes:
    buffer = BytesIO()
    Image.fromarray(image.repeat(scale, axis=0).repeat(scale, axis=1)).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def table_by_horizon(measures: dict[str, Any], names: Sequence[str], first: int = 1) -> str:
    steps = range(len(measures[names[0]]["mean"]))
    return table(
        ("step", *(name.replace("_", " ") for name in names), "samples"),
        [
            (
                str(step + first),
                *(estimate(measures[name], step) for name in names),
                str(measures[names[0]]["count"][step]),
            )
            for step in steps
        ],
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    titles = "".join(f'<th scope="col">{escape(title)}</th>' for title in head)
    lines = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:]) + "</tr>"
        for row in rows
    )
    return f'<div class="table"><table><thead><tr>{titles}</tr></thead><tbody>{lines}</tbody></table></div>'


def estimate(curve: dict[str, Any], index: int | None = None) -> str:
    """A mean and its interval in words."""
    mean, low, high = (curve[name] if index is None else curve[name][index] for name in ("mean", "low", "high"))
    return number(mean) + (f" [{number(low)}, {number(high)}]" if low is not None else "")


def span(curve: dict[str, Any]) -> str:
    """Where a curve begins and ends."""
    return f"from {number(curve['mean'][0])} to {number(curve['mean'][-1])}"


def number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"


def count(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
