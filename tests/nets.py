"""Networks that tests of several folders train for themselves."""

from __future__ import annotations

import torch
from torch import nn

from holdfast.data import dataset
from holdfast.models import build_architecture


def trained_digits(steps: int = 100) -> nn.Module:
    """A tiny net that has seen ``steps`` batches of the digits; the same bits each time."""
    generator = torch.Generator().manual_seed(0)
    model = build_architecture("digits-cnn:channels=8", seed=0)
    images, labels = dataset("digits", split="train").all()
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    model.train()
    for _ in range(steps):
        pick = torch.randperm(len(labels), generator=generator)[:256]
        loss = nn.functional.cross_entropy(model(images[pick]), labels[pick])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()
