"""``export``: any convolutional network, vision transformer or small language model as an integer graph."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from holdfast.data import Dataset, Text
from holdfast.errors import InvalidConfig
from holdfast.evidence.lineage import Step as LineageStep
from holdfast.models import card, manifest_of
from holdfast.shielding.graph.calibration import calibrate
from holdfast.shielding.graph.capture import Captured, capture
from holdfast.shielding.graph.leaves import SOFTMAX_TABLE, Softmax
from holdfast.shielding.graph.lowering import Lowering
from holdfast.shielding.graph.program import IntegerModel, Ref
from holdfast.shielding.graph.rules import foldable, require_linear, rules
from holdfast.shielding.graph.separate import first_mixing
from holdfast.shielding.graph.trusted_rules import lower_other
from holdfast.shielding.integer import Calibration, batches_of, integer_layers, require_top_code
from holdfast.shielding.product import CODE_MAX

_BATCH = 64
_MOST_TOLD = 20  # nodes that cannot be exported


def export(
    model: nn.Module, example: Tensor, calibration: Calibration | Text, *, top_code: int = CODE_MAX
) -> IntegerModel:
    """Return ``model`` as an integer graph, the reference that every shielded session equals bit for bit.

    Batch normalisation is folded into the convolution before it. Convolutions and linear layers become integer layers
    with int8 weights per output channel, static int8 activations and a proved accumulator bound. Products of
    activations, normalisation, softmax, pooling and requantisation stay in the trusted world, in arithmetic whose bits
    do not depend on the batch or on the number of threads. The length of a text is that of ``example``.

    Args:
        model: any module of one input tensor and one output tensor; it is left alone.
        example: (batch, *sample), values do not matter for networks without data-dependent branches.
        calibration: a Dataset, a Text (cut into windows of the example's length), one batch (batch, *sample), or an
            iterable of such batches, never of the test set.
        top_code: activation codes of linear nodes are -top_code .. top_code, enforced at run time by a clamp; the
            largest magnitude seen in calibration is ``top_code``.

    Raises:
        InvalidConfig: the model cannot be traced, or a node has no exact form (it is named, with what to do), an
            accumulator could overflow, samples of a batch are mixed, calibration is empty, of another shape, not finite
            or the test split, or ``top_code`` is not in 1..127.
    """
    require_top_code(top_code)
    _require_other_than_test(calibration)
    captured = capture(model, example)
    wanted = {node.name: found[1] for node in captured.nodes() if (found := rules.find(node)) and found[1]}
    seen = calibrate(captured, wanted, _batches(calibration, example), tuple(example.shape[1:]))
    lowering = Lowering(captured, seen, top_code, card(model).lenses)
    lowering.batch_norm = foldable(lowering)
    _lower(lowering, captured)
    result = _assembled(lowering, captured, tuple(example.shape[1:]))
    _require_separate(result)
    _describe(result, model, calibration)
    return result.eval()


def _batches(calibration: Calibration | Text, example: Tensor) -> Iterable[Tensor]:
    if not isinstance(calibration, Text):
        return batches_of(calibration)
    if example.dim() != 2:
        raise InvalidConfig(
            "a model of text takes one row of tokens a sample", hint="calibrate on what the model takes"
        )
    return torch.split(calibration.windows(example.shape[1]), _BATCH)


def _require_other_than_test(calibration: Calibration | Text) -> None:
    if isinstance(calibration, Dataset | Text) and calibration.name.partition("[")[0].endswith("/test"):
        raise InvalidConfig(
            f"calibration on {calibration.name} would fit the model to the data it is measured on",
            hint="calibrate on the training split",
        )


def _lower(lowering: Lowering, captured: Captured) -> None:
    """Lower every node; what cannot be lowered is told together, so that one attempt names all there is to change."""
    refused: list[InvalidConfig] = []
    for node in captured.nodes():
        found = rules.find(node)
        try:
            lowering.values[node.name] = (found[0] if found else lower_other)(lowering, node)
        except InvalidConfig as error:
            refused.append(error)
            lowering.values[node.name] = Ref(node.name)
    if len(refused) > 1:
        shared = {error.hint for error in refused}
        hint = shared.pop() if len(shared) == 1 else "each line says what to do about its node"
        raise InvalidConfig("\n".join(_listed(refused, hint)), hint=hint)
    if refused:
        raise refused[0]
    require_linear(lowering)


def _listed(refused: list[InvalidConfig], shared: str) -> Iterator[str]:
    yield f"{len(refused)} nodes cannot be exported"
    yield from (f"{error}" if error.hint == shared else f"{error}: {error.hint}" for error in refused[:_MOST_TOLD])
    if (more := len(refused) - _MOST_TOLD) > 0:
        yield f"and {more} more"


def _assembled(lowering: Lowering, captured: Captured, input_shape: tuple[int, ...]) -> IntegerModel:
    output = lowering.values[captured.output]
    if not isinstance(output, Ref):
        raise InvalidConfig("the model does not return one tensor", hint="wrap it in a module that does")
    constants = {name: value.contiguous() for name, value in lowering.constants.items()}
    if any(isinstance(module, Softmax) for module in lowering.modules.values()):
        constants[SOFTMAX_TABLE] = lowering.table
    return IntegerModel(
        tuple(lowering.steps),
        lowering.modules,
        constants,
        input=captured.input,
        output=output.name,
        input_shape=input_shape,
        top_code=lowering.top_code,
        input_dtype=torch.int64 if lowering.seen.dtypes[captured.input] == torch.int64 else torch.float32,
    )


def _require_separate(result: IntegerModel) -> None:
    hint = "let each sample be computed for itself: a gateway puts several clients' into one batch"
    try:
        mixing = first_mixing(result)
    except (RuntimeError, IndexError, ValueError) as error:
        raise InvalidConfig(f"the graph takes batches of one size only: {error}", hint=hint) from error
    if mixing is not None:
        raise InvalidConfig(f"node {mixing!r} mixes the samples of a batch", hint=hint)


def _describe(result: IntegerModel, model: nn.Module, calibration: Calibration | Text) -> None:
    """Write down how the integer model came to be."""
    made = {"format": "int8", "activations": "static-max", "layers": len(integer_layers(result))}
    facts = made | {"graph": "torch.export", "top_code": result.top_code, "torch": torch.__version__}
    inputs = {"model": manifest_of(model).digest}
    if isinstance(calibration, Dataset | Text):
        inputs["data"] = calibration.digest
    own = card(result)
    own.lineage = [*card(model).lineage, LineageStep("quantize", facts, inputs)]
    own.input_shape, own.classes = result.input_shape, card(model).classes
    own.preprocessing = card(model).preprocessing
