"""The models of `zoo.py`: real architectures with random weights; nothing is downloaded.

Images are small where the architecture lets them be; transformers have two narrow layers.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
from torch import Tensor, nn

from gnomon.opening import source, traced
from gnomon.opening.hugging_face import constants, default_inputs
from gnomon.opening.inputs import drawn
from gnomon.opening.libraries import library

# Side of the images and options of the constructor.
TORCHVISION: dict[str, tuple[int, dict[str, Any]]] = {
    "alexnet": (64, {}),
    "vgg13_bn": (32, {}),
    "resnet18": (64, {}),
    "resnext50_32x4d": (64, {}),
    "densenet121": (64, {}),
    "googlenet": (96, {"aux_logits": False, "init_weights": False}),
    "squeezenet1_1": (64, {}),
    "mobilenet_v2": (64, {}),
    "mobilenet_v3_small": (64, {}),
    "shufflenet_v2_x0_5": (64, {}),
    "mnasnet0_5": (64, {}),
    "efficientnet_b0": (64, {}),
    "efficientnet_v2_s": (64, {}),
    "regnet_y_400mf": (64, {}),
    "convnext_tiny": (64, {}),
    "swin_t": (64, {}),
    "vit_b_16": (32, {"image_size": 32}),
}
TIMM: dict[str, tuple[int, dict[str, Any]]] = {
    "resnet10t": (64, {}),
    "resnet26d": (64, {}),
    "resnetv2_50": (64, {}),
    "resnext26ts": (64, {}),
    "res2net50_14w_8s": (64, {}),
    "seresnext26d_32x4d": (64, {}),
    "densenet121": (64, {}),
    "dla34": (64, {}),
    "repvgg_a0": (64, {}),
    "cspdarknet53": (64, {}),
    "xception41": (64, {}),
    "selecsls42": (64, {}),
    "mobilenetv3_small_050": (64, {}),
    "mobileone_s0": (64, {}),
    "mixnet_s": (64, {}),
    "ghostnet_050": (64, {}),
    "efficientnet_lite0": (64, {}),
    "nf_regnet_b0": (64, {}),
    "regnety_002": (64, {}),
    "convmixer_768_32": (64, {}),
    "convnext_atto": (64, {}),
    "convnextv2_atto": (64, {}),
    "inception_next_atto": (64, {}),
    "poolformer_s12": (64, {}),
    "starnet_s1": (64, {}),
    "mobilevit_xxs": (64, {}),
    "vit_tiny_patch16_224": (32, {"img_size": 32}),
    "deit_tiny_patch16_224": (32, {"img_size": 32}),
    "cait_xxs24_224": (32, {"img_size": 32}),
    "eva02_tiny_patch14_224": (28, {"img_size": 28}),
    "mixer_s32_224": (64, {"img_size": 64}),
    "gmlp_s16_224": (32, {"img_size": 32}),
}

_TEXT = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 40, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_GROUPED = _TEXT | {"num_key_value_heads": 2}
_IMAGE = {
    "hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 2, "num_attention_heads": 4,
    "image_size": 24, "patch_size": 8,
}  # fmt: skip
_PAIR = {
    "vocab_size": 97, "d_model": 32, "encoder_ffn_dim": 56, "decoder_ffn_dim": 56,
    "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "max_position_embeddings": 40,
}  # fmt: skip

# Class of the configuration without `Config`, class of the model, keyword arguments.
TRANSFORMERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gpt2": (
        "GPT2", "GPT2LMHeadModel",
        {"vocab_size": 97, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40,
         "bos_token_id": 1, "eos_token_id": 2},
    ),
    "gpt_neox": ("GPTNeoX", "GPTNeoXForCausalLM", _TEXT),
    "llama": ("Llama", "LlamaForCausalLM", _GROUPED),
    "llama-tied": ("Llama", "LlamaForCausalLM", _GROUPED | {"tie_word_embeddings": True}),
    "mistral": ("Mistral", "MistralForCausalLM", _GROUPED),
    "qwen2": ("Qwen2", "Qwen2ForCausalLM", _GROUPED),
    "qwen3": ("Qwen3", "Qwen3ForCausalLM", _GROUPED | {"head_dim": 8}),
    "gemma": ("Gemma", "GemmaForCausalLM", _GROUPED | {"head_dim": 8}),
    "olmo2": ("Olmo2", "Olmo2ForCausalLM", _GROUPED),
    "phi": ("Phi", "PhiForCausalLM", _GROUPED),
    "mixtral": ("Mixtral", "MixtralForCausalLM", _GROUPED | {"num_local_experts": 4}),
    "opt": (
        "OPT", "OPTForCausalLM",
        {"vocab_size": 97, "hidden_size": 32, "ffn_dim": 56, "num_hidden_layers": 2,
         "num_attention_heads": 4, "max_position_embeddings": 40, "word_embed_proj_dim": 32},
    ),
    "bloom": ("Bloom", "BloomForCausalLM",
              {"vocab_size": 97, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "bert": ("Bert", "BertForMaskedLM", _TEXT),
    "roberta": ("Roberta", "RobertaForMaskedLM", _TEXT),
    "electra": ("Electra", "ElectraForMaskedLM", _TEXT | {"embedding_size": 16}),
    "distilbert": (
        "DistilBert", "DistilBertForMaskedLM",
        {"vocab_size": 97, "dim": 32, "hidden_dim": 56, "n_layers": 2, "n_heads": 4,
         "max_position_embeddings": 40},
    ),
    "t5": (
        "T5", "T5ForConditionalGeneration",
        {"vocab_size": 97, "d_model": 32, "d_ff": 56, "num_layers": 2, "num_heads": 4, "d_kv": 8,
         "decoder_start_token_id": 0},
    ),
    "bart": ("Bart", "BartForConditionalGeneration", _PAIR),
    "whisper": (
        "Whisper", "WhisperForConditionalGeneration",
        {k: v for k, v in _PAIR.items() if k != "max_position_embeddings"}
        | {"max_source_positions": 12, "max_target_positions": 24, "num_mel_bins": 8,
           "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1},
    ),
    "wav2vec2": (
        "Wav2Vec2", "Wav2Vec2ForCTC",
        {"vocab_size": 31, "hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 2,
         "num_attention_heads": 4, "conv_dim": [12, 12], "conv_stride": [20, 4],
         "conv_kernel": [20, 4], "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 8,
         "num_conv_pos_embedding_groups": 4},
    ),
    "vit": ("ViT", "ViTForImageClassification", _IMAGE),
    "dinov2": ("Dinov2", "Dinov2ForImageClassification", _IMAGE),
    "siglip": ("SiglipVision", "SiglipVisionModel", _IMAGE),
    "swin": (
        "Swin", "SwinForImageClassification",
        {"image_size": 32, "patch_size": 2, "embed_dim": 24, "depths": [2, 2],
         "num_heads": [3, 6], "window_size": 4},
    ),
    "convnext": (
        "ConvNext", "ConvNextForImageClassification",
        {"hidden_sizes": [12, 16, 24, 32], "depths": [1, 1, 2, 1], "image_size": 64},
    ),
    "resnet": (
        "ResNet", "ResNetForImageClassification",
        {"embedding_size": 12, "hidden_sizes": [12, 16, 24, 32], "depths": [1, 1, 2, 1]},
    ),
    "mamba": ("Mamba", "MambaForCausalLM",
              {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}),
}  # fmt: skip

LIBRARIES: dict[str, Mapping[str, Any]] = {
    "torchvision": TORCHVISION,
    "timm": TIMM,
    "transformers": TRANSFORMERS,
}
CLASSES = 10


def names() -> list[str]:
    """All models, as `library/name`."""
    return [f"{kind}/{name}" for kind, models in LIBRARIES.items() for name in models]


def build(name: str) -> tuple[nn.Module, object]:
    """A model in eval mode and example inputs, two examples, float32. Raises as `traced` does."""
    kind, _, short = name.partition("/")
    if kind == "transformers":
        return _transformer(*TRANSFORMERS[short])
    side, options = (TORCHVISION if kind == "torchvision" else TIMM)[short]
    given = {"num_classes": CLASSES} | options
    named = source(f"{kind}:{short}", [f"{k}={v!r}" for k, v in given.items()])
    found = traced(named, [f"2x3x{side}x{side}"])
    return found.model.eval(), found.example_inputs


def _transformer(config: str, model: str, options: dict[str, Any]) -> tuple[nn.Module, object]:
    transformers = library("transformers")
    torch.manual_seed(0)
    made = getattr(transformers, model)(getattr(transformers, f"{config}Config")(**options)).eval()
    return made, drawn(default_inputs(made), made, **constants(made))


@torch.no_grad()
def as_if_trained(model: nn.Module) -> nn.Module:
    """Move biases, gains and statistics off the values that make a wrong growth look right."""
    generator = torch.Generator().manual_seed(1)

    def noise(x: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=generator).to(x)

    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer += noise(buffer) / 8
        if name.endswith("running_var"):
            buffer *= (noise(buffer) / 4).exp()
    for parameter in model.parameters():
        constant = parameter.numel() > 1 and bool((parameter == parameter.flatten()[0]).all())
        if parameter.dim() < 2 or constant:
            parameter.add_(noise(parameter) / 8)
    return model
