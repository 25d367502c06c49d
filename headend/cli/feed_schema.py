"""`headend feed schema`: what the feed is, without a running head-end."""

from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from headend.cli.output import fail, print_line, stderr

__all__ = ["schema"]


def schema(
    event_type: Annotated[
        str | None,
        typer.Argument(metavar="[TYPE]", help="An event type, for its JSON Schema.  [default: the AsyncAPI document]"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write the document and all schemas there, one file each.")
    ] = None,
) -> None:
    """Print the AsyncAPI 3.0 document of the feed, or the JSON Schema of one event type.

    Exit code 0; 2: an unknown type, or a folder that cannot be written.
    """
    from headend.feed.asyncapi import document_json  # here: the commands for the field should not wait for it to load
    from headend.feed.schemas import EVENT_TYPES, schema_file

    files = {one.name: schema_file(one) for one in EVENT_TYPES}
    document = msgspec.json.format(document_json(version("headend")), indent=2) + b"\n"
    if event_type is not None and event_type not in files:
        fail(f"there is no event type {event_type!r}; expected one of {', '.join(files)}")
    if out is None:
        print_line((document if event_type is None else files[event_type]).rstrip())
        return
    chosen = files if event_type is None else {event_type: files[event_type]}
    written = {f"{name}.json": text for name, text in chosen.items()}
    if event_type is None:
        written["asyncapi.json"] = document
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in written.items():
            (out / name).write_bytes(text)
    except OSError as error:
        fail(f"{out} cannot be written: {error.strerror or error}")
    stderr.print(f"{len(written)} file(s) in {out}", markup=False)
