"""``holdfast run``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli._common import Architecture, Json, Seed, make_app
from holdfast.cli._given import given, refuse
from holdfast.cli._run_server import COLLECTING, REQUEST, SCHEMES, ServerCall, run_server

app = make_app()
_LOCAL = ("platform", "shape", "arch", "replace")
_REMOTE = (*REQUEST, *COLLECTING, "max_requests", "max_tokens", "max_cost", "price", "api_key_env", "api_key_file")


@app.command(
    epilog="Example: holdfast run model/ --probes 64 --platform default -o trace/\n\n"
    "Example: holdfast platforms build -o library/ --model model/ && holdfast run model/ -o trace/ "
    "&& holdfast identify trace/ --against library/\n\n"
    "Example: holdfast run http://127.0.0.1:8000/v1 --probes 512 --model NAME -o answers/"
)
def run(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Model to run, or address of an OpenAI-compatible server.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the trace, or for the answers of a server.")],
    probes: Annotated[
        str,
        typer.Option(
            help="Number of known probes, or fixed:N of the package's list; "
            "for a server also a file of prompts, one a line or .jsonl."
        ),
    ] = "64",
    platform: Annotated[
        str | None,
        typer.Option(help="default, batch-1, channels-last, onednn-off, bf16, ... [default: default]"),
    ] = None,
    shape: Annotated[str | None, typer.Option(help="Input shape CxHxW, when the model does not say.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite a trace of something else.")] = False,
    key: Annotated[str | None, typer.Option(help="Sign the folder: file:KEY.pem.")] = None,
    password_file: Annotated[str | None, typer.Option(help="File with the key's password (- asks).")] = None,
    name: Annotated[
        str | None, typer.Option("--model", help="Server: name of the model. [default: the only one it serves]")
    ] = None,
    dialect: Annotated[
        str | None,
        typer.Option(help="Server: completions, chat, vllm, sglang, llama.cpp, tgi, ... [default: auto]"),
    ] = None,
    tokens: Annotated[int | None, typer.Option(help="Server: tokens to generate. [default: 16]", min=1)] = None,
    top: Annotated[
        int | None, typer.Option(help="Server: log-probabilities at every position. [default: 20]", min=1)
    ] = None,
    repeat: Annotated[int | None, typer.Option(help="Server: answers to each prompt. [default: 1]", min=1)] = None,
    temperature: Annotated[float | None, typer.Option(help="Server: 0 is greedy. [default: 0]", min=0)] = None,
    prompt_logprobs: Annotated[
        bool, typer.Option("--prompt-logprobs", help="Server: also log-probabilities of the prompt's tokens.")
    ] = False,
    prompt_seed: Annotated[
        int | None, typer.Option(help="Server: of the known prompts; --seed is of its sampling. [default: 0]", min=0)
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(help="Server: requests at the same time. [default: 16]", min=1)
    ] = None,
    max_requests: Annotated[
        int | None, typer.Option(help="Server: budget of requests, retries and earlier calls included.", min=1)
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Server: budget of tokens, prompts included.", min=1)] = None,
    max_cost: Annotated[
        float | None, typer.Option(help="Server: budget in the currency of --price, such as EUR.")
    ] = None,
    price: Annotated[str | None, typer.Option(help="Server: of a million prompt, generated tokens: 0.15,0.60.")] = None,
    api_key_env: Annotated[
        str | None, typer.Option(help="Server: NAME of the environment variable that holds its key.")
    ] = None,
    api_key_file: Annotated[Path | None, typer.Option(help="Server: file that holds its key.")] = None,
    timeout: Annotated[
        float | None, typer.Option(help="Server: seconds without a byte after which a request is tried again.")
    ] = None,
    attempts: Annotated[
        int | None, typer.Option(help="Server: how often a request is tried. [default: 6]", min=1)
    ] = None,
    arch: Architecture = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Run a model on known probes and keep the exact bits that come out, with the platform they came from.

    Given the address of a server, ask it known prompts and keep its tokens and log-probabilities, digit by digit. A
    call that was killed or ran into its budget goes on where it stopped when it is repeated; exit 1 when the budget
    ended it. Options of one kind are refused with the other.
    """
    if model.startswith(SCHEMES):
        refuse(context, "a server is run", _LOCAL)
        run_server(ServerCall(model, probes, out, given(context)))
        return
    refuse(context, "a model on this machine is run", _REMOTE)
    from holdfast.cli._run_model import run_model

    run_model(
        Path(model),
        out,
        probes=probes,
        platform=platform or "default",
        shape=shape,
        arch=arch,
        seed=seed,
        key=key,
        password_file=password_file,
        replace=replace,
        json=json,
    )
