"""`actswap rebuild`: weights that a toolkit trained, back in a bundle."""

from __future__ import annotations

from pathlib import Path

import click

from actswap.cli.verb import FORCE_OPTION, MODEL_OPTIONS, Answer, ModelOptions, again, for_bundle, say, verb


@verb(
    click.argument("path", metavar="CHECKPOINT", type=click.Path()),
    click.option(
        "--bundle", "bundle_path", required=True, type=click.Path(), metavar="B", help="What the training began with."
    ),
    click.option("-o", "--output", type=click.Path(), metavar="OUT", help="The new bundle; default CHECKPOINT.bundle."),
    MODEL_OPTIONS,
    FORCE_OPTION,
)
def command(path: str, bundle_path: str, output: str | None, how: ModelOptions, force: bool) -> Answer:
    """Write a bundle with the plan of B and the weights of CHECKPOINT, as a toolkit trained them.

    CHECKPOINT is what Lightning, transformers, ultralytics or a loop of your own saved of the converted model.
    """
    from actswap.io import bundle, bundle_files
    from actswap.io.atomic import refuse_overwrite
    from actswap.io.trained import rebuild

    source = Path(path)
    out = Path(output) if output else source.parent / f"{source.absolute().name}.bundle"
    refuse_overwrite(out, overwrite=force, source=(path, bundle_path))
    found = rebuild(
        path,
        bundle_path,
        key=how.key,
        prefix=how.prefix,
        drop=how.drop,
        base=how.base,
        model=how.spec,
        allow=how.allow,
        trust_pickle=how.trust_pickle,
    )
    for note in found.notes:
        say(f"Note: {note}")
    report = {**bundle_files.read(bundle_path).get("report", {}), "rebuilt": {"from": source.name}}
    bundle.save(found.model, out, base=bundle_files.read_base(bundle_path), report=report, overwrite=force)
    if found.warning:
        say(f"Warning: {found.warning}")
    said = f"{out}: {len(found.changed)} of {len(found.activations)} activations were trained, "
    said += f"{found.others} other tensors changed"
    say("Next: " + again("actswap", "export", str(out), how=for_bundle(how, out, bundle_path)))
    data = {"output": str(out), "activations": list(found.activations), "changed": list(found.changed)}
    return Answer({**data, "others": found.others, "warning": found.warning or None}, [said])
