"""What commands print."""

from __future__ import annotations

import typer

from initium._plain import as_json, plain

__all__ = ["announce", "echo", "echo_json"]


def echo(value: object, as_json: bool) -> None:
    if as_json:
        from initium.spec import Spec

        echo_json(plain(value, as_text=(Spec,)))
    else:
        typer.echo(str(value))


def echo_json(value: object) -> None:
    typer.echo(as_json(value))


def announce(text: str) -> None:
    typer.echo(text, err=True)
