"""What peers.py, questions.py and service.py print and draw: a line per cell as it is measured, README.md's tables, the
plot.
"""

import dataclasses
import math
import statistics

import matplotlib
import numpy


class Cell:
    """The figures of one set, batch size, number of threads and top_k."""

    # Title, width, and what is in the column.
    COLUMNS = (
        ("threads", 7, lambda cell: cell.threads),
        ("top", 4, lambda cell: cell.top_k),
        ("batch", 6, lambda cell: cell.batch),
        ("dotmax", 9, lambda cell: cell.micros("dotmax")),
        ("FAISS", 13, lambda cell: f"{cell.micros('faiss')} {cell.faiss_path}"),
        ("numpy", 9, lambda cell: cell.micros("numpy")),
        ("torch", 9, lambda cell: cell.micros("torch")),
        ("float32", 9, lambda cell: cell.micros("float32")),
        ("int8", 9, lambda cell: cell.micros("int8")),
        ("ratio", 6, lambda cell: f"{cell.ratio:.1f}"),
        ("GOPS", 6, lambda cell: f"{cell.operations / cell.seconds['dotmax'] / 1e9:.0f}"),
        ("of int8", 8, lambda cell: f"{cell.seconds['int8'] / cell.seconds['dotmax']:.0%}"),
        ("screened", 9, lambda cell: f"{cell.counts['screened'] / cell.counts['pairs']:.1%}"),
        ("survived", 9, lambda cell: f"{cell.counts['survived'] / cell.counts['pairs']:.3%}"),
        ("checked", 9, lambda cell: f"{cell.counts['checked'] / cell.counts['pairs']:.4%}"),
        ("rescored", 9, lambda cell: f"{cell.counts['rescored'] / cell.counts['queries']:.1f}"),
        ("rounds", 7, lambda cell: cell.rounds),
    )
    HEADER = "".join(f"{title:>{width}}" for title, width, _ in COLUMNS)

    def __init__(self, name, shape, batch, threads, top_k, rounds, seconds, counts):
        """`seconds` of a batch by program, NaN or absent where there is none; `counts` of dotmax in all rounds."""
        self.set, self.shape, self.batch, self.threads, self.top_k = name, shape, batch, threads, top_k
        self.rounds, self.counts = rounds, counts
        path = min((name for name in seconds if name.startswith("faiss-")), key=seconds.get)
        self.faiss_path = path.removeprefix("faiss-")
        self.seconds = seconds | {"faiss": seconds[path]}
        self.ratio = seconds[path] / seconds["dotmax"]
        self.operations = 2 * batch * shape[0] * shape[1]

    def __str__(self):
        return "".join(f"{value(self):>{width}}" for _, width, value in self.COLUMNS)

    def micros(self, name):
        """Microseconds per query."""
        micros = self.seconds.get(name, math.nan) / self.batch * 1e6
        return "-" if math.isnan(micros) else f"{micros:,.{0 if micros >= 100 else 1}f}"

    def setting(self):
        return f"{self.threads} thread{'s' * (self.threads > 1)}, top {self.top_k}"


def table(head, rows, words=(0,)):
    """A table of Markdown; the columns `words` hold words, all others numbers."""
    lines = [head, ["---" if column in words else "--:" for column in range(len(head))], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def markdown(cells, versions):
    """What README.md shows: the first setting in full, then all settings as means over the sets."""
    batches = list(dict.fromkeys(cell.batch for cell in cells))
    settings = list(dict.fromkeys(cell.setting() for cell in cells))
    programs = ("dotmax", "faiss", "numpy", "torch", "float32", "int8")
    rows = []
    named = None
    for cell in cells:
        if cell.setting() == settings[0]:
            name = "" if cell.set == named else f"{cell.set}, {cell.shape[0]:,} × {cell.shape[1]}"
            named = cell.set
            times = [cell.micros(program) for program in programs]
            rows.append([name, f"{cell.batch:,}", *times, f"{cell.ratio:.1f}"])
    head = ["set", "batch", "dotmax", "FAISS", "numpy", "torch", "oneDNN float32", "oneDNN int8", "FAISS / dotmax"]
    means = [
        [setting]
        + [
            f"{statistics.geometric_mean(c.ratio for c in cells if (c.setting(), c.batch) == (setting, batch)):.1f}"
            for batch in batches
        ]
        for setting in settings
    ]
    return "\n\n".join(
        (
            f"Microseconds per query, {settings[0]}. {versions}.",
            table(head, rows),
            "FAISS / dotmax, the geometric mean of the sets, by batch:",
            table(["", *(f"{batch:,}" for batch in batches)], means),
        )
    )


@dataclasses.dataclass
class Figure:
    seconds: float
    bytes: int

    def time(self):
        return f"{self.seconds:,.1f} s" if self.seconds >= 10 else f"{1e3 * self.seconds:,.1f} ms"

    def memory(self):
        return f"{self.bytes / 1e6:,.0f} MB" if self.bytes >= 1e6 else "< 1 MB"


@dataclasses.dataclass
class Comparison:
    """Ours beside another's; `target` is of times faster, or of times as long, whichever the table shows."""

    form: str  # empty: the same as before
    ours: Figure
    name: str
    other: Figure
    target: float | None = None

    def faster(self):
        ratio = self.other.seconds / self.ours.seconds
        return [f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:.2f}", self._target("≥", ratio < (self.target or 0))]

    def longer(self):
        ratio = self.ours.seconds / self.other.seconds
        return [f"{ratio:.2f}", self._target("≤", ratio > (self.target or math.inf))]

    def _target(self, sign, missed):
        if self.target is None:
            return ""
        return f"{sign} {self.target:.3g}" + ", missed" * missed


def questions(faster, costs, notes, versions):
    """What README.md shows of questions.py."""
    parts = [f"{versions}."]
    if faster:
        head = ["question", "dotmax", "beside", "takes", "times as fast", "target", "memory", "its memory"]
        rows = [
            [c.form, c.ours.time(), c.name, c.other.time(), *c.faster(), c.ours.memory(), c.other.memory()]
            for c in faster
        ]
        parts.append(table(head, rows, {0, 2}))
    if costs:
        head = ["question", "dotmax", "beside", "times as long", "target", "memory"]
        rows = [[c.form, c.ours.time(), c.name, *c.longer(), c.ours.memory()] for c in costs]
        parts.append(table(head, rows, {0, 2}))
    return "\n\n".join(parts + [" ".join(notes)] * bool(notes))


@dataclasses.dataclass
class Target:
    """A figure that must be `least` at least, or `most` at most; or neither."""

    what: str
    measured: str
    value: float = math.nan
    least: float | None = None
    most: float | None = None
    unit: str = ""

    def target(self):
        if self.least is not None:
            return f"≥ {self.least:g}{self.unit}" + ", missed" * (not self.value >= self.least)
        if self.most is not None:
            return "≤ " * (self.most > 0) + f"{self.most:g}{self.unit}" + ", missed" * (not self.value <= self.most)
        return ""


def service(targets, notes, described):
    """What README.md shows of service.py."""
    rows = [[target.what, target.measured, target.target()] for target in targets]
    parts = [f"{described}.", table(["load", "measured", "target"], rows, {0})]
    return "\n\n".join(parts + [" ".join(notes)] * bool(notes))


def plot(cells, path):
    """Draws the ratio to FAISS in the first setting: a group of bars per set, a bar per batch size."""
    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "dotmax", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot  # after the choice of its output

    setting = cells[0].setting()
    cells = [cell for cell in cells if cell.setting() == setting]
    names = list(dict.fromkeys(cell.set for cell in cells))
    batches = list(dict.fromkeys(cell.batch for cell in cells))
    width = 0.84 / len(batches)
    figure, axes = pyplot.subplots(figsize=(9, 3.2), constrained_layout=True)
    for place, batch in enumerate(batches):
        ratios = [cell.ratio for cell in cells if cell.batch == batch]
        at = numpy.arange(len(names)) + (place - (len(batches) - 1) / 2) * width
        shade = pyplot.get_cmap("Blues")(0.35 + 0.6 * place / max(1, len(batches) - 1))
        bars = axes.bar(at, ratios, 0.92 * width, color=shade, label=f"{batch:,}")
        axes.bar_label(bars, fmt="%.1f", padding=1, fontsize=7)
    axes.axhline(1, color="black", linewidth=0.8, linestyle=":")
    axes.set_xticks(range(len(names)), names)
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel("times as fast as FAISS")
    axes.set_title(setting, loc="left", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(title="queries per batch", frameon=False, ncol=len(batches), loc="lower right", bbox_to_anchor=(1, 1))
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
