"""The command line: one file per verb, loaded only when asked for.

The dispatcher is plain Python, so ``holdfast --help`` starts at the cost of the interpreter itself.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys

VERBS = {
    "assess": "vouch, sweep, inject, harden, trace, shield: the whole job, with a report and a passport",
    "attack": "search the few stored bits whose flips hurt most, beside random ones",
    "attest": "verify what hardware says about a world, offline, against a policy; lint manifests",
    "border": "find inputs that two platforms answer with different labels",
    "campaign": "inject faults and count what becomes of them",
    "check": "hold a signed model or an assessment against a deployment policy",
    "compare": "test whether two collections of answers come from one service",
    "dataset": "commit to a dataset, and hold data against a signed commitment",
    "diff": "say which files and tensors of two models differ",
    "digest": "print the digests of files and folders",
    "experiment": "train and measure what a paper did, beside what it published",
    "fingerprint": "learn platforms from the bits of unknown inputs, judged on inputs held out",
    "harden": "add range guards, profiled on data, to a model",
    "identify": "tell which platform produced a trace",
    "inject": "write a broken copy of a stored model",
    "keygen": "make a signing key",
    "keyset": "sign, show and verify key sets: who may sign what, handed on from one edition to the next",
    "lineage": "show, verify and export how a model came to be",
    "logs": "turn the logs of beam experiments and NVBitFI results into rates with intervals",
    "oci": "push signed models to OCI registries, and pull them verified",
    "platforms": "keep reference traces of what a machine can be, and the classes they fall into",
    "quantize": "store weights as integer codes",
    "resign": "sign a changed model again, reading only what changed",
    "revoke": "keep signed lists of keys, models and data not to rely on",
    "run": "run a model on probes and keep the exact output bits",
    "serve": "run the gateway of a shielded model, or an untrusted worker",
    "shield": "plan how a model is split between a trusted and an untrusted world",
    "sign": "sign a model",
    "soak": "compute the same for hours on real silicon, and triage every wrong bit",
    "train": "train, with or without bit errors",
    "verify": "verify a signed model or an assessment",
    "watch": "keep checking the weights of a loaded model, and mend what changed",
}

_EPILOG = "Example: holdfast assess --demo -o demo\nEvery verb has its own help: holdfast VERB --help"


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0 done, 1 the evidence says no, 2 usage, 3 something is missing, 70 our bug, 130 interrupted.
    """
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help"):
        print(help_text())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from holdfast import __version__

        print(f"holdfast {__version__}")
        return 0
    return _dispatch(arguments[0], arguments[1:])


def help_text() -> str:
    """Return the text of ``holdfast --help``."""
    width = max(map(len, VERBS))
    lines = [f"  {name:<{width}}  {text}" for name, text in VERBS.items()]
    head = "usage: holdfast VERB [ARGUMENTS]\n\nKnow what you run, where it runs, and that it holds.\n"
    return "\n".join([head, *lines, "", _EPILOG])


def _dispatch(verb: str, arguments: list[str]) -> int:
    if verb not in VERBS:
        import difflib

        near = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"did you mean {near[0]}?" if near else "holdfast --help lists the verbs"
        print(f"error: unknown verb {verb!r}\n  hint: {hint}", file=sys.stderr)
        return 2
    collecting = gc.isenabled()
    gc.disable()  # nothing of what is imported is garbage; looking for it takes a fifteenth of a small verb's time
    try:
        module = importlib.import_module(f"holdfast.cli.{verb}")
        from holdfast.cli._common import execute
    finally:
        if collecting:
            gc.enable()
    return execute(module.app, verb, arguments)


def entry() -> None:
    """Run the command line and exit; an interrupt while a verb is still imported ends like any other.

    Where nobody reads the output any more, as after ``| head``, it ends in silence and as other tools do: with 141.
    """
    try:
        code = main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        code = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what is flushed on the way out
        code = 128 + 13
    sys.exit(code)
