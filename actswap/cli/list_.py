"""`actswap list`: the activations, where they are from, and what their starts promise."""

from __future__ import annotations

import click

from actswap.cli.verb import Answer, table, verb

COMMON = (
    "relu",
    "relu6",
    "leaky_relu",
    "prelu",
    "elu",
    "silu",
    "gelu",
    "mish",
    "hardswish",
    "tanh",
    "sigmoid",
)
MEANING = (
    "exact: equal to rounding for every input; limit: error bounded in closed form; "
    "fit: error measured on data; morph: exact at t=0, the pure target at t=1"
)


@verb(
    click.option("--starts", is_flag=True, help="The best start of every (source, target) pair."),
    click.option("--all", "everything", is_flag=True, help="Plain activations too; with --starts, every source."),
)
def command(starts: bool, everything: bool) -> Answer:
    """List the activations that `--to` takes; with --starts, what each promises for each source."""
    from actswap.activations import SPECS, TRAINABLE, starts_table

    trainable = [spec.name for spec in TRAINABLE]
    if not starts:
        rows = table("", "name", "what", "from", "options")
        for spec in SPECS.values() if everything else TRAINABLE:
            rows.add_row(spec.name, spec.title, spec.paper, ", ".join(f"{k}={v}" for k, v in spec.options.items()))
        entries = [
            {
                "name": spec.name,
                "title": spec.title,
                "paper": spec.paper,
                "options": {k: str(v) for k, v in spec.options.items()},
                "trainable": spec.name in trainable,
            }
            for spec in SPECS.values()
        ]
        return Answer({"activations": entries}, [rows])
    pairs = starts_table()
    sources = list(dict.fromkeys(source for source, _ in pairs))
    shown = sources if everything else [s for s in sources if s in COMMON]
    rows = table("", "target", *shown)
    for target in trainable:
        rows.add_row(target, *(pairs[source, target] for source in shown))
    nested = {source: {target: pairs[source, target] for target in trainable} for source in sources}
    return Answer({"starts": nested}, [rows, MEANING])
