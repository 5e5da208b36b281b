"""`actswap revert`: the original model again."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import click

from actswap.cli.verb import FORCE_OPTION, MODEL_OPTIONS, Answer, ModelOptions, inputs_of, load, verb
from actswap.errors import UsageError
from actswap.io.atomic import refuse_overwrite, replacing, write_bytes


@verb(
    click.argument("path", metavar="BUNDLE", type=click.Path()),
    click.option(
        "-o",
        "--output",
        type=click.Path(),
        metavar="OUT",
        help="A .pt (module) or .safetensors (weights) file.",
    ),
    MODEL_OPTIONS,
    FORCE_OPTION,
)
def command(
    path: str,
    output: str | None,
    how: ModelOptions,
    force: bool,
) -> Answer:
    """Write the model of BUNDLE with its original activations; trained weights stay trained."""
    source = Path(path)
    out = Path(output) if output else source.parent / f"{source.name}.reverted.pt"
    if out.suffix not in (".pt", ".safetensors"):
        raise UsageError(f"-o {out} is not understood", fix="-o model.pt or -o weights.safetensors")
    refuse_overwrite(out, overwrite=force, source=(path, *inputs_of(path, how.base)))
    loaded = load(path, how)
    if loaded.kind != "bundle":
        raise UsageError(f"{path} is not a bundle", fix="give the folder that actswap convert wrote")
    import torch

    from actswap.conversion.passes.revert import revert
    from actswap.io.tensor_file import write_weights

    model = revert(loaded.module)
    state = model.state_dict()
    if out.suffix == ".pt":
        content = io.BytesIO()  # torch's own writer does not tell a full disk from a bug
        torch.save(model, content)
        write_bytes(out, content.getvalue())
    else:
        with replacing(out) as beside:
            write_weights(model, beside, {})
    same = _same_as_base(path, state, how)
    verdict = {
        True: "bit for bit the base model",
        False: "the base model, trained since",
        None: "base not at hand",
    }[same]
    return Answer({"output": str(out), "same_as_base": same}, [f"Wrote {out}: {verdict}"])


def _same_as_base(
    path: str,
    state: dict[str, object],
    how: ModelOptions,
) -> bool | None:
    import torch

    from actswap.io import base_note, bundle_files
    from actswap.io.loading import noted_source

    note = bundle_files.read_base(path)
    found = Path(how.base) if how.base else base_note.find_base(path, note)
    if found is None:
        return None
    built = how.spec or (noted_source(note.model, path, how.allow) if note.model else None)
    drop = how.drop or tuple(filter(None, (note.drop or "").split(",")))
    opened = replace(how, spec=built, key=how.key or note.key, prefix=how.prefix or note.prefix, drop=drop)
    plain = load(str(found), opened).module.state_dict()
    return plain.keys() == state.keys() and all(
        isinstance(other := state[name], torch.Tensor) and value.dtype == other.dtype and torch.equal(value, other)
        for name, value in plain.items()
    )
