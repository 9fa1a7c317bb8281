"""``holdfast platforms show --orders``: in which order kernels of this machine add."""

from __future__ import annotations

from holdfast.cli._common import aligned, counted, emit, say

_ADDENDS = 512


def show_orders(json: bool) -> None:
    """Print in which order each kernel of this machine adds, and how wide its accumulator is."""
    from holdfast.errors import InvalidConfig
    from holdfast.execution.run import one_thread
    from holdfast.identification.order_kernels import ORDER_KERNELS, order_signatures

    rows, told = [("kernel", "tree", "order of addition", "accumulator")], dict[str, dict[str, str]]()
    for name in ORDER_KERNELS:
        try:
            with one_thread():
                found = order_signatures([name], _ADDENDS)[name]
        except InvalidConfig as error:
            told[name] = {"refused": str(error)}
            rows.append((name, "-", str(error), ""))
            continue
        told[name] = {"digest": found.tree.digest, "order": found.text, "accumulator": str(found.accumulator)}
        rows.append((name, found.tree.digest[:12], found.text, str(found.accumulator)))
    for line in aligned(rows):
        say(line)
    different = {value["digest"] for value in told.values() if "digest" in value}
    say(f"{len(different)} orders in {counted(len(told), 'kernel')}, sums of {_ADDENDS}, one thread")
    if json:
        emit({"addends": _ADDENDS, "orders": told})
