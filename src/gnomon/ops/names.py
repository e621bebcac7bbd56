"""Operations by name that do alike to the numbers of a tensor, for those who follow it.

Only what several files mean alike stands here; who means more, or less, adds its own and says so.
"""

from __future__ import annotations

from collections.abc import Mapping

# The same numbers in the same places.
COPIES = ("_to_copy", "clone", "alias", "detach", "contiguous", "lift_fresh")

# The same numbers under another shape, or in other places.
RESHAPES = ("view", "_unsafe_view", "reshape", "unflatten", "_reshape_alias")
TRANSPOSES = ("t", "t_", "transpose", "transpose_", "permute")
SQUEEZES = ("unsqueeze", "unsqueeze_", "squeeze", "squeeze_")

# Some of the numbers, each once.
SPLITS = (
    *("split", "split_with_sizes", "chunk"),
    *("unsafe_split", "unsafe_chunk", "unsafe_split_with_sizes"),
)
PICKS = ("select", "unbind")

# What may stand between a norm and the product that reads it: one tensor of its numbers, moved.
MOVES_OF_ONE = (
    *("view", "_unsafe_view", "slice", "select", "index", "index_select", "transpose", "permute"),
    *("unsqueeze", "squeeze", "expand", "as_strided_", "_reshape_alias"),
)

# Products of two tensors, and which argument is the first of the two (left, then right).
FACTORS: Mapping[str, int] = {"mm": 0, "bmm": 0, "mv": 0, "dot": 0, "addmm": 1, "baddbmm": 1}
CONVOLUTIONS = ("convolution", "convolution_overrideable")

# Tensors that are made without looking at numbers.
ZEROS = ("zeros", "zeros_like", "new_zeros")
UNSET = ("empty_like", "new_empty")
ONE_NUMBER = ("full", "full_like", "new_full", "ones", "ones_like", "new_ones")
MASKS = ("bernoulli", "rand_like")

# Each channel becomes sums of its own positions, with the same weights for all channels.
LINEAR_OVER_POSITIONS = (
    *"positive as_strided roll flip mean sum cumsum".split(),
    *"avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d".split(),
    *"_adaptive_avg_pool2d _adaptive_avg_pool3d".split(),
    *"upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d".split(),
    *"upsample_bilinear2d upsample_bicubic2d _upsample_bilinear2d_aa".split(),
    *"_upsample_bicubic2d_aa reflection_pad1d reflection_pad2d replication_pad1d".split(),
    *"replication_pad2d _fft_r2c _fft_c2r _fft_c2c".split(),
)
