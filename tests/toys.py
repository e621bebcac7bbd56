"""The table of toys: small networks with example inputs, one per structure gnomon must follow."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

import toy_attention as attention
import toy_fused as fused
import toy_images as images
import toy_kept as kept
import toy_mixtures as mixtures
import toy_streams as streams
import toy_ties as ties
import toy_vectors as vectors
from gnomon.models import DigitsNet, SmallConv


@dataclass(frozen=True)
class Toy:
    """A model and its example inputs, both made afresh and always alike.

    inputs:   of a generator; a tensor, a tuple, a dict, or a list of several calls.
    literals: groups whose width stands as a number in the code, so that they must be refused.
    """

    make: Callable[[], nn.Module]
    inputs: Callable[[torch.Generator], object]
    literals: tuple[str, ...] = ()

    @property
    def has_images(self) -> bool:
        """Whether channels_last means something."""
        example = self.example()
        return isinstance(example, Tensor) and example.dim() == 4

    def model(self, dtype: torch.dtype = torch.float64) -> nn.Module:
        """The network, with nothing left at its usual initial value."""
        with torch.random.fork_rng():
            torch.manual_seed(1)
            return shake(self.make().to(dtype))

    def example(self, dtype: torch.dtype = torch.float64) -> object:
        """The example inputs, as Grower takes them."""
        made = self.inputs(torch.Generator().manual_seed(2))
        return pytree.tree_map_only(Tensor, lambda x: cast(x, dtype), made)


def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(dtype) if x.is_floating_point() else x


def shake(model: nn.Module) -> nn.Module:
    """Give gains, biases and running statistics values that nobody would guess."""
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, x in [*model.named_parameters(), *model.named_buffers()]:
            if not x.is_floating_point() or (x.squeeze().dim() > 1 and "norm" not in name):
                continue
            noise = torch.randn(x.shape, generator=draw, dtype=torch.float64)
            if name.endswith(("running_mean", "bias")):
                x.copy_(0.3 * noise)
            elif name.endswith("running_var"):
                x.copy_(1 + 0.4 * noise.tanh())
            elif x.squeeze().dim() == 1:
                x.copy_(1 + 0.3 * noise.tanh())
    return model


def noise(*shape: int) -> Callable[[torch.Generator], Tensor]:
    return lambda draw: torch.randn(shape, generator=draw, dtype=torch.float64)


def several(*calls: Callable[[torch.Generator], object]) -> Callable[[torch.Generator], object]:
    return lambda draw: [call(draw) for call in calls]


image = noise(3, 2, 6, 6)
vector = noise(5, 3)
tokens = noise(2, 4, 5)
many = noise(2, 16, 5)  # so that a router has some for every expert


def causal(n: int) -> Tensor:
    """(n, n): minus infinity above the diagonal."""
    return torch.full((n, n), float("-inf"), dtype=torch.float64).triu(1)


TOYS: dict[str, Toy] = {
    "mlp": Toy(vectors.mlp, vector),
    "conv_bn_relu": Toy(images.conv_bn_relu, image),
    "resnet": Toy(images.resnet, image),
    "densenet": Toy(images.DenseNet, image),
    "conv_flatten_linear": Toy(images.conv_flatten_linear, image),
    "mobile": Toy(images.mobile, image),
    "resnext": Toy(images.resnext, image),
    "squeeze_excite": Toy(images.SqueezeExcite, image),
    "glu_conv": Toy(images.glu_conv, image),
    "prelu": Toy(images.prelu, image),
    "groupnorm": Toy(images.groupnorm, image),
    "instancenorm": Toy(images.instancenorm, image),
    "conv1d": Toy(images.conv1d, noise(4, 2, 9)),
    "conv3d": Toy(images.conv3d, noise(3, 1, 4, 4, 4)),
    "autoencoder": Toy(images.autoencoder, image),
    "pixel_shuffle": Toy(images.pixel_shuffle, image),
    "unet": Toy(images.UNet, image),
    "channel_shuffle": Toy(images.ShuffleNet, image, literals=("enter[0]",)),
    "weight_normed_conv": Toy(images.weight_normed_conv, image),
    "sliced_channels": Toy(images.SlicedChannels, image, literals=("stem[0]",)),
    "dropout": Toy(images.dropout, image),
    "auxiliary_head": Toy(images.AuxiliaryHead, image),
    "layer_scale": Toy(images.LayerScale, image),
    "normed_mlp": Toy(vectors.NormedMLP, vector),
    "called_twice": Toy(vectors.CalledTwice, vector),
    "weight_normed": Toy(vectors.weight_normed, vector),
    "einsum": Toy(vectors.Einsum, vector),
    "einsum_stream": Toy(vectors.EinsumStream, noise(2, 4, 3)),
    "factored": Toy(vectors.Factored, vector),
    "masked": Toy(vectors.Masked, noise(5, 4)),
    "bilinear": Toy(vectors.Bilinear, lambda draw: (vector(draw), noise(5, 2)(draw))),
    "batched_product": Toy(vectors.BatchedProduct, noise(4, 2, 3)),
    "named": Toy(vectors.Named, lambda draw: {"x": vector(draw), "scale": vector(draw)}),
    "positions": Toy(vectors.Positions, noise(2, 4, 3)),
    "bag_of_words": Toy(
        vectors.BagOfWords, lambda draw: torch.randint(0, 7, (5, 4), generator=draw)
    ),
    "attention": Toy(vectors.Attention, noise(2, 4, 5)),
    "attention_shared_width": Toy(attention.SharedWidth, tokens),
    "attention_masked": Toy(attention.SharedWidth, lambda draw: (tokens(draw), causal(4))),
    "attention_fused": Toy(attention.Fused, tokens),
    "attention_split": Toy(attention.FusedSum, tokens),
    "attention_heads_outside": Toy(attention.HeadsOutside, tokens),
    "attention_grouped": Toy(attention.Grouped, tokens),
    "attention_summed": Toy(attention.Summed, lambda draw: (tokens(draw), noise(2, 3, 4)(draw))),
    "attention_rotary": Toy(attention.Rotary, tokens),
    "attention_partly_rotary": Toy(attention.PartlyRotary, tokens),
    "attention_normed": Toy(attention.NormedRotary, tokens),
    "attention_partly_turned": Toy(fused.PartlyTurned, tokens),
    "attention_table": Toy(attention.TableOfHeads, tokens),
    "attention_kept": Toy(kept.KeptWhenSet, tokens),
    "attention_latents": Toy(attention.Latents, tokens),
    "encoder": Toy(attention.encoder, tokens),
    "experts_loop": Toy(lambda: mixtures.Mixture(mixtures.Loop()), many),
    "experts_everyone": Toy(lambda: mixtures.Mixture(mixtures.Everyone()), many),
    "experts_stacked": Toy(lambda: mixtures.Mixture(mixtures.StackedLoop()), many),
    "experts_picked": Toy(lambda: mixtures.Mixture(mixtures.StackedPicks()), many),
    "chunks": Toy(vectors.Chunks, vector),
    "splits": Toy(vectors.Splits, vector),
    "pre_norm": Toy(lambda: streams.Language(nn.LayerNorm), streams.words),
    "gemma": Toy(lambda: streams.Language(streams.OnePlusGain), streams.words),
    "tied_decoder": Toy(fused.Decoder, lambda draw: torch.randint(0, 7, (3, 4), generator=draw)),
    "tied_stream": Toy(lambda: streams.Language(streams.RootMeanSquare, tied=True), streams.words),
    "bare_norms": Toy(lambda: streams.Language(streams.BareSquares), streams.words),
    "cascades": Toy(ties.Cascades, tokens),
    "parts": Toy(ties.Parts, tokens),
    "windows": Toy(ties.Windows, tokens),
    "pyramid": Toy(ties.Pyramid, tokens),
    "two_inputs": Toy(vectors.TwoInputs, lambda draw: (vector(draw), noise(5, 2)(draw))),
    "two_paths": Toy(
        vectors.TwoPaths,
        several(vector, lambda draw: {"x": vector(draw), "odd": True}),
    ),
    "digits_net": Toy(lambda: DigitsNet(2, classes=3), noise(3, 1, 6, 6)),
    "small_conv": Toy(lambda: SmallConv(4, 6, classes=3, channels=2, size=6), image),
}
