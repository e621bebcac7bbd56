"""What operations give on fake tensors must be what they give on real ones, strides too."""

import pytest
import torch
from torch import nn

from gnomon.recording.tape import record

INPUTS = {
    "two-dimensional": torch.randn(3, 6),
    "two-dimensional, transposed": torch.randn(6, 3).t(),
    "one length": torch.randn(2, 6, 7),
    "one length, transposed": torch.randn(2, 7, 6).transpose(1, 2),
    "an image": torch.randn(2, 6, 4, 5),
    "an image, channels last": torch.randn(2, 6, 4, 5).to(memory_format=torch.channels_last),
    "an image, permuted": torch.randn(2, 5, 4, 6).permute(0, 3, 2, 1),
    "every second row": torch.randn(2, 6, 8, 5)[:, :, ::2],
    "some channels": torch.randn(2, 9, 4, 5)[:, 2:8],
    "expanded": torch.randn(2, 6, 4, 1).expand(2, 6, 4, 5),
    "a volume": torch.randn(2, 6, 2, 3, 4),
    "half precision": torch.randn(2, 6, 4, 5).bfloat16(),
}


class Normed(nn.Module):
    """A batch norm on an input that lies in memory as it was given (recording copies inputs)."""

    def __init__(self, x, *, keep):
        super().__init__()
        kinds = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
        self.norm = kinds[x.dim()](6, track_running_stats=keep)
        self.shape, self.strides = x.shape, x.stride()

    def forward(self, memory):
        return self.norm(memory.as_strided(self.shape, self.strides))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("keep", [True, False], ids=["statistics", "no statistics"])
@pytest.mark.parametrize("name", INPUTS)
def test_a_batch_norm_has_the_form_of_the_real_one(name, keep, training):
    x = INPUTS[name]
    needed = 1 + sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True))
    model, memory = Normed(x, keep=keep), torch.randn(needed).to(x.dtype)
    real, fake = [
        record(model, ((memory,), {}), training=training, fake=fake).ops[-1]
        for fake in (False, True)
    ]
    assert real.name == fake.name == "native_batch_norm"
    assert real.shapes == fake.shapes
    forms = [(op.outputs[0].stride(), op.outputs[0].dtype) for op in (real, fake)]
    assert forms[0] == forms[1]


def test_a_batch_norm_of_another_width_still_fails_on_fake_tensors():
    model = nn.BatchNorm2d(6)
    for change in ("running_mean", "weight"):
        model = nn.BatchNorm2d(6)
        with torch.no_grad():
            getattr(model, change).set_(torch.ones(5))
        with pytest.raises(RuntimeError, match="6 elements"):
            record(model, ((torch.randn(2, 6, 4, 4),), {}), training=False, fake=True)
